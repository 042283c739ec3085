// One event of the fleet as a line, and the groups that events fall into.

import { h, modelName } from "../dom.js";
import { ago, clock, words } from "../format.js";
import { now } from "../store.js";

export const GROUPS = {
  load: ["load", "loaded", "load_failed", "load_abandoned"],
  evict: ["evict", "revived", "unload", "unloaded", "unload_failed", "leak"],
  defrag: ["defrag", "node_restarted", "wedged"],
  node: ["node_up", "node_down", "node_suspect", "node_added", "node_removed", "drain", "undrain", "agent_up", "agent_lost", "breaker_open"],
  pin: ["pin", "unpin"],
  gateway: ["config", "rule", "start", "stop"],
};
export const GROUP_NAMES = {
  load: "loads", evict: "evictions and unloads", defrag: "restarts", node: "nodes", pin: "pins", gateway: "gateway",
};
const GROUP_OF = new Map(Object.entries(GROUPS).flatMap(([group, kinds]) => kinds.map((kind) => [kind, group])));
const BAD = new Set(["load_failed", "unload_failed", "leak", "wedged", "node_down", "node_suspect", "agent_lost", "breaker_open"]);

export const groupOf = (kind) => GROUP_OF.get(kind) ?? "gateway";

export function eventLine(row, brief = false) {
  const time = brief
    ? h("time", { class: "figure", "data-since": row.at_ms, "data-style": "ago", title: clock(row.at_ms) }, ago(now() - row.at_ms))
    : h("time", { class: "figure" }, clock(row.at_ms));
  const step = row.kind === "defrag" && row.detail.step ? `: ${words(row.detail.step)}` : "";
  return h("li", { class: "event", "data-group": groupOf(row.kind), "data-bad": BAD.has(row.kind) ? "true" : null },
    h("div", {},
      h("span", { class: "kind" }, words(row.kind) + step),
      row.model && modelName(row.model),
      row.node && h("span", { class: "quiet" }, row.node),
      time),
    h("div", { class: "second" }, row.reason));
}
