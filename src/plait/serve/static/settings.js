// Sampling controls: built from one table, remembered, and sent only where they differ from the default.

import { el, recall, remember } from "./dom.js";
import { translateAll, words } from "./i18n.js";

const CONTROLS = [
  { name: "system", kind: "text" },
  { name: "temperature", kind: "range", min: 0, max: 2, step: 0.05, normal: 1 },
  { name: "max_tokens", kind: "number", min: 1, step: 1 },
  { name: "top_p", kind: "range", min: 0.05, max: 1, step: 0.05, normal: 1 },
  { name: "top_k", kind: "number", min: 0, step: 1, normal: 0 },
  { name: "min_p", kind: "range", min: 0, max: 0.5, step: 0.01, normal: 0 },
  { name: "repetition_penalty", kind: "range", min: 1, max: 2, step: 0.05, normal: 1 },
  { name: "frequency_penalty", kind: "range", min: -2, max: 2, step: 0.1, normal: 0 },
  { name: "presence_penalty", kind: "range", min: -2, max: 2, step: 0.1, normal: 0 },
  { name: "seed", kind: "number", min: 0, step: 1, placeholder: "random" },
  { name: "stop_strings", kind: "text" },
];

export class Settings {
  constructor() {
    this.recommended = {}; // by the model, where it differs from what the API takes for granted
    this.values = recall("settings", {});
    this.fields = new Map();
    this.reset = words("reset", {}, "button", { type: "button", class: "link" });
    this.reset.addEventListener("click", () => this.clear());
    const form = el("form", { class: "controls" }, ...CONTROLS.map((control) => this.build(control)), this.reset);
    form.addEventListener("submit", (event) => event.preventDefault());
    this.node = form;
    this.refresh();
  }

  build(control) {
    const id = `set-${control.name}`;
    const note = el("output", { class: "value", for: id });
    const common = { id, name: control.name, "aria-describedby": `${id}-hint` };
    const { min, max, step } = control;
    const placeholder = control.placeholder && { "data-t-placeholder": control.placeholder };
    const input =
      control.kind === "text"
        ? el("textarea", { ...common, rows: "2" })
        : el("input", { ...common, type: control.kind, min, max, step, inputmode: "decimal", ...placeholder });
    input.addEventListener("input", () => this.take(control, input));
    this.fields.set(control, { input, note });
    const label = words(control.name, {}, "label", { for: id });
    const hint = words(`${control.name}_hint`, {}, "p", { class: "hint", id: `${id}-hint` });
    return el("div", { class: `control ${control.kind}` }, label, note, input, hint);
  }

  recommend(fields) {
    this.recommended = fields ?? {};
    this.refresh();
  }

  normal(control) {
    return this.recommended[control.name] ?? control.normal;
  }

  take(control, input) {
    const text = input.value;
    const number = control.kind !== "text" && text !== "" ? Number(text) : null;
    const empty = control.kind === "text" ? !text.trim() : number === null || number === this.normal(control);
    if (empty || !input.validity.valid) delete this.values[control.name];
    else this.values[control.name] = number ?? text;
    remember("settings", this.values);
    this.notes();
  }

  clear() {
    this.values = {};
    remember("settings", {});
    this.refresh();
  }

  refresh() {
    for (const [control, { input }] of this.fields) input.value = this.values[control.name] ?? this.normal(control) ?? "";
    this.notes();
    translateAll(this.node);
  }

  notes() {
    for (const [control, { input, note }] of this.fields) {
      note.textContent = control.kind === "range" ? Number(input.value).toFixed(2).replace(/\.?0+$/, "") : "";
      note.parentElement?.classList.toggle("changed", control.name in this.values);
    }
    this.reset.hidden = Object.keys(this.values).length === 0;
  }

  get system() {
    return this.values.system?.trim() ?? "";
  }

  // Fields of a request.
  get request() {
    const { system, stop_strings, ...fields } = { ...this.recommended, ...this.values };
    const stop = (stop_strings ?? "").split("\n").filter((line) => line !== "");
    return stop.length ? { ...fields, stop: stop.slice(0, 4) } : fields;
  }
}

