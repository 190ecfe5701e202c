// What the browser keeps: each conversation under a key of its own, so that
// two tabs do not write over each other's.
//
// A conversation: { id, title, named, updated, system, messages: [message] }.
// A message: { role, content }, and for answers { stats, stopped, error }.

const CHAT = "rustml.chat.";
const SETTINGS = "rustml.settings";
const THEME = "rustml.theme";

export const DEFAULTS = { temperature: 0.8, top_p: "", top_k: "", min_p: 0.05, seed: "", max_tokens: "" };

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null; // Not ours, or damaged: as if it were not there.
  }
}

function isConversation(c) {
  const isMessage = (m) => typeof m?.role === "string" && typeof m.content === "string";
  return typeof c?.id === "string" && Array.isArray(c.messages) && c.messages.every(isMessage);
}

/** All conversations, the latest first. */
export function conversations() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(CHAT));
  const all = keys.map(read).filter(isConversation);
  return all.sort((a, b) => b.updated - a.updated);
}

/** A conversation in which nothing is said yet; it is kept once something is. */
export function fresh(system = "") {
  // crypto.randomUUID exists only where the connection is secure.
  const id = Date.now().toString(36) + Math.random().toString(36).slice(2, 10);
  return { id, title: "New conversation", named: false, updated: Date.now(), system, messages: [] };
}

/** Keeps a conversation. Throws if the browser's storage is full. */
export const save = (c) => localStorage.setItem(CHAT + c.id, JSON.stringify(c));

export const remove = (c) => localStorage.removeItem(CHAT + c.id);

/** Calls back with a conversation's id when another tab has changed it. */
export function onChange(callback) {
  addEventListener("storage", ({ key }) => key?.startsWith(CHAT) && callback(key.slice(CHAT.length)));
}

export const settings = () => ({ ...DEFAULTS, ...read(SETTINGS) });
export const saveSettings = (s) => localStorage.setItem(SETTINGS, JSON.stringify(s));

export const theme = () => localStorage.getItem(THEME) ?? "";
export const saveTheme = (t) => localStorage.setItem(THEME, t);
