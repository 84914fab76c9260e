// The page of a supervisor of Celery Fleet: shows each snapshot that the supervisor sends.

import { confirmed, request, words } from "./actions.js";
import { headline, reasons, sentence } from "./charts.js";
import { showDeadLetters } from "./dead_letters.js";
import { asText, clock, find, make, say, seconds, sync } from "./dom.js";
import { showFailureKinds } from "./failures.js";
import { hasCharts, load, remember, showDecisions, showGroups } from "./groups.js";
import { follow } from "./server.js";
import { showFailures, showHosts, showQueues, showWorkers } from "./tables.js";

// Time without a snapshot after which what is shown is out of date.
const STALE_SECONDS = 5;
// Time between two looks at the records, and before the next try to connect.
const RELOAD_SECONDS = 300;
const RETRY_SECONDS = 2;

/**
 * What is shown, as far as anything was ever sent.
 * @type {Sent | null}
 */
let snapshot = null;
let snapshotAt = 0;
let failure = "";

// --- The snapshot ------------------------------------------------------------------------------------

/** @param {Sent} sent */
function show(sent) {
  snapshotAt = performance.now();
  failure = "";
  // The history could not be read either.
  if (snapshot?.verdict === "blind" && sent.verdict !== "blind" && hasCharts()) load();
  // What was shown before stays, dimmed, with the time that it is of.
  const found =
    sent.verdict === "blind" && snapshot ? { ...snapshot, ...sent, as_of: sent.as_of ?? snapshot.as_of } : sent;
  snapshot = found;
  showProjects(found);
  showLine();
  if (!hasContents(found)) return;
  remember(found.decisions ?? []);
  showGroups(found);
  showQueues(found);
  showFailures(found);
  showFailureKinds(found);
  showDeadLetters(found);
  showHosts(found);
  showWorkers(found);
  showDecisions();
  say(find("source"), `Source: ${found.host}, updated every ${seconds(found.hosts[0]?.tick?.every ?? 1)}`);
}

/**
 * Lead to the pages of the other projects of this host.
 * @param {Sent} sent
 */
function showProjects({ project, pages }) {
  const names = Object.keys(pages).length ? [project, ...Object.keys(pages)].sort() : [];
  sync(find("projects"), names, (name) => name, () => make("a"), (node, name) => {
    say(node, name);
    const there = name === project ? "" : address(pages[name]);
    if (there) node.href = there;
    else node.removeAttribute("href");
    if (name === project) node.setAttribute("aria-current", "page");
  });
}

/**
 * Return the address of a page on the host that served this one; none for a socket.
 * @param {string} served
 */
function address(served) {
  const found = served.match(/^(.+):(\d+)$/);
  if (!found) return "";
  const everywhere = /^(127\.[\d.]+|\[::1?\]|localhost|0\.0\.0\.0)$/.test(found[1]);
  return `${location.protocol}//${everywhere ? location.hostname : found[1]}:${found[2]}/`;
}

/**
 * Return whether more than a verdict was sent.
 * @param {Sent | null} sent
 * @returns {sent is Snapshot}
 */
const hasContents = (sent) => Boolean(sent?.groups);

/** Say whether it keeps up, which queue is the slowest, and what was done last. */
function showLine() {
  const silent = (performance.now() - snapshotAt) / 1000;
  const fresh = snapshot && silent <= STALE_SECONDS ? snapshot : null;
  const verdict = fresh ? fresh.verdict : snapshot || failure ? "blind" : "";
  const since = snapshot ? `; last answer ${seconds(silent)} ago` : "";
  const why = fresh ? fresh.why : snapshot || failure ? `the supervisor does not answer${failure && `: ${failure}`}${since}` : "";
  say(find("verdict"), verdict ? verdict[0].toUpperCase() + verdict.slice(1) : "Connecting");
  find("verdict").dataset.verdict = verdict;
  say(find("why"), why);
  document.title = verdict ? `${verdict}: Celery Fleet` : "Celery Fleet";
  const old = verdict === "blind";
  document.body.classList.toggle("stale", old);
  const of = hasContents(snapshot) && old ? snapshot.as_of : null;
  say(find("as-of"), snapshot && of ? `Shown below: as of ${clock(of)}, ${seconds(Math.max(0, snapshot.at - of) + silent)} ago` : "");
  sync(find("also"), old ? [] : snapshot?.also ?? [], (one) => one.why, () => make("li"), (node, one) => {
    node.dataset.verdict = one.word;
    say(node, `${one.word}: ${one.why}`);
  });
  if (!hasContents(snapshot)) return;
  const { groups } = snapshot;
  find("pause").hidden = snapshot.paused.includes("*");
  find("resume").hidden = !snapshot.paused.length;
  const slow = snapshot.queues
    .flatMap((queue) => queue.steps.map((step) => ({ ...queue, ...step, target_wait: groups[queue.group]?.target_wait ?? 1 })))
    .filter((step) => step.length > step.future)
    .sort((a, b) => b.age / b.target_wait - a.age / a.target_wait)[0];
  say(find("slowest"), slow
    ? `${stepName(slow)} (group ${slow.group}): oldest ${seconds(slow.age)}, target wait ${seconds(slow.target_wait)}`
    : "no queue has waiting tasks");
  find("slowest").className = slow && slow.age > slow.target_wait ? "late" : "";
  const last = snapshot.last_change;
  say(find("change-term"), last ? `Last change, ${seconds(Math.max(0, snapshot.at - last.at))} ago` : "Last change");
  if (!last) say(find("change"), last === null ? "no worker started or stopped yet" : "–");
  else if (find("change").textContent !== asText(sentence(last)))
    find("change").replaceChildren(make("strong", "", headline(last)), make("small", "", `: ${reasons(last)}`));
}

/** @param {{ queue: string, step: number }} step */
const stepName = ({ queue, step }) => (step ? `${queue}, priority step ${step}` : queue);

// --- The connection ----------------------------------------------------------------------------------

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
    // A hidden page costs nothing.
    while (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    if (!control.signal.aborted) await new Promise((resolve) => setTimeout(resolve, 1000 * RETRY_SECONDS));
    if (hasCharts()) load();
  }
}

find("pause").onclick = async () => {
  if (await confirmed("Pause all groups? No worker is started or stopped until you resume.", "Pause all")) request("pause", {});
};
find("resume").onclick = () => request("resume", {});
find("range").onchange = load;
find("name").value = localStorage.getItem("name") ?? "";
find("name").onchange = () => localStorage.setItem("name", find("name").value.trim());
setInterval(showLine, 1000);
setInterval(() => hasCharts() && !document.hidden && load(), 1000 * RELOAD_SECONDS);
connect();
