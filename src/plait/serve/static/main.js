// Starts the page: language, theme, key, panel, and the tabs. A new application is one more module in TABS.

import { inWords, models, setKey } from "./api.js";
import * as chat from "./chat.js";
import * as complete from "./complete.js";
import { $, el, recall, remember } from "./dom.js";
import { factsNode, unable } from "./facts.js";
import { currentLanguage, setLanguage, t, translateAll, words } from "./i18n.js";
import { Settings } from "./settings.js";
import * as tasks from "./task.js";

const TABS = [chat, complete, tasks.translate, tasks.summarize, tasks.answer, tasks.classify];
const WIDE = matchMedia("(min-width: 62rem)");

const app = {
  model: null,
  settings: new Settings(),
  announce: (text) => ($("#announce").textContent = text),
  askKey,
  // whether the page is scrolled to its end, and scrolling there: the window scrolls, not the thread
  atEnd: () => innerHeight + scrollY >= document.documentElement.scrollHeight - 80,
  toEnd: () => scrollTo({ top: document.documentElement.scrollHeight }),
};
const mounted = new Map();

setLanguage(currentLanguage());
$("#language").addEventListener("click", () => setLanguage(currentLanguage() === "zh" ? "en" : "zh"));
$("#theme").addEventListener("click", switchTheme);
$("#panel-toggle").addEventListener("click", () => openPanel($("#panel").hidden));
$("#panel-close").addEventListener("click", () => openPanel(false));
$("#veil").addEventListener("click", () => openPanel(false));
WIDE.addEventListener("change", () => openPanel(WIDE.matches));
openPanel(WIDE.matches && recall("panel", true), false);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented) return;
  if (mounted.get(current())?.stop()) event.preventDefault();
  else if (!WIDE.matches && !$("#panel").hidden) openPanel(false);
});
$("#key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("#key").value.trim());
  $("#key-dialog").close();
  if (!app.model) start();
});
start();

async function start() {
  try {
    app.model = (await models())[0];
  } catch (problem) {
    if (problem.status === 401) return askKey(problem);
    const retry = words("retry", {}, "button", { type: "button", class: "primary" });
    retry.addEventListener("click", start);
    const note = el("div", { class: "welcome" }, el("p", { class: "problem", role: "alert" }, inWords(problem)), retry);
    return $("#main").replaceChildren(note);
  }
  document.title = `${app.model.id} · plait`;
  $("#facts").replaceChildren(factsNode(app.model));
  app.settings.recommend(app.model.plait?.sampling);
  $("#settings").replaceChildren(app.settings.node);
  $("#main").replaceChildren();
  $("#tabs").replaceChildren();
  for (const tab of TABS) addTab(tab);
  select(recall(tabOf(app.model), app.model.plait?.labels?.length ? "classify" : "chat"));
}

function addTab(tab) {
  const reason = unable(app.model, tab.name);
  const properties = { role: "tab", id: `tab-${tab.name}`, "aria-controls": tab.name, type: "button", tabindex: "-1" };
  const button = words(`tab_${tab.name}`, {}, "button", { ...properties, "aria-disabled": reason && "true", "data-t-title": reason });
  button.addEventListener("click", () => (reason ? app.announce(t(reason)) : select(tab.name)));
  button.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = TABS.at((TABS.indexOf(tab) + step) % TABS.length);
    $(`#tab-${next.name}`).click();
    $(`#tab-${next.name}`).focus(); // also where it is disabled, to hear why
  });
  const section = el("section", { id: tab.name, role: "tabpanel", "aria-labelledby": `tab-${tab.name}`, hidden: true });
  $("#tabs").append(button);
  $("#main").append(section);
  setLanguage(currentLanguage());
}

// What a page is opened for differs from model to model, and many are served at one address in turn.
function tabOf(model) {
  return `tab.${model.id}`;
}

function current() {
  return $("[role=tab][aria-selected=true]")?.id.replace("tab-", "");
}

function select(name) {
  const able = TABS.filter((tab) => !unable(app.model, tab.name));
  const chosen = able.find((tab) => tab.name === name) ?? able[0];
  name = chosen.name;
  if (!mounted.has(name)) mounted.set(name, chosen.mount($(`#${name}`), app));
  translateAll($(`#${name}`));
  remember(tabOf(app.model), name);
  $("#sampling").hidden = !chosen.samples;
  for (const tab of TABS) {
    const on = tab.name === name;
    const button = $(`#tab-${tab.name}`);
    button.setAttribute("aria-selected", String(on));
    button.tabIndex = on ? 0 : -1;
    $(`#${tab.name}`).hidden = !on;
  }
  $(`#tab-${name}`).scrollIntoView({ block: "nearest", inline: "nearest" });
  if (WIDE.matches) mounted.get(name).focus();
}

function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  remember("theme", root.dataset.theme);
}

function openPanel(open, byHand = true) {
  $("#panel").hidden = !open;
  $("#veil").hidden = !open || WIDE.matches;
  $("#panel-toggle").setAttribute("aria-expanded", String(open));
  document.body.classList.toggle("with-panel", open);
  $("#main").inert = open && !WIDE.matches;
  if (!byHand) return;
  if (WIDE.matches) remember("panel", open);
  else if (open) $("#panel-close").focus();
  else $("#panel-toggle").focus();
}

function askKey(problem) {
  $("#key-problem").textContent = problem.code === "invalid_api_key" ? t("key_wrong") : "";
  $("#key").value = "";
  if (!$("#key-dialog").open) $("#key-dialog").showModal();
}
