// The what-if form: trades of the account that is shown, before and after beside each other.
"use strict";

import { current, onAccount, positions } from "./account.js";
import { beforeAfter } from "./charts.js";
import { badge, byId, make, problem, show, table } from "./dom.js";
import { amounts, count, typed } from "./numbers.js";
import { post } from "./server.js";

let number = 0;
let shownFor = null;

function addLeg(instrument = "", quantity = "") {
  const id = `leg-${++number}`;
  const row = make("div", { class: "leg" },
    make("div", {}, make("label", { for: `${id}-i` }, "Instrument"),
      make("input", { id: `${id}-i`, class: "instrument", list: "instruments", autocomplete: "off", spellcheck: "false", maxlength: 256, value: instrument })),
    make("div", {}, make("label", { for: `${id}-q` }, "Contracts"),
      make("input", { id: `${id}-q`, class: "quantity", inputmode: "decimal", autocomplete: "off", placeholder: "-10", value: quantity })),
    make("button", { type: "button", class: "quiet", "aria-label": "Remove this row", title: "Remove this row",
      on: { click: () => { row.remove(); if (!byId("legs").children.length) addLeg(); } } }, "\u2715"));
  byId("legs").append(row);
  return row;
}

// The rows that have something in them; null where one of them is wrong, which is marked.
function trades() {
  const found = {};
  let wrong = null;
  for (const row of byId("legs").children) {
    const instrument = row.querySelector(".instrument"), quantity = row.querySelector(".quantity");
    const name = instrument.value.trim(), value = typed(quantity.value);
    const empty = name === "" && quantity.value.trim() === "";
    for (const [input, bad] of [[instrument, !empty && name === ""], [quantity, !empty && value === null]]) {
      if (bad) { input.setAttribute("aria-invalid", "true"); wrong ??= input; } else input.removeAttribute("aria-invalid");
    }
    // Own members only: an instrument may be called like one that every object has.
    if (!empty) Object.defineProperty(found, name, { value: (Object.hasOwn(found, name) ? found[name] : 0) + value, enumerable: true, configurable: true, writable: true });
  }
  wrong?.focus();
  return wrong ? null : found;
}

async function ask(event) {
  event.preventDefault();
  show(byId("whatif-problem"));
  const wanted = trades(), { account, figures } = current();
  if (wanted === null || account === null) {
    show(byId("whatif-problem"), make("p", {}, "Each row needs an instrument and a number of contracts, negative to sell."));
    return;
  }
  const body = { account_id: account, positions: wanted, add_positions: byId("add-positions").checked };
  if (byId("netting-set").value) body.netting_set = byId("netting-set").value;
  try {
    const answer = await post("/v1/whatif", body);
    if (account === current().account) paint(answer, figures);
  } catch (error) {
    byId("whatif-answer").replaceChildren();
    show(byId("whatif-problem"), ...problem(error));
  }
}

function paint(answer, figures) {
  const heads = [{ name: "Model" }, { name: "Before", number: true }, { name: "After", number: true },
    { name: "Change", number: true }, { name: "Status after" }];
  heads.label = "Requirement before and after";
  const models = Object.entries(answer.models);
  const rows = models.map(([name, found]) => {
    const [before, after] = amounts([found.before, found.after]);
    const change = amounts([found.change, found.before], true)[0];
    return [name, before, after, { text: change, look: found.change > 0 ? "more" : found.change < 0 ? "less" : "" }, badge(found.status_after)];
  });
  const bars = models.map(([name, found]) => make("div", {}, make("h4", {}, name),
    beforeAfter(name, found.before, found.after, figures?.models[name]?.collateral_value)));
  byId("whatif-answer").replaceChildren(
    make("h4", {}, "Requirement before and after"),
    answer.stale_marks ? make("p", { class: "warning" }, "Stale marks: a price behind this answer is older than allowed.") : "",
    answer.complete ? "" : make("p", { class: "warning" }, "Incomplete: a row of this account could not be used."),
    table(heads, rows), ...bars, make("small", {}, `At state ${count(answer.state_seq)}. Nothing was booked.`));
}

// What can be chosen follows the account.
function follow(figures) {
  byId("whatif").hidden = figures === null;
  if (figures === null) return;
  const sets = [...new Set(Object.values(figures.models).flatMap((one) => (one.netting_sets ?? []).map((row) => row.netting_set)))];
  const names = [...new Set(positions().map((row) => row.instrument_id))];
  byId("instruments").replaceChildren(...names.map((name) => make("option", { value: name })));
  if (figures.account_id === shownFor) return;
  shownFor = figures.account_id;
  byId("set-choice").hidden = sets.length < 2;
  byId("netting-set").replaceChildren(make("option", { value: "" }, "the account's own"),
    ...(sets.length < 2 ? [] : sets.map((name) => make("option", { value: name }, name))));
  byId("whatif-answer").replaceChildren();
  show(byId("whatif-problem"));
  byId("legs").replaceChildren();
  addLeg();
}

function fill() {
  const rows = positions();
  if (!rows.length) return;
  byId("legs").replaceChildren();
  const sums = new Map();
  for (const row of rows) sums.set(row.instrument_id, (sums.get(row.instrument_id) ?? 0) + row.quantity);
  for (const [name, quantity] of sums) addLeg(name, String(quantity));
  byId("add-positions").checked = false;
}

export function start() {
  byId("trades").addEventListener("submit", ask);
  byId("add-leg").addEventListener("click", () => addLeg().querySelector("input").focus());
  byId("fill-legs").addEventListener("click", fill);
  onAccount(follow);
  addLeg();
}
