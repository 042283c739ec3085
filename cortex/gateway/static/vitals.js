// The row of figures at the top, and the lines behind them: the last three minutes.

import { attr, h, keyed, put, shown, svg } from "./dom.js";
import { gib, plural, rate, whole } from "./format.js";
import { store } from "./store.js";

const POINTS = 90;
const EVERY_MS = 2000;
const WIDTH = 90;
const HEIGHT = 22;

function tile(name, label, lined = false) {
  const value = h("b", {}, "–");
  const unit = h("small", {});
  const line = lined ? svg("polyline", { fill: "none", "vector-effect": "non-scaling-stroke" }) : null;
  const root = h("div", { class: "tile", "data-tile": name },
    h("dt", {}, label),
    h("dd", {}, value, unit),
    line && svg("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true", class: "spark",
    }, line),
  );
  return { root, value, unit, line, past: [] };
}

const tiles = {
  health: tile("health", "Health"),
  nodes: tile("nodes", "Nodes up"),
  memory: tile("memory", "Memory used"),
  resident: tile("resident", "Models loaded"),
  running: tile("running", "In flight", true),
  waiting: tile("waiting", "Waiting", true),
  pace: tile("pace", "Tokens/s now", true),
};
const reasons = h("ul", {});
const summary = h("summary", {});
const trouble = h("details", { class: "trouble", hidden: true }, summary, reasons);

export function mountVitals(parent) {
  parent.append(
    h("section", { class: "vitals", "aria-label": "At a glance" },
      h("dl", {}, ...Object.values(tiles).map((one) => one.root))),
  );
  tiles.health.root.lastElementChild.append(trouble);
  // It lies over the page, so it goes as a menu would.
  addEventListener("click", (event) => { if (!trouble.contains(event.target)) trouble.open = false; });
  addEventListener("keydown", (event) => { if (event.key === "Escape") trouble.open = false; });
  setInterval(() => { if (store.fleet && !document.hidden) sample(); }, EVERY_MS);
}

export function drawVitals(changed) {
  const { fleet } = store;
  if (!fleet) return;
  if (changed.has("fleet")) drawFleet(fleet);
  if (changed.has("nodes")) drawNodes();
  if (changed.has("models")) {
    const loaded = new Set();
    for (const copy of store.models.values()) if (copy.status === "loaded") loaded.add(copy.model);
    const all = new Set([...store.models.values()].map((copy) => copy.model));
    put(tiles.resident.value, whole(loaded.size));
    put(tiles.resident.unit, ` of ${whole(all.size)}`);
  }
  if (changed.has("requests")) put(tiles.pace.value, rate(pace()));
}

function drawFleet(fleet) {
  const status = fleet.draining ? "shutting down" : fleet.health.status;
  put(tiles.health.value, status);
  attr(tiles.health.root, "data-health", fleet.draining ? "impaired" : fleet.health.status);
  put(tiles.running.value, whole(fleet.in_flight));
  put(tiles.waiting.value, whole(fleet.queued));
  attr(tiles.waiting.root, "data-some", fleet.queued > 0);
  const { reasons: wrong, warnings } = fleet.health;
  const why = [...wrong, ...warnings];
  shown(trouble, why.length > 0);
  attr(trouble, "data-health", fleet.health.status);
  put(summary, wrong.length ? plural(why.length, "reason") : plural(why.length, "warning"));
  keyed(reasons, why, (text) => text, (text) => h("li", {}, text));
}

function drawNodes() {
  const nodes = [...store.nodes.values()];
  const up = nodes.filter((node) => node.health === "up").length;
  put(tiles.nodes.value, whole(up));
  put(tiles.nodes.unit, ` of ${whole(nodes.length)}`);
  attr(tiles.nodes.root, "data-some", up < nodes.length);
  const sum = (name) => nodes.reduce((total, node) => total + (node[name] ?? 0), 0);
  put(tiles.memory.value, gib(sum("vram_used_mib")));
  put(tiles.memory.unit, ` of ${gib(sum("vram_total_mib"))} GiB`);
}

const pace = () => [...store.requests.values()].reduce((sum, one) => sum + (one.events_per_s ?? 0), 0);

function sample() {
  const figures = { running: store.fleet.in_flight, waiting: store.fleet.queued, pace: pace() };
  for (const [name, value] of Object.entries(figures)) {
    const { past, line } = tiles[name];
    past.push(value);
    if (past.length > POINTS) past.shift();
    const top = Math.max(1, ...past);
    const step = WIDTH / (POINTS - 1);
    const from = WIDTH - (past.length - 1) * step;
    line.setAttribute("points", past
      .map((one, index) => `${(from + index * step).toFixed(1)},${(HEIGHT - 1 - (one / top) * (HEIGHT - 3)).toFixed(1)}`)
      .join(" "));
  }
}
