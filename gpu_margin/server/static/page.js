// The page: what the server says of itself, the book at a glance, and the parts put together.
"use strict";

import * as account from "./account.js";
import { byId, facts, make, problem, show } from "./dom.js";
import * as live from "./live.js";
import { amount, count, seconds, words } from "./numbers.js";
import * as search from "./search.js";
import { get, key, ready } from "./server.js";
import * as whatif from "./whatif.js";

const EVERY = 2000, BACK = 200, AGAIN = 5000;
const state = { listening: false, refused: false, looking: false, down: false, sequence: null, refreshed: 0 };

function refuse(error) {
  if (error.status === 401) {
    state.refused = true;
    askKey(key.get() ? "The server does not know this key, or it is no longer valid." : null);
    if (!key.get()) return;
  }
  show(byId("problem"), ...problem(error));
}

function choose(id) {
  const hash = `#account=${encodeURIComponent(id)}`;
  if (location.hash !== hash) history.pushState(null, "", hash);
  byId("search").value = id;
  show(byId("problem"));
  account.open(id);
}

function fromAddress() {
  const found = /^#account=(.+)$/.exec(location.hash);
  if (!found) return;
  try {
    const id = decodeURIComponent(found[1]);
    byId("search").value = id;
    account.open(id);
  } catch { /* no id that this page wrote */ }
}

// ---------------------------------------------------------------- the server's state

const chip = (text, look = "") => make("li", { class: `chip ${look}` }, text);

function waiting(found) {
  const { stage, done, total } = found.progress ?? {};
  const far = total > 0 ? ` ${Math.floor((100 * done) / total)}%` : "";
  byId("state").replaceChildren(chip(stage ? `loading: ${stage}${far}` : "loading", "wait"));
}

function summarised(found) {
  const queued = Object.values(found.queues ?? {}).reduce((sum, depth) => sum + depth, 0);
  const faults = found.faults ?? [];
  byId("state").replaceChildren(
    chip("ready", "good"), chip(`state ${count(found.state_seq)}`),
    chip(found.backend ?? "no backend"),
    queued ? chip(`${count(queued)} waiting`, queued > 1000 ? "wait" : "") : "",
    found.stale_marks ? chip("stale marks", "bad") : "",
    faults.length ? chip(`${count(faults.length)} backend ${faults.length > 1 ? "faults" : "fault"}`, "bad") : "");
  const age = Number.isFinite(found.mark_age_seconds) ? ` The oldest is ${seconds(found.mark_age_seconds)} old.` : "";
  byId("stale").hidden = !found.stale_marks;
  byId("stale").textContent = found.stale_marks
    ? `Stale marks: prices are older than allowed; figures rest on them and the order gate refuses.${age}` : "";
  byId("book").replaceChildren(...overview(found));
}

function overview(found) {
  const fault = (found.faults ?? []).at(-1);
  return [
    facts([["Accounts", count(found.accounts)], ["Mark age", seconds(found.mark_age_seconds), found.stale_marks ? "red" : ""],
      ["Positions", count(found.positions)],
      ["Snapshot", found.snapshot ? `state ${count(found.snapshot.state_seq)}` : "none"]]),
    found.device ? make("p", { class: "caption" }, `Computed on: ${found.device}.`) : "",
    fault ? make("p", { class: "warning" }, `Backend ${fault.backend} failed (${fault.error}); ${fault.next ?? "nothing"} goes on.`) : "",
    make("div", { class: "models" }, ...Object.entries(found.models ?? {}).map(([name, model]) => make("div", { class: "model" }, make("h3", {}, name),
      facts([[`Requirement${found.currency ? `, ${found.currency}` : ""}`, amount(model.initial ?? model.requirement)],
        ["Collateral", amount(model.collateral_value)], ["Calls", amount(model.call), model.call > 0 ? "red" : ""]]),
      make("p", { class: "statuses" }, ...["ok", "call", "liquidation", "unknown"]
        .filter((status) => model.statuses?.[status] > 0)
        .map((status) => make("span", { class: `badge ${status}` }, `${count(model.statuses[status])} ${status}`)))))),
  ];
}

async function look() {
  if (state.refused || state.looking || document.hidden) return;
  state.looking = true;
  try {
    const found = await ready();
    if (!found.ready) return waiting(found);
    const summary = await get("/v1/summary");
    if (state.down) show(byId("problem"));
    state.down = false;
    summarised(summary);
    if (!state.listening) {
      state.listening = true;
      live.listen(Math.max(0, summary.state_seq - BACK), choose, heard, refuse);
      fromAddress();
    }
    refresh(summary.state_seq);
  } catch (error) {
    state.down = true;
    byId("state").replaceChildren(chip(error.status === 401 ? "a key is needed" : error.status === 403 ? "not allowed" : "no answer", "bad"));
    refuse(error);
  } finally {
    state.looking = false;
  }
}

// What is shown follows the book, but not at every fill.
function refresh(sequence) {
  const now = performance.now();
  if (sequence === state.sequence || now - state.refreshed < AGAIN) return;
  const known = state.sequence !== null;
  Object.assign(state, { sequence, refreshed: now });
  const shown = account.current();
  if (known && shown.account !== null && shown.figures) account.open(shown.account, true);
}

function heard(event) {
  if (event.account_id === account.current().account) state.sequence = -1;
}

// ---------------------------------------------------------------- the key

function askKey(why = null) {
  if (why) byId("key-why").textContent = why;
  if (!byId("ask-key").open) byId("ask-key").showModal();
}

function useKey(text) {
  key.set(text);
  byId("key-text").value = "";
  byId("ask-key").close();
  Object.assign(state, { listening: false, refused: false, looking: false });
  show(byId("problem"));
  look();
}

byId("key").addEventListener("click", () => askKey());
byId("key-form").addEventListener("submit", (event) => { event.preventDefault(); useKey(byId("key-text").value.trim()); });
byId("key-forget").addEventListener("click", () => useKey(""));
byId("key-cancel").addEventListener("click", () => byId("ask-key").close());
window.addEventListener("popstate", fromAddress);
document.addEventListener("visibilitychange", look);
search.start(choose, refuse);
whatif.start();
live.start();
look();
setInterval(look, EVERY);
