// Elements are made, never parsed: whatever an id has in it stays text.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (name.startsWith("aria-") && value !== null) element.setAttribute(name, String(value));
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const make = (tag, attributes = {}, ...children) =>
  filled(document.createElement(tag), attributes, children);
export const draw = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);
export const show = (element, ...children) => {
  element.replaceChildren(...children);
  element.hidden = children.length === 0;
};

// A table from heads and rows of cells; a cell is text, an element, or {text, look}.
export function table(heads, rows, foot = null) {
  const line = (cells) => make("tr", {}, ...cells.map((cell, place) => {
    const look = [heads[place].number ? "number" : heads[place].id ? "id" : "", cell?.look ?? ""];
    const inside = cell?.text !== undefined && !(cell instanceof Node) ? cell.text : cell;
    return make("td", { class: look.join(" ").trim() || null }, inside ?? "");
  }));
  const head = heads.map((one) => make("th", { scope: "col", class: one.number ? "number" : null }, one.name));
  return make("div", { class: "table", tabindex: 0, role: "region", "aria-label": heads.label ?? "Table" },
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows.map(line)),
      foot ? make("tfoot", {}, line(foot)) : null));
}

export function facts(pairs) {
  return make("dl", { class: "facts" }, ...pairs.filter(Boolean).map(([name, value, look]) =>
    make("div", { class: look || null }, make("dt", {}, name), make("dd", {}, value))));
}

export const badge = (status) =>
  make("span", { class: `badge ${["ok", "call", "liquidation", "cured"].includes(status) ? status : ""}` },
    status ?? "not known");

// A problem as it came: what, where, and the way out.
export function problem(error) {
  const said = error.problem ?? { title: "No answer", detail: error.message, way_out: "see whether the server runs" };
  return [
    make("p", {}, make("strong", {}, said.title ?? "Problem"), ": ", said.detail ?? ""),
    said.field ? make("p", {}, "Field: ", said.field) : null,
    said.way_out ? make("p", {}, "Way out: ", said.way_out) : null,
    said.request_id ? make("p", {}, make("small", {}, "Request ", said.request_id)) : null,
  ].filter(Boolean);
}
