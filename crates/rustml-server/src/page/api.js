// Requests to the server.

const KEY = "rustml.key";

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

/** What went wrong, in words; `status` is HTTP's, or 0 if there was no answer. */
export class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (apiKey.get()) headers.Authorization = `Bearer ${apiKey.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new Failure(0, "The server cannot be reached. Is rustml serve still running?");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Failure(response.status, inWords(response, body?.error?.message));
}

function inWords(response, message) {
  const says = message ? sentence(message) : `The server answered with status ${response.status}.`;
  if (response.status !== 429) return says;
  const wait = response.headers.get("Retry-After");
  return `${says} ${wait ? `Try again in ${wait} s.` : "Try again in a moment."}`;
}

const sentence = (text) => {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
};

/** The models that are served: `[{ id, max_model_len }]`. */
export const models = async () => (await (await request("/v1/models")).json()).data;

/**
 * Asks for an answer, and yields the chunks it comes in.
 * Throws a `Failure`, or an `AbortError` once `signal` is set off.
 */
export async function* answer(fields, signal) {
  const response = await request("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...fields, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const cut = new Failure(0, "The connection broke before the answer was complete.");
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Failure(500, sentence(chunk.error.message));
      yield chunk;
    }
  } catch (e) {
    throw e.name === "AbortError" || e instanceof Failure ? e : cut;
  }
  throw cut;
}

/** The data of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r\n|\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      else if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}
