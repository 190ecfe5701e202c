// What a person does with the chat page, in Chromium. Called by
// scripts/test-page, which says what it needs.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { serve } from "./server.mjs";

const { CHROMIUM, OUT } = process.env;
const { chromium } = createRequire(`${OUT}/`)("playwright-core");

const server = await serve();
const browser = await chromium.launch({ executablePath: CHROMIUM, args: process.getuid?.() === 0 ? ["--no-sandbox"] : [] });

/** What went wrong in any page, beside what a test asserts. */
const mishaps = [];
/** Statuses that a test provokes, which Chromium logs as errors. */
let provoked = /^$/;

/** ms for what takes a moment, on a machine that is busy. */
const PATIENCE = 30_000;

async function visit(url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on("pageerror", (e) => mishaps.push(`error: ${e.message}`));
  page.on("console", (m) => m.type() === "error" && !provoked.test(m.text()) && mishaps.push(`console: ${m.text()}`));
  page.on("request", (r) => r.url().startsWith(url) || mishaps.push(`request elsewhere: ${r.url()}`));
  await page.goto(url);
  return page;
}

async function until(holds, what) {
  const end = Date.now() + PATIENCE;
  while (Date.now() < end) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail(`in ${PATIENCE / 1000} s it did not happen that ${what}`);
}

const say = async (page, text) => {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
};
const answers = (page) => page.getByRole("article", { name: "Answer" });
const lastAnswer = (page) => answers(page).last();
const text = async (page) => (await lastAnswer(page).locator(".text").innerText()).trim();
const stats = (page) => lastAnswer(page).locator(".stats").innerText();
const ended = (page) => until(async () => (await page.getByRole("button", { name: "Send", exact: true }).count()) === 1 && (await lastAnswer(page).getAttribute("aria-busy")) === "false", "the answer ended");
/** The conversations as the browser keeps them, the latest first. */
const kept = (page) =>
  page.evaluate(() => {
    const keys = Object.keys(localStorage).filter((k) => k.startsWith("rustml.chat."));
    return keys.map((k) => JSON.parse(localStorage[k])).sort((a, b) => b.updated - a.updated);
  });
async function set(page, values) {
  await page.getByRole("button", { name: "Settings" }).click();
  for (const [label, value] of Object.entries(values)) await page.getByRole("dialog").getByLabel(label).fill(String(value));
  await page.keyboard.press("Escape");
}
// Transitions are skipped to their ends, so that no colour is caught half way.
const shot = (page, name) => page.screenshot({ path: `${OUT}/${name}.png`, animations: "disabled" });
const runningOnServer = async () => Number((await (await fetch(`${server.url}/metrics`)).text()).match(/num_requests_running (\d+)/)[1]);

const tests = [];
const test = (name, run) => tests.push({ name, run });

const page = await visit(server.url);

test("the page comes with a policy, and names the model", async () => {
  const { headers } = await fetch(server.url);
  assert.match(headers.get("content-security-policy"), /default-src 'none'; script-src 'self'/);
  assert.equal((await fetch(`${server.url}/page/nothing.js`)).status, 404);
  await until(async () => (await page.locator("#model").innerText()).includes("SmolLM2"), "the model is named");
  await shot(page, "empty");
});

test("an answer streams, with the API's text and its measures", async () => {
  await set(page, { Temperature: 0, "Min p": "", "Max tokens": 40, "System prompt": "You are a guide who likes to explain." });
  await page.evaluate(() => {
    window.lengths = new Set();
    new MutationObserver(() => window.lengths.add(document.querySelector("article.assistant .text")?.textContent.length)).observe(document.querySelector("#log"), { subtree: true, childList: true });
  });
  await say(page, "Tell me about the capital of France.");
  await ended(page);
  const lengths = await page.evaluate(() => window.lengths.size);
  assert.ok(lengths >= 4, `the text came in ${lengths} steps`);

  const messages = [
    { role: "system", content: "You are a guide who likes to explain." },
    { role: "user", content: "Tell me about the capital of France." },
  ];
  const body = JSON.stringify({ messages, temperature: 0, max_tokens: 40 });
  const direct = await (await fetch(`${server.url}/v1/chat/completions`, { method: "POST", headers: { "Content-Type": "application/json" }, body })).json();
  const [conversation] = await kept(page);
  assert.equal(conversation.messages[1].content, direct.choices[0].message.content);
  assert.equal(conversation.title, "Tell me about the capital of France.");
  assert.match(await stats(page), new RegExp(`^(ended at the limit · )?${direct.usage.completion_tokens} tokens.*[0-9.]+ tokens/s.*first after [0-9.]+ s$`, "s"));
});

