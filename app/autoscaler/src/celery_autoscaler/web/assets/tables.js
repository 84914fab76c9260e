// The tables: queues, failures, hosts and workers.

import { button, confirmed, request } from "./actions.js";
import { bytes, cells, find, make, rate, say, seconds, sync } from "./dom.js";

/** @param {Snapshot} seen */
export function showQueues(seen) {
  /** @param {Queue} queue */
  const target_wait = (queue) => seen.groups[queue.group]?.target_wait ?? 1;
  /** @param {Queue} queue */
  const oldest = (queue) => Math.max(0, ...queue.steps.map((step) => step.age)) / target_wait(queue);
  /**
   * @param {Step[]} steps
   * @param {"length" | "future"} name
   */
  const sum = (steps, name) => steps.reduce((total, step) => total + step[name], 0);
  /**
   * @param {Step[]} steps
   * @param {"in" | "out"} name
   */
  const flow = (steps, name) => (steps.some((step) => step[name] === null) ? null : steps.reduce((total, step) => total + (step[name] ?? 0), 0));
  const rows = [...seen.queues]
    .sort((a, b) => oldest(b) - oldest(a) || a.queue.localeCompare(b.queue))
    .flatMap((queue) => {
      const { steps, group } = queue;
      const whole = {
        queue: queue.queue, group, whole: true, step: "", target_wait: target_wait(queue),
        length: sum(steps, "length"), future: sum(steps, "future"), in: flow(steps, "in"), out: flow(steps, "out"),
        age: Math.max(0, ...steps.map((step) => step.age)),
      };
      // One step that is the first one is the queue itself.
      const parts = steps.some((step) => step.step) ? steps : [];
      return [whole, ...parts.map((step) => ({ ...step, queue: queue.queue, group, whole: false, target_wait: target_wait(queue) }))];
    });
  sync(find("queues"), rows, (row) => `${row.queue} ${row.step}`, () => make("tr"), (node, row) => {
    node.className = row.whole ? "" : "step";
    cells(node, [
      [row.whole ? row.queue : `priority step ${row.step}`, "name"], row.whole ? row.group : "",
      [row.length - row.future, "figure"], [row.future, "figure"], [rate(row.in), "figure"], [rate(row.out), "figure"],
      [seconds(row.age), row.age > row.target_wait ? "figure late" : "figure"],
    ]);
  });
}

/** @param {Snapshot} seen */
export function showFailures(seen) {
  const rows = Object.entries(seen.failures).sort(([, a], [, b]) => b - a);
  find("no-failures").hidden = rows.length > 0;
  tableOf("failures").hidden = !rows.length;
  sync(find("failures"), rows, ([name]) => name, () => make("tr"), (node, [name, count]) => {
    const ended = seen.ended[name];
    cells(node, [[name, "name"], [ended ? `${count} of ${ended}` : count, "figure"]]);
  });
}

/** @param {"failures" | "workers"} id */
const tableOf = (id) => /** @type {HTMLTableElement} */ (find(id).closest("table"));

/** @param {Snapshot} seen */
export function showHosts(seen) {
  const all = seen.hosts.filter((host) => host.state !== "leaving").reduce((sum, host) => sum + host.capacity, 0);
  sync(find("hosts"), seen.hosts, (host) => host.host, () => make("tr"), (node, host) => {
    const share = host.state === "leaving" ? 0 : host.capacity / all;
    cells(node, [
      [host.host, "name"], host.why ? `${host.state}: ${host.why}` : host.state,
      [`${Math.round(host.cpu)} % of ${+host.cpus.toFixed(1)}`, "figure"], [`${Math.round(host.memory)} %`, "figure"],
      [`${Math.round(100 * share)} %`, "figure"], [host.workers, "figure"], host.releases.join(", ") || "–",
      host.held_back.join("; ") || "–",
    ]);
  });
}

/** @param {Snapshot} seen */
export function showWorkers(seen) {
  find("no-workers").hidden = seen.workers.length > 0;
  tableOf("workers").hidden = !seen.workers.length;
  sync(find("workers"), seen.workers, (worker) => worker.name, newWorker, (node, worker) => {
    const running = worker.running.slice(0, 3).map((task) => `${task.task} for ${seconds(task.seconds)}`);
    const more = worker.active - running.length;
    cells(node, [
      [worker.name, "name"], worker.why ? `${worker.state} (${worker.why})` : worker.state,
      [running.join(", ") + (more > 0 && running.length ? ` and ${more} more` : "") || "–", "runs"],
      [worker.processed, "figure"], [worker.failed, worker.failed ? "figure late" : "figure"],
      [bytes(worker.memory), "figure"], worker.release || "–",
    ]);
    const drain = node.drain;
    if (!drain.isConnected) node.append(make("td", "last", [drain], { role: "cell" }));
    const drains = worker.state === "draining";
    drain.hidden = !drains && worker.state !== "ready";
    drain.undo = drains;
    say(drain, drains ? "Undo" : "Drain");
    drain.setAttribute("aria-label", `${drains ? "Cancel the drain of" : "Drain"} ${worker.name}`);
  });
}

/** @param {WorkerStatus} worker */
function newWorker({ name }) {
  const node = button("Drain", async () => {
    const { undo } = drain;
    if (undo || (await confirmed(`Drain ${name}? It finishes its tasks, fetches nothing new and stops.`, "Drain"))) {
      request("drain", { worker: name, undo });
    }
  });
  const drain = Object.assign(node, { undo: false });
  return Object.assign(make("tr"), { drain });
}
