// Waterfalls and pairs of bars, as SVG drawn here.
"use strict";

import { draw, make } from "./dom.js";
import { amounts } from "./numbers.js";

const ROW = 30, BAR = 18;

// Draws at the width that there is, and again when that changes: texts keep their size.
function responsive(said, paint) {
  const box = make("div", { class: "chart" });
  let drawn = 0;
  const again = () => {
    const width = Math.max(260, Math.floor(box.clientWidth));
    if (!box.clientWidth || width === drawn) return;
    drawn = width;
    const { height, parts } = paint(width);
    box.replaceChildren(draw("svg",
      { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": said }, ...parts));
  };
  new ResizeObserver(again).observe(box);
  return box;
}

function frame(width, labels, figures, low, high) {
  const letters = (texts) => Math.max(0, ...texts.map((text) => text.length));
  const left = Math.min(Math.max(80, 7.2 * letters(labels) + 12), 0.4 * width);
  const right = width - 8.2 * letters(figures) - 14;
  const span = high - low || 1;
  return { left, right, at: (value) => left + ((value - low) / span) * (right - left) };
}

function cut(text, pixels) {
  const most = Math.max(4, Math.floor(pixels / 7));
  return text.length > most ? `${text.slice(0, most - 1)}\u2026` : text;
}

// Steps {label, value, look, total}: each starts where the last one ended, a total at zero.
export function waterfall(title, steps) {
  let end = 0;
  const bars = steps.map((step) => {
    const from = step.total ? 0 : end;
    end = step.total ? step.value : end + step.value;
    return { ...step, from, to: end };
  });
  const shown = amounts(steps.map((step) => step.shown ?? step.value));
  const low = Math.min(0, ...bars.map((bar) => bar.to)), high = Math.max(0, ...bars.map((bar) => bar.to));
  const said = `${title}: ${steps.map((step, place) => `${step.label} ${shown[place]}`).join(", ")}`;
  return responsive(said, (width) => {
    const { left, at } = frame(width, steps.map((step) => step.label), shown, low, high);
    const parts = [draw("line", { class: "axis", x1: at(0), x2: at(0), y1: 0, y2: bars.length * ROW })];
    bars.forEach((bar, place) => {
      const top = place * ROW + (ROW - BAR) / 2, middle = place * ROW + ROW / 2 + 4.5;
      const x = Math.min(at(bar.from), at(bar.to));
      const whole = bar.total ? "total" : null;
      parts.push(
        draw("rect", { class: bar.look, x, y: top, width: Math.max(1.5, Math.abs(at(bar.to) - at(bar.from))), height: BAR, rx: 2 }),
        draw("text", { x: 0, y: middle, class: whole }, cut(bar.label, left), draw("title", {}, bar.label)),
        draw("text", { x: width, y: middle, "text-anchor": "end", class: whole }, shown[place]));
      if (place + 1 < bars.length) {
        parts.push(draw("line", { class: "join", x1: at(bar.to), x2: at(bar.to), y1: top + BAR, y2: top + ROW }));
      }
    });
    return { height: bars.length * ROW, parts };
  });
}

// Before and after on one scale, and a mark where collateral stands.
export function beforeAfter(title, before, after, collateral) {
  const values = [before, after, collateral].filter((value) => Number.isFinite(value));
  const [first, second] = amounts([before, after]);
  const high = Math.max(0, ...values), low = Math.min(0, ...values);
  return responsive(`${title}: before ${first}, after ${second}`, (width) => {
    const { at } = frame(width, ["before"], [first, second], low, high);
    const parts = [draw("line", { class: "axis", x1: at(0), x2: at(0), y1: 0, y2: 2 * ROW })];
    [["before", before, first], ["after", after, second]].forEach(([name, value, shown], place) => {
      const top = place * ROW + (ROW - BAR) / 2, middle = place * ROW + ROW / 2 + 4.5;
      if (Number.isFinite(value)) {
        parts.push(draw("rect", { class: name, x: Math.min(at(0), at(value)), y: top, height: BAR, rx: 2, width: Math.max(1.5, Math.abs(at(value) - at(0))) }));
      }
      parts.push(draw("text", { x: 0, y: middle }, name),
        draw("text", { x: width, y: middle, "text-anchor": "end" }, shown));
    });
    if (Number.isFinite(collateral)) {
      const x = at(collateral), near = x > width / 2 ? "end" : "start";
      parts.push(draw("line", { class: "mark", x1: x, x2: x, y1: 0, y2: 2 * ROW }),
        draw("text", { class: "soft", x, y: 2 * ROW + 14, "text-anchor": near }, "collateral"));
    }
    return { height: 2 * ROW + 18, parts };
  });
}
