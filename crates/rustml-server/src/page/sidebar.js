// The list of conversations.

import { el, icon } from "./render.js";

/** Lists conversations; `acts` are `open`, `rename(c, title)` and `remove`. */
export function list(element, conversations, current, isRunning, acts) {
  const entries = conversations.map((c) => entry(c, c.id === current.id, isRunning(c), acts));
  element.replaceChildren(...entries);
}

function entry(c, isCurrent, isRunning, acts) {
  const open = el("button", { class: isRunning ? "open running" : "open", textContent: c.title, title: c.title });
  if (isCurrent) open.setAttribute("aria-current", "true");
  open.onclick = () => acts.open(c);
  const item = el("li", { class: isCurrent ? "current" : "" }, open);
  const rename = () => edit(item, c, acts.rename);
  open.ondblclick = rename;
  open.onkeydown = (e) => {
    if (e.key === "F2") rename();
  };
  item.append(tool("edit", `Rename ${c.title}`, rename), tool("delete", `Delete ${c.title}`, () => acts.remove(c)));
  return item;
}

function tool(name, label, act) {
  const button = el("button", { class: "icon", "aria-label": label, title: label.split(" ")[0] }, icon(name));
  button.onclick = act;
  return button;
}

function edit(item, c, rename) {
  const input = el("input", { value: c.title, maxLength: 120, "aria-label": "Name of the conversation" });
  let done = false;
  const end = (title) => {
    if (done) return;
    done = true;
    rename(c, title.trim() || c.title);
  };
  input.onkeydown = (e) => {
    if (e.key === "Enter") end(input.value);
    else if (e.key === "Escape") (e.stopPropagation(), end(c.title));
  };
  input.onblur = () => end(input.value);
  item.replaceChildren(input);
  input.select();
  input.focus();
}
