// What would be done with a request for a model that came now, and what speaks against the others.

import { Refused, get } from "../api.js";
import { attr, h, keyed, modelName, put, seldom, shown } from "../dom.js";
import { size, span, words } from "../format.js";
import { byModel, store } from "../store.js";

const AGAIN_MS = 1000;
const PICKS = 8;
const SAYS = {
  serve: "It is served at once", load: "The model is loaded first", wait: "It waits", reject: "It is refused",
};

export function explain() {
  let asked = "";
  const input = h("input", { id: "explain-model", list: "explain-models", autocomplete: "off", spellcheck: "false", onchange: () => choose(input.value.trim()) });
  const names = h("datalist", { id: "explain-models" });
  const decision = h("span", { class: "chip" });
  const title = h("h2", { id: "explain-title" });
  const reason = h("p", { class: "headline" });
  const facts = h("p", { class: "quiet" });
  const body = h("tbody", {});
  const answer = h("section", { class: "panel answer", "aria-labelledby": "explain-title", hidden: true },
    h("div", { class: "node-head" }, title, decision), reason, facts);
  const table = h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Nodes that were looked at", hidden: true }, h("table", {},
    h("caption", {}, "Nodes that were looked at"),
    h("thead", {}, h("tr", {}, ...[["Node", ""], ["Verdict", ""], ["In flight", "number"], ["Needs", "number"], ["Free", "number"], ["Of", "number wide"], ["Because", "wide"]].map(([text, kind]) => h("th", { scope: "col", class: kind }, text)))),
    body));
  const picks = h("div", { class: "picks", role: "group", "aria-label": "Models that wait or were used last" });
  const hint = h("p", { class: "empty" }, "Choose a model to see where a request would go now, and why. Nothing is done by asking.");
  const failure = h("p", { class: "complaint", role: "alert", hidden: true });
  const root = h("div", {},
    h("div", { class: "bar" }, h("h1", {}, "Explain")),
    h("div", { class: "filters" }, h("label", { class: "field long" }, "Model or alias", input, names), picks),
    hint, failure, answer, table);
  const again = seldom(AGAIN_MS, ask);

  function choose(model) {
    location.hash = model === "" ? "#/explain" : `#/explain?model=${encodeURIComponent(model)}`;
  }

  function drawPicks() {
    const last = (copies) => Math.max(...copies.map((copy) => copy.last_used_at_ms ?? 0));
    const used = [...byModel()].sort(([, one], [, other]) => last(other) - last(one)).map(([model]) => model);
    const found = [...new Set([...store.queues.keys(), ...used])].slice(0, PICKS).sort();
    keyed(picks, found, (model) => model, (model) => h("button", { type: "button", class: "act", onclick: () => choose(model) }, modelName(model)),
      (button, model) => attr(button, "aria-pressed", model === asked));
  }

  async function ask() {
    const model = asked;
    if (model === "" || root.hidden) return;
    try {
      const found = await get("explain", { model });
      if (model === asked) draw(found);
    } catch (error) {
      if (model !== asked) return;
      put(failure, error instanceof Refused ? error.message : "The gateway could not be asked.");
      shown(failure, true);
      shown(answer, false);
      shown(table, false);
    }
  }

  function draw(found) {
    shown(failure, false);
    shown(answer, true);
    shown(table, found.considered.length > 0);
    put(title, found.model);
    put(decision, found.decision);
    attr(decision, "data-status", found.decision);
    put(reason, `${SAYS[found.decision]}${found.node ? ` ${found.decision === "load" ? "on" : "by"} ${found.node}` : ""}: ${found.reason}.`);
    put(facts, [
      found.evict.length ? `Makes room by letting go of ${found.evict.join(", ")}.` : "",
      found.code ? `Error code ${found.code}.` : "",
      found.load_eta_s !== null ? `The load takes about ${span(found.load_eta_s * 1000)}.` : "",
      found.retry_after_s !== null ? `Worth another try after ${span(found.retry_after_s * 1000)}.` : "",
    ].filter(Boolean).join(" "));
    keyed(body, found.considered, (one) => one.node, makeRow, (row, one) => row.update(one));
  }

  return {
    root,
    draw(changed) {
      if (changed.has("models")) {
        const known = [...byModel()].flatMap(([model, copies]) => [model, ...copies[0].aliases]);
        drawPicks();
        keyed(names, [...new Set(known)], (name) => name, (name) => h("option", { value: name }));
      }
      if (changed.has("models") || changed.has("nodes") || changed.has("queues")) again();
    },
    show(query) {
      asked = query.get("model") ?? "";
      input.value = asked;
      shown(hint, asked === "");
      if (asked === "") for (const part of [answer, table, failure]) shown(part, false);
      drawPicks();
      if (store.fleet) ask();
    },
  };
}

function makeRow(one) {
  const verdict = h("span", { class: "chip" });
  const cells = ["number", "number", "number", "number wide quiet"].map((kind) => h("td", { class: kind }));
  const because = h("td", { class: "wide quiet" });
  const row = h("tr", {}, h("th", { scope: "row" }, one.node), h("td", {}, verdict), ...cells, because);
  row.update = (view) => {
    put(verdict, words(view.verdict));
    attr(verdict, "data-status", view.verdict === "chosen" ? "ok" : null);
    const leases = view.limit === null ? "–" : `${view.in_flight} of ${view.limit}`;
    for (const [index, text] of [leases, size(view.need_mib), size(view.available_mib), size(view.total_mib)].entries()) put(cells[index], text);
    put(because, view.detail);
  };
  return row;
}
