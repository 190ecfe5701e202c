// The sheet of settings, the question for a key, and the colours.

import { apiKey } from "./api.js";
import * as store from "./store.js";

const $ = (id) => document.getElementById(id);

/** The fields of a request that the settings ask for. */
export function sampling() {
  const set = Object.entries(store.settings()).filter(([name, value]) => name in store.DEFAULTS && Number.isFinite(value));
  return Object.fromEntries(set);
}

/** Wires the sheet. `conversation()` is the one whose system prompt it shows. */
export function setUp(conversation, changed) {
  const inputs = [...$("sampling").querySelectorAll("input")];
  const show = (values) => inputs.forEach((input) => (input.value = values[input.name]));
  const keep = () => {
    const before = store.settings();
    // What is out of range is marked, and not taken over.
    const values = inputs.map((i) => [i.name, i.validity.valid ? (i.value === "" ? "" : i.valueAsNumber) : before[i.name]]);
    store.saveSettings(Object.fromEntries(values));
  };
  $("open-settings").onclick = () => {
    $("system").value = conversation().system;
    $("key-field").hidden = !apiKey.get();
    $("key-again").value = apiKey.get();
    show(store.settings());
    $("settings").showModal();
  };
  $("sampling").oninput = keep;
  $("defaults").onclick = () => (show(store.DEFAULTS), keep());
  $("system").oninput = () => {
    conversation().system = $("system").value;
    changed();
  };
  $("key-again").onchange = () => apiKey.set($("key-again").value.trim());
  $("settings").onclick = (e) => {
    if (e.target === $("settings")) $("settings").close();
  };
  // Enter in a field is no button's.
  $("settings").onkeydown = (e) => {
    if (e.key === "Enter" && e.target.tagName === "INPUT") e.preventDefault();
  };
  $("key-later").onclick = () => $("ask-key").close("");
  setUpTheme();
}

function setUpTheme() {
  const show = (theme) => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  const chosen = store.theme();
  show(chosen);
  for (const input of $("theme").querySelectorAll("input")) {
    input.checked = input.value === chosen;
    input.onchange = () => (show(input.value), store.saveTheme(input.value));
  }
}

/** Asks for a key; whether one was given. */
export function askForKey(why) {
  const dialog = $("ask-key");
  if (dialog.open) return Promise.resolve(false);
  $("ask-key-why").textContent = why;
  $("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const key = $("key").value.trim();
      const given = dialog.returnValue === "use" && key !== "";
      if (given) apiKey.set(key);
      $("key").value = "";
      resolve(given);
    };
  });
}
