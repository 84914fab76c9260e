// What an operator asks the supervisor for: buttons, questions and the notice of what came of it.

import { find, make, say } from "./dom.js";
import { act } from "./server.js";

/** @param {unknown} error */
export const words = (error) => (error instanceof Error ? error.message : String(error));

/**
 * Ask the supervisor for an action, and show what came of it.
 * @param {string} action
 * @param {ActionRequest} what
 */
export async function request(action, what) {
  try {
    notify(await act(action, what));
  } catch (error) {
    notify(words(error));
  }
}

/** The timer that clears the last notice. */
let silence = 0;

/** @param {string} text */
export function notify(text) {
  say(find("said"), text);
  clearTimeout(silence);
  silence = setTimeout(() => say(find("said"), ""), 6000);
}

/**
 * Ask a question; return whether the answer is yes.
 * @param {string} question
 * @param {string} yes
 * @returns {Promise<boolean>}
 */
export function confirmed(question, yes, risky = false) {
  const dialog = find("ask");
  say(find("question"), question);
  say(find("yes"), yes);
  find("yes").className = risky ? "risky" : "";
  return new Promise((resolve) => {
    /** @param {boolean} agreed */
    const end = (agreed) => {
      dialog.close();
      resolve(agreed);
    };
    find("yes").onclick = () => end(true);
    find("no").onclick = () => end(false);
    dialog.oncancel = () => resolve(false);
    dialog.showModal();
    find("no").focus();
  });
}

/**
 * @param {string} text
 * @param {(node: HTMLButtonElement) => void} onClick
 */
export function button(text, onClick, className = "") {
  const node = make("button", className, text, { type: "button" });
  node.onclick = () => onClick(node);
  return node;
}