test("Shift+Enter starts a line and sends nothing", async () => {
  const input = page.getByLabel("Message", { exact: true });
  await input.fill("one");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("two");
  assert.equal(await input.inputValue(), "one\ntwo");
  assert.equal(await answers(page).count(), 1);
});

for (const [how, stop] of [
  ["Esc", () => page.keyboard.press("Escape")],
  ["the button", () => page.getByRole("button", { name: "Stop", exact: true }).click()],
]) {
  test(`${how} stops an answer, here and on the server`, async () => {
    await set(page, { "Max tokens": 1500, "System prompt": "" });
    const before = await answers(page).count();
    await say(page, "Write a long story about a lighthouse keeper, in many chapters.");
    await until(async () => (await answers(page).count()) === before + 1 && (await text(page)).length > 20, "an answer began");
    assert.equal(await runningOnServer(), 1);
    await shot(page, "streaming");
    await stop();
    await ended(page);
    const at = await text(page);
    assert.match(await stats(page), /^stopped.*≥ \d+ tokens/s);
    await until(async () => (await runningOnServer()) === 0, "the server stopped too");
    assert.equal(await text(page), at);
    assert.equal((await kept(page))[0].messages.at(-1).stopped, true);
  });
}

test("an answer can be had again", async () => {
  await set(page, { "Max tokens": 30 });
  const before = await answers(page).count();
  await lastAnswer(page).getByRole("button", { name: "Answer again" }).click();
  await ended(page);
  assert.equal(await answers(page).count(), before);
  assert.match(await stats(page), /^ended at the limit\W+30 tokens/);
});

test("a message can be edited; what came after it goes", async () => {
  const mine = page.getByRole("article", { name: "You" }).first();
  await mine.hover();
  await mine.getByRole("button", { name: "Edit and send again" }).click();
  const area = page.getByLabel("Edit the message");
  await area.fill("dropped");
  await page.keyboard.press("Escape");
  assert.match(await mine.innerText(), /capital of France/);
  await mine.hover();
  await mine.getByRole("button", { name: "Edit and send again" }).click();
  await area.fill("What is the capital of Italy?");
  await page.keyboard.press("Enter");
  await ended(page);
  const [{ messages }] = await kept(page);
  assert.deepEqual(messages.map((m) => m.role), ["user", "assistant"]);
  assert.equal(messages[0].content, "What is the capital of Italy?");
});

test("a reload keeps the conversation, also one cut off", async () => {
  const before = await page.locator("#log").innerText();
  await page.reload();
  assert.equal(await page.locator("#log").innerText(), before);
  await set(page, { "Max tokens": 1500 });
  await say(page, "Tell me everything about the sea.");
  await until(async () => (await text(page)).length > 20, "an answer began");
  await page.reload();
  assert.match(await stats(page), /^stopped/);
  assert.ok((await text(page)).length > 20);
  await until(async () => (await runningOnServer()) === 0, "the server noticed");
});

