// The fleet: every node with its memory and what it holds, and beside them what runs and waits.

import { act, allow, defrag, drain, pin, undrain, unload, unpin } from "../actions.js";
import { attr, h, icon, keyed, modelName, put, shown } from "../dom.js";
import { ago, gib, moving, plural, rate, size, span } from "../format.js";
import { byNode, colourOf, now, store } from "../store.js";
import { eventLine } from "./event.js";

const EVENTS_SHOWN = 40;
const FEW_NODES = 6;

export function fleet() {
  const filter = h("input", {
    type: "search", id: "node-filter", placeholder: "Filter by name or model", "aria-label": "Filter nodes by name or model",
    oninput: () => draw(new Set(["nodes"])),
  });
  const count = h("span", { class: "count" });
  const grid = h("ul", { class: "nodes" });
  const none = h("p", { class: "empty", hidden: true });
  const running = panel("In flight", "Nothing is running.");
  const waiting = panel("Waiting", "Nobody waits.");
  const latest = panel("Latest", "Nothing has happened yet.");
  const root = h("div", {},
    h("section", { class: "main-column", "aria-labelledby": "nodes-title" },
      h("div", { class: "bar" }, h("h1", { id: "nodes-title" }, "Nodes"), count, filter),
      grid, none),
    h("div", { class: "rail" }, running.root, waiting.root, latest.root),
  );

  function draw(changed) {
    if (["nodes", "models"].some((name) => changed.has(name))) drawNodes();
    if (changed.has("requests") || changed.has("fleet")) drawRunning(running);
    if (changed.has("queues")) drawWaiting(waiting);
    if (changed.has("events")) drawLatest(latest);
  }

  function drawNodes() {
    const models = byNode();
    const wanted = filter.value.trim().toLowerCase();
    const nodes = [...store.nodes.values()].filter((node) => wanted === ""
      || node.name.toLowerCase().includes(wanted)
      || models.get(node.name).some((copy) => copy.status !== "unloaded" && copy.model.toLowerCase().includes(wanted)));
    shown(filter, store.nodes.size > FEW_NODES);
    put(count, nodes.length === store.nodes.size ? store.nodes.size : `${nodes.length} of ${store.nodes.size}`);
    shown(none, nodes.length === 0);
    put(none, store.nodes.size ? "No node has that." : store.fleet ? "No node is configured." : "Connecting…");
    keyed(grid, nodes, (node) => node.name, makeNode, (card, node) => card.update(node, models.get(node.name)));
  }

  function tick() {
    for (const part of [running, waiting, latest]) tickAges(part);
    for (const row of root.querySelectorAll('.resident[data-status="loading"]')) row.tell();
  }

  return { root, draw, tick };
}

function panel(title, nothing) {
  const count = h("span", { class: "count" });
  const list = h("ul", { class: "scroll", tabindex: "0", "aria-label": title });
  const empty = h("p", { class: "empty" }, nothing);
  const root = h("section", { class: "panel" }, h("h2", {}, title, count), empty, list);
  return { root, list, empty, count };
}

function fill({ list, empty, count }, total, items, ...rest) {
  put(count, total || "");
  shown(empty, items.length === 0);
  shown(list, items.length > 0);
  keyed(list, items, ...rest);
}

/** Ages grow by themselves. */
function tickAges({ list }) {
  for (const age of list.querySelectorAll("[data-since]")) {
    const ms = now() - Number(age.dataset.since);
    put(age, age.dataset.style === "ago" ? ago(ms) : span(Math.max(0, Math.round(ms / 1000) * 1000)));
  }
}

