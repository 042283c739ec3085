// Every model once: where it is, how it does, and what can be done with it; one of them in detail.

import { act, allow, load, pin, unload, unpin } from "../actions.js";
import { attr, h, icon, keyed, modelName, put, shown } from "../dom.js";
import { ago, moving, plural, rate, size } from "../format.js";
import { byModel, now, store } from "../store.js";

const PAGE = 50;
const MOVING = new Set(["loading", "draining", "unloading"]);
const BEST = ["loaded", "loading", "draining", "unloading", "wedged", "unloaded"];
const WHICH = { all: "All", loaded: "Loaded", moving: "Moving", pinned: "Pinned" };

export function models() {
  let which = "all";
  let page = 0;
  let detail = null;
  const filter = h("input", { type: "search", placeholder: "Filter by model or node", "aria-label": "Filter by model or node", oninput: () => { page = 0; drawTable(); } });
  const count = h("span", { class: "count" });
  const choices = Object.entries(WHICH).map(([name, label]) => h("button", {
    type: "button", "aria-pressed": name === which,
    onclick: () => {
      which = name;
      page = 0;
      for (const [index, key] of Object.keys(WHICH).entries()) attr(choices[index], "aria-pressed", key === which);
      drawTable();
    },
  }, label));
  const body = h("tbody", {});
  const none = h("p", { class: "empty", hidden: true }, "No model is like that.");
  const where = h("span", {});
  const back = h("button", { type: "button", onclick: () => { page -= 1; drawTable(); } }, "Back");
  const next = h("button", { type: "button", onclick: () => { page += 1; drawTable(); } }, "Next");
  const pages = h("div", { class: "pages" }, where, back, next);
  const root = h("div", {},
    h("div", { class: "bar" }, h("h1", {}, "Models"), count,
      h("div", { class: "segmented", role: "group", "aria-label": "Which models" }, ...choices), filter),
    h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Models" }, h("table", { class: "models-table" },
      h("caption", {}, "Models of the fleet"),
      h("thead", {}, h("tr", {}, ...[["Model", ""], ["Status", ""], ["Where", "wide"], ["In flight", "number wide"], ["Tokens/s", "number wide"], ["Memory", "number wide"], ["Last used", "number wide"]]
        .map(([text, kind]) => h("th", { scope: "col", class: kind }, text)), h("th", { scope: "col" }, h("span", { class: "hidden" }, "Actions")))),
      body)),
    none, pages,
  );
  const drawer = makeDrawer(() => {
    detail = null;
    if (location.hash.startsWith("#/models?model=")) history.replaceState(null, "", "#/models");
  });
  root.append(drawer.root);

  function drawTable() {
    const all = byModel();
    const wanted = filter.value.trim().toLowerCase();
    const found = [...all].filter(([model, copies]) => fits(copies, which)
      && (wanted === "" || model.toLowerCase().includes(wanted)
        || copies.some((copy) => copy.node.toLowerCase() === wanted || copy.aliases.some((alias) => alias.toLowerCase().includes(wanted)))));
    put(count, found.length === all.size ? all.size : `${found.length} of ${all.size}`);
    const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
    page = Math.min(Math.max(0, page), last);
    shown(none, found.length === 0 && store.fleet !== null);
    shown(pages, last > 0);
    put(where, `${page * PAGE + 1} to ${Math.min(found.length, (page + 1) * PAGE)}`);
    allow(back, page > 0);
    allow(next, page < last);
    keyed(body, found.slice(page * PAGE, (page + 1) * PAGE), ([model]) => model, ([model]) => makeRow(model, open), (row, [, copies]) => row.update(copies));
  }

  function open(model) {
    location.hash = `#/models?model=${encodeURIComponent(model)}`;
  }

  function drawDetail() {
    const copies = detail === null ? null : byModel().get(detail);
    if (copies) drawer.update(detail, copies);
  }

  return {
    root,
    draw(changed) {
      if (!changed.has("models") && !changed.has("nodes")) return;
      drawTable();
      drawDetail();
    },
    show(query) {
      if (query.has("node")) filter.value = query.get("node");
      detail = query.get("model");
      if (detail === null) drawer.root.close();
    },
    // A dialog holds the whole page, also from a view that is not shown.
    hide: () => drawer.root.close(),
    tick: drawTable,
  };
}

function fits(copies, which) {
  if (which === "loaded") return copies.some((copy) => copy.status === "loaded");
  if (which === "moving") return copies.some((copy) => MOVING.has(copy.status));
  if (which === "pinned") return copies.some((copy) => copy.pinned);
  return true;
}

const best = (copies) => BEST.find((status) => copies.some((copy) => copy.status === status)) ?? copies[0].status;

