// What happened when: a lane for every node, and under them every event with its reason.

import { Refused, get } from "../api.js";
import { toast } from "../actions.js";
import { attr, h, keyed, put, shown } from "../dom.js";
import { clock, span, words } from "../format.js";
import { addEvents, colourOf, now, store } from "../store.js";
import { GROUPS, GROUP_NAMES, eventLine, groupOf } from "./event.js";

const RANGES = { 5: "5 min", 15: "15 min", 60: "1 h", 360: "6 h" };
const SHOWN = 300;
const ENDS = { load: ["loaded", "load_failed", "load_abandoned"], unload: ["unloaded", "unload_failed"] };
/** Shown as a moment in a lane; those of ENDS are spans. */
const MOMENTS = new Set(["evict", "leak", "wedged", "node_down", "node_up", "node_restarted", "defrag", "drain", "undrain", "breaker_open", "load_failed", "unload_failed"]);

export function timeline() {
  let minutes = 15;
  let group = "";
  const names = Object.entries(RANGES).map(([value, label]) => h("button", {
    type: "button", "aria-pressed": Number(value) === minutes,
    onclick: (event) => {
      minutes = Number(value);
      for (const button of names) attr(button, "aria-pressed", button === event.currentTarget);
      fetchFrom(now() - minutes * 60_000);
      drawLanes();
    },
  }, label));
  const kind = h("select", { onchange: () => { group = kind.value; drawList(); } },
    h("option", { value: "" }, "everything"),
    ...Object.keys(GROUPS).map((name) => h("option", { value: name }, GROUP_NAMES[name])));
  const text = h("input", { type: "search", placeholder: "Node, model or reason", oninput: drawList });
  const lanes = h("div", { class: "lanes" });
  const scale = h("div", { class: "scale", "aria-hidden": "true" });
  const list = h("ul", { class: "scroll events" });
  const none = h("p", { class: "empty" }, "Nothing of that kind has happened.");
  const older = h("button", { type: "button", onclick: fetchOlder }, "Older");
  const root = h("div", {},
    h("div", { class: "bar" }, h("h1", {}, "Timeline"),
      h("div", { class: "segmented", role: "group", "aria-label": "How far back" }, ...names)),
    h("section", { class: "panel", "aria-label": "By node" }, lanes, scale,
      h("p", { class: "key quiet" },
        h("i", { "data-kind": "load" }), "load, in its model's colour ", h("i", { "data-kind": "unload" }), "unload ",
        h("i", { "data-kind": "evict" }), "eviction ", h("i", { "data-kind": "defrag" }), "restart or drain ", h("i", { "data-kind": "bad" }), "trouble")),
    h("div", { class: "filters" },
      h("label", { class: "field" }, "Show", kind),
      h("label", { class: "field" }, "Containing", text)),
    h("section", { class: "panel", "aria-label": "Events" }, none, list),
    h("div", { class: "pages" }, older));

  async function fetchFrom(sinceMs) {
    const oldest = store.events[0];
    if (oldest && oldest.at_ms <= sinceMs) return;
    await fetchRows({ since_ms: Math.round(sinceMs), until_ms: oldest?.at_ms, limit: 1000 });
  }

  async function fetchOlder() {
    const found = await fetchRows({ until_ms: store.events[0]?.at_ms, limit: 200 });
    if (found === 0) toast("There is nothing older.");
  }

  async function fetchRows(query) {
    try {
      const { rows } = await get("events", query);
      addEvents(rows.toSorted((one, other) => one.id - other.id));
      return rows.length;
    } catch (error) {
      toast(error instanceof Refused ? error.message : "The events could not be read.", true);
      return null;
    }
  }

  function drawList() {
    const wanted = text.value.trim().toLowerCase();
    const rows = store.events.filter((row) => (group === "" || groupOf(row.kind) === group)
      && (wanted === "" || `${row.node} ${row.model} ${row.reason} ${row.kind}`.toLowerCase().includes(wanted))).slice(-SHOWN).reverse();
    shown(none, rows.length === 0);
    keyed(list, rows, (row) => row.id, (row) => eventLine(row));
  }

  function drawLanes() {
    const to = now();
    const from = to - minutes * 60_000;
    const parts = spans(store.events, from, to);
    const place = (at) => `${(((at - from) / (to - from)) * 100).toFixed(3)}%`;
    keyed(lanes, [...store.nodes.keys()], (name) => name, makeLane, (lane, name) => {
      const own = parts.get(name) ?? [];
      attr(lane.track, "aria-label", `${name}: ${own.length ? own.map((part) => part.text).join("; ") : "nothing"}`);
      keyed(lane.track, own, (part) => part.key, () => h("span", {}), (mark, part) => {
        mark.style.left = place(Math.max(from, part.from));
        mark.style.width = part.to === null ? "" : `calc(${place(from + part.to - Math.max(from, part.from))} + 3px)`;
        attr(mark, "data-kind", part.kind);
        attr(mark, "data-colour", part.colour);
        attr(mark, "title", part.text);
      });
    });
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => from + share * (to - from));
    keyed(scale, ticks.map((at, index) => ({ at, index })), (tick) => tick.index, () => h("span", {}), (tick, { at }) => put(tick, clock(at)));
  }

  return {
    root,
    draw(changed) {
      if (changed.has("events")) drawList();
      if (changed.has("events") || changed.has("nodes")) drawLanes();
    },
    show(query) {
      if (query.has("kind")) { kind.value = query.get("kind"); group = kind.value; }
      fetchFrom(now() - minutes * 60_000);
    },
    tick: drawLanes,
  };
}

function makeLane(name) {
  const track = h("div", { class: "track", role: "img" });
  const lane = h("div", { class: "lane" }, h("span", { class: "lane-name" }, name), track);
  lane.track = track;
  return lane;
}

/** Spans and moments by node. A load that has not ended reaches to now. */
function spans(events, from, to) {
  const found = new Map();
  const open = new Map();
  const add = (row, part) => {
    if (!found.has(row.node)) found.set(row.node, []);
    found.get(row.node).push(part);
  };
  for (const row of events) {
    if (row.node === null) continue;
    for (const [begin, ends] of Object.entries(ENDS)) {
      const key = `${begin} ${row.node} ${row.model}`;
      if (row.kind === begin) open.set(key, row);
      if (ends.includes(row.kind) && open.has(key)) {
        close(add, open.get(key), row.at_ms, from, words(row.kind));
        open.delete(key);
      }
    }
    if (MOMENTS.has(row.kind) && row.at_ms >= from) {
      const group = groupOf(row.kind);
      const kind = row.kind === "evict" ? "evict" : group === "defrag" || row.kind.endsWith("drain") ? "defrag" : row.kind === "node_up" ? "up" : "bad";
      add(row, { key: row.id, from: row.at_ms, to: null, kind, text: `${clock(row.at_ms)} ${words(row.kind)} ${row.model ?? ""}: ${row.reason}` });
    }
  }
  for (const row of open.values()) close(add, row, to, from, "under way");
  return found;
}

function close(add, row, endMs, from, word) {
  if (endMs < from) return;
  add(row, {
    key: row.id, from: row.at_ms, to: endMs, kind: row.kind, colour: row.kind === "load" ? colourOf(row.model) : null,
    text: `${clock(row.at_ms)} ${row.kind} of ${row.model}, ${word} after ${span(endMs - row.at_ms)}: ${row.reason}`,
  });
}
