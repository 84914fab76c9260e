// Talks to the supervisor.

import { find } from "./dom.js";

const headers = () => {
  const token = sessionStorage.getItem("token");
  return { "X-Celery-Fleet": "page", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
};

let asking = null;

/** Ask for the token once, however many requests miss it. */
function askForToken() {
  asking ??= new Promise((resolve) => {
    find("login-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem("token", find("token").value.trim());
      find("token").value = "";
      find("login").close();
      asking = null;
      resolve();
    };
    find("login").oncancel = (event) => event.preventDefault();
    find("login").showModal();
  });
  return asking;
}

/** Send a request; ask for the token where one is needed. */
async function send(path, options = {}) {
  for (;;) {
    const response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
    if (response.status !== 401) return response;
    await askForToken();
  }
}

async function answer(response) {
  const found = await response.json();
  if (!response.ok) throw new Error(found.error ?? response.statusText);
  return found;
}

export const ask = async (path) => answer(await send(path));

/** Tell the supervisor what is wanted; return what is so now, in words. */
export async function wish(action, what) {
  const by = find("name").value.trim();
  const body = JSON.stringify(by ? { ...what, by } : what);
  const options = { method: "POST", body, headers: { "Content-Type": "application/json" } };
  return (await answer(await send(`actions/${action}`, options))).done;
}

/** Call a function with each picture until the connection ends. */
export async function follow(signal, show) {
  const response = await send("events", { signal });
  if (!response.ok) await answer(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    // After a pause only the last one counts.
    if (events.length) show(JSON.parse(events.at(-1).slice("data: ".length)));
  }
}
