// Every request that ended: filters, how fast the models were, and the rows themselves.

import { Refused, get } from "../api.js";
import { chart, medians } from "../charts.js";
import { attr, h, keyed, modelName, put, seldom, shown } from "../dom.js";
import { clock, rate, span, whole } from "../format.js";
import { byModel, now, store } from "../store.js";

const PAGE = 100;
const CHARTED = 2000;
const AGAIN_MS = 5000;
/** A search reads so far at a time: how often it is told to go on before what it found is shown. */
const PAGES_AT_ONCE = 20;
const SINCE = { 1: "last hour", 6: "last 6 hours", 24: "last day", 168: "last week", 0: "all that is kept" };

export function history() {
  let pages = [null];
  let newest = -1;
  let asked = 0;
  const again = seldom(AGAIN_MS, () => { if (!root.hidden && pages.length === 1) ask(); });
  const changed = () => { pages = [null]; ask(); };
  const model = h("input", { list: "history-models", autocomplete: "off", spellcheck: "false", placeholder: "any", onchange: changed });
  const models = h("datalist", { id: "history-models" });
  const node = h("select", { onchange: changed }, h("option", { value: "" }, "any"));
  const client = h("input", { autocomplete: "off", spellcheck: "false", placeholder: "any", onchange: changed });
  const outcome = h("select", { onchange: changed }, ...[["", "any"], ["ok", "ok"], ["error", "error"], ["client_gone", "client gone"]].map(([value, label]) => h("option", { value }, label)));
  const since = h("select", { onchange: changed }, ...Object.entries(SINCE).sort(([a], [b]) => (Number(a) || 1e9) - (Number(b) || 1e9)).map(([value, label]) => h("option", { value, selected: value === "24" }, label)));
  const slow = h("input", { type: "number", min: "0", step: "1", placeholder: "any", onchange: changed });
  const field = (label, control, ...more) => h("label", { class: "field" }, label, control, ...more);
  const failure = h("p", { class: "complaint", role: "alert", hidden: true });
  const ttft = chart("Time to first token", (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`));
  const pace = chart("Tokens per second", (value) => (value >= 10 ? value.toFixed(0) : rate(value)));
  const statsBody = h("tbody", {});
  const body = h("tbody", {});
  const none = h("p", { class: "empty", hidden: true }, "No request is like that.");
  const where = h("span", {});
  const counted = h("p", { class: "quiet", hidden: true });
  const newer = h("button", { type: "button", onclick: () => { pages.pop(); ask(); } }, "Newer");
  const older = h("button", { type: "button", onclick: () => { pages.push(older.next); ask(); } }, "Older");
  const head = (cells) => h("thead", {}, h("tr", {}, ...cells.map(([text, kind]) => h("th", { scope: "col", class: kind }, text))));
  const root = h("div", {},
    h("div", { class: "bar" }, h("h1", {}, "History")),
    h("div", { class: "filters", role: "search", "aria-label": "Filter the history" },
      field("Model", model, models), field("Node", node), field("Client", client), field("Outcome", outcome), field("Since", since), field("Slower than, s", slow)),
    failure,
    h("div", { class: "charts" }, ttft.root, pace.root),
    h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Figures per model" }, h("table", {},
      h("caption", {}, "Figures per model"),
      head([["Model", ""], ["Requests", "number wide"], ["Errors", "number wide"], ["TTFT p50", "number"], ["p95", "number wide"], ["Tokens/s p50", "number"], ["p95", "number wide"], ["Cold starts", "number wide"], ["Tokens in", "number wide"], ["Tokens out", "number wide"]]),
      statsBody)),
    counted,
    h("h2", { class: "rows-title" }, "Requests"),
    h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Requests" }, h("table", {},
      h("caption", {}, "Requests, newest first"),
      head([["When", ""], ["Model", ""], ["Node", "wide"], ["Client", "wide"], ["Outcome", ""], ["TTFT", "number wide"], ["Took", "number"], ["Waited", "number wide"], ["Tokens", "number wide"], ["Tokens/s", "number wide"]]),
      body), none),
    h("div", { class: "pages" }, where, newer, older));

  const query = () => ({
    model: model.value.trim(), node: node.value, client: client.value.trim(), outcome: outcome.value,
    since_ms: since.value === "0" ? null : Math.round(now() - Number(since.value) * 3_600_000),
    slow_ms: slow.value === "" ? null : Number(slow.value) * 1000,
  });

  async function ask() {
    asked += 1;
    const mine = asked;
    const wanted = query();
    try {
      const [found, stats, charted] = await Promise.all([
        search({ ...wanted, before: pages.at(-1) }, PAGE),
        get("history/stats", wanted),
        search(wanted, CHARTED),
      ]);
      if (mine !== asked) return;
      shown(failure, false);
      drawRows(found);
      shown(counted, stats.since_ms !== null);
      put(counted, `Figures are of the requests since ${clock(stats.since_ms ?? 0)}.`);
      keyed(statsBody, stats.rows, (row) => row.model ?? "", makeStats, (row, one) => row.update(one));
      if (newest !== charted.rows[0]?.id || pages.length === 1) {
        newest = charted.rows[0]?.id;
        ttft.draw(medians(charted.rows, (row) => row.ttft_ms));
        pace.draw(medians(charted.rows, (row) => row.tokens_per_s));
      }
    } catch (error) {
      put(failure, error instanceof Refused ? error.message : "The history could not be read.");
      shown(failure, true);
    }
  }

  function drawRows({ rows, next }) {
    shown(none, rows.length === 0);
    keyed(body, rows, (row) => row.id, makeRow);
    put(where, rows.length ? `${clock(rows.at(-1).started_at_ms)} to ${clock(rows[0].started_at_ms)}` : "");
    older.next = next;
    older.disabled = next === null;
    newer.disabled = pages.length === 1;
  }

  let total = -1;
  return {
    root,
    draw(sections) {
      if (sections.has("nodes")) {
        keyed(node, [null, ...store.nodes.keys()], (name) => name ?? "", (name) => h("option", { value: name ?? "" }, name ?? "any"));
      }
      if (sections.has("models")) keyed(models, [...byModel().keys()], (name) => name, (name) => h("option", { value: name }));
      if (sections.has("fleet") && store.fleet && store.fleet.requests_total !== total) {
        total = store.fleet.requests_total;
        again();
      }
    },
    show(given) {
      if (given.has("model")) model.value = given.get("model");
      if (store.fleet) ask();
    },
  };
}

async function search(wanted, limit) {
  const rows = [];
  let next = wanted.before ?? null;
  for (let page = 0; page < PAGES_AT_ONCE; page += 1) {
    const found = await get("history", { ...wanted, before: next, limit: limit - rows.length });
    rows.push(...found.rows);
    next = found.next;
    if (next === null || rows.length === limit) break;
  }
  return { rows, next };
}

function makeStats(one) {
  const cells = ["number wide", "number wide", "number", "number wide", "number", "number wide", "number wide", "number wide", "number wide"].map((kind) => h("td", { class: kind }));
  const row = h("tr", {}, h("th", { scope: "row" }, one.model === null ? h("span", { class: "quiet" }, "unknown") : modelName(one.model)), ...cells);
  row.update = (view) => {
    const texts = [whole(view.requests), whole(view.errors), span(view.ttft_p50_ms), span(view.ttft_p95_ms), rate(view.tokens_per_s_p50), rate(view.tokens_per_s_p95), whole(view.cold_starts), whole(view.prompt_tokens), whole(view.completion_tokens)];
    for (const [index, text] of texts.entries()) put(cells[index], text);
    attr(cells[1], "data-bad", view.errors > 0);
  };
  return row;
}

function makeRow(one) {
  const word = one.outcome === "error" ? one.error_code ?? "error" : one.outcome;
  const waited = one.queue_ms + one.load_wait_ms;
  const cell = (kind, ...children) => h("td", { class: kind }, ...children);
  return h("tr", {},
    cell("figure", clock(one.started_at_ms)),
    cell("", one.model === null ? h("span", { class: "quiet" }, "unknown") : modelName(one.model)),
    cell("wide", one.node ?? "–"),
    cell("wide quiet", one.client ?? "–"),
    cell("", h("span", { class: "chip", "data-status": one.outcome, title: `HTTP ${one.status}, ${one.route}` }, word.replaceAll("_", " ")), one.cold_start ? " " : null, one.cold_start ? h("span", { class: "chip", "data-status": "loading" }, "cold") : null, one.error_message === null ? null : h("div", { class: "quiet why" }, one.error_message)),
    cell("number wide", span(one.ttft_ms)),
    cell("number", span(one.duration_ms)),
    cell("number wide quiet", waited < 1 ? "" : span(waited)),
    cell("number wide quiet", one.completion_tokens === null ? "–" : `${one.prompt_tokens === null ? "–" : whole(one.prompt_tokens)} → ${whole(one.completion_tokens)}`),
    cell("number wide", rate(one.tokens_per_s)));
}
