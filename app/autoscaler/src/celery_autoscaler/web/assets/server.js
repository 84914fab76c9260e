// Talks to the supervisor.

import { find } from "./dom.js";

const headers = () => {
  const token = sessionStorage.getItem("token");
  return { "X-Celery-Fleet": "page", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
};

/** @type {Promise<void> | null} */
let asking = null;

/**
 * Ask for the token once, however many requests miss it.
 * @param {string} title
 */
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

/**
 * Send a request; ask for the token where one is needed.
 * @param {string} path
 * @param {RequestInit & { headers?: Record<string, string> }} options
 */
async function send(path, options = {}) {
  for (;;) {
    const sent = headers();
    const response = await fetch(path, { ...options, headers: { ...sent, ...options.headers } });
    const wants = response.headers.get("WWW-Authenticate") ?? "";
    if (response.status === 401) {
      const refused = "Authorization" in sent;
      await askForToken(refused ? "This token is not the supervisor's. Enter the access token" : "Enter the access token");
    }
    else if (wants.includes("insufficient_scope")) await askForToken("This token may only read. Enter the one that may act");
    else return response;
  }
}

/** @param {Response} response */
async function answer(response) {
  const found = await response.json();
  if (!response.ok) throw new Error(found.error ?? response.statusText);
  return found;
}

/**
 * @param {string} path
 * @returns {Promise<any>}
 */
export const ask = async (path) => answer(await send(path));

/**
 * Ask the supervisor for an action; return what was done, in words.
 * @param {string} action
 * @param {ActionRequest} what
 * @returns {Promise<string>}
 */
export async function act(action, what) {
  const by = find("name").value.trim();
  const body = JSON.stringify(by ? { ...what, by } : what);
  const options = { method: "POST", body, headers: { "Content-Type": "application/json" } };
  return (await answer(await send(`actions/${action}`, options))).done;
}

/**
 * Call a function with each snapshot until the connection ends.
 * @param {AbortSignal} signal
 * @param {(sent: Sent) => void} show
 */
export async function follow(signal, show) {
  const response = await send("events", { signal });
  if (!response.ok) await answer(response);
  const body = /** @type {ReadableStream<BufferSource>} */ (response.body);
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop() ?? "";
    // After a pause only the last one counts.
    const last = parts.filter((part) => part.startsWith("data: ")).at(-1);
    if (last) show(JSON.parse(last.slice("data: ".length)));
  }
}
