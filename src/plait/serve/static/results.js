// What a task answered: one text's answers, or a table of several texts with theirs.

import { el, icon } from "./dom.js";
import { decimals, percent, t, words } from "./i18n.js";

export class Results {
  constructor(task, texts) {
    this.rows = texts.map((text) => new Row(task, text));
    const all = copyButton("copy_all", () => this.rows.map((row) => row.line).join("\n"));
    const head = el("div", { class: "results-head" }, words("results", {}, "h2"), texts.length > 1 ? all : null);
    this.node = el("div", {}, head, texts.length > 1 ? this.table() : this.rows[0].cell);
  }

  table() {
    const titles = [words("text", {}, "th", { scope: "col" }), words("answer", {}, "th", { scope: "col" })];
    const body = this.rows.map((row) => el("tr", {}, el("th", { scope: "row", dir: "auto" }, row.text), el("td", {}, row.cell)));
    return el("table", { class: "results" }, words("results", {}, "caption", { class: "sr" }), el("thead", {}, el("tr", {}, ...titles)), el("tbody", {}, ...body));
  }

  get empty() {
    return this.rows.every((row) => !row.settled);
  }

  // The rows that were waited for get no answer; `word` says why.
  end(word) {
    for (const row of this.rows) if (!row.settled) row.settle(words(word, {}, "p", { class: "meta" }));
  }
}

class Row {
  constructor(task, text) {
    this.task = task;
    this.text = text;
    this.best = "";
    this.settled = false;
    const wait = el("span", { class: "wait", role: "img", "data-t-label": "thinking", "aria-label": t("thinking") }, el("i"), el("i"), el("i"));
    this.cell = el("div", { class: "answers" }, wait);
  }

  // For a table program: the text and its best answer.
  get line() {
    return [this.text, this.best].map((part) => part.replace(/\s+/g, " ")).join("\t");
  }

  show({ answers, citations = [], cut }) {
    this.best = answers[0]?.text ?? "";
    const [kind, draw] = this.task === "classify" ? ["shares", label] : ["written", written];
    const list = answers.length ? el("ol", { class: kind }, ...answers.map(draw)) : words("no_answer", {}, "p", { class: "meta" });
    const read = cut ? words(this.task === "answer" ? "context_cut" : "text_cut", {}, "p", { class: "meta" }) : null;
    this.settle(list, ...[read, ...citations.map(cited)].filter(Boolean));
  }

  fail(message) {
    this.settle(el("p", { class: "problem" }, message));
  }

  settle(...nodes) {
    this.settled = true;
    this.cell.replaceChildren(...nodes);
  }
}

function written({ text, score, finish_reason: end }) {
  const value = words("score", { score: () => decimals(score) }, "span", { class: "score", "data-t-title": "score_hint", title: t("score_hint") });
  const cut = end === "length" ? words("was_cut", {}, "span", { class: "meta" }) : null;
  const notes = el("span", { class: "notes" }, value, cut, copyButton("copy_answer", () => text, true));
  return el("li", {}, el("span", { class: "answer", dir: "auto" }, text), notes);
}

// A passage that could be read, by its place; it opens.
function cited({ source, text }) {
  return el("details", { class: "cited" }, el("summary", { dir: "auto" }, source), el("p", { dir: "auto" }, text));
}

function label({ text, score }) {
  const bar = el("span", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--p", score.toFixed(3));
  const value = words("same", { text: () => percent(score) }, "span", { class: "score", "data-t-title": "share_hint", title: t("share_hint") });
  return el("li", {}, el("span", { class: "answer", dir: "auto" }, text), bar, value);
}

function copyButton(word, text, bare = false) {
  const name = bare ? { "data-t-label": word, "aria-label": t(word), "data-t-title": word, title: t(word) } : {};
  const caption = () => (bare ? [] : [words(word)]);
  const button = el("button", { class: "quiet copy", type: "button", ...name }, icon("copy"), ...caption());
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text());
    button.replaceChildren(icon("copy"), words("copied"));
    setTimeout(() => button.replaceChildren(icon("copy"), ...caption()), 2000);
  });
  return button;
}
