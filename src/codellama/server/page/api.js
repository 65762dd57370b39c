// The server's HTTP: JSON in, JSON or a stream of JSON out, and the two ways in which it fails.
// Paths are relative to the page, so a server that is mounted below a prefix is found too.

/** The server answered with an error; `detail` is the object in its body. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail.message ?? `the server answered ${status}`);
    this.status = status;
    this.detail = detail;
  }
}

/** The server cannot be reached, or went away within an answer. */
export class Away extends Error {
  constructor() {
    super("The server cannot be reached.");
  }
}

const KEY = "codellama-key";

/** The API key. It is kept in this tab only, and gone when the tab is closed. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away();
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const refusal = new Refused(response.status, body.error ?? {});
  refusal.progress = body.progress;
  throw refusal;
}

function posted(body, signal) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
}

/** What a route tells. */
export async function get(path) {
  return (await send(path)).json();
}

/** What a route answers to `body`. */
export async function post(path, body, signal) {
  return (await send(path, posted(body, signal))).json();
}

/**
 * The events of a streamed answer. Throws Refused for an error among them, and Away where the stream
 * ends before its end.
 */
export async function* stream(path, body, signal) {
  const response = await send(path, posted({ ...body, stream: true }, signal));
  let ended = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      ended = true;
      continue; // to the end of the body, so that the connection can be used again
    }
    const event = JSON.parse(data);
    if (event.error) throw new Refused(event.error.code, event.error);
    ended ||= event.stop === true; // llama-server's streams say so in their last event
    yield event;
  }
  if (!ended) throw new Away();
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const frames = (waiting + value).split("\n\n");
      waiting = frames.pop();
      for (const frame of frames) if (frame.startsWith("data: ")) yield frame.slice(6);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away();
  } finally {
    reader.cancel().catch(() => {});
  }
}
