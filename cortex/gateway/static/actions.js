// What an operator may do: asked for once more, done by the admin API, told of in a toast.

import { Refused, get, post } from "./api.js";
import { h, put } from "./dom.js";
import { byModel, store } from "./store.js";
import { plural, size, span } from "./format.js";

const TOAST_MS = 6000;
const FAILURE_MS = 15_000;

export function toast(text, failure = false) {
  const element = h("div", { class: failure ? "toast failure" : "toast" }, text);
  document.getElementById("toasts").append(element);
  setTimeout(() => element.remove(), failure ? FAILURE_MS : TOAST_MS);
}

let dialog = null;

/**
 * Ask whether it is meant; resolves to the chosen value of `choice`, or null. What `foresee(value)` comes
 * to takes the place of `text`, also after another choice.
 */
function confirm({ title, text, verb, danger = false, choice = null, foresee = null }) {
  dialog?.remove();
  const words = h("p", { id: "confirm-text" }, text);
  const select = choice && h("select", { id: "confirm-choice", onchange: look },
    ...choice.options.map(([value, label]) => h("option", { value }, label)));

  async function look() {
    const chosen = select?.value ?? "";
    const seen = await foresee?.(chosen);
    if (seen && chosen === (select?.value ?? "")) put(words, seen);
  }

  return new Promise((done) => {
    const close = (answer) => { dialog.close(); done(answer); };
    dialog = h("dialog", {
      class: "confirm", "aria-labelledby": "confirm-title", "aria-describedby": "confirm-text",
      oncancel: () => done(null),
    },
      h("h2", { id: "confirm-title" }, title),
      words,
      select && h("label", { class: "field" }, h("span", {}, choice.label), select),
      h("div", { class: "choices" },
        h("button", { type: "button", onclick: () => close(null) }, "Cancel"),
        h("button", {
          type: "button", class: danger ? "danger" : "primary", autofocus: true,
          onclick: () => close(select ? select.value : ""),
        }, verb),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
    look();
  });
}

/** What a load would do now, as `explain` has it; "" where nobody can tell. */
async function foreseen(model, onNode) {
  let found;
  try {
    found = await get("explain", { model, node: onNode });
  } catch {
    return "";
  }
  const where = found.node ? ` on ${found.node}` : "";
  if (found.decision === "serve") return `It is there already${where}.`;
  if (found.decision !== "load") {
    return `${found.decision === "wait" ? "It has to wait" : "It would be refused"}: ${found.reason}.`;
  }
  const takes = found.load_eta_s === null ? "" : ` That takes about ${span(found.load_eta_s * 1000)}.`;
  const gone = found.evict.length ? ` ${found.evict.join(" and ")} ${found.evict.length > 1 ? "are" : "is"} let go of for it; running answers finish first.` : " Nothing has to go for it.";
  return `It is loaded${where}: ${found.reason}.${gone}${takes}`;
}

/** What of a node is nowhere else. */
function onlyOn(name) {
  const held = [...byModel()].filter(([, copies]) => {
    const loaded = copies.filter((copy) => copy.status === "loaded");
    return loaded.length === 1 && loaded[0].node === name;
  });
  return held.map(([model]) => model);
}

async function run(begun, done, path, body) {
  toast(begun);
  try {
    await post(path, body);
    toast(done);
  } catch (error) {
    toast(error instanceof Refused ? `${begun} failed: ${error.message}` : `${begun} failed.`, true);
  }
}

const node = (name) => `nodes/${encodeURIComponent(name)}`;

export async function load(model, onNode = null) {
  const copies = byModel().get(model) ?? [];
  const options = copies
    .filter((copy) => copy.status !== "loaded")
    .map((copy) => [copy.node, `${copy.node} (${size(copy.size_mib)})`]);
  const where = await confirm({
    title: `Load ${model}?`,
    text: "If there is no room, idle models that are needed least are let go of. Running answers finish first.",
    verb: "Load",
    choice: { label: "Where", options: onNode ? [[onNode, onNode]] : [["", "wherever it fits"], ...options] },
    foresee: (where) => foreseen(model, where || null),
  });
  if (where === null) return;
  await run(`Loading ${model}`, `${model} is loaded`, "models/load", { model, node: where || null });
}

export async function unload(model, onNode) {
  const running = store.models.get(`${onNode}/${model}`)?.in_flight ?? 0;
  const meant = await confirm({
    title: `Unload ${model}?`,
    text: [
      `It leaves ${onNode}.`,
      running ? `${plural(running, "answer")} under way there finish first.` : "Nothing runs on it there.",
      onlyOn(onNode).includes(model) ? "It is loaded nowhere else: the next request for it loads it again." : "Other nodes have it, too.",
    ].join(" "),
    verb: "Unload",
    danger: true,
  });
  if (meant === null) return;
  await run(`Unloading ${model}`, `${model} has left ${onNode}`, "models/unload", { model, node: onNode });
}

export async function pin(model, onNode = null) {
  const text = `It stays on ${onNode ?? "any one node"} whatever else is wanted, and comes back when absent.`;
  const copies = (byModel().get(model) ?? []).filter((copy) => onNode === null || copy.node === onNode);
  const absent = copies.every((copy) => copy.status !== "loaded");
  const meant = await confirm({
    title: `Pin ${model}?`,
    text,
    verb: "Pin",
    // One that is absent is brought in at once.
    foresee: async () => (absent ? `${text} ${await foreseen(model, onNode)}` : text),
  });
  if (meant === null) return;
  await run(`Pinning ${model}`, `${model} is pinned`, "models/pin", { model, node: onNode });
}

export async function unpin(model, onNode) {
  const meant = await confirm({
    title: `Unpin ${model}?`,
    text: "It may then be let go of when room is needed. A pin of the configuration stays.",
    verb: "Unpin",
  });
  if (meant === null) return;
  const floats = store.models.get(`${onNode}/${model}`)?.pin_floats;
  await run(`Unpinning ${model}`, `${model} is not pinned by request any more`, "models/unpin", { model, node: floats ? null : onNode });
}

export async function drain(name) {
  const alone = onlyOn(name);
  const meant = await confirm({
    title: `Drain ${name}?`,
    text: `What runs there finishes; nothing new is sent to it until you put it back into service.${alone.length ? ` Loaded nowhere else: ${alone.join(", ")}.` : ""}`,
    verb: "Drain",
    danger: true,
  });
  if (meant !== null) await run(`Draining ${name}`, `${name} takes nothing new`, `${node(name)}/drain`);
}

export async function undrain(name) {
  const meant = await confirm({ title: `Put ${name} back?`, text: "It takes requests again.", verb: "Put back" });
  if (meant !== null) await run(`Putting ${name} back`, `${name} is back in service`, `${node(name)}/undrain`);
}

export async function defrag(name) {
  const alone = onlyOn(name);
  const meant = await confirm({
    title: `Defrag ${name}?`,
    text: `As soon as that is safe it is drained, its agent restarts it, and its models are brought back.${alone.length ? ` Until then nowhere else: ${alone.join(", ")}.` : ""}`,
    verb: "Defrag",
    danger: true,
  });
  if (meant !== null) await run(`Asking for a restart of ${name}`, `${name} will be restarted as soon as that is safe`, `${node(name)}/defrag`);
}

/** A button that changes the fleet. */
export function act(label, onclick, props = {}) {
  return h("button", { type: "button", class: "act", ...props, onclick }, label);
}

/** Enable or disable an action, with the reason as its title. */
export function allow(button, allowed, reason = "") {
  if (button.disabled === allowed) button.disabled = !allowed;
  if (button.title !== reason) button.title = reason;
  return button;
}

