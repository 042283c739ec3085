// Lines over time, one a model: medians of short stretches, drawn by uPlot.

import { h } from "./dom.js";
import { clock } from "./format.js";
import { colourOf } from "./store.js";

const STRETCHES = 60;
const MOST_MODELS = 8;

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Median of `valueOf(row)` per model and stretch: `{models, data}` as uPlot wants it. */
export function medians(rows, valueOf) {
  const known = rows.filter((row) => row.model !== null && valueOf(row) !== null);
  if (known.length === 0) return null;
  const counts = new Map();
  for (const row of known) counts.set(row.model, (counts.get(row.model) ?? 0) + 1);
  const models = [...counts].sort(([, a], [, b]) => b - a).slice(0, MOST_MODELS).map(([model]) => model).sort();
  const times = known.map((row) => row.started_at_ms / 1000);
  const from = Math.min(...times);
  const step = Math.max(1, (Math.max(...times) - from) / STRETCHES);
  const slots = new Map();
  for (const row of known) {
    const slot = Math.floor((row.started_at_ms / 1000 - from) / step);
    if (!slots.has(slot)) slots.set(slot, new Map());
    const values = slots.get(slot);
    if (!values.has(row.model)) values.set(row.model, []);
    values.get(row.model).push(valueOf(row));
  }
  const order = [...slots.keys()].sort((a, b) => a - b);
  const line = (model) => order.map((slot) => median(slots.get(slot).get(model)));
  return { models, data: [order.map((slot) => from + (slot + 0.5) * step), ...models.map(line)] };
}

/** At least a minute, so that a handful of requests does not look like a trend. */
function padded(low, high) {
  const more = Math.max(0, (60 - (high - low)) / 2) + (high - low) * 0.02;
  return [low - more, high + more];
}

function median(values) {
  if (!values) return null;
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

/** A figure that keeps its place and size whatever it shows. */
export function chart(title, formatted) {
  const place = h("div", { class: "plot" });
  const none = h("p", { class: "empty" }, "No request of that kind was streamed.");
  const root = h("figure", { class: "panel chart" }, h("figcaption", {}, h("h2", {}, title)), none, place);
  let plot = null;
  let last = null;

  function draw(found, anew = false) {
    // The same lines with other points: what the reader points at stays.
    const same = plot && found && !anew && last?.models.join() === found.models.join();
    last = found;
    if (same) {
      plot.setData(found.data);
      return;
    }
    plot?.destroy();
    plot = null;
    none.hidden = found !== null;
    place.setAttribute("aria-label", found ? `${title} of ${found.models.join(", ")}; the table under it has the figures` : title);
    place.setAttribute("role", "img");
    if (found === null || place.clientWidth === 0) return;
    const axis = { stroke: style("--quiet"), grid: { stroke: style("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const value = (_, figure) => (figure === null || figure === undefined ? "–" : formatted(figure));
    plot = new window.uPlot({
      width: place.clientWidth,
      height: 230,
      cursor: { points: { size: 6 } },
      legend: { live: true },
      scales: { x: { range: (chart) => padded(chart.data[0].at(0), chart.data[0].at(-1)) }, y: { range: (_, low, high) => [0, Math.max(high * 1.1, 0.001)] } },
      axes: [
        { ...axis, space: 90, values: (_, ticks) => ticks.map((tick) => clock(tick * 1000)) },
        { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => formatted(tick)) },
      ],
      series: [{}, ...found.models.map((model) => ({
        label: model, stroke: style(`--c${colourOf(model)}`), width: 2, spanGaps: true, value,
        points: { show: true, size: 5, fill: style(`--c${colourOf(model)}`) },
      }))],
    }, found.data, place);
  }

  const again = () => { if (root.isConnected && place.clientWidth > 0) draw(last, true); };
  new ResizeObserver(() => { if (plot === null ? last !== null : plot.width !== place.clientWidth) again(); }).observe(place);
  addEventListener("cortex-theme", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  return { root, draw };
}
