// What is known about the model: its size, its context, its scores, and that it may be wrong.

import { el } from "./dom.js";
import { amount, currentLanguage, decimals, percent, t, words } from "./i18n.js";

const SHARE = /(accuracy|exact_match)$/;

export function factsNode(model) {
  const { parameters, context, vocabulary, scores = [] } = model.plait ?? {};
  const rows = [
    parameters && ["parameters", () => amount(parameters)],
    context && ["context", () => t("tokens", { count: amount(context) })],
    vocabulary && ["vocabulary", () => t("tokens", { count: amount(vocabulary) })],
  ].filter(Boolean);
  const list = el("dl", {}, ...rows.flatMap(([key, value]) => [words(key, {}, "dt"), live(value, "dd")]));
  return el(
    "div",
    { class: "facts" },
    el("p", { class: "model-name" }, model.id),
    list,
    scores.length ? words("scores", {}, "h3") : null,
    scores.length ? el("dl", { class: "scores" }, ...scores.slice(0, 8).flatMap(score)) : null,
    words("careful", {}, "p", { class: "careful" }),
  );
}

function score(result) {
  const { task, metric, value, interval, n } = result;
  if (typeof value !== "number") return [];
  const name = () => {
    const known = t(`metric_${metric}`);
    return known === `metric_${metric}` ? [task, metric].filter(Boolean).join(" · ") : known;
  };
  const write = SHARE.test(metric) && value <= 1 ? percent : decimals;
  const range = Array.isArray(interval) && interval.every((end) => typeof end === "number");
  const between = range ? () => interval.map((end) => write(end)).join(" – ") : null;
  const detail = [between, n ? () => t("samples", { n: amount(n) }) : null].filter(Boolean);
  const notes = detail.map((part) => live(part, "small"));
  return [live(name, "dt"), el("dd", {}, live(() => write(value), "span"), ...notes)];
}

// A node whose text is computed anew when the language changes.
function live(text, tag) {
  return words("same", { text }, tag, {});
}

// Why a model cannot do what a tab is for, as a key of the words; null where it can.
export function unable(model, name) {
  if (!model.tasks || model.tasks.includes(name)) return null;
  if (model.plait?.encodes) return name === "chat" ? "no_chat_pairs" : "no_complete";
  return name === "chat" ? "no_chat" : "no_task";
}

// Example prompts of a tab: from the server, or general ones.
export function suggestions(model, kind) {
  const given = model.plait?.suggestions ?? [];
  const own = Array.isArray(given) ? (kind === "chat" ? given : []) : (given[kind] ?? []);
  const texts = own.filter((text) => typeof text === "string" && text);
  return texts.length ? texts : t(`${kind}_suggestions`).split("|");
}

export function chips(model, kind, use) {
  const node = el("div", { class: "chips" });
  let shown = null;
  const fill = () => {
    const language = currentLanguage();
    if (shown === language) return;
    shown = language;
    const buttons = suggestions(model, kind).slice(0, 6).map((text) =>
      el("button", { type: "button", class: "chip", onclick: () => use(text) }, text),
    );
    node.replaceChildren(words("try", {}, "span", { class: "chips-label" }), ...buttons);
  };
  fill();
  document.addEventListener("language", fill);
  return node;
}
