// A conversation with one model. It lives in this tab and is gone with it.

import { Refused } from "../api.js";
import { ask } from "../chatting.js";
import { attr, h, keyed, put, shown } from "../dom.js";
import { rate, span, whole } from "../format.js";
import { byModel, store } from "../store.js";

/** So close to its end, the conversation is followed. */
const NEAR_PX = 60;

export function chat() {
  /** What was said, as messages. */
  let said = [];
  let running = null;

  const input = h("input", { id: "chat-model", list: "chat-models", autocomplete: "off", spellcheck: "false", onchange: () => choose(input.value.trim()) });
  const names = h("datalist", { id: "chat-models" });
  const system = h("textarea", { id: "chat-system", rows: "2", spellcheck: "false" });
  const log = h("div", { class: "talk", role: "log", tabindex: "0", "aria-label": "Conversation" });
  const hint = h("p", { class: "empty" }, "What you write goes to the model, and stays in this tab.");
  const text = h("textarea", {
    id: "chat-text", rows: "3", placeholder: "Ask something",
    onkeydown: (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
    },
  });
  const sendButton = h("button", { type: "button", class: "primary", onclick: send }, "Send");
  const stopButton = h("button", { type: "button", class: "danger", onclick: () => running?.abort(), hidden: true }, "Stop");
  const newButton = h("button", { type: "button", onclick: forget }, "New conversation");
  const root = h("div", { onkeydown: (event) => { if (event.key === "Escape") running?.abort(); } },
    h("div", { class: "bar" }, h("h1", {}, "Chat"), newButton),
    h("div", { class: "filters" },
      h("label", { class: "field long" }, "Model or alias", input, names),
      h("details", { class: "system" }, h("summary", {}, "System prompt"), h("label", { class: "field" }, h("span", { class: "hidden" }, "System prompt"), system))),
    h("section", { class: "panel talk-panel", "aria-label": "Chat" }, hint, log,
      h("div", { class: "composer" }, h("label", { class: "hidden", for: "chat-text" }, "Your message"), text, h("div", { class: "composer-acts" }, stopButton, sendButton))));

  function choose(model) {
    location.hash = model === "" ? "#/chat" : `#/chat?model=${encodeURIComponent(model)}`;
  }

  function forget() {
    running?.abort();
    said = [];
    log.replaceChildren();
    shown(hint, true);
    text.focus();
  }

  function ready() {
    shown(stopButton, running !== null);
    shown(sendButton, running === null);
    attr(log, "aria-busy", running !== null);
  }

  /** Add a message; what comes later of it is followed where its reader is at the end. */
  function add(kind, who, words) {
    const body = h("p", { class: "words" }, words);
    const item = h("article", { class: kind }, h("h2", {}, who), body);
    log.append(item);
    shown(hint, false);
    log.scrollTop = log.scrollHeight;
    return { item, body };
  }

  async function send() {
    const model = input.value.trim();
    const question = text.value.trim();
    if (running !== null || question === "") return;
    if (model === "") { input.focus(); return; }
    const control = new AbortController();
    running = control;
    text.value = "";
    add("mine", "You", question);
    const answer = makeAnswer(add("theirs", model, ""), log, model);
    ready();
    // The button that was pressed is gone; Escape is heard here.
    text.focus({ preventScroll: true });
    const told = system.value.trim();
    const messages = [...(told ? [{ role: "system", content: told }] : []), ...said, { role: "user", content: question }];
    try {
      await ask({ model, messages }, control.signal, answer.take);
    } catch (error) {
      if (!control.signal.aborted) answer.fail(error instanceof Refused ? error.message : "The answer broke off.");
    }
    answer.end(control.signal.aborted);
    // An answer that was stopped stays in the conversation; one that said nothing does not.
    if (answer.content !== "" && log.contains(answer.item)) {
      said.push({ role: "user", content: question }, { role: "assistant", content: answer.content });
    }
    if (running === control) running = null;
    ready();
  }

  return {
    root,
    draw(changed) {
      if (!changed.has("models")) return;
      const known = [...byModel()].flatMap(([model, copies]) => [model, ...copies[0].aliases]);
      keyed(names, [...new Set(known)], (name) => name, (name) => h("option", { value: name }));
      if (input.value === "" && document.activeElement !== input) input.value = likely();
    },
    show(query) {
      input.value = query.get("model") ?? (input.value || likely());
    },
    tick() { for (const item of log.querySelectorAll("[data-waiting]")) item.tell(); },
  };
}

/** The model that was used last, of those that answer at once. */
function likely() {
  const loaded = [...store.models.values()].filter((copy) => copy.status === "loaded");
  loaded.sort((one, other) => (other.last_used_at_ms ?? 0) - (one.last_used_at_ms ?? 0));
  return loaded[0]?.model ?? "";
}

/** What it waits for, as far as the fleet tells. */
function why(model) {
  const names = [...byModel()].find(([id, copies]) => id === model || copies[0].aliases.includes(model));
  const reason = store.queues.get(names?.[0])?.reason;
  return reason ? `: ${reason}` : "";
}

/** An answer as it comes: its words, its thoughts apart, and its figures. */
function makeAnswer({ item, body }, log, model) {
  const began = performance.now();
  const words = body.appendChild(document.createTextNode(""));
  const thought = document.createTextNode("");
  const thoughts = h("details", { class: "thoughts quiet", hidden: true }, h("summary", {}, "Thoughts"), h("p", { class: "words" }, thought));
  const figures = h("p", { class: "figures quiet" }, "waiting");
  item.insertBefore(thoughts, body);
  item.append(figures);
  item.dataset.waiting = "";
  item.tell = () => put(figures, `waiting for ${span(performance.now() - began)}${why(model)}`);
  const answer = {
    item, content: "", ttftMs: null, pieces: 0, usage: null,
    take(chunk) {
      if (chunk.usage) answer.usage = chunk.usage;
      const delta = chunk.choices?.[0]?.delta;
      const spoken = typeof delta?.content === "string" ? delta.content : "";
      const mused = typeof delta?.reasoning_content === "string" ? delta.reasoning_content : "";
      if (spoken === "" && mused === "") return;
      const follow = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_PX;
      if (answer.ttftMs === null) {
        answer.ttftMs = performance.now() - began;
        delete item.dataset.waiting;
        put(figures, `first token after ${span(answer.ttftMs)}`);
      }
      answer.pieces += 1;
      answer.content += spoken;
      words.appendData(words.length ? spoken : spoken.trimStart());
      thought.appendData(mused);
      if (mused !== "") shown(thoughts, true);
      if (follow) log.scrollTop = log.scrollHeight;
    },
    fail(message) {
      item.insertBefore(h("p", { class: "complaint", role: "alert" }, message), figures);
    },
    end(stopped) {
      delete item.dataset.waiting;
      const took = performance.now() - began;
      const tokens = answer.usage?.completion_tokens ?? answer.pieces;
      const pace = tokens > 1 ? ((tokens - 1) * 1000) / (took - answer.ttftMs) : null;
      put(figures, answer.ttftMs === null ? (stopped ? "stopped" : "") : [
        `first token after ${span(answer.ttftMs)}`, `${rate(pace)} tokens/s`, `${whole(tokens)} tokens`,
        ...(stopped ? ["stopped"] : []),
      ].join(" · "));
      log.scrollTop = log.scrollHeight;
    },
  };
  return answer;
}
