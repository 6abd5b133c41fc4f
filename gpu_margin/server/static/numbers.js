// Numbers as people read them: thousands apart, decimals alike where they stand together.
"use strict";

const known = (value) => typeof value === "number" && Number.isFinite(value);

function decimals(values) {
  const largest = Math.max(0, ...values.filter(known).map(Math.abs));
  return largest >= 10000 ? 0 : largest >= 1 || largest === 0 ? 2 : 8;
}

const texts = new Map();
function format(places) {
  if (!texts.has(places)) {
    texts.set(places, new Intl.NumberFormat("en-US",
      { minimumFractionDigits: places, maximumFractionDigits: places, signDisplay: "negative" }));
  }
  return texts.get(places);
}

const minus = (text) => text.replace("-", "\u2212");

export function amounts(values, signed = false) {
  const shown = format(decimals(values));
  return values.map((value) => !known(value) ? "\u2013"
    : (signed && value > 0 ? "+" : "") + minus(shown.format(value)));
}

// Contracts: whole ones without decimals.
export const contracts = (values) => values.every((value) => !known(value) || Number.isInteger(value))
  ? values.map((value) => count(value)) : amounts(values);

export const amount = (value, signed = false) => amounts([value], signed)[0];
export const count = (value) => known(value) ? minus(value.toLocaleString("en-US")) : "\u2013";
export const share = (value) => known(value) ? minus((100 * value).toFixed(1)) + "%" : "\u2013";
export const words = (name) => {
  const text = String(name).replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
};
export const seconds = (value) => !known(value) ? "\u2013" : value < 120 ? `${Math.round(value)} s`
  : value < 7200 ? `${Math.round(value / 60)} min` : `${Math.round(value / 3600)} h`;

// What was typed: 1,000 or -25 (with either minus); null where it is no number.
export function typed(text) {
  const plain = text.replace(/[,\s\u00a0\u202f]/g, "").replace("\u2212", "-");
  if (plain === "" || !/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(plain)) return null;
  const value = Number(plain);
  return Number.isFinite(value) && Math.abs(value) <= 1e30 ? value : null;
}
