// One account: how it stands under each model, its waterfall, groups and positions.
"use strict";

import { waterfall } from "./charts.js";
import { badge, byId, facts, make, problem, table } from "./dom.js";
import { amount, amounts, contracts, count, share, words } from "./numbers.js";
import { get } from "./server.js";

const shown = { account: null, model: null, figures: null, explained: {}, turn: 0 };
const listeners = [];

export const current = () => shown;
export const onAccount = (act) => listeners.push(act);

// Shows an account; figures that are on the page stay until the new ones are there.
export async function open(account, quietly = false) {
  const turn = ++shown.turn;
  if (account !== shown.account) Object.assign(shown, { account, figures: null, explained: {} });
  try {
    const figures = await get(`/v1/accounts/${encodeURIComponent(account)}`);
    if (turn !== shown.turn) return;
    const first = !shown.figures;
    if (shown.figures?.state_seq !== figures.state_seq) shown.explained = {};
    shown.figures = figures;
    const models = Object.keys(figures.models);
    if (!models.includes(shown.model)) shown.model = models[0] ?? null;
    if (first) listeners.forEach((act) => act(figures));
    paint();
    await explain(turn);
  } catch (error) {
    if (turn === shown.turn && !quietly) refuse(error);
  }
}

function refuse(error) {
  byId("account").replaceChildren(make("div", { class: "problem" }, ...problem(error)));
  listeners.forEach((act) => act(null));
}

async function explain(turn) {
  const { account, model } = shown;
  if (model === null || shown.explained[model]) return;
  const query = new URLSearchParams({ model });
  try {
    const found = await get(`/v1/accounts/${encodeURIComponent(account)}/explain?${query}`);
    if (turn !== shown.turn || model !== shown.model) return;
    shown.explained[model] = found.models[model];
    listeners.forEach((act) => act(shown.figures));
  } catch (error) {
    if (turn !== shown.turn) return;
    shown.explained[model] = { error };
  }
  paint();
}

export const positions = () => shown.explained[shown.model]?.positions ?? [];

function choose(model) {
  shown.model = model;
  paint();
  explain(shown.turn);
  byId("account").querySelector('[role="tab"][aria-selected="true"]')?.focus();
}

function paint() {
  const { account, figures, model } = shown;
  const found = figures.models[model];
  const scrolled = window.scrollY;
  byId("account").replaceChildren(
    make("div", { class: "head lead" }, make("h3", {}, account), worst(figures),
      make("small", {}, `state ${count(figures.state_seq)}`)),
    figures.stale_marks ? make("p", { class: "warning" },
      "Stale marks: a price behind these figures is older than allowed.") : "",
    figures.complete ? "" : make("p", { class: "warning" },
      "Incomplete: a row of this account could not be used; the figures leave it out."),
    tabs(Object.keys(figures.models), model),
    found ? make("div", { id: "figures", role: "tabpanel", "aria-labelledby": `tab-${Object.keys(figures.models).indexOf(model)}` },
      ...standing(found, figures), ...why(shown.explained[model])) : "");
  window.scrollTo({ top: scrolled, behavior: "instant" });
}

function worst(figures) {
  const order = ["liquidation", "call", "ok"];
  const statuses = Object.values(figures.models).map((one) => one.status);
  return badge(order.find((status) => statuses.includes(status)) ?? null);
}

function tabs(models, chosen) {
  const step = { ArrowRight: 1, ArrowLeft: -1 };
  const move = (event) => {
    if (!(event.key in step)) return;
    event.preventDefault();
    choose(models[(models.indexOf(chosen) + step[event.key] + models.length) % models.length]);
  };
  return make("div", { class: "tabs", role: "tablist", "aria-label": "Models", on: { keydown: move } },
    ...models.map((model, number) => make("button", {
      type: "button", role: "tab", id: `tab-${number}`, "aria-selected": model === chosen,
      tabindex: model === chosen ? 0 : -1, on: { click: () => choose(model) } }, model)));
}

function standing(found, figures) {
  const { initial, maintenance } = found.levels;
  const called = found.call > 0;
  const [first, second, held, spare, call] =
    amounts([initial, maintenance, found.collateral_value, found.excess, found.call]);
  const pairs = [
    [`Requirement, ${figures.currency ?? ""}`.replace(/, $/, ""), first], ["Maintenance", second],
    ["Collateral", held], ["Excess", spare, found.excess < 0 ? "red" : "green"],
    ["Utilisation", share(found.utilisation), found.utilisation > 1 ? "red" : ""],
    ["Call", call, called ? "red" : ""],
  ];
  const held_apart = found.netting_sets?.length > 1 ? sets(found.netting_sets) : "";
  return [make("div", { class: "head" }, make("h4", {}, "How it stands"), badge(found.status)), facts(pairs),
    make("h4", {}, "From requirement to call"), waterfall("From requirement to call", steps(found)), held_apart];
}

