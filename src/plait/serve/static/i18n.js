// The interface in English and Chinese. Nodes carry the key of their text in data-t (and data-t-label,
// data-t-title, data-t-placeholder for attributes), so that switching needs no reload.

import { el, recall, remember } from "./dom.js";
import { en } from "./en.js";
import { zh } from "./zh.js";

const LANGUAGES = { en, zh };
let language = recall("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
if (!(language in LANGUAGES)) language = "en";
const values = new WeakMap();

export const currentLanguage = () => language;

// The text of a key, with {name} replaced; a key without text is shown as it is.
export function t(key, given = {}) {
  const text = LANGUAGES[language][key] ?? en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => given[name] ?? whole);
}

// A span whose text follows the language. `given` may hold functions, called at each switch.
export function words(key, given = {}, tag = "span", properties = {}) {
  const node = el(tag, { "data-t": key, ...properties });
  values.set(node, given);
  translate(node);
  return node;
}

function translate(node) {
  const given = {};
  for (const [name, value] of Object.entries(values.get(node) ?? {}))
    given[name] = typeof value === "function" ? value() : value;
  if (node.dataset.t) node.textContent = t(node.dataset.t, given);
  if (node.dataset.tLabel) node.setAttribute("aria-label", t(node.dataset.tLabel, given));
  if (node.dataset.tTitle) node.title = t(node.dataset.tTitle, given);
  if (node.dataset.tPlaceholder) node.placeholder = t(node.dataset.tPlaceholder, given);
}

export function translateAll(root = document) {
  root.querySelectorAll("[data-t], [data-t-label], [data-t-title], [data-t-placeholder]").forEach(translate);
}

export function setLanguage(name) {
  language = name;
  remember("language", name);
  document.documentElement.lang = name === "zh" ? "zh-CN" : "en";
  translateAll();
  document.dispatchEvent(new CustomEvent("language"));
}

// 2204352 -> "2.2 million" / "220 万"; 1234 -> "1,234"
export function amount(number) {
  const locale = language === "zh" ? "zh-CN" : "en";
  if (number < 10000) return new Intl.NumberFormat(locale).format(number);
  const style = { notation: "compact", compactDisplay: "long", maximumSignificantDigits: 3 };
  return new Intl.NumberFormat(locale, style).format(number);
}

export function decimals(number, digits = 2) {
  const style = { maximumFractionDigits: digits, minimumFractionDigits: digits, signDisplay: "negative" };
  return new Intl.NumberFormat(language === "zh" ? "zh-CN" : "en", style).format(number);
}

export function percent(share) {
  const digits = share > 0 && share < 0.1 ? 1 : 0;
  const style = { style: "percent", maximumFractionDigits: digits };
  const text = new Intl.NumberFormat(language === "zh" ? "zh-CN" : "en", style).format(share);
  return share > 0 && share < 0.0005 ? `<${new Intl.NumberFormat("en", style).format(0.001)}` : text;
}
