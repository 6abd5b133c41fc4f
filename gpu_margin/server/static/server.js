// Requests to this server, with the key where there is one; problems become errors.
"use strict";

const KEY = "gpu-margin-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `status ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

export function headers(more = {}) {
  const found = { Accept: "application/json", ...more };
  if (key.get()) found.Authorization = `Bearer ${key.get()}`;
  return found;
}

export async function refusal(response) {
  const text = await response.text();
  try {
    return new Refusal(response.status, JSON.parse(text));
  } catch {
    return new Refusal(response.status, { title: `Status ${response.status}`, detail: response.statusText });
  }
}

async function ask(path, options) {
  const response = await fetch(path, { cache: "no-store", ...options });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

export const get = (path, signal) => ask(path, { headers: headers(), signal });
export const post = (path, body) => ask(path, {
  method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body),
});
export async function ready() {
  const response = await fetch("/ready", { cache: "no-store" });
  return response.json();
}
