// Tabs of tasks: texts in, the best answers to each out, a few texts at a time, errors in their places.

import { inWords, post } from "./api.js";
import { el, grow, icon, recall, remember } from "./dom.js";
import { amount, t, words } from "./i18n.js";
import { Results } from "./results.js";

const TOGETHER = 8; // texts of one request: answers appear while the rest is being worked on
const COUNTS = { beams: "beams", n: "answers", max_tokens: "at_most" }; // fields of a request and their words

export const translate = tab("translate", { lines: true });
export const summarize = tab("summarize", { lines: false });
export const answer = tab("answer", { lines: true });
export const classify = tab("classify", { lines: true });

function tab(name, usual) {
  return { name, samples: false, mount: (section, app) => mount(name, usual, section, app) };
}

function mount(name, usual, section, app) {
  let controller = null;
  let results = null;

  const area = el("textarea", { id: `${name}-text`, rows: "3", dir: "auto", "data-t-placeholder": `${name}_label`, "data-t-label": `${name}_label` });
  const asks = app.model.plait?.passages ? "answer_context_or_documents" : "answer_context";
  const context = name === "answer" ? el("textarea", { id: "answer-context", class: "context", rows: "2", dir: "auto", "data-t-placeholder": asks, "data-t-label": asks }) : null;
  const boxes = [context, area].filter(Boolean);
  const go = el("button", { class: "primary", type: "submit" }, icon("spark"), words(`${name}_go`));
  const stop = el("button", { class: "primary stop", type: "button", hidden: true, onclick: () => controller?.abort() }, icon("square"), words("stop"));
  const wipe = el("button", { class: "quiet", type: "button", onclick: clear }, icon("plus"), words("clear_text"));
  const lines = el("input", { type: "checkbox", checked: recall(`lines.${name}`, usual.lines), onchange: () => remember(`lines.${name}`, lines.checked) });
  const switched = el("label", { class: "switch" }, lines, words(name === "answer" ? "lines_question" : "lines"));
  const options = new Options(name, app.model);
  const problem = el("p", { class: "problem", role: "alert" });
  const bar = el("div", { class: "bar-row" }, go, stop, wipe, words("keys_task", {}, "span", { class: "keys" }));
  const form = el("form", { class: "task", novalidate: true }, el("div", { class: "sheet" }, ...boxes, bar), el("div", { class: "options" }, options.node, switched));
  const found = el("section", { class: "found", hidden: true });
  const careful = words("careful_size", { model: app.model.id, parameters: () => amount(app.model.plait.parameters) }, "p", { class: "careful" });
  section.append(el("div", { class: "writing" }, words(`${name}_title`, {}, "h1"), form, problem, found, careful));

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) (event.preventDefault(), form.requestSubmit());
  });
  for (const box of boxes) box.addEventListener("input", () => grow(box));

  function texts() {
    const given = lines.checked ? area.value.split("\n") : [area.value];
    return given.map((text) => text.trim()).filter(Boolean);
  }

  async function start() {
    const given = texts();
    if (controller || !given.length) return;
    results = new Results(name, given);
    found.replaceChildren(results.node);
    found.hidden = false;
    problem.textContent = "";
    busy(true);
    try {
      await answerAll(results.rows);
      app.announce(t("tasks_done", { count: results.rows.length }));
    } catch (error) {
      if (error.name !== "AbortError") tell(error);
      results.end(error.name === "AbortError" ? "end_stopped" : "no_answer");
    }
    busy(false);
  }

  // Asks about some rows at a time; a row that is refused says why, and the others are asked about again.
  async function answerAll(rows) {
    const below = context?.value.trim() ? { context: context.value.trim() } : {};
    const given = name === "translate" ? {} : { ...below, truncate: true }; // half a translation serves nobody
    while (rows.length) {
      const some = rows.slice(0, TOGETHER);
      const body = { model: app.model.id, input: some.map((row) => row.text), ...given, ...options.request };
      try {
        const made = await post(`/v1/tasks/${name}`, body, controller.signal);
        for (const { input_index, ...found } of made.results) some[input_index].show(found);
        rows = rows.slice(some.length);
      } catch (error) {
        const refused = some[/^input\[(\d+)\]/.exec(error.param ?? "")?.[1]];
        if (!refused) throw error;
        refused.fail(spell(error));
        rows = rows.filter((row) => row !== refused);
      }
    }
  }

  function tell(error) {
    problem.textContent = spell(error);
    if (results.empty) found.hidden = true;
    if (error.status === 401) app.askKey(error);
  }

  function spell(error) {
    const { encodes, context: size } = app.model.plait ?? {};
    if (error.code === "context_length_exceeded" && encodes) return t("source_too_long", { context: size });
    if (error.code === "missing_required_parameter" && error.param === "labels") return t("labels_missing");
    return inWords(error, size);
  }

  function clear() {
    controller?.abort();
    for (const box of boxes) (box.value = ""), grow(box);
    problem.textContent = "";
    found.hidden = true;
    area.focus();
  }

  function busy(on) {
    controller = on ? new AbortController() : null;
    go.hidden = on;
    stop.hidden = !on;
    section.classList.toggle("busy", on);
  }

  return { focus: () => area.focus(), stop: () => (controller ? (controller.abort(), true) : false) };
}

// How answers are found: fields that are remembered, and sent only where they are filled in. Labels are
// remembered of each model alone; of those it has learned it needs no word.
class Options {
  constructor(name, model) {
    const learned = model.plait?.labels ?? [];
    this.place = name === "classify" ? `options.${name}.${[model.id, ...learned].join("/")}` : `options.${name}`;
    this.name = name;
    this.values = recall(this.place, {});
    const counts = name === "classify" ? ["n"] : Object.keys(COUNTS);
    const usual = learned.length ? { placeholder: learned.join(", ") } : { "data-t-placeholder": "labels_placeholder" };
    const labels = { class: "labels", value: this.values.labels ?? "", ...usual };
    const fields = counts.map((key) => this.field(key, COUNTS[key], { class: "count", type: "number", min: 1, step: 1, value: this.values[key] ?? "", "data-t-placeholder": "usual" }));
    if (name === "classify") fields.unshift(this.field("labels", "labels", labels));
    this.node = el("div", { class: "fields" }, ...fields);
  }

  field(key, word, properties) {
    const id = `${this.name}-${key}`;
    const input = el("input", { id, inputmode: properties.type && "numeric", "data-t-title": `${word}_hint`, ...properties });
    input.addEventListener("input", () => {
      this.values[key] = input.value;
      remember(this.place, this.values);
    });
    return el("span", { class: "field" }, words(word, {}, "label", { for: id, "data-t-title": `${word}_hint` }), input);
  }

  get request() {
    const { labels, ...counts } = this.values;
    const given = Object.entries(counts).filter(([, value]) => value !== "");
    const fields = Object.fromEntries(given.map(([key, value]) => [key, Number(value)]));
    const names = (labels ?? "").split(/[,，、\n]/).map((label) => label.trim()).filter(Boolean);
    return names.length ? { ...fields, labels: names } : fields;
  }
}
