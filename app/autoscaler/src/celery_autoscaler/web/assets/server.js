// Talks to the supervisor.

import { find } from "./dom.js";

const headers = () => {
  const token = sessionStorage.getItem("token");
  return { "X-Celery-Fleet": "page", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
};

let asking = null;

/** Ask for the token once, however many requests miss it. */
function askForToken(title) {
  find("login-title").textContent = title;
  asking ??= new Promise((resolve) => {
    find("login-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem("token", find("token").value.trim());
      find("token").value = "";
      find("login").close();
      asking = null;
      resolve();
    };
    // Without any token nothing can be shown; without the one that acts, the page can still be read.
    find("login").oncancel = (event) => event.preventDefault();
    find("login").showModal();
  });
  return asking;
}

/** Send a request; ask for the token where one is needed. */
async function send(path, options = {}) {
  for (;;) {
    const response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
    const wants = response.headers.get("WWW-Authenticate") ?? "";
    if (response.status === 401) await askForToken("Enter the access token");
    else if (wants.includes("insufficient_scope")) await askForToken("This token may only read. Enter the one that may act");
    else return response;
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
    const parts = text.split("\n\n");
    text = parts.pop();
    const events = parts.filter((part) => part.startsWith("data: "));
    // After a pause only the last one counts.
    if (events.length) show(JSON.parse(events.at(-1).slice("data: ".length)));
  }
}
