// The search for an account: a combobox that lists ids by their first letters.
"use strict";

import { byId, make } from "./dom.js";
import { get } from "./server.js";

export function start(choose, refuse) {
  const input = byId("search"), list = byId("found");
  let asking = null, waiting = 0, marked = -1;

  const options = () => [...list.querySelectorAll('[role="option"]')];
  const close = () => {
    list.hidden = true;
    marked = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const take = (account) => {
    clearTimeout(waiting);
    asking?.abort();
    input.value = account;
    close();
    choose(account);
  };
  const mark = (place) => {
    const all = options();
    if (!all.length) return;
    marked = (place + all.length) % all.length;
    all.forEach((one, at) => one.setAttribute("aria-selected", String(at === marked)));
    all[marked].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", all[marked].id);
  };
  const open = (accounts) => {
    list.replaceChildren(...(accounts.length ? accounts.map((account, at) => make("li", {
      role: "option", id: `found-${at}`, "aria-selected": "false",
      on: { mousedown: (event) => { event.preventDefault(); take(account); } } }, account))
      : [make("li", { class: "none" }, "No account starts like this.")]));
    list.hidden = false;
    marked = -1;
    input.setAttribute("aria-expanded", "true");
  };
  const ask = async () => {
    asking?.abort();
    asking = new AbortController();
    const query = new URLSearchParams({ prefix: input.value.trim(), limit: "12" });
    try {
      open((await get(`/v1/accounts?${query}`, asking.signal)).accounts);
    } catch (error) {
      if (error.name !== "AbortError") refuse(error);
    }
  };

  // What was found for other letters is not to be chosen from.
  input.addEventListener("input", () => { clearTimeout(waiting); asking?.abort(); close(); waiting = setTimeout(ask, 120); });
  input.addEventListener("focus", () => { if (input.value.trim() === "") ask(); });
  input.addEventListener("blur", () => { clearTimeout(waiting); asking?.abort(); close(); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      clearTimeout(waiting);
      if (list.hidden) ask();
      else mark(event.key === "ArrowDown" ? marked + 1 : marked < 0 ? -1 : marked - 1);
    } else if (event.key === "Escape") close();
    else if (event.key === "Enter") {
      event.preventDefault();
      const chosen = options()[marked]?.textContent ?? input.value.trim();
      if (chosen) take(chosen);
    }
  });
}
