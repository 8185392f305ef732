// The small part of Markdown that models write, as DOM nodes: paragraphs, headings, lists, quotes,
// code blocks, inline code, bold, italics. Nothing a model writes is ever read as HTML, and there are no links.

import { el } from "./dom.js";

const FENCE = /^\s*(```+|~~~+)/;
const ITEM = /^\s*([-*+•]|\d{1,3}[.)])\s+(.*)$/;
const HEADING = /^(#{1,4})\s+(.*)$/;
const QUOTE = /^>\s?(.*)$/;

export function markdown(text) {
  const root = document.createDocumentFragment();
  const lines = text.split("\n");
  let at = 0;
  while (at < lines.length) {
    const [node, next] = block(lines, at);
    if (node) root.append(node);
    at = next;
  }
  return root;
}

function block(lines, at) {
  const line = lines[at];
  if (!line.trim()) return [null, at + 1];
  if (FENCE.test(line)) return code(lines, at);
  if (ITEM.test(line)) return list(lines, at);
  const heading = HEADING.exec(line);
  if (heading) return [el(`h${heading[1].length + 2}`, {}, ...inline(heading[2])), at + 1];
  if (QUOTE.test(line)) {
    const end = until(lines, at, (other) => !QUOTE.test(other));
    const inner = lines.slice(at, end).map((other) => QUOTE.exec(other)[1]);
    return [el("blockquote", {}, paragraph(inner)), end];
  }
  const end = until(lines, at + 1, (other) => !other.trim() || [FENCE, ITEM, HEADING, QUOTE].some((p) => p.test(other)));
  return [paragraph(lines.slice(at, end)), end];
}

function code(lines, at) {
  const fence = FENCE.exec(lines[at])[1];
  const close = until(lines, at + 1, (other) => other.trim().startsWith(fence));
  const content = lines.slice(at + 1, close).join("\n");
  return [el("pre", { tabindex: "0" }, el("code", {}, content)), close + 1];
}

function list(lines, at) {
  const ordered = /\d/.test(ITEM.exec(lines[at])[1]);
  const start = ordered ? parseInt(lines[at].trim(), 10) : undefined;
  const node = el(ordered ? "ol" : "ul", { start });
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || /\d/.test(item[1]) !== ordered) break;
    const end = until(lines, at + 1, (other) => !/^\s{2,}\S/.test(other) || ITEM.test(other));
    node.append(el("li", {}, ...broken([item[2], ...lines.slice(at + 1, end).map((other) => other.trim())])));
    at = end;
  }
  return [node, at];
}

const paragraph = (lines) => el("p", {}, ...broken(lines));

const broken = (lines) => lines.flatMap((line, number) => (number ? [el("br"), ...inline(line)] : inline(line)));

function until(lines, at, ends) {
  while (at < lines.length && !ends(lines[at])) at += 1;
  return at;
}

const SPAN = /(`+)(?!`)(.+?)(?<!`)\1(?!`)|\*\*(?=\S)(.+?)(?<=\S)\*\*|(?<![\w*])\*(?=[^\s*])(.+?)(?<=[^\s*])\*(?![\w*])/;

function inline(text) {
  const nodes = [];
  while (text) {
    const match = SPAN.exec(text);
    if (!match) break;
    if (match.index) nodes.push(text.slice(0, match.index));
    if (match[2] !== undefined) nodes.push(el("code", {}, match[2].replace(/^ (.+) $/, "$1")));
    else if (match[3] !== undefined) nodes.push(el("strong", {}, ...inline(match[3])));
    else nodes.push(el("em", {}, ...inline(match[4])));
    text = text.slice(match.index + match[0].length);
  }
  if (text) nodes.push(text);
  return nodes;
}
