// One answer in progress: its tokens as they come, its speed, and how it ended.

import { stream } from "./api.js";
import { words } from "./i18n.js";

export class Run {
  constructor(path, body) {
    this.path = path;
    this.body = body;
    this.controller = new AbortController();
    this.text = "";
    this.tokens = 0;
    this.end = null; // "stop", "length", or "stopped" by the reader
    this.start = null;
    this.seconds = 0;
  }

  stop() {
    this.controller.abort();
  }

  // Calls take(text, tokens) for each step; returns when the answer is complete or stopped.
  async go(take) {
    const body = { ...this.body, stream_options: { include_usage: true } };
    try {
      for await (const chunk of stream(this.path, body, this.controller.signal)) {
        if (chunk.usage) this.tokens = chunk.usage.completion_tokens;
        const choice = chunk.choices[0];
        if (!choice) continue;
        const text = choice.delta?.content ?? choice.text ?? "";
        const tokens = inChatShape(choice.logprobs);
        this.start ??= tokens.length ? performance.now() : null;
        this.text += text;
        this.tokens += tokens.length;
        this.end = choice.finish_reason ?? this.end;
        if (text || tokens.length) take(text, tokens);
      }
    } catch (error) {
      if (error.name !== "AbortError") throw error;
      this.end = "stopped";
    } finally {
      this.seconds = this.start === null ? 0 : (performance.now() - this.start) / 1000;
    }
  }

  // "12 tokens · 30/s · finished by itself"
  summary() {
    const speed = this.seconds > 0 ? Math.round(Math.max(this.tokens - 1, 0) / this.seconds) : 0;
    const count = words(this.tokens === 1 ? "one_token" : "tokens", { count: String(this.tokens) });
    const rate = speed ? [" · ", words("speed", { speed: String(speed) })] : [];
    return [count, ...rate, " · ", words(`end_${this.end ?? "stop"}`)];
  }
}

// Both endpoints' log-probabilities as [{token, bytes, logprob, top_logprobs}].
function inChatShape(logprobs) {
  if (!logprobs) return [];
  if (logprobs.content) return logprobs.content;
  return logprobs.tokens.map((token, at) => ({
    token,
    bytes: bytesOf(token),
    logprob: logprobs.token_logprobs[at],
    top_logprobs: Object.entries(logprobs.top_logprobs?.[at] ?? {})
      .map(([other, logprob]) => ({ token: other, bytes: bytesOf(other), logprob }))
      .sort((a, b) => b.logprob - a.logprob),
  }));
}

function bytesOf(token) {
  if (!token.startsWith("bytes:")) return [...new TextEncoder().encode(token)];
  return token.match(/\\x../g).map((byte) => parseInt(byte.slice(2), 16));
}