function makeRow(model, open) {
  const aliases = h("span", { class: "quiet aliases" });
  const status = h("span", { class: "chip" });
  const pinned = h("span", { class: "pinned", title: "pinned" }, icon("pin"), h("span", { class: "hidden" }, "pinned"));
  const where = h("span", { class: "where" });
  const cell = (kind) => h("td", { class: kind });
  const [running, pace, memory, used] = ["number wide", "number wide", "number wide quiet", "number wide quiet"].map(cell);
  const loadButton = act("Load", () => load(model), { "aria-label": `Load ${model}` });
  const name = modelName(model, "a", { href: `#/models?model=${encodeURIComponent(model)}` });
  const row = h("tr", {},
    h("th", { scope: "row" }, name, aliases),
    h("td", {}, h("span", { class: "state" }, status, pinned)),
    h("td", { class: "wide" }, where), running, pace, memory, used,
    h("td", { class: "number" }, loadButton, " ", h("button", { type: "button", class: "act details", onclick: () => open(model), "aria-label": `Details of ${model}` }, "Details")));
  row.update = (copies) => {
    const word = best(copies);
    put(status, word);
    attr(status, "data-status", word);
    shown(pinned, copies.some((copy) => copy.pinned));
    put(aliases, copies[0].aliases.length ? `also ${copies[0].aliases.join(", ")}` : "");
    const held = copies.filter((copy) => copy.status !== "unloaded");
    keyed(where, held.length ? held : [null], (copy) => copy?.node ?? "", (copy) => h("span", { class: copy ? "chip" : "quiet" }), (chip, copy) => {
      put(chip, copy ? (copy.status === "loaded" ? copy.node : `${copy.node}: ${moving(copy, now())}`) : `on none of ${plural(copies.length, "node")}`);
      attr(chip, "data-status", copy && copy.status !== "loaded" ? copy.status : null);
    });
    put(running, copies.reduce((sum, copy) => sum + copy.in_flight, 0) || "");
    const paces = copies.map((copy) => copy.tokens_per_s).filter((value) => value !== null);
    put(pace, paces.length ? rate(Math.max(...paces)) : "");
    put(memory, size(copies.find((copy) => copy.size_mib)?.size_mib));
    const last = Math.max(...copies.map((copy) => copy.last_used_at_ms ?? 0));
    put(used, last ? ago(now() - last) : "never");
    allow(loadButton, copies.some((copy) => copy.status === "unloaded"), "");
  };
  return row;
}

/** One model on each of its nodes, in a dialog at the side. */
function makeDrawer(closed) {
  const title = h("h2", { id: "drawer-title" });
  const aliases = h("p", {});
  const list = h("ul", { class: "copies" });
  const pinAny = act("Pin wherever it is", () => pin(root.dataset.model));
  const explainLink = h("a", { class: "button" }, "Explain a request");
  const chatLink = h("a", { class: "button" }, "Chat");
  const root = h("dialog", { class: "drawer", "aria-labelledby": "drawer-title", onclose: closed,
    onclick: (event) => { if (event.target === root) root.close(); } },
    h("div", { class: "drawer-head" }, title,
      h("button", { type: "button", class: "icon", "aria-label": "Close", onclick: () => root.close() }, icon("close"))),
    aliases, h("div", { class: "choices start" }, pinAny, explainLink, chatLink), list);
  return {
    root,
    update(model, copies) {
      root.dataset.model = model;
      put(title, model);
      put(aliases, copies[0].aliases.length ? `Also known as ${copies[0].aliases.join(", ")}.` : "");
      shown(aliases, copies[0].aliases.length > 0);
      attr(explainLink, "href", `#/explain?model=${encodeURIComponent(model)}`);
      attr(chatLink, "href", `#/chat?model=${encodeURIComponent(model)}`);
      keyed(list, copies, (copy) => `${model}/${copy.node}`, makeCopy, (row, copy) => row.update(copy));
      if (!root.open) root.showModal();
    },
  };
}

function makeCopy(copy) {
  const status = h("span", { class: "chip" });
  const facts = h("dl", { class: "facts" });
  const failing = h("p", { class: "complaint", hidden: true });
  const loadButton = act("Load here", () => load(copy.model, copy.node));
  const unloadButton = act("Unload", () => unload(copy.model, copy.node));
  const pinButton = act("Pin", () => (row.pinned ? unpin : pin)(copy.model, copy.node));
  const row = h("li", {},
    h("div", { class: "node-head" }, h("h3", {}, copy.node), status, h("div", { class: "acts" }, loadButton, unloadButton, pinButton)),
    failing, facts);
  row.update = (view) => {
    const node = store.nodes.get(view.node);
    row.pinned = view.pinned;
    put(status, view.status);
    attr(status, "data-status", view.status);
    const failed = view.breaker_open ? `Failing: ${view.breaker_reason}` : view.last_failure ? `Failed last: ${view.last_failure}` : "";
    put(failing, failed);
    shown(failing, failed !== "");
    put(pinButton, view.pinned ? "Unpin" : "Pin here");
    const idle = view.status === "unloaded";
    shown(loadButton, idle);
    shown(unloadButton, !idle);
    allow(loadButton, node?.may_load ?? false, node?.no_load_reason);
    allow(unloadButton, view.status === "loaded" && !view.pinned && (node?.may_unload ?? false), view.pinned ? "pinned" : node?.no_unload_reason);
    const known = [
      ["In flight", `${view.in_flight} of ${view.max_in_flight}`],
      ["Memory", size(view.size_mib)],
      ["Tokens/s", rate(view.tokens_per_s)],
      ["Load takes", view.load_s === null ? "–" : `${view.load_s.toFixed(1)} s`],
      ["Loads", view.loads],
      ["Last used", ago(view.last_used_at_ms === null ? null : now() - view.last_used_at_ms)],
    ];
    keyed(facts, known, ([name]) => name, ([name]) => h("div", {}, h("dt", {}, name), h("dd", {})), (pair, [, value]) => put(pair.lastChild, value));
  };
  return row;
}
