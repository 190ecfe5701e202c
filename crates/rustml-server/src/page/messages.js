// One message of a conversation as elements.

import { copyButton, el, icon, render } from "./render.js";

/**
 * Shows a message. `acts` has what can be done with it: `edit(text)` for what
 * a user said, `again()` for an answer; left out where it cannot be done.
 */
export function message(m, acts) {
  const article = el("article", { class: m.role, "aria-label": m.role === "user" ? "You" : "Answer" });
  const text = el("div", { class: "text" });
  const foot = el("div", { class: "foot" });
  article.append(text, foot);
  if (m.role === "user") {
    text.textContent = m.content;
    foot.append(copyButton(() => m.content));
    if (acts.edit) foot.append(button("edit", "Edit and send again", () => edit(article, m, acts.edit)));
  } else {
    article.update = () => answer(article, text, foot, m, acts);
    article.update();
  }
  return article;
}

function answer(article, text, foot, m, acts) {
  render(text, m.content);
  text.classList.toggle("waiting", Boolean(m.growing) && !m.content);
  article.setAttribute("aria-busy", Boolean(m.growing));
  article.querySelector(".error")?.remove();
  if (m.error) text.after(el("p", { class: "error", role: "alert", textContent: m.error }));
  const stats = el("span", { class: "stats", textContent: inWords(m).join(" · ") });
  foot.replaceChildren();
  if (!m.growing) {
    if (m.content) foot.append(copyButton(() => m.content));
    if (acts.again) foot.append(button("again", m.error ? "Try again" : "Answer again", acts.again));
  }
  foot.append(stats);
}

/** What an answer took. */
function inWords({ stats, stopped, finish, growing }) {
  const words = [];
  if (stopped) words.push("stopped");
  if (finish === "length") words.push("ended at the limit");
  if (!stats) return words;
  // Without the server's count there are the pieces, each of a token or more.
  const least = stats.counted ? "" : "≥ ";
  if (!growing && stats.tokens) words.push(`${least}${stats.tokens} token${stats.tokens === 1 ? "" : "s"}`);
  if (stats.rate) words.push(`${least}${stats.rate.toFixed(stats.rate < 10 ? 2 : 1)} tokens/s`);
  if (stats.first) words.push(`first after ${(stats.first / 1000).toFixed(2)} s`);
  return words;
}

function button(name, label, act) {
  const made = el("button", { type: "button", class: "icon", "aria-label": label, title: label }, icon(name));
  made.onclick = act;
  return made;
}

function edit(article, m, send) {
  const area = el("textarea", { value: m.content, rows: Math.min(12, m.content.split("\n").length + 1), "aria-label": "Edit the message" });
  const cancel = el("button", { type: "button", textContent: "Cancel" });
  const form = el("form", { class: "edit" }, area, el("div", { class: "buttons" }, cancel, el("button", { class: "main", textContent: "Send" })));
  const before = [...article.childNodes];
  const close = () => {
    article.replaceChildren(...before);
    article.querySelector("button:last-of-type")?.focus();
  };
  form.onsubmit = (e) => {
    e.preventDefault();
    if (area.value.trim()) send(area.value.trim());
  };
  form.onkeydown = (e) => {
    if (e.key === "Escape") {
      e.stopPropagation();
      close();
    } else if (sends(e)) {
      e.preventDefault();
      form.requestSubmit();
    }
  };
  cancel.onclick = close;
  article.replaceChildren(form);
  area.focus();
  area.setSelectionRange(area.value.length, area.value.length);
}

/** Whether a key says to send; Enter also ends the composition of a character. */
export const sends = (e) => e.key === "Enter" && !e.shiftKey && !e.isComposing && e.target.tagName === "TEXTAREA";
