// The chat: a thread of messages that can be edited, answered again and looked into token by token.

import { inWords } from "./api.js";
import { el, grow, icon, recall, remember } from "./dom.js";
import { chips } from "./facts.js";
import { amount, t, words } from "./i18n.js";
import { markdown } from "./markdown.js";
import { Run } from "./run.js";
import { hideTip, probabilitySwitch, TokenText } from "./tokens.js";

const SHOWN_ALTERNATIVES = 5;

export const name = "chat";
export const samples = true;

export function mount(section, app) {
  const turns = []; // {role, text, node, ...}; an assistant's turn also has {tokens, run, problem}
  let sentFrom = 0; // turns before this one no longer fit into the context
  let run = null;

  const thread = el("div", { class: "thread" });
  const box = el("textarea", { rows: "1", id: "message", "data-t-placeholder": "message_placeholder", "data-t-label": "message_label" });
  const sendButton = el("button", { class: "send", type: "submit", "data-t-label": "send", "data-t-title": "send" }, icon("up"));
  const stopButton = el("button", { class: "send stop", type: "button", hidden: true, "data-t-label": "stop_hint", "data-t-title": "stop_hint" }, icon("square"));
  const clearButton = el("button", { class: "quiet", type: "button", hidden: true, onclick: clear }, icon("plus"), words("clear"));
  const coloured = recall("probabilities", false);
  const toggle = probabilitySwitch(coloured, (on) => {
    remember("probabilities", on);
    section.classList.toggle("coloured", on);
    hideTip();
  });
  const form = el("form", { class: "composer" }, box, sendButton, stopButton);
  const below = el("div", { class: "below" }, toggle, clearButton);
  const careful = words("careful_size", { model: app.model.id, parameters: () => amount(app.model.plait.parameters) }, "p", { class: "careful" });
  const foot = el("div", { class: "foot" }, careful, words("keys_chat", {}, "span", { class: "keys" }));
  section.append(thread, el("div", { class: "dock" }, form, below, foot));
  section.classList.toggle("coloured", coloured);

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = box.value.trim();
    if (!text || run) return;
    box.value = "";
    grow(box);
    ask(text);
  });
  box.addEventListener("input", () => grow(box));
  box.addEventListener("keydown", (event) => {
    // isComposing: Enter that accepts a word of an input method is not a sent message
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  stopButton.addEventListener("click", () => run?.stop());
  welcome();

  function welcome() {
    const title = words("welcome_chat", { model: app.model.id }, "h1");
    const lead = words("welcome_lead", { parameters: () => amount(app.model.plait.parameters) }, "p");
    const mark = icon("mark");
    thread.replaceChildren(el("div", { class: "welcome" }, mark, title, lead, chips(app.model, "chat", ask)));
  }

  function ask(text) {
    if (run) return;
    if (!turns.length) thread.replaceChildren();
    turns.push(userTurn(text));
    thread.append(turns.at(-1).node);
    answer();
  }

  function userTurn(text) {
    const turn = { role: "user", text };
    const edit = el("button", { class: "quiet", type: "button", onclick: () => editTurn(turn) }, icon("pen"), words("edit"));
    turn.body = el("div", { class: "bubble" }, text);
    turn.node = el("article", { class: "turn user" }, words("you", {}, "h2", { class: "sr" }), turn.body, el("div", { class: "actions" }, edit));
    return turn;
  }

  function editTurn(turn) {
    if (run || turn.node.querySelector("textarea")) return;
    const area = el("textarea", { rows: "1", value: turn.text, "data-t-label": "message_label", "aria-label": t("message_label") });
    const close = () => turn.node.replaceChild(turn.body, editor);
    const send = () => {
      const text = area.value.trim();
      if (!text) return;
      close();
      drop(turns.indexOf(turn));
      ask(text);
    };
    const buttons = [words("save_send", {}, "button", { type: "submit", class: "primary" }), words("cancel", {}, "button", { type: "button", class: "quiet" })];
    const editor = el("form", { class: "editor" }, area, el("div", {}, ...buttons));
    buttons[1].addEventListener("click", close);
    editor.addEventListener("submit", (event) => (event.preventDefault(), send()));
    area.addEventListener("input", () => grow(area));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), send());
    });
    turn.node.replaceChild(editor, turn.body);
    grow(area);
    area.focus();
  }

  function drop(from) {
    for (const turn of turns.splice(from)) turn.node.remove();
    sentFrom = Math.min(sentFrom, Math.max(turns.length - 1, 0));
    markForgotten();
  }

  function clear() {
    run?.stop();
    drop(0);
    clearButton.hidden = true;
    welcome();
    box.focus();
  }

  function assistantTurn() {
    const turn = { role: "assistant", text: "", tokens: new TokenText() };
    turn.body = el("div", { class: "prose" });
    turn.actions = el("div", { class: "actions" });
    turn.wait = el("div", { class: "wait", role: "img", "data-t-label": "thinking", "aria-label": t("thinking") }, el("i"), el("i"), el("i"));
    turn.node = el("article", { class: "turn model" }, words("model", {}, "h2", { class: "sr" }), turn.wait, turn.body, turn.tokens.node, turn.actions);
    return turn;
  }

  async function answer() {
    const turn = assistantTurn();
    const history = turns.slice(sentFrom);
    turns.push(turn);
    thread.append(turn.node);
    busy(true);
    const system = app.settings.system ? [{ role: "system", content: app.settings.system }] : [];
    const messages = [...system, ...history.map(({ role, text }) => ({ role, content: text }))];
    const body = { model: app.model.id, messages, logprobs: true, top_logprobs: SHOWN_ALTERNATIVES, ...app.settings.request };
    run = turn.run = new Run("/v1/chat/completions", body);
    let drawn = false;
    const draw = () => {
      drawn = false;
      turn.body.replaceChildren(markdown(turn.text));
    };
    try {
      await turn.run.go((text, tokens) => {
        const follow = app.atEnd(thread);
        turn.wait.remove();
        turn.text += text;
        turn.tokens.add(tokens);
        if (!drawn) requestAnimationFrame(draw);
        drawn = true;
        if (follow) app.toEnd(thread);
      });
      draw();
      if (wasCramped(turn) && forget(turn)) return;
      finish(turn);
    } catch (problem) {
      if (problem.code === "context_length_exceeded" && forget(turn)) return;
      fail(turn, problem);
    }
    run = null;
    busy(false);
  }

  // Whether an answer ended with the context, of which the turns before it left too little: a quarter is for it.
  function wasCramped({ run }) {
    const full = run.end === "length" && !app.settings.request.max_tokens;
    return full && run.tokens < app.model.plait.context / 4;
  }

  // Leaves out the oldest question and its answer, says so, and asks again; false where nothing can be left out.
  function forget(turn) {
    const next = turns.findIndex((other, at) => at > sentFrom && other.role === "user");
    if (next < 0) return false;
    sentFrom = next;
    turns.pop();
    turn.node.remove();
    markForgotten();
    run = null;
    answer();
    return true;
  }

  function markForgotten() {
    thread.querySelector(".forgotten")?.remove();
    turns.forEach((turn, at) => turn.node.classList.toggle("unsent", at < sentFrom));
    if (sentFrom > 0) turns[sentFrom]?.node.before(words("forgotten", { context: () => amount(app.model.plait.context) }, "p", { class: "forgotten" }));
  }

  function finish(turn) {
    turn.wait.remove();
    const copy = el("button", { class: "quiet", type: "button" }, icon("copy"), words("copy"));
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(turn.text);
      copy.replaceChildren(icon("copy"), words("copied"));
    });
    turn.actions.replaceChildren(el("span", { class: "meta" }, ...turn.run.summary()), againButton(turn), copy);
    app.announce(t("answer_done", { text: turn.text }));
  }

  function fail(turn, problem) {
    turn.wait.remove();
    const note = el("p", { class: "problem", role: "alert" }, inWords(problem, app.model.plait.context));
    turn.actions.replaceChildren(note, againButton(turn, "retry"));
    if (problem.status === 401) app.askKey(problem);
  }

  function againButton(turn, key = "again") {
    const again = el("button", { class: "quiet again", type: "button", "data-t-title": "again_hint" }, icon("again"), words(key));
    again.addEventListener("click", () => {
      if (run) return;
      drop(turns.indexOf(turn));
      answer();
    });
    return again;
  }

  function busy(on) {
    section.classList.toggle("busy", on);
    sendButton.hidden = on;
    stopButton.hidden = !on;
    clearButton.hidden = false;
    app.toEnd(thread);
  }

  return { focus: () => box.focus(), stop: () => (run ? (run.stop(), true) : false) };
}