function makeNode(node) {
  const name = h("h3", {}, node.name);
  const light = h("i", { class: "light", "aria-hidden": "true" });
  const health = h("span", { class: "chip" });
  const drainChip = h("span", { class: "chip draining" });
  const due = h("span", { class: "chip due" });
  const reason = h("p", { class: "reason", hidden: true });
  const bar = h("div", { class: "vram", role: "img" });
  const used = h("span", {});
  const rest = h("span", { class: "quiet" });
  const list = h("ul", { class: "residents" });
  const none = h("p", { class: "empty" }, "Nothing is loaded.");
  const foot = h("span", { class: "quiet" });
  const more = h("a", { class: "quiet", href: `#/models?node=${encodeURIComponent(node.name)}` });
  const drainButton = act("Drain", () => (drainButton.textContent === "Drain" ? drain(node.name) : undrain(node.name)));
  const defragButton = act("Defrag", () => defrag(node.name));
  for (const button of [drainButton, defragButton]) attr(button, "aria-describedby", `node-${encodeURIComponent(node.name)}`);
  name.id = `node-${encodeURIComponent(node.name)}`;
  const card = h("li", { class: "node" },
    h("div", { class: "node-head" }, light, name, health, drainChip, due, h("div", { class: "acts" }, drainButton, defragButton)),
    reason,
    bar,
    h("div", { class: "legend" }, used, rest),
    none, list,
    h("div", { class: "node-foot" }, foot, more),
  );

  card.update = (view, models) => {
    attr(card, "data-health", view.health);
    attr(light, "data-health", view.draining ? "draining" : view.health);
    put(health, view.health);
    shown(health, view.health !== "up");
    put(drainChip, view.drains.includes("defrag") ? "restarting" : view.drains.includes("removed") ? "leaving" : "draining");
    shown(drainChip, view.draining);
    put(due, "restart due");
    shown(due, view.defrag_due && !view.drains.includes("defrag"));
    attr(due, "title", view.defrag_reason);
    const why = view.health === "up" && view.defrag_due ? view.defrag_reason : view.reason;
    put(reason, why);
    shown(reason, why !== "");
    put(drainButton, view.drains.includes("request") ? "Put back" : "Drain");
    allow(defragButton, view.has_agent, view.has_agent ? "" : "no agent beside the node could restart it");

    const held = models.filter((copy) => copy.status !== "unloaded")
      .sort((a, b) => (a.model < b.model ? -1 : 1));
    drawMemory(bar, view, held);
    put(used, `${gib(view.vram_used_mib)} of ${gib(view.vram_total_mib)} GiB`);
    put(rest, memoryWords(view));
    shown(none, held.length === 0);
    keyed(list, held, (copy) => copy.model, makeResident, (row, copy) => row.update(copy, view));
    put(foot, [
      view.version && `v${view.version}`,
      plural(view.cycles, "unload") + (view.defrag_after_cycles ? ` of ${view.defrag_after_cycles}` : ""),
      view.residue_mib ? `${size(view.residue_mib)} not given back` : "",
    ].filter(Boolean).join(" · "));
    const absent = models.length - held.length;
    put(more, absent ? `${absent} more to load` : "");
  };
  return card;
}

function memoryWords(view) {
  const parts = [];
  if (view.vram_reserved_mib) parts.push(`${size(view.vram_reserved_mib)} reserved`);
  const residue = Math.min(view.residue_mib, view.vram_outside_mib ?? 0);
  if (view.vram_outside_mib > residue) {
    parts.push(`${size(view.vram_outside_mib - residue)} ${view.sizes_known ? "outside" : "not told apart"}`);
  }
  if (view.vram_used_mib !== null && view.vram_total_mib !== null) {
    const taken = view.vram_known_mib + view.vram_outside_mib + view.vram_reserved_mib;
    parts.push(`${size(Math.max(0, view.vram_total_mib - taken))} free`);
  }
  return parts.join(" · ");
}

/** Segments: residents as measured, then what others use, then what loads have reserved. */
function segments(view, held) {
  const found = held
    .filter((copy) => copy.status !== "loading" && copy.size_mib)
    .map((copy) => ({
      key: copy.model, mib: copy.size_mib, colour: colourOf(copy.model), status: copy.status,
      text: `${copy.model}, ${size(copy.size_mib)}`,
    }));
  // What unloads left behind is in use by nobody, and comes back with a restart.
  const residue = Math.min(view.residue_mib, view.vram_outside_mib ?? 0);
  if (residue) {
    found.push({
      key: " residue", mib: residue, status: "residue", text: `not given back by unloads, ${size(residue)}`,
    });
  }
  const outside = (view.vram_outside_mib ?? 0) - residue;
  if (outside) {
    const unknown = held.filter((copy) => copy.status !== "loading" && !copy.size_mib);
    const [only] = unknown.length === 1 ? unknown : [];
    const text = view.sizes_known ? "outside use" : `outside use and ${only?.model ?? "models of unknown size"}`;
    found.push({
      key: " outside", mib: outside, status: only ? "either" : "outside",
      colour: only && colourOf(only.model), text: `${text}, ${size(outside)}`,
    });
  }
  for (const copy of held) {
    if (copy.status === "loading" && copy.size_mib) {
      found.push({
        key: copy.model, mib: copy.size_mib, colour: colourOf(copy.model), status: "loading",
        text: `reserved for ${copy.model}, ${size(copy.size_mib)}`,
      });
    }
  }
  return found;
}

function drawMemory(bar, view, held) {
  const total = view.vram_total_mib;
  const parts = total ? segments(view, held) : [];
  keyed(bar, parts, (part) => part.key, () => h("span", {}), (element, part) => {
    const width = `${Math.min(100, (part.mib / total) * 100).toFixed(2)}%`;
    if (element.style.width !== width) element.style.width = width;
    attr(element, "data-status", part.status);
    attr(element, "data-colour", part.colour ?? null);
    attr(element, "title", part.text);
  });
  const words = parts.map((part) => part.text).join("; ");
  attr(bar, "aria-label", total
    ? `Memory: ${gib(view.vram_used_mib)} of ${gib(total)} GiB used${words ? `: ${words}` : ""}`
    : "Memory: the node tells nothing of it");
}

