// Talks to the server: JSON, server-sent events, the API key, and errors in words.

import { t } from "./i18n.js";

let key = null;
try {
  key = sessionStorage.getItem("plait.key");
} catch {
  // no storage: the key is asked for again
}

export class Problem extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.code = error.code;
    this.param = error.param;
  }
}

export function setKey(value) {
  key = value;
  try {
    sessionStorage.setItem("plait.key", value);
  } catch {
    // kept in this page only
  }
}

async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { message: String(error), code: "network" });
  }
  if (response.ok) return response;
  let error = { message: `${response.status} ${response.statusText}` };
  try {
    error = (await response.json()).error ?? error;
  } catch {
    // something other than plait answered
  }
  throw new Problem(response.status, error);
}

export async function models() {
  return (await (await send("/v1/models")).json()).data;
}

function asPost(body, signal) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
}

// The JSON that answers some JSON.
export async function post(path, body, signal) {
  return (await send(path, asPost(body, signal))).json();
}

// Yields the JSON of each event of a streamed completion.
export async function* stream(path, body, signal) {
  const reader = (await send(path, asPost({ ...body, stream: true }, signal))).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Problem(0, { message: "the stream broke off", code: "network" });
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Problem(500, chunk.error);
        yield chunk;
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Problem) throw error;
    throw new Problem(0, { message: String(error), code: "network" });
  } finally {
    reader.cancel().catch(() => {});
  }
}

// What went wrong, for people.
export function inWords(problem, context) {
  const known = `error_${problem.code}`;
  const text = t(known, { context });
  if (text !== known) return text;
  return t("error_other", { message: problem.message });
}