test("conversations are made, named, found again and deleted", async () => {
  await set(page, { "Max tokens": 30 });
  await page.getByRole("button", { name: "New conversation" }).first().click();
  assert.equal(await answers(page).count(), 0);
  await say(page, "Name a river.");
  await ended(page);
  const list = page.getByRole("navigation").getByRole("listitem");
  assert.equal(await list.count(), 2);
  await list.first().getByRole("button").first().focus();
  await page.keyboard.press("F2");
  await page.getByLabel("Name of the conversation").fill("Rivers <b>");
  await page.keyboard.press("Enter");
  await page.reload();
  assert.equal(await page.getByRole("heading", { level: 1 }).innerText(), "Rivers <b>");
  await list.nth(1).getByRole("button").first().click();
  assert.match(await page.locator("#log").innerText(), /capital of Italy/);
  await list.first().hover();
  await page.getByRole("button", { name: "Delete Rivers <b>" }).click();
  assert.equal(await list.count(), 1);
  await page.getByRole("button", { name: "Undo" }).click();
  assert.equal((await kept(page)).length, 2);
  await page.getByRole("button", { name: "Delete Rivers <b>" }).click();
  await page.reload();
  assert.deepEqual((await kept(page)).map((c) => c.title), ["What is the capital of Italy?"]);
});

test("a conversation needs no mouse", async () => {
  await page.getByRole("button", { name: "New conversation" }).first().focus();
  await page.keyboard.press("Enter");
  await page.keyboard.press("Shift+Tab");
  await shot(page, "keyboard");
  await page.keyboard.press("Enter"); // the last of the suggestions
  await ended(page);
  assert.match(await page.getByRole("article", { name: "You" }).innerText(), /boat/);
  await page.keyboard.type("And for a dog?");
  await page.keyboard.press("Enter");
  await until(async () => (await answers(page).count()) === 2, "a second answer began");
  await ended(page);
  await page.getByRole("button", { name: "Delete Suggest a name for a boat." }).focus();
  await page.keyboard.press("Enter");
  assert.equal((await kept(page)).length, 1);
});

/** Lets the next answer be this. */
async function instead(response) {
  await page.route("**/v1/chat/completions", (route) => route.fulfill(response), { times: 1 });
}
const events = (...chunks) => ({ contentType: "text/event-stream", body: chunks.map((c) => `data: ${typeof c === "string" ? c : JSON.stringify(c)}\n\n`).join("") });
const piece = (content) => ({ choices: [{ index: 0, delta: { content }, finish_reason: null }] });

test("what a model writes is text, never markup", async () => {
  const code = "<script>window.pwned = 1</script>\n  if (a < b && c) { }";
  const wild = `**Bold**, *soft*, \`a<b\`, 2*3*4 <img src=x onerror="window.pwned=1">\n\n# Head\n- one\n- two\n\n1. first\n2. second\n\n\`\`\`html\n${code}\n\`\`\`\n[x](javascript:alert(1))`;
  await instead(events(...wild.match(/.{1,7}/gs).map(piece), "[DONE]"));
  await say(page, "Show me <b>markup</b>.");
  await ended(page);
  const shown = lastAnswer(page).locator(".text");
  assert.equal(await shown.locator("pre code").textContent(), code);
  assert.equal(await shown.locator("img, script, a, b").count(), 0);
  assert.equal(await page.evaluate(() => window.pwned), undefined);
  for (const [selector, text] of Object.entries({ strong: "Bold", em: "soft", "p code": "a<b", h3: "Head", "ul li:last-child": "two", "ol li:last-child": "second" })) {
    assert.equal(await shown.locator(selector).textContent(), text, selector);
  }
  await shown.locator("figure").getByRole("button", { name: "Copy" }).click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), code);
  assert.match(await page.getByRole("article", { name: "You" }).last().innerText(), /<b>markup<\/b>/);
});

test("errors are told in words, and one can try again", async () => {
  provoked = /status of (400|429)/;
  const error = (status, message, headers) => ({ status, headers, contentType: "application/json", body: JSON.stringify({ error: { message } }) });
  await instead(error(429, "all places are taken", { "Retry-After": "3" }));
  await say(page, "Hello.");
  await ended(page);
  const says = () => lastAnswer(page).getByRole("alert").innerText();
  assert.equal(await says(), "All places are taken. Try again in 3 s.");
  await instead(events(piece("Half an ans")));
  await lastAnswer(page).getByRole("button", { name: "Try again" }).click();
  await ended(page);
  assert.equal(await says(), "The connection broke before the answer was complete.");
  assert.equal(await text(page), "Half an ans");
  await instead(events(piece("Half"), { error: { message: "the server is ending" } }, "[DONE]"));
  await lastAnswer(page).getByRole("button", { name: "Try again" }).click();
  await ended(page);
  assert.equal(await says(), "The server is ending.");
  await shot(page, "error");
  // The server's own: more than fits.
  await set(page, { "System prompt": "word ".repeat(4000) });
  await lastAnswer(page).getByRole("button", { name: "Try again" }).click();
  await ended(page);
  assert.match(await says(), /context|tokens/);
  await set(page, { "System prompt": "" });
  await lastAnswer(page).getByRole("button", { name: "Try again" }).click();
  await ended(page);
  assert.equal(await lastAnswer(page).getByRole("alert").count(), 0);
  provoked = /^$/;
});

