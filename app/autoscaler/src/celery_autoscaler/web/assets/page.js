// The page of a supervisor of Celery Fleet: shows each picture that the supervisor sends.

import { Charts, decisionKey, headline, reasons, sentence } from "./charts.js";
import { asText, bytes, cells, clock, find, make, rate, say, seconds, sync } from "./dom.js";
import { ask, follow, wish } from "./server.js";

// Seconds without a picture after which what is shown counts for nothing.
const STALE = 5;
// Seconds between two looks at the records, and before the next try to connect.
const RELOAD = 300;
const RETRY = 2;
// Decisions that the list shows.
const LISTED = 50;
// Workers that a group may have.
const MOST = 10000;

/** @type {Map<string, Charts>} */
const charts = new Map();
/** @type {Map<string, Letters>} */
const letters = new Map();
/** @type {Decision[]} */
let decisions = [];
/**
 * What is shown, as far as anything was ever sent.
 * @type {Sent | null}
 */
let picture = null;
let pictureAt = 0;
let failure = "";

/** @type {Record<string, number>} */
const RANGES = { "15m": 900, "1h": 3600, "6h": 6 * 3600, "24h": 24 * 3600 };
const range = () => RANGES[find("range").value];

/** @param {unknown} error */
const words = (error) => (error instanceof Error ? error.message : String(error));

// --- What operators want -----------------------------------------------------------------------------

/**
 * Tell the supervisor what is wanted, and say what came of it.
 * @param {string} action
 * @param {Wish} what
 */
async function want(action, what) {
  try {
    tell(await wish(action, what));
  } catch (error) {
    tell(words(error));
  }
}

let silence = 0;