function steps(found) {
  const { initial } = found.levels;
  const parts = Object.entries(found.components ?? {}).filter(([, value]) => value !== 0);
  const list = parts.map(([name, value]) => ({ label: words(name), value, look: "part" }));
  if (!Number.isFinite(initial)) return list;
  const rest = initial - parts.reduce((sum, [, value]) => sum + value, 0);
  // What owners net between venues, or collateral in the scenarios, is no component of positions.
  if (parts.length && Math.abs(rest) > 1e-6 * Math.abs(initial)) {
    list.push({ label: "Netting beyond the account", value: rest, look: "save" });
  }
  list.push({ label: "Requirement", value: initial, look: "sum", total: true });
  const held = found.collateral_value;
  if (!Number.isFinite(held)) return list;
  list.push({ label: "Collateral", value: -held, look: "collateral" });
  const lacking = initial - held;
  if (!(found.call > 0)) {
    const label = lacking > 0 ? "Deficit below the least call" : "Excess";
    return [...list, { label, value: lacking, shown: Math.abs(lacking), look: lacking > 0 ? "call" : "excess", total: true }];
  }
  if (found.call - lacking > 0.001 * found.call) {
    list.push({ label: "Rounding, other sets' surplus", value: found.call - lacking, look: "save" });
  }
  return [...list, { label: "Call", value: found.call, look: "call", total: true }];
}

function sets(rows) {
  const heads = [{ name: "Netting set", id: true }, { name: "Requirement", number: true }, { name: "Collateral", number: true }];
  heads.label = "Netting sets";
  const required = amounts(rows.map((row) => row.requirement)), held = amounts(rows.map((row) => row.collateral_value));
  return make("div", {}, make("h4", {}, "Netting sets"),
    table(heads, rows.map((row, place) => [row.netting_set, required[place], held[place]])));
}

function why(found) {
  if (!found) return [make("p", { class: "hint" }, "Asking for the reasons\u2026")];
  if (found.error) return [make("div", { class: "problem" }, ...problem(found.error))];
  return [make("h4", {}, "From positions to requirement"),
    make("p", { class: "caption" }, "What each position would require alone, and what holding them together saves."),
    waterfall("From positions to requirement", offsets(found)),
    found.worst_scenario ? make("p", { class: "caption" }, "Worst scenario: ", make("b", {}, found.worst_scenario)) : "",
    make("h4", {}, "Product groups"), groups(found.groups ?? []),
    make("h4", {}, "Positions"),
    make("p", { class: "caption" }, "Contributions add up to the requirement; a negative one is a hedge."),
    holdings(found.positions ?? [])];
}

function offsets(found) {
  const alone = found.standalone, required = found.requirement;
  if (!Number.isFinite(alone) || !Number.isFinite(required)) return [];
  const list = [{ label: "Standalone", value: alone, look: "sum", total: true }];
  const apart = (found.groups ?? []).reduce((sum, group) => sum + group.requirement, 0);
  if (found.groups?.length > 1) {
    list.push({ label: "Offset within groups", value: apart - alone, look: "save" },
      { label: "Offset between groups", value: required - apart, look: "save" });
  } else list.push({ label: "Offset", value: required - alone, look: "save" });
  return [...list, { label: "Requirement", value: required, look: "sum", total: true }];
}

function groups(rows) {
  if (!rows.length) return make("p", { class: "hint" }, "This model tells no product groups apart.");
  const heads = [{ name: "Product group", id: true }, { name: "Requirement alone", number: true }, { name: "Positions", number: true }];
  heads.label = "Product groups";
  const required = amounts(rows.map((row) => row.requirement));
  return table(heads, rows.map((row, place) => [row.product_group, required[place], count(row.positions)]));
}

function holdings(rows) {
  const heads = [{ name: "Instrument", id: true }, { name: "Group" }, { name: "Quantity", number: true },
    { name: "Exposure", number: true }, { name: "Standalone", number: true }, { name: "Contribution", number: true },
    { name: "Worst P&L", number: true }];
  heads.label = "Positions";
  const quantity = contracts(rows.map((row) => row.quantity));
  const [exposure, standalone, contribution, worstPnl] =
    ["exposure", "standalone", "contribution", "worst_pnl"].map((name) => amounts(rows.map((row) => row[name])));
  const sum = rows.reduce((total, row) => total + (row.contribution ?? 0), 0);
  return table(heads, rows.map((row, place) => [row.instrument_id, row.product_group, quantity[place],
    exposure[place], standalone[place], contribution[place], worstPnl[place]]),
    rows.length > 1 ? ["Sum", "", "", "", "", amount(sum), ""] : null);
}