test("everything has a name, and shows when it has the focus", async () => {
  await page.getByRole("button", { name: "Settings" }).click();
  const nameless = await page.evaluate(() => {
    const named = (e) => e.ariaLabel || e.textContent.trim() || [...(e.labels ?? [])].some((l) => l.textContent.trim());
    return [...document.querySelectorAll("button, input, textarea")].filter((e) => !named(e)).map((e) => e.outerHTML);
  });
  assert.deepEqual(nameless, []);
  await shot(page, "settings");
  await page.keyboard.press("Escape");
  const seen = new Set();
  for (let i = 0; i < 60; i += 1) {
    await page.keyboard.press("Tab");
    const [name, visible] = await page.evaluate(() => {
      const e = document.activeElement;
      const at = e.type === "radio" ? e.nextElementSibling : e.id === "input" ? e.closest(".box") : e;
      const style = getComputedStyle(at);
      const accent = getComputedStyle(document.querySelector("#send")).backgroundColor;
      return [e.ariaLabel || e.id || e.textContent, style.outlineStyle !== "none" || style.borderColor === accent];
    });
    if (await page.evaluate(() => document.activeElement === document.body)) continue;
    seen.add(name);
    assert.ok(visible, `${name} does not show that it has the focus`);
  }
  for (const name of ["new", "Settings", "input", "Copy", "Answer again"]) assert.ok(seen.has(name), `Tab does not reach ${name}: ${[...seen]}`);
});

