// What an operator may do: asked for once more, done by the admin API, told of in a toast.

import { Refused, post } from "./api.js";
import { h } from "./dom.js";
import { byModel, store } from "./store.js";
import { plural, size } from "./format.js";

const TOAST_MS = 6000;
const FAILURE_MS = 15_000;

export function toast(text, failure = false) {
  const element = h("div", { class: failure ? "toast failure" : "toast" }, text);
  document.getElementById("toasts").append(element);
  setTimeout(() => element.remove(), failure ? FAILURE_MS : TOAST_MS);
}

let dialog = null;

/** Ask whether it is meant; resolves to the chosen value of `choice`, or null. */
function confirm({ title, text, verb, danger = false, choice = null }) {
  dialog?.remove();
  const select = choice && h("select", { id: "confirm-choice" },
    ...choice.options.map(([value, label]) => h("option", { value }, label)));
  return new Promise((done) => {
    const close = (answer) => { dialog.close(); done(answer); };
    dialog = h("dialog", {
      class: "confirm", "aria-labelledby": "confirm-title", "aria-describedby": "confirm-text",
      oncancel: () => done(null),
    },
      h("h2", { id: "confirm-title" }, title),
      h("p", { id: "confirm-text" }, text),
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
  });
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
  });
  if (where === null) return;
  await run(`Loading ${model}`, `${model} is loaded`, "models/load", { model, node: where || null });
}

export async function unload(model, onNode) {
  const running = store.models.get(`${onNode}/${model}`)?.in_flight ?? 0;
  const meant = await confirm({
    title: `Unload ${model}?`,
    text: `It leaves ${onNode}. ${running ? `${plural(running, "answer")} under way there finish first.` : "Nothing runs on it there."}`,
    verb: "Unload",
    danger: true,
  });
  if (meant === null) return;
  await run(`Unloading ${model}`, `${model} has left ${onNode}`, "models/unload", { model, node: onNode });
}

export async function pin(model, onNode = null) {
  const where = onNode ?? "any one node";
  const meant = await confirm({
    title: `Pin ${model}?`,
    text: `It stays on ${where} whatever else is wanted, and comes back when absent.`,
    verb: "Pin",
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
  const meant = await confirm({
    title: `Drain ${name}?`,
    text: "What runs there finishes; nothing new is sent to it until you put it back into service.",
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
  const meant = await confirm({
    title: `Defrag ${name}?`,
    text: "As soon as that is safe it is drained, its agent restarts it, and its models are brought back.",
    verb: "Defrag",
    danger: true,
  });
  if (meant !== null) await run(`Asking for a restart of ${name}`, `${name} will be restarted as soon as that is safe`, `${node(name)}/defrag`);
}

/** A button that is there only for those who may. */
export function act(label, onclick, props = {}) {
  const button = h("button", { type: "button", class: "act", ...props, onclick }, label);
  button.dataset.rights = "change";
  return button;
}

/** Enable or disable an action, with the reason as its title. */
export function allow(button, allowed, reason = "") {
  if (button.disabled === allowed) button.disabled = !allowed;
  if (button.title !== reason) button.title = reason;
  return button;
}

