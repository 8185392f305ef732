// Free completion: the beginning of a text, and how the model goes on, with other ways to go at every token.

import { inWords } from "./api.js";
import { el, grow, icon, recall, remember } from "./dom.js";
import { chips } from "./facts.js";
import { amount, t, words } from "./i18n.js";
import { Run } from "./run.js";
import { hideTip, probabilitySwitch, TokenText } from "./tokens.js";

const SHOWN_ALTERNATIVES = 5;
const USUAL_LENGTH = 64; // tokens, where the settings name no length

export const name = "complete";
export const samples = true; // the settings of sampling are its own

export function mount(section, app) {
  let run = null;
  let result = null;

  const area = el("textarea", { id: "beginning", rows: "3", "data-t-placeholder": "complete_placeholder", "data-t-label": "complete_label" });
  const ending = app.model.plait.middle ? el("textarea", { id: "ending", class: "ending", rows: "2", "data-t-placeholder": "complete_ending", "data-t-label": "complete_ending" }) : null;
  const boxes = [area, ending].filter(Boolean);
  const go = el("button", { class: "primary", type: "submit" }, icon("spark"), words("complete_go"));
  const stop = el("button", { class: "primary stop", type: "button", hidden: true, onclick: () => run?.stop() }, icon("square"), words("stop"));
  const again = el("button", { class: "quiet", type: "button", hidden: true, onclick: () => start(area.value) }, icon("again"), words("again"));
  const keep = el("button", { class: "quiet", type: "button", hidden: true, onclick: keepIt, "data-t-title": "complete_keep_hint" }, icon("up"), words("complete_keep"));
  const wipe = el("button", { class: "quiet", type: "button", onclick: clear }, icon("plus"), words("clear_text"));
  const coloured = recall("probabilities", false);
  const toggle = probabilitySwitch(coloured, (on) => {
    remember("probabilities", on);
    section.classList.toggle("coloured", on);
  });
  const output = el("div", { class: "output", hidden: true });
  const meta = el("p", { class: "meta" });
  const note = words("complete_pick", {}, "p", { class: "hint" });
  const form = el("form", { class: "sheet" }, ...boxes, el("div", { class: "bar-row" }, go, stop, again, keep, wipe, words("keys_complete", {}, "span", { class: "keys" })));
  const found = el("section", { class: "found", hidden: true }, words("complete_result", {}, "h2"), output, el("div", { class: "below" }, meta, toggle), note);
  section.classList.toggle("coloured", coloured);
  section.append(
    el("div", { class: "writing" }, words("complete_title", {}, "h1"), form, chips(app.model, "complete", (text) => {
      area.value = text;
      grow(area);
      start(text);
    }), found, words("careful_size", { model: app.model.id, parameters: () => amount(app.model.plait.parameters) }, "p", { class: "careful" })),
  );

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start(area.value);
  });
  for (const box of boxes) box.addEventListener("input", () => grow(box));
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });

  // `kept`: a part of an earlier continuation that stays, after another token was picked.
  async function start(prompt, kept = "") {
    if (run) return;
    hideTip();
    const tokens = new TokenText({ pick: (before, text) => start(prompt, kept + before + text) });
    result = { prompt, kept, tokens };
    const wait = el("span", { class: "wait", role: "img", "aria-label": t("thinking") }, el("i"), el("i"), el("i"));
    const suffix = ending?.value;
    tokens.node.prepend(el("span", { class: "prompt" }, prompt), el("span", { class: "picked" }, kept));
    output.replaceChildren(tokens.node, wait, ...(suffix ? [el("span", { class: "prompt" }, suffix)] : []));
    output.hidden = found.hidden = false;
    meta.replaceChildren();
    busy(true);
    const usual = { max_tokens: USUAL_LENGTH };
    run = new Run("/v1/completions", { model: app.model.id, prompt: prompt + kept, logprobs: SHOWN_ALTERNATIVES, ...usual, ...(suffix && { suffix }), ...app.settings.request });
    try {
      await run.go((_, more) => {
        wait.remove();
        tokens.add(more);
      });
      meta.replaceChildren(...run.summary());
      app.announce(t("answer_done", { text: kept + tokens.text }));
    } catch (problem) {
      meta.replaceChildren(el("span", { class: "problem", role: "alert" }, inWords(problem, app.model.plait.context)));
      if (problem.status === 401) app.askKey(problem);
    }
    wait.remove();
    run = null;
    busy(false);
  }

  function keepIt() {
    area.value = result.prompt + result.kept + result.tokens.text;
    clearFound();
    grow(area);
    area.focus();
  }

  function clear() {
    run?.stop();
    clearFound();
    for (const box of boxes) (box.value = ""), grow(box);
    area.focus();
  }

  function clearFound() {
    hideTip();
    result = null;
    found.hidden = again.hidden = keep.hidden = true;
  }

  function busy(on) {
    go.hidden = on;
    stop.hidden = !on;
    again.hidden = keep.hidden = on;
    section.classList.toggle("busy", on);
  }

  return { focus: () => area.focus(), stop: () => (run ? (run.stop(), true) : false) };
}