/** Contrast after WCAG 2, of the colours of two custom properties. */
const contrasts = (page) =>
  page.evaluate(() => {
    const probe = document.body.appendChild(document.createElement("i"));
    const light = (name) => {
      probe.style.color = `var(--${name})`;
      const parts = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
      const [r, g, b] = parts.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const pairs = [["text", "paper"], ["soft", "paper"], ["soft", "side"], ["soft", "bubble"], ["text", "bubble"], ["text", "code"], ["soft", "code"], ["on-accent", "accent"], ["wrong", "wrong-paper"]];
    const all = pairs.map(([a, b]) => [`${a} on ${b}`, ratio(light(a), light(b))]);
    const paper = light("paper");
    probe.remove();
    return { paper, all };
  });

test("light and dark, by the system and by choice", async () => {
  const check = async (dark) => {
    const { paper, all } = await contrasts(page);
    assert.equal(paper < 0.05, dark, `the paper's luminance is ${paper}`);
    for (const [pair, ratio] of all) assert.ok(ratio >= 4.5, `${pair}: ${ratio}`);
  };
  await page.emulateMedia({ colorScheme: "dark" });
  await check(true);
  await page.getByRole("radio", { name: "Light" }).check({ force: true });
  await page.reload();
  await check(false);
  await page.getByRole("radio", { name: "Dark" }).check({ force: true });
  await page.emulateMedia({ colorScheme: "light" });
  await page.reload();
  await check(true);
  await page.getByRole("radio", { name: "Auto" }).check({ force: true });
  await check(false);
});

const SAMPLE = "A function that does it:\n\n```rust\n/// The larger of two numbers.\nfn larger(a: i32, b: i32) -> i32 {\n    if a > b { a } else { b }\n}\n```\n\nIt takes **two numbers** and gives back the larger one:\n\n1. `larger(1, 2)` is 2,\n2. `larger(3, 2)` is 3.\n\nIf both are the same, it does not matter which of them it is.";

test("it looks right in light and dark, and fits a phone", async () => {
  await page.getByRole("button", { name: "New conversation" }).first().click();
  await instead(events(...SAMPLE.match(/.{1,7}/gs).map(piece), { choices: [], usage: { completion_tokens: 112 } }, "[DONE]"));
  await say(page, "Write a function in Rust that returns the larger of two numbers, and explain it.");
  await ended(page);
  await set(page, { "Max tokens": 60 });
  await say(page, "Thank you! What is a good name for a boat?");
  await ended(page);
  const fits = async () => {
    const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(wide <= room, `${wide} pixels wide in ${room}`);
  };
  const top = () => page.locator("#scroll").evaluate((e) => e.scrollTo(0, 0));
  await shot(page, "light");
  await page.emulateMedia({ colorScheme: "dark" });
  await shot(page, "dark");
  await page.getByRole("button", { name: "Settings" }).click();
  await shot(page, "settings-dark");
  await page.keyboard.press("Escape");
  for (const width of [320, 390, 700]) {
    await page.setViewportSize({ width, height: 780 });
    await fits();
    assert.ok(await page.getByLabel("Message", { exact: true }).isVisible());
    await until(async () => !(await page.getByRole("navigation").isVisible()), "the list makes room");
  }
  await page.setViewportSize({ width: 390, height: 844 });
  await top();
  await shot(page, "phone-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await shot(page, "phone");
  await page.getByRole("button", { name: "Conversations" }).click();
  await until(() => page.getByRole("navigation").isVisible(), "the list of conversations opens");
  await page.waitForTimeout(300);
  await shot(page, "phone-list");
  await page.keyboard.press("Escape");
  await until(async () => !(await page.getByRole("navigation").isVisible()), "the list closes");
  await page.getByRole("button", { name: "Settings" }).click();
  await fits();
  await shot(page, "phone-settings");
  await page.keyboard.press("Escape");
  await page.setViewportSize({ width: 1280, height: 800 });
});

test("a server with keys is asked with one", async () => {
  provoked = /status of 401/;
  const guarded = await serve("--api-key", "sesame");
  const page = await visit(guarded.url);
  const dialog = page.getByRole("dialog", { name: "This server asks for an API key" });
  const give = async (key) => {
    await dialog.getByLabel("API key").fill(key);
    await page.keyboard.press("Enter");
  };
  await until(() => dialog.isVisible(), "it asks for a key");
  await shot(page, "key");
  await give("wrong");
  await until(async () => (await dialog.isVisible()) && (await dialog.innerText()).includes("not one of"), "it says that the key is wrong");
  await page.getByRole("button", { name: "Not now" }).click();
  await say(page, "Name a tree.");
  await until(() => dialog.isVisible(), "it asks again when it is needed");
  await give("sesame");
  await until(async () => (await answers(page).count()) === 1 && (await text(page)).length > 0 && !(await lastAnswer(page).getByRole("alert").count()), "an answer came");
  await page.reload();
  await until(async () => (await page.locator("#model").innerText()).includes("SmolLM2"), "the key is still there after a reload");
  assert.equal(await page.evaluate(() => JSON.stringify(localStorage).includes("sesame")), false);
  await page.context().close();
  assert.equal(await guarded.stop(), 0);
  provoked = /^$/;
});

test("a server that is gone is told of", async () => {
  provoked = /ERR_CONNECTION/;
  assert.equal(await server.stop(), 0);
  await say(page, "Are you there?");
  await ended(page);
  assert.match(await lastAnswer(page).getByRole("alert").innerText(), /cannot be reached/);
});

let status = 0;
for (const { name, run } of tests) {
  const start = Date.now();
  try {
    await run();
    assert.deepEqual(mishaps, [], "the page complained");
    console.log(`ok      ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)`);
  } catch (e) {
    console.log(`FAILED  ${name}\n${e.stack}\n`);
    await shot(page, `failed-${tests.findIndex((t) => t.name === name)}`).catch(() => {});
    status = 1; // Those after it may build on it.
    mishaps.length = 0;
  }
}
await browser.close();
if (status) await server.stop();
else console.log(`${tests.length} passed; screenshots are in ${OUT}`);
process.exit(status);
