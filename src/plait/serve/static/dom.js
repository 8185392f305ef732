// Small helpers for building the page from nodes; text is always text, never markup.

export const $ = (selector, root = document) => root.querySelector(selector);

// el("button", {class: "quiet", onclick: f, "data-t": "stop"}, "text", node, ...)
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

// An icon from the symbols at the top of index.html.
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#${name}`);
  svg.append(use);
  return svg;
}

// A textarea that is as high as its text, up to what the style allows.
export function grow(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

export function remember(name, value) {
  try {
    localStorage.setItem(`plait.${name}`, JSON.stringify(value));
  } catch {
    // private windows may refuse storage: then it is remembered as long as the page is open
  }
}

export function recall(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`plait.${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}