function makeResident(copy) {
  const dot = h("i", { class: "dot", "data-colour": colourOf(copy.model), "aria-hidden": "true" });
  const name = modelName(copy.model, "a", { href: `#/models?model=${encodeURIComponent(copy.model)}` });
  const status = h("span", { class: "chip" });
  const leases = h("span", { class: "figure leases" });
  const pace = h("span", { class: "figure pace" });
  const mib = h("span", { class: "figure mib" });
  const pinButton = act(icon("pin"), () => (row.pinned ? unpin(copy.model, copy.node) : pin(copy.model, copy.node)), { class: "act icon pin" });
  const unloadButton = act(icon("eject"), () => unload(copy.model, copy.node), { class: "act icon", "aria-label": `Unload ${copy.model} from ${copy.node}` });
  const row = h("li", { class: "resident" }, dot, name, status, leases, pace, mib, pinButton, unloadButton);
  // Said anew every second: a load has its time beside what loads of it took.
  row.tell = () => put(status, row.view.breaker_open ? "failing" : moving(row.view, now()));
  row.update = (view, node) => {
    row.pinned = view.pinned;
    attr(row, "data-status", view.status);
    row.view = view;
    row.tell();
    attr(status, "data-status", view.breaker_open ? "failing" : view.status);
    attr(status, "title", view.breaker_reason || null);
    shown(status, view.status !== "loaded" || view.breaker_open);
    put(leases, view.in_flight || "");
    attr(leases, "title", view.in_flight ? `${view.in_flight} in flight of ${view.max_in_flight}` : null);
    put(pace, view.tokens_per_s === null ? "" : `${rate(view.tokens_per_s)} tok/s`);
    put(mib, size(view.size_mib));
    attr(pinButton, "aria-pressed", view.pinned);
    attr(pinButton, "aria-label", `${view.pinned ? "Unpin" : "Pin"} ${view.model} on ${view.node}`);
    attr(pinButton, "title", view.pinned ? "pinned: never evicted" : "pin");
    const may = view.status === "loaded" && !view.pinned && node.may_unload;
    const why = view.pinned ? "pinned" : !node.may_unload ? node.no_unload_reason : "";
    allow(unloadButton, may, may ? "unload" : why);
  };
  return row;
}

function drawRunning(target) {
  const requests = [...store.requests].map(([key, one]) => ({ key, ...one }));
  fill(target, store.fleet?.in_flight ?? 0, requests, (one) => one.key, makeRequest, (row, one) => row.update(one));
}

function makeRequest() {
  let model = h("span", { class: "quiet" }, "a request is being read");
  const where = h("span", { class: "quiet" });
  const age = h("span", { class: "figure" });
  const pace = h("span", { class: "figure strong" });
  const state = h("span", { class: "chip" });
  const row = h("li", { class: "request" },
    h("div", {}, model, pace),
    h("div", { class: "second" }, where, state, age));
  row.update = (one) => {
    if (one.model !== null && model.title !== one.model) {
      const named = modelName(one.model);
      model.replaceWith(named);
      model = named;
    }
    put(where, [one.client, one.node && `on ${one.node}`].filter(Boolean).join(" "));
    put(state, one.state === "sent" ? "first token awaited" : one.state);
    attr(state, "data-status", one.state);
    shown(state, one.state !== "answering");
    const tokens = one.events ? `≈ ${one.events} tok` : "";
    put(pace, one.events_per_s ? `${rate(one.events_per_s)} tok/s` : "");
    attr(pace, "title", tokens && `${tokens}: events of the stream, one a token`);
    attr(age, "data-since", one.started_at_ms);
    if (age.textContent === "") put(age, span(Math.max(0, now() - one.started_at_ms)));
  };
  return row;
}

function drawWaiting(target) {
  const queues = [...store.queues.values()].sort((a, b) => (a.oldest_at_ms ?? 0) - (b.oldest_at_ms ?? 0));
  const total = queues.reduce((sum, queue) => sum + queue.waiting, 0);
  fill(target, total, queues, (queue) => queue.model, makeQueue, (row, queue) => row.update(queue));
}

function makeQueue(queue) {
  const model = modelName(queue.model);
  const count = h("span", { class: "figure strong" });
  const reason = h("span", {});
  const who = h("span", { class: "quiet" });
  const age = h("span", { class: "figure" });
  const row = h("li", { class: "queue" },
    h("div", {}, model, count), h("div", { class: "second" }, reason), h("div", { class: "second" }, who, age));
  row.update = (view) => {
    put(count, `${view.waiting} waiting`);
    put(reason, view.reason + (view.load_eta_s ? `, about ${span(view.load_eta_s * 1000)}` : ""));
    const clients = Object.entries(view.clients).sort(([, a], [, b]) => b - a);
    put(who, clients.map(([name, number]) => (number > 1 ? `${name || "nameless"} ×${number}` : name || "nameless")).join(", "));
    attr(age, "data-since", view.oldest_at_ms);
    if (view.oldest_at_ms === null) put(age, "by hand");
    else if (age.textContent === "") put(age, span(Math.max(0, now() - view.oldest_at_ms)));
  };
  return row;
}

function drawLatest(target) {
  const rows = store.events.slice(-EVENTS_SHOWN).reverse();
  fill(target, "", rows, (row) => row.id, (row) => eventLine(row, true));
}
