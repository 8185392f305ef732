// A text of tokens, each with its probability and what else the model considered.

import { el, icon } from "./dom.js";
import { percent, t, words } from "./i18n.js";

const TIP_MARGIN = 8; // pixels between a token, its tip, and the window's edge
let tip = null;
let tipOwner = null;

// Token text grows by `add(tokens)`. `pick(before, alternative)` makes other tokens of a place choosable.
export class TokenText {
  constructor({ pick = null } = {}) {
    this.pick = pick;
    this.items = []; // {node, text, parts: [tokens as the server sends them]}
    this.pending = []; // tokens that hold part of a character
    this.node = el("div", { class: "tokens", role: "group", tabindex: "0", "data-t-label": "text_label" });
    this.node.setAttribute("aria-label", t("text_label"));
    this.node.addEventListener("pointerover", (event) => this.show(this.itemOf(event.target)));
    this.node.addEventListener("pointerleave", (event) => {
      if (!tip?.contains(event.relatedTarget) && !this.pinned) hideTip();
    });
    this.node.addEventListener("click", (event) => this.choose(this.itemOf(event.target)));
    this.node.addEventListener("keydown", (event) => this.move(event));
    this.node.addEventListener("focusout", (event) => {
      if (!this.node.contains(event.relatedTarget) && !tip?.contains(event.relatedTarget)) hideTip();
    });
  }

  get text() {
    return this.items.map((item) => item.text).join("");
  }

  add(tokens) {
    for (const token of tokens) {
      this.pending.push(token);
      const bytes = Uint8Array.from(this.pending.flatMap((part) => part.bytes));
      const text = new TextDecoder().decode(bytes);
      // whole characters, or more bytes than a character can have
      if (!text.endsWith("\ufffd") || bytes.length > 8) this.append(text, this.pending.splice(0));
    }
  }

  append(text, parts) {
    const share = Math.exp(parts.reduce((sum, part) => sum + part.logprob, 0));
    const node = el("span", { class: `token${share < 0.1 ? " rare" : ""}${/^\n+$/.test(text) ? " line" : ""}`, tabindex: "-1" }, text);
    node.style.setProperty("--p", share.toFixed(3));
    this.items.push({ node, text, parts, share });
    this.node.append(node);
  }

  itemOf(target) {
    return this.items.find((item) => item.node === target);
  }

  move(event) {
    const at = this.items.findIndex((item) => item.node === document.activeElement);
    const target = { ArrowRight: at + 1, ArrowLeft: Math.max(at - 1, 0), Home: 0, End: this.items.length - 1 }[event.key];
    if (target !== undefined && this.items[target]) {
      event.preventDefault();
      this.items[target].node.focus();
      this.show(this.items[target]);
    } else if (event.key === "Escape" && tipOwner) {
      event.stopPropagation();
      hideTip();
    } else if (event.key === "Enter" && at >= 0) {
      this.choose(this.items[at]);
    }
  }

  show(item) {
    if (!item || (this.pinned && tipOwner !== item)) return;
    showTip(item, null);
  }

  choose(item) {
    if (!item) return;
    const before = this.items.slice(0, this.items.indexOf(item)).map((other) => other.text).join("");
    this.pinned = true;
    showTip(item, this.pick && ((text) => this.pick(before, text)), () => (this.pinned = false));
  }
}

function showTip(item, pick, onHide) {
  hideTip();
  const last = item.parts.at(-1);
  const rows = item.parts.length > 1 ? [] : last.top_logprobs.map((other) => row(other, last, pick));
  tip = el(
    "div",
    { class: pick ? "tip choosable" : "tip", role: pick ? "dialog" : "tooltip", id: "tip" },
    el("p", { class: "tip-head" }, el("strong", {}, visible(item.text)), words("probability", { p: percent(item.share) })),
    pick && rows.length ? words("pick", {}, "p", { class: "hint" }) : null,
    rows.length ? el("ul", {}, ...rows) : null,
  );
  document.body.append(tip);
  place(tip, item.node.getClientRects()[0] ?? item.node.getBoundingClientRect());
  item.node.setAttribute("aria-describedby", "tip");
  item.node.classList.add("current");
  tipOwner = item;
  item.onHide = onHide;
  if (pick) tip.querySelector("button")?.focus();
}

function row(other, chosen, pick) {
  const share = Math.exp(other.logprob);
  const bar = el("span", { class: "bar" });
  bar.style.setProperty("--p", share.toFixed(3));
  const same = other.token === chosen.token;
  const parts = [el("span", { class: "name" }, visible(other.token)), bar, el("span", { class: "share" }, percent(share))];
  const act = () => {
    hideTip();
    pick(other.token);
  };
  const whole = !other.token.startsWith("bytes:");
  const inner = pick && whole && !same ? [el("button", { type: "button", onclick: act }, ...parts)] : parts;
  return el("li", { class: same ? "chosen" : null }, ...inner);
}

export function hideTip() {
  tip?.remove();
  tipOwner?.node.removeAttribute("aria-describedby");
  tipOwner?.node.classList.remove("current");
  const done = tipOwner?.onHide;
  tip = tipOwner = null;
  done?.();
}

function place(node, at) {
  const size = node.getBoundingClientRect();
  const below = at.bottom + TIP_MARGIN + size.height < innerHeight;
  const left = Math.min(Math.max(at.left - 12, TIP_MARGIN), innerWidth - size.width - TIP_MARGIN);
  node.style.left = `${Math.max(left, TIP_MARGIN)}px`;
  node.style.top = `${below ? at.bottom + TIP_MARGIN : Math.max(at.top - size.height - TIP_MARGIN, TIP_MARGIN)}px`;
}

// Spaces and line ends that can be seen.
function visible(text) {
  if (/^<\|.*\|>$/.test(text)) return t("token_end");
  return text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

document.addEventListener("pointerdown", (event) => {
  if (tip && !tip.contains(event.target) && !event.target.classList?.contains("token")) hideTip();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && tip) {
    event.stopImmediatePropagation();
    const owner = tipOwner.node;
    hideTip();
    owner.focus();
  }
}, true);
addEventListener("scroll", hideTip, true);

// The switch that colours tokens, with its legend.
export function probabilitySwitch(on, change) {
  const box = el("input", { type: "checkbox", role: "switch", checked: on, onchange: () => change(box.checked) });
  const legend = el("span", { class: "legend", "aria-hidden": "true" }, words("unlikely"), el("i"), words("likely"));
  const label = words("probabilities");
  return el("label", { class: "switch", "data-t-title": "probabilities_hint" }, box, icon("drop"), label, legend);
}
