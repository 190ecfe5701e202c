// The chat page: conversations, and the answers that grow in them.

import { answer, apiKey, models } from "./api.js";
import { message, sends } from "./messages.js";
import { el, icon } from "./render.js";
import { askForKey, sampling, setUp } from "./settings.js";
import { list } from "./sidebar.js";
import * as store from "./store.js";

const $ = (id) => document.getElementById(id);
const SAVE_EVERY = 1000; // ms, while an answer grows
const LEAST = 0.02; // s; a rate over less says nothing

let all = store.conversations();
let current = all[0] ?? store.fresh();
let model = null;
/** What stops the answer of a conversation, by the conversation's id. */
const running = new Map();

// Showing

function show() {
  const articles = current.messages.map((m, i) => message(m, actsOn(m, i)));
  $("log").replaceChildren(...(articles.length ? articles : [welcome()]));
  showFrame();
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

/** All but the messages. */
function showFrame() {
  $("title").textContent = current.title;
  document.title = current.messages.length ? `${current.title} – rustml` : "rustml";
  list($("conversations"), all, current, (c) => running.has(c.id), { open, rename, remove });
  const grows = running.has(current.id);
  $("send").setAttribute("aria-label", grows ? "Stop" : "Send");
  $("send").replaceChildren(icon(grows ? "stop" : "send"));
  $("send").disabled = !grows && !$("input").value.trim();
}

const STARTERS = ["Why is the sky blue?", "Write a short poem about the sea.", "Suggest a name for a boat."];

/** What is there before the first message. */
function welcome() {
  const starter = (text) => el("button", { type: "button", textContent: text, onclick: () => (ask(current, text), $("input").focus()) });
  return el(
    "div",
    { class: "empty" },
    el("h2", { textContent: "What is on your mind?" }),
    el("p", { textContent: "What you write stays between this browser and the server." }),
    el("div", { class: "starters" }, ...STARTERS.map(starter)),
  );
}

/** What can be done with a message, while nothing grows. */
function actsOn(m, i) {
  if (running.has(current.id)) return {};
  const conversation = current;
  const from = (length) => {
    conversation.messages.length = length;
    return conversation;
  };
  if (m.role === "user") return { edit: (text) => ask(from(i), text) };
  return { again: () => grow(from(i)) };
}

function open(c) {
  current = c;
  menu(false);
  show();
  $("input").focus();
}

function menu(shown) {
  $("side").classList.toggle("shown", shown);
  $("shade").hidden = !shown;
  $("menu").setAttribute("aria-expanded", shown);
}

let toastTimer;
function toast(text, undo) {
  const [says, button] = $("toast").children;
  says.textContent = text;
  button.hidden = !undo;
  button.onclick = () => (($("toast").hidden = true), undo());
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => ($("toast").hidden = true), 8000);
}

// Keeping

function save(c) {
  if (!c.messages.length || c.removed) return;
  if (!all.includes(c)) all.unshift(c);
  try {
    store.save(c);
  } catch {
    toast("The browser has no room left to keep this conversation; delete some that you no longer need.");
  }
}

function rename(c, title) {
  if (title !== c.title) Object.assign(c, { title, named: true });
  save(c);
  showFrame();
}

function remove(c) {
  running.get(c.id)?.abort();
  c.removed = true;
  store.remove(c);
  all = all.filter((other) => other !== c);
  if (c === current) open(all[0] ?? store.fresh());
  else showFrame();
  toast(`Deleted “${c.title}”.`, () => {
    delete c.removed;
    save(c);
    open(c);
  });
}

// Asking

function ask(conversation, text) {
  conversation.messages.push({ role: "user", content: text });
  if (!conversation.named && conversation.messages.length === 1) {
    conversation.title = text.length > 48 ? `${text.slice(0, 47).trimEnd()}…` : text;
  }
  return grow(conversation);
}

/** Lets the model answer the last message. */
async function grow(conversation) {
  const messages = conversation.messages.filter((m) => m.content).map(({ role, content }) => ({ role, content }));
  if (conversation.system.trim()) messages.unshift({ role: "system", content: conversation.system });
  const m = { role: "assistant", content: "", growing: true };
  conversation.messages.push(m);
  conversation.updated = Date.now();
  all.sort((a, b) => b.updated - a.updated);
  const stop = new AbortController();
  running.set(conversation.id, stop);
  save(conversation);
  if (conversation === current) show();
  else showFrame();

  const failure = await receive(conversation, m, { model: model ?? undefined, messages, ...sampling() }, stop.signal);

  delete m.growing;
  running.delete(conversation.id);
  save(conversation);
  if (conversation === current) finish();
  else showFrame();
  $("status").textContent = m.error ?? (m.stopped ? "Stopped." : `The answer is complete. ${m.content}`);
  if (failure?.status === 401 && (await askForKey(failure.message))) {
    connect();
    conversation.messages.pop();
    await grow(conversation);
  }
}

