// Text with a little Markdown as elements. What a model writes becomes text
// nodes, never markup.

/** An element with properties, classes, attributes and children. */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") element.className = value;
    else if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** One of the symbols of index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A button that copies what `text()` gives; none where pages may not copy. */
export function copyButton(text) {
  if (!navigator.clipboard) return "";
  const button = el("button", { type: "button", class: "icon", "aria-label": "Copy", title: "Copy" }, icon("copy"));
  button.onclick = async () => {
    await navigator.clipboard.writeText(text());
    button.replaceChildren(icon("done"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  };
  return button;
}

/**
 * Shows `text` in `element`. Blocks that are as they were stay, so that
 * a selection survives while an answer grows.
 */
export function render(element, text) {
  const blocks = split(text);
  blocks.forEach((block, i) => {
    const old = element.childNodes[i];
    const source = JSON.stringify(block);
    if (old?.source === source) return;
    const made = make(block);
    made.source = source;
    if (old) old.replaceWith(made);
    else element.append(made);
  });
  while (element.childNodes.length > blocks.length) element.lastChild.remove();
}

const FENCE = /^ {0,3}(```+|~~~+)\s*([^\s`]*)/;
const ITEM = /^\s*(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;

/** Cuts text into blocks: { kind, ... }. */
export function split(text) {
  const blocks = [];
  let open = null;
  const begin = (block) => blocks.push((open = block));
  for (const line of text.split("\n")) {
    if (open?.fence) {
      const closes = line.trim().startsWith(open.fence) && !line.trim().slice(open.fence.length).replaceAll(open.fence[0], "");
      if (closes) open = null;
      else open.lines.push(line);
      continue;
    }
    const fence = line.match(FENCE);
    const item = line.match(ITEM);
    const heading = line.match(/^(#{1,6})\s+(.*?)\s*#*$/);
    if (fence) begin({ kind: "code", fence: fence[1], language: fence[2], lines: [] });
    else if (!line.trim()) open = open?.kind === "list" ? open : null;
    else if (heading) begin({ kind: "heading", level: heading[1].length, lines: [heading[2]] }), (open = null);
    else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) begin({ kind: "rule" }), (open = null);
    else if (item) {
      const ordered = item[2] !== undefined;
      if (open?.kind !== "list" || open.ordered !== ordered) {
        begin({ kind: "list", ordered, start: Number(item[2] ?? 1), items: [] });
      }
      open.items.push(item[3]);
    } else if (open?.kind === "list" && /^\s/.test(line)) open.items.push(`${open.items.pop()}\n${line.trim()}`);
    else if (open?.kind === "text") open.lines.push(line);
    else begin({ kind: "text", lines: [line] });
  }
  return blocks;
}

function make(block) {
  switch (block.kind) {
    case "code":
      return code(block.lines.join("\n"), block.language);
    case "heading":
      // The page's own title is h1.
      return el(`h${Math.min(block.level + 2, 6)}`, {}, ...inline(block.lines[0]));
    case "rule":
      return el("hr");
    case "list": {
      const list = el(block.ordered ? "ol" : "ul", block.ordered ? { start: block.start } : {});
      list.append(...block.items.map((item) => el("li", {}, ...inline(item))));
      return list;
    }
    default:
      return el("p", {}, ...inline(block.lines.join("\n")));
  }
}

function code(text, language) {
  const bar = el("div", { class: "bar" }, el("span", {}, language || "text"), copyButton(() => text));
  return el("figure", { class: "code" }, bar, el("pre", { tabIndex: 0 }, el("code", { textContent: text })));
}

/** Code, strong and emphasised words of a line. */
function inline(text) {
  const marks = /(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)|\*\*(?=\S)(.+?)\*\*(?!\*)|(?<![\w*])\*(?=[^\s*])([^*\n]+)(?<!\s)\*(?!\w)/g;
  const nodes = [];
  let end = 0;
  for (const m of text.matchAll(marks)) {
    nodes.push(text.slice(end, m.index));
    if (m[1]) nodes.push(el("code", { textContent: m[2].trim() || m[2] }));
    else if (m[3]) nodes.push(el("strong", {}, ...inline(m[3])));
    else nodes.push(el("em", { textContent: m[4] }));
    end = m.index + m[0].length;
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}
