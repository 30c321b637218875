// The server: requests with the key, faults in plain words, and streams of events.

import { askKey } from "./dialogs.js";

const KEY = "lift-key";
const LONGEST_PAUSE_S = 10;

export class Fault extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The address of a memory below /api. */
export const memoryPath = (name, rest = "") => `/api/memories/${encodeURIComponent(name)}${rest}`;

export async function json(method, path, body, signal) {
  return (await request(method, path, { body, signal })).json();
}

/** A response that is fine; anything else is a Fault. Where a key is wanted, the person is asked for it, once. */
export async function request(method, path, { body, signal, headers = {} } = {}) {
  const key = sessionStorage.getItem(KEY);
  const plain = body === undefined || body instanceof FormData;
  let response;
  try {
    response = await fetch(path, {
      method,
      signal,
      body: plain ? body : JSON.stringify(body),
      headers: {
        ...(plain ? {} : { "Content-Type": "application/json" }),
        ...(key ? { Authorization: `Bearer ${key}` } : {}),
        ...headers,
      },
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Fault("The server does not answer. Is `lift serve` still running?", 0);
  }
  if (response.ok) return response;
  const text = await saying(response);
  if (response.status === 401) {
    // another request may have asked in the meantime
    if (sessionStorage.getItem(KEY) === key) sessionStorage.setItem(KEY, await askKey(key ? text : ""));
    return request(method, path, { body, signal, headers });
  }
  throw new Fault(text, response.status);
}

async function saying(response) {
  const said = await response.json().catch(() => ({}));
  const message = said.error?.message ?? `the server answered with status ${response.status}`;
  // names, of files and memories, stay as they are
  const sentence = message.replace(/^[a-z]+(?=[ ,;])/, (word) => word.charAt(0).toUpperCase() + word.slice(1));
  const pause = response.headers.get("Retry-After");
  if (response.status === 429 && pause) return `${sentence}. Try again in ${pause} s.`;
  if (response.status === 403) return `${sentence}. The key you gave does not allow this.`;
  return sentence;
}

/** The events of a response of type text/event-stream: {id, data}. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const event = { id: null, data: "" };
        for (const line of block.split(/\r?\n/)) {
          const [, field, content] = /^(\w+): ?(.*)$/.exec(line) ?? [];
          if (field === "id") event.id = content;
          if (field === "data") event.data += (event.data && "\n") + content;
        }
        if (event.data) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The events of `path`, and null whenever the stream has ended: it is taken up again behind the last event that came,
 * until the caller, who knows when all is told, has enough. */
export async function* follow(path, signal) {
  let last = null;
  for (let pause = 1; !signal.aborted; pause = Math.min(2 * pause, LONGEST_PAUSE_S)) {
    try {
      const headers = last === null ? {} : { "Last-Event-ID": last };
      for await (const event of events(await request("GET", path, { signal, headers }))) {
        pause = 1;
        last = event.id ?? last;
        yield JSON.parse(event.data);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Fault && error.status >= 400 && error.status < 500) throw error;
    }
    yield null;
    await new Promise((resolve) => setTimeout(resolve, 1000 * pause));
  }
}

/** The pieces of a streamed chat answer, as OpenAI's shape has them, up to [DONE]. */
export async function* chat(body, signal) {
  const response = await request("POST", "/v1/chat/completions", { body: { ...body, stream: true }, signal });
  for await (const { data } of events(response)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Fault(chunk.error.message, 500);
    yield chunk;
  }
}

/** Saves what `path` answers under `name`: a link could not carry the key. */
export async function download(path, name) {
  const address = URL.createObjectURL(await (await request("GET", path)).blob());
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