/** @param {string} text */
function tell(text) {
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
function sure(question, yes, risky = false) {
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
 * @param {(node: HTMLButtonElement) => void} act
 */
function button(text, act, className = "") {
  const node = make("button", className, text, { type: "button" });
  node.onclick = () => act(node);
  return node;
}

// --- The picture -------------------------------------------------------------------------------------

/** @param {Sent} sent */
function show(sent) {
  pictureAt = performance.now();
  failure = "";
  // The history could not be read either.
  if (picture?.verdict === "blind" && sent.verdict !== "blind" && charts.size) load();
  // What was shown before stays, dimmed, with the time that it is of.
  const found =
    sent.verdict === "blind" && picture ? { ...picture, ...sent, as_of: sent.as_of ?? picture.as_of } : sent;
  picture = found;
  showLine();
  if (!hasContents(found)) return;
  remember(found.decisions ?? []);
  showGroups(found);
  showQueues(found);
  showFailures(found);
  showLetters(found);
  showHosts(found);
  showWorkers(found);
  sync(find("decisions"), decisions.slice(0, LISTED), decisionKey, newDecision, () => {});
  say(find("source"), `Source: ${found.host}, updated every ${seconds(found.hosts[0]?.tick?.every ?? 1)}`);
}

/**
 * Return whether more than a verdict was sent.
 * @param {Sent | null} sent
 * @returns {sent is Picture}
 */
const hasContents = (sent) => Boolean(sent?.groups);

/** Say whether it keeps up, which queue is the slowest, and what was done last. */
function showLine() {
  const silent = (performance.now() - pictureAt) / 1000;
  const fresh = picture && silent <= STALE ? picture : null;
  const verdict = fresh ? fresh.verdict : picture || failure ? "blind" : "";
  const since = picture ? `; last answer ${seconds(silent)} ago` : "";
  const why = fresh ? fresh.why : picture || failure ? `the supervisor does not answer${failure && `: ${failure}`}${since}` : "";
  say(find("verdict"), verdict ? verdict[0].toUpperCase() + verdict.slice(1) : "Connecting");
  find("verdict").dataset.verdict = verdict;
  say(find("why"), why);
  document.title = verdict ? `${verdict}: Celery Fleet` : "Celery Fleet";
  const old = verdict === "blind";
  document.body.classList.toggle("stale", old);
  const of = hasContents(picture) && old ? picture.as_of : null;
  say(find("as-of"), picture && of ? `Shown below: as of ${clock(of)}, ${seconds(Math.max(0, picture.at - of) + silent)} ago` : "");
  sync(find("also"), old ? [] : picture?.also ?? [], (one) => one.why, () => make("li"), (node, one) => {
    node.dataset.verdict = one.word;
    say(node, `${one.word}: ${one.why}`);
  });
  if (!hasContents(picture)) return;
  const { groups } = picture;
  find("pause").hidden = picture.paused.includes("*");
  find("resume").hidden = !picture.paused.length;
  const slow = picture.queues
    .flatMap((queue) => queue.steps.map((step) => ({ ...queue, ...step, target_wait: groups[queue.group]?.target_wait ?? 1 })))
    .filter((step) => step.length > step.future)
    .sort((a, b) => b.age / b.target_wait - a.age / a.target_wait)[0];
  say(find("slowest"), slow
    ? `${stepName(slow)} (group ${slow.group}): oldest ${seconds(slow.age)}, target wait ${seconds(slow.target_wait)}`
    : "no queue has waiting tasks");
  find("slowest").className = slow && slow.age > slow.target_wait ? "late" : "";
  const last = picture.last_change;
  say(find("change-term"), last ? `Last change, ${seconds(Math.max(0, picture.at - last.at))} ago` : "Last change");
  if (!last) say(find("change"), last === null ? "no worker started or stopped yet" : "–");
  else if (find("change").textContent !== asText(sentence(last)))
    find("change").replaceChildren(make("strong", "", headline(last)), make("small", "", `: ${reasons(last)}`));
}

/** @param {{ queue: string, step: number }} step */
const stepName = ({ queue, step }) => (step ? `${queue}, priority step ${step}` : queue);

/** @param {Decision[]} found */
function remember(found) {
  const known = new Set(decisions.map(decisionKey));
  const fresh = found.filter((one) => !known.has(decisionKey(one)));
  if (!fresh.length) return;
  decisions = [...fresh, ...decisions].sort((a, b) => b.at - a.at).slice(0, 1000);
  tellCharts();
}

/** The charts show what moved something, and what operators wanted. */
function tellCharts() {
  const shown = decisions.filter((one) => one.here || one.by || one.emergency);
  for (const chart of charts.values()) chart.tell(shown);
}

/** @param {Decision} one */
function newDecision(one) {
  return make("li", "", [make("time", "", clock(one.at)), ` ${sentence(one)}`]);
}

/** @param {Picture} seen */
function showGroups(seen) {
  sync(find("groups"), Object.entries(seen.groups), ([name]) => name, newGroup, (node, [name, group]) => {
    showGroup(node, name, group, seen);
  });
}

/** @param {[string, Group]} entry */
function newGroup([name]) {
  const node = make("article");
  const title = make("h2", "", name);
  const chips = make("span");
  const pause = button("Pause", (it) => want(it.dataset.does ?? "", { group: name }));
  const reason = make("p", "reason");
  const chart = new Charts(name);
  charts.set(name, chart);
  const low = make("input", "", "", { type: "number", min: 0, max: MOST, "aria-label": `Minimum of ${name}`, required: "" });
  const high = make("input", "", "", { type: "number", min: 1, max: MOST, "aria-label": `Maximum of ${name}`, required: "" });
  const form = make("form", "bounds", [
    "Workers from", low, "to", high, make("button", "", "Set", { type: "submit" }),
    button("Reset to settings", () => want("scale", { group: name })),
  ]);
  form.onsubmit = (event) => {
    event.preventDefault();
    want("scale", { group: name, min_workers: low.valueAsNumber, max_workers: high.valueAsNumber });
  };
  const details = make("details", "", [make("summary", "", "Change bounds"), form]);
  details.ontoggle = () => {
    const group = picture?.groups?.[name];
    if (details.open && group) [low.value, high.value] = [String(group.min_workers), String(group.max_workers)];
  };
  node.append(make("div", "head", [title, chips, pause]), reason, chart.node, details);
  queueMicrotask(() => load());
  return Object.assign(node, { parts: { chips, pause, reason, chart } });
}

/**
 * @param {ReturnType<typeof newGroup>} node
 * @param {string} name
 * @param {Group} group
 * @param {Picture} seen
 */
function showGroup(node, name, group, seen) {
  const { chips, pause, reason, chart } = node.parts;
  const paused = group.limit === "paused";
  const late = group.age > group.target_wait;
  const none = !group.ready && !group.starting && group.min_workers > 0;
  const state = paused ? "paused" : none ? "no workers" : late ? "falling behind" : "";
  say(chips, [state, paused ? "" : group.limited].filter(Boolean).join(", ") || "keeping up");
  chips.className = `chip ${paused ? "paused" : late || none ? "late" : ""}`;
  const own = seen.paused.includes(name);
  pause.dataset.does = own ? "resume" : "pause";
  pause.disabled = seen.paused.includes("*");
  say(pause, own ? "Resume" : "Pause");
  pause.setAttribute("aria-label", `${own ? "Resume" : "Pause"} ${name}`);
  say(reason, group.reason + (group.held_back ? `; held back: ${group.held_back}` : ""));
  // What was seen before is no point of now.
  if (seen.verdict !== "blind") chart.add(seen.at, group);
}

/** @param {Picture} seen */
function showQueues(seen) {
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

/** @param {Picture} seen */
function showFailures(seen) {
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

/** @param {Picture} seen */
function showLetters(seen) {
  const queues = Object.entries(seen.dead_letters);
  find("no-letters").hidden = queues.length > 0;
  sync(find("letters"), queues, ([queue]) => queue, newLetters, (node, [queue, count]) => {
    say(node.heading, `${queue}: ${count} ${count === 1 ? "message" : "messages"}`);
    if (node.count !== count && letters.has(queue)) showContents(node, queue);
    node.count = count;
  });
}

/** @typedef {HTMLLIElement & { heading: HTMLElement, table: HTMLTableSectionElement, count: number }} Letters */

/**
 * @param {[string, number]} entry
 * @returns {Letters}
 */
function newLetters([queue]) {
  const table = make("tbody");
  const heading = make("b");
  const item = make("li", "", [
    heading,
    make("div", "tools", [
      button("Look", () => (letters.has(queue) ? hideContents(node, queue) : showContents(node, queue))),
      button("Retry", async () => {
        if (await sure(`Retry the ${node.count} dead letters of ${queue}?`, "Retry")) want("replay", { queue });
      }),
      button("Delete", async () => {
        const first = await sure(`Delete the ${node.count} dead letters of ${queue}?`, "Delete", true);
        if (first && (await sure(`They cannot be brought back. Delete all dead letters of ${queue} for good?`, "Delete for good", true))) {
          want("purge", { queue });
        }
      }, "risky"),
    ]),
    make("div", "wide", [make("table", "", [table])]),
  ]);
  const node = Object.assign(item, { heading, table, count: 0 });
  return node;
}

/**
 * @param {Letters} node
 * @param {string} queue
 */
async function showContents(node, queue) {
  letters.set(queue, node);
  try {
    /** @type {Letter[]} */
    const found = await ask(`letters?queue=${encodeURIComponent(queue)}`);
    node.table.replaceChildren();
    for (const letter of found) {
      cells(node.table.insertRow(), [letter.when.replace("T", " ").slice(0, 19), `${letter.task} ${letter.arguments}`, letter.worker, letter.reason]);
    }
  } catch (error) {
    tell(words(error));
  }
}

/**
 * @param {Letters} node
 * @param {string} queue
 */
function hideContents(node, queue) {
  letters.delete(queue);
  node.table.replaceChildren();
}

/** @param {Picture} seen */
function showHosts(seen) {
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

/** @param {Picture} seen */
function showWorkers(seen) {
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
    const act = node.drain;
    if (!act.isConnected) node.append(make("td", "last", [act], { role: "cell" }));
    const drains = worker.state === "draining";
    act.hidden = !drains && worker.state !== "ready";
    act.undo = drains;
    say(act, drains ? "Undo" : "Drain");
    act.setAttribute("aria-label", `${drains ? "Cancel the drain of" : "Drain"} ${worker.name}`);
  });
}

/** @param {WorkerStatus} worker */
function newWorker({ name }) {
  const node = button("Drain", async () => {
    const { undo } = drain;
    if (undo || (await sure(`Drain ${name}? It finishes its tasks, fetches nothing new and stops.`, "Drain"))) {
      want("drain", { worker: name, undo });
    }
  });
  const drain = Object.assign(node, { undo: false });
  return Object.assign(make("tr"), { drain });
}

// --- The records and the connection ------------------------------------------------------------------

/** @type {Promise<void> | null} */
let loading = null;

/** Read the records for the charts. */
function load() {
  loading ??= (async () => {
    try {
      /** @type {Records} */
      const found = await ask(`history?range=${find("range").value}`);
      for (const [name, chart] of charts) chart.load(found.groups[name], range());
      remember(found.decisions);
      tellCharts();
    } catch (error) {
      tell(words(error));
    }
    loading = null;
  })();
  return loading;
}

async function connect() {
  for (;;) {
    const control = new AbortController();
    const hide = () => document.hidden && control.abort();
    document.addEventListener("visibilitychange", hide);
    try {
      await follow(control.signal, show);
      failure = "the connection has ended";
    } catch (error) {
      failure = words(error);
    }
    document.removeEventListener("visibilitychange", hide);
    // A page that nobody sees costs nothing.
    while (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    if (!control.signal.aborted) await new Promise((resolve) => setTimeout(resolve, 1000 * RETRY));
    if (charts.size) load();
  }
}

find("pause").onclick = async () => {
  if (await sure("Pause all groups? No worker is started or stopped until you resume.", "Pause all")) want("pause", {});
};
find("resume").onclick = () => want("resume", {});
find("range").onchange = load;
find("name").value = localStorage.getItem("name") ?? "";
find("name").onchange = () => localStorage.setItem("name", find("name").value.trim());
setInterval(showLine, 1000);
setInterval(() => charts.size && !document.hidden && load(), 1000 * RELOAD);
connect();
