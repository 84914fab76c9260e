// The dead letters of each queue: looked at, retried, deleted.

import { button, confirmed, notify, request, words } from "./actions.js";
import { cells, find, make, say, sync } from "./dom.js";
import { ask } from "./server.js";

/**
 * The queues whose dead letters are listed.
 * @type {Map<string, QueueItem>}
 */
const opened = new Map();

/** @param {Snapshot} seen */
export function showDeadLetters(seen) {
  const queues = Object.entries(seen.dead_letters);
  find("no-dead-letters").hidden = queues.length > 0;
  sync(find("dead-letters"), queues, ([queue]) => queue, newQueue, (node, [queue, count]) => {
    say(node.heading, `${queue}: ${count} ${count === 1 ? "message" : "messages"}`);
    if (node.count !== count && opened.has(queue)) showContents(node, queue);
    node.count = count;
  });
}

/** @typedef {HTMLLIElement & { heading: HTMLElement, table: HTMLTableSectionElement, count: number }} QueueItem */

/**
 * @param {[string, number]} entry
 * @returns {QueueItem}
 */
function newQueue([queue]) {
  const table = make("tbody");
  const heading = make("b");
  const item = make("li", "", [
    heading,
    make("div", "tools", [
      button("View", () => (opened.has(queue) ? hideContents(node, queue) : showContents(node, queue))),
      button("Retry", async () => {
        if (await confirmed(`Retry the ${node.count} dead letters of ${queue}?`, "Retry")) request("replay", { queue });
      }),
      button("Delete", async () => {
        const first = await confirmed(`Delete the ${node.count} dead letters of ${queue}?`, "Delete", true);
        if (first && (await confirmed(`They cannot be brought back. Delete all dead letters of ${queue} for good?`, "Delete for good", true))) {
          request("purge", { queue });
        }
      }, "risky"),
    ]),
    make("div", "wide", [make("table", "", [table])]),
  ]);
  const node = Object.assign(item, { heading, table, count: 0 });
  return node;
}

/**
 * @param {QueueItem} node
 * @param {string} queue
 */
async function showContents(node, queue) {
  opened.set(queue, node);
  try {
    /** @type {DeadLetter[]} */
    const found = await ask(`dead-letters?queue=${encodeURIComponent(queue)}`);
    node.table.replaceChildren();
    for (const letter of found) {
      cells(node.table.insertRow(), [letter.when.replace("T", " ").slice(0, 19), `${letter.task} ${letter.arguments}`, letter.worker, letter.reason]);
    }
  } catch (error) {
    notify(words(error));
  }
}

/**
 * @param {QueueItem} node
 * @param {string} queue
 */
function hideContents(node, queue) {
  opened.delete(queue);
  node.table.replaceChildren();
}
