// The kinds of failures: what tasks fail with, and where; looked at, and run again.

import { button, confirmed, notify, request, words } from "./actions.js";
import { clock, find, make, say, sync } from "./dom.js";
import { ask } from "./server.js";

// Time between two looks, while tasks fail.
const LOOK_SECONDS = 5;
let lookedAt = -Infinity;
/** The counts of failures at the last look. */
let counted = "";

/** @param {Snapshot} seen */
export async function showFailureKinds(seen) {
  const counts = JSON.stringify(seen.failures);
  if (counts === counted || performance.now() - lookedAt < 1000 * LOOK_SECONDS) return;
  lookedAt = performance.now();
  counted = counts;
  try {
    /** @type {FailureKind[]} */
    const kinds = await ask("failures");
    sync(find("failure-kinds"), kinds, (kind) => kind.kind, newKind, updateKind);
  } catch (error) {
    counted = "";
    notify(words(error));
  }
}

/** @typedef {HTMLLIElement & { heading: HTMLElement, facts: HTMLElement, trace: HTMLElement, kind: FailureKind }} KindItem */

/**
 * @param {FailureKind} kind
 * @returns {KindItem}
 */
function newKind(kind) {
  const heading = make("b");
  const facts = make("p", "quiet");
  const trace = make("pre", "", "", { tabindex: 0, role: "group", "aria-label": "Traceback" });
  trace.hidden = true;
  const view = button("View", () => {
    trace.hidden = !trace.hidden;
    view.setAttribute("aria-expanded", String(!trace.hidden));
  });
  view.setAttribute("aria-expanded", "false");
  const retry = button("Retry", async () => {
    const { task, exception } = node.kind;
    if (await confirmed(`Run the tasks ${task} again that failed with ${exception}?`, "Retry")) request("retry", { kind: node.kind.kind });
  });
  const item = make("li", "", [heading, facts, make("div", "tools", [view, retry]), trace]);
  const node = Object.assign(item, { heading, facts, trace, kind });
  return node;
}

/**
 * @param {KindItem} node
 * @param {FailureKind} kind
 */
function updateKind(node, kind) {
  const { example } = kind;
  node.kind = kind;
  say(node.heading, `${kind.task}: ${kind.exception}`);
  const release = kind.since_release ? `; since release ${kind.since_release}` : "";
  const place = kind.place ? ` at ${kind.place} in ${kind.function}` : "";
  say(node.facts, `${kind.count} ${kind.count === 1 ? "time" : "times"}, last ${clock(kind.last)}${place}${release}: ${example.text}`);
  const lines = [`${example.id} on ${example.worker}, ${example.retries} retries`, example.arguments, ...example.traceback.trimEnd().split("\n")];
  node.trace.replaceChildren(...lines.map((line) => make("div", "", line || " ")));
}
