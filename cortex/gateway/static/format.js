// Figures for people. What is not known is a dash, never 0.

export const DASH = "–";

export const gib = (mib) => (mib === null || mib === undefined ? DASH : (mib / 1024).toFixed(1));

/** With its unit; small sizes in MiB. */
export function size(mib) {
  if (mib === null || mib === undefined) return DASH;
  return mib < 1024 ? `${mib} MiB` : `${gib(mib)} GiB`;
}

export const whole = (value) =>
  value === null || value === undefined ? DASH : Math.round(value).toLocaleString("en");

export const rate = (value) =>
  value === null || value === undefined ? DASH : value < 100 ? value.toFixed(1) : value.toFixed(0);

export function span(ms) {
  if (ms === null || ms === undefined) return DASH;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.floor((ms % 60_000) / 1000)} s`;
  return `${Math.floor(ms / 3_600_000)} h ${Math.floor((ms % 3_600_000) / 60_000)} min`;
}

/** How long ago, in one unit. */
export function ago(ms) {
  if (ms === null || ms === undefined) return "never";
  const s = Math.max(0, ms) / 1000;
  if (s < 5) return "now";
  if (s < 60) return `${Math.floor(s / 5) * 5} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86_400)} d ago`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false,
});
const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

export function clock(atMs) {
  const at = new Date(atMs);
  const today = new Date().toDateString() === at.toDateString();
  // Months and hours in the reader's own language; seconds always, as events come close together.
  return today ? CLOCK.format(at) : `${DAY.format(at)}, ${CLOCK.format(at)}`;
}

export const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

/** A word of the API for people: `no_room` is "no room". */
export const words = (name) => String(name).replaceAll("_", " ");

/** What a copy is doing: a load with its seconds, beside those that loads of it took; a drain with what it waits for. */
export function moving(copy, nowMs) {
  if (copy.status === "loading" && copy.loading_since_ms !== null) {
    const s = Math.max(0, Math.round((nowMs - copy.loading_since_ms) / 1000));
    return copy.load_s === null ? `loading ${s} s` : `loading ${s} of ${Math.round(copy.load_s)} s`;
  }
  if (copy.status === "draining" && copy.in_flight) return `draining, ${copy.in_flight} to finish`;
  return copy.status;
}
