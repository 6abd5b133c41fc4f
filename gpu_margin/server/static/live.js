// Calls, cures and liquidations as they come. EventSource cannot send a key; fetch can.
"use strict";

import { badge, byId, make } from "./dom.js";
import { count } from "./numbers.js";
import { headers, refusal } from "./server.js";

const MOST = 200, LONGEST = 30000;
const pending = [];
let last = null, painting = false, attempt = null;

function said(text, look = "") {
  byId("live-state").textContent = text;
  byId("live-state").className = `chip ${look}`;
}

function row(event, choose) {
  return make("tr", { class: "new", "data-kind": event.kind },
    make("td", {}, badge(event.kind)),
    make("td", { class: "id" }, make("button", { type: "button", class: "link", on: { click: () => choose(event.account_id) } }, event.account_id)),
    make("td", {}, event.model ?? ""), make("td", {}, event.before ?? "not known"),
    make("td", { class: "number" }, count(event.sequence)));
}

// At most once a frame, and no more than is shown: a mark of the whole book has thousands.
function paint(choose) {
  painting = false;
  const list = byId("live");
  list.prepend(...pending.splice(0).reverse().map((event) => row(event, choose)));
  while (list.children.length > MOST) list.lastChild.remove();
  byId("live-empty").hidden = list.children.length > 0;
}

function take(event, choose, heard) {
  pending.push(event);
  if (pending.length > MOST) pending.shift();
  heard(event);
  if (!painting) {
    painting = true;
    setTimeout(() => paint(choose), 50);
  }
}

// One event's lines: id, event, data; comments are heartbeats.
function parse(block, act) {
  const found = { data: [] };
  for (const line of block.split(/\r\n|\r|\n/)) {
    const at = line.indexOf(":");
    if (at <= 0) continue;
    const name = line.slice(0, at), value = line.slice(at + 1).replace(/^ /, "");
    if (name === "data") found.data.push(value);
    else found[name] = value;
  }
  if (found.id) last = found.id;
  if (found.data.length) act({ ...JSON.parse(found.data.join("\n")), kind: found.event });
}

async function read(response, act) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    blocks.forEach((block) => parse(block, act));
  }
}

// Listens until it is told to stop, coming back after each break with what it saw last.
export async function listen(after, choose, heard, refused) {
  attempt?.abort();
  const mine = (attempt = new AbortController());
  let pause = 1000;
  while (!mine.signal.aborted) {
    try {
      const more = { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) };
      const response = await fetch(`/v1/events?after=${after}`, { headers: headers(more), signal: mine.signal, cache: "no-store" });
      if (!response.ok) throw await refusal(response);
      said("connected", "good");
      pause = 1000;
      await read(response, (event) => take(event, choose, heard));
    } catch (error) {
      if (mine.signal.aborted) return;
      if (error.status === 401 || error.status === 403) {
        said("not allowed", "bad");
        refused(error);
        return;
      }
    }
    said("connecting again", "wait");
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(2 * pause, LONGEST);
  }
}

export function start() {
  byId("kinds").addEventListener("change", (event) => { byId("live").dataset.shown = event.target.value; });
}
