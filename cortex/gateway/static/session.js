// Connecting: the live feed kept open, and the key asked for where the gateway wants one.

import { Refused, follow, hasKey, setKey } from "./api.js";
import { h, put, shown } from "./dom.js";
import { setLink, store, take } from "./store.js";

const SOONEST_MS = 500;
const LATEST_MS = 10_000;

/** For ever: follow; when it breaks, follow again after a while; without a good key, ask for one. */
export async function connect() {
  let waitMs = SOONEST_MS;
  for (;;) {
    try {
      await follow(() => { waitMs = SOONEST_MS; setLink("live"); }, take);
    } catch (error) {
      if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
        setLink("locked");
        await askForKey(error);
        waitMs = SOONEST_MS;
        setLink("connecting");
        continue;
      }
    }
    setLink("lost");
    await pause(waitMs);
    waitMs = Math.min(LATEST_MS, waitMs * 2);
  }
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Forget the key, and everything that was shown with it. */
export function signOut() {
  setKey(null);
  location.reload();
}

function why(error) {
  if (!hasKey()) return "";
  return error.status === 403
    ? "This key may use models, but seeing the fleet takes an admin's key."
    : "This key is not known here.";
}

let gate = null;

/** Show the gate until a key was typed in, or where none would help, until it is to be tried again. */
function askForKey(error) {
  gate ??= makeGate();
  const { dialog, field, complaint } = gate;
  const keyless = error.status === 403 && !hasKey();
  put(gate.title, keyless ? "Not from here" : "This gateway has keys");
  put(gate.lead, keyless ? `${error.message}.` : "Seeing the fleet takes an admin's key. It stays in this tab and is gone when you close it.");
  put(gate.button, keyless ? "Try again" : "Open");
  shown(gate.typed, !keyless);
  put(complaint, why(error));
  shown(complaint, complaint.textContent !== "");
  field.setAttribute("aria-invalid", complaint.textContent !== "" ? "true" : "false");
  field.value = "";
  gate.open = true;
  if (!dialog.open) dialog.showModal();
  (keyless ? gate.button : field).focus();
  return new Promise((done) => {
    gate.submit = () => {
      const typed = field.value.trim();
      if (typed === "" && !keyless) return;
      field.value = "";
      if (!keyless) setKey(typed);
      gate.open = false;
      dialog.close();
      done();
    };
  });
}

function makeGate() {
  const field = h("input", {
    id: "gate-key", type: "password", autocomplete: "off", spellcheck: "false", required: true,
    "aria-describedby": "gate-complaint", onkeydown: (event) => { if (event.key === "Enter") gate.submit(); },
  });
  const complaint = h("p", { id: "gate-complaint", class: "complaint", role: "alert", hidden: true });
  const title = h("h2", { id: "gate-title" });
  const lead = h("p", {});
  const typed = h("div", {}, h("label", { for: "gate-key" }, "Key"), field);
  const button = h("button", { type: "button", class: "primary", onclick: () => gate.submit() });
  const dialog = h("dialog", {
    class: "gate", "aria-labelledby": "gate-title",
    // There is nothing behind it to go back to; browsers let a second Escape through.
    oncancel: (event) => event.preventDefault(),
    onclose: () => { if (gate.open) gate.dialog.showModal(); },
  },
    title, lead, typed, complaint, h("div", { class: "choices" }, button),
  );
  document.body.append(dialog);
  return { dialog, field, complaint, title, lead, typed, button, open: false, submit: () => {} };
}

export const locked = () => store.link === "locked";