/** Shows the end of an answer, and what can be done now, without a jump. */
function finish() {
  const top = $("scroll").scrollTop;
  const follows = isAtEnd();
  show();
  if (!follows) $("scroll").scrollTop = top;
}

/** Takes an answer into `m` as it comes; returns what failed. */
async function receive(conversation, m, fields, signal) {
  const begin = performance.now();
  const times = { first: 0, last: 0 };
  let pieces = 0;
  let saved = begin;
  $("status").textContent = "Answering.";
  try {
    for await (const chunk of answer(fields, signal)) {
      const choice = chunk.choices?.[0];
      const now = performance.now();
      if (choice?.delta?.content) {
        m.content += choice.delta.content;
        pieces += 1;
        times.first ||= now;
        times.last = now;
      }
      if (choice?.finish_reason) m.finish = choice.finish_reason;
      m.stats = statistics(begin, times, pieces, chunk.usage?.completion_tokens);
      showGrowth(conversation);
      if (now - saved > SAVE_EVERY) {
        saved = now;
        save(conversation);
      }
    }
  } catch (e) {
    if (signal.aborted) m.stopped = true;
    else m.error = e.message;
    return e;
  }
}

/** Times in ms; the rate is that of the tokens after the first. */
function statistics(begin, { first, last }, pieces, counted) {
  const tokens = counted ?? pieces;
  const seconds = (last - first) / 1000;
  return {
    counted: counted !== undefined,
    tokens,
    first: first && first - begin,
    rate: pieces > 1 && seconds >= LEAST ? (tokens - 1) / seconds : 0,
  };
}

const isAtEnd = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 48;

let frame = 0;
function showGrowth(conversation) {
  if (conversation !== current || frame) return;
  frame = requestAnimationFrame(() => {
    frame = 0;
    const follows = isAtEnd();
    $("log").lastElementChild?.update?.();
    if (follows) $("scroll").scrollTop = $("scroll").scrollHeight;
  });
}

// Writing

function fit() {
  $("input").style.height = "auto";
  $("input").style.height = `${$("input").scrollHeight}px`;
}

$("composer").onsubmit = (e) => {
  e.preventDefault();
  if (running.has(current.id)) return running.get(current.id).abort();
  const text = $("input").value.trim();
  if (!text) return;
  $("input").value = "";
  fit();
  ask(current, text);
};
$("input").oninput = () => (fit(), showFrame());
$("input").onkeydown = (e) => {
  if (!sends(e)) return;
  e.preventDefault();
  if (!running.has(current.id)) $("composer").requestSubmit();
};
addEventListener("keydown", (e) => {
  if (e.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if ($("side").classList.contains("shown")) menu(false);
  else running.get(current.id)?.abort();
});
$("new").onclick = () => open(store.fresh(current.system));
$("menu").onclick = () => (menu(true), $("new").focus());
$("shade").onclick = () => menu(false);
// A page that goes away keeps what has come until then. Its answers are
// stopped before the browser does it, which would look like a broken connection.
addEventListener("beforeunload", () => running.forEach((stop) => stop.abort()));
addEventListener("pagehide", () => all.filter((c) => running.has(c.id)).forEach(save));
store.onChange((id) => {
  if (running.has(id)) return;
  all = store.conversations();
  current = all.find((c) => c.id === current.id) ?? (current.messages.length ? store.fresh() : current);
  show();
});

async function connect() {
  try {
    const [first] = await models();
    model = first?.id ?? null;
    $("model").textContent = model ?? "";
    const room = first?.max_model_len;
    if (room) $("model").title = `Prompt and answer may take ${room} tokens together`;
  } catch (e) {
    $("model").textContent = e.status === 401 ? "key needed" : "not connected";
    $("model").title = e.message;
    if (e.status === 401 && (await askForKey(apiKey.get() ? e.message : "Whoever runs the server has it."))) connect();
  }
}

// An answer that a reload cut off has stopped.
for (const m of all.flatMap((c) => c.messages)) {
  if (!m.growing) continue;
  delete m.growing;
  m.stopped = true;
}
setUp(() => current, () => save(current));
show();
connect();
$("input").focus();
