// The groups: their charts, their bounds, and the decisions about them.

import { button, notify, request, words } from "./actions.js";
import { Charts, decisionKey, sentence } from "./charts.js";
import { clock, find, make, say, sync } from "./dom.js";
import { ask } from "./server.js";

// Workers that a group may have.
const MOST_WORKERS = 10000;
// Decisions that are remembered, and those of them that the list shows.
const REMEMBERED = 1000;
const LISTED = 50;

/** @type {Map<string, Charts>} */
const charts = new Map();
/** @type {Decision[]} */
let decisions = [];
/**
 * The groups as they were shown last.
 * @type {Record<string, Group>}
 */
let shown = {};

/** @type {Record<string, number>} */
const RANGE_SECONDS = { "15m": 900, "1h": 3600, "6h": 6 * 3600, "24h": 24 * 3600 };
const range = () => RANGE_SECONDS[find("range").value];

/** Whether any group is shown. */
export const hasCharts = () => charts.size > 0;

/** Show the newest decisions. */
export function showDecisions() {
  sync(find("decisions"), decisions.slice(0, LISTED), decisionKey, newDecision, () => {});
}

/** @param {Decision[]} found */
export function remember(found) {
  const known = new Set(decisions.map(decisionKey));
  const fresh = found.filter((one) => !known.has(decisionKey(one)));
  if (!fresh.length) return;
  decisions = [...fresh, ...decisions].sort((a, b) => b.at - a.at).slice(0, REMEMBERED);
  tellCharts();
}

/** The charts show what moved something, and what operators wanted. */
function tellCharts() {
  const marked = decisions.filter((one) => one.here || one.children || one.by || one.emergency);
  for (const chart of charts.values()) chart.tell(marked);
}

/** @param {Decision} one */
function newDecision(one) {
  return make("li", "", [make("time", "", clock(one.at)), ` ${sentence(one)}`]);
}

/** @param {Snapshot} seen */
export function showGroups(seen) {
  shown = seen.groups;
  sync(find("groups"), Object.entries(seen.groups), ([name]) => name, newGroup, (node, [name, group]) => {
    showGroup(node, name, group, seen);
  });
}

/** @param {[string, Group]} entry */
function newGroup([name]) {
  const node = make("article");
  const title = make("h2", "", name);
  const chips = make("span");
  const pause = button("Pause", (it) => request(it.dataset.does ?? "", { group: name }));
  const reason = make("p", "reason");
  const chart = new Charts(name);
  charts.set(name, chart);
  const low = make("input", "", "", { type: "number", min: 0, max: MOST_WORKERS, "aria-label": `Minimum of ${name}`, required: "" });
  const high = make("input", "", "", { type: "number", min: 1, max: MOST_WORKERS, "aria-label": `Maximum of ${name}`, required: "" });
  const form = make("form", "bounds", [
    "Workers from", low, "to", high, make("button", "", "Set", { type: "submit" }),
    button("Reset to settings", () => request("scale", { group: name })),
  ]);
  form.onsubmit = (event) => {
    event.preventDefault();
    request("scale", { group: name, min_workers: low.valueAsNumber, max_workers: high.valueAsNumber });
  };
  const details = make("details", "", [make("summary", "", "Change bounds"), form]);
  details.ontoggle = () => {
    const group = shown[name];
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
 * @param {Snapshot} seen
 */
function showGroup(node, name, group, seen) {
  const { chips, pause, reason, chart } = node.parts;
  const paused = group.limit === "paused";
  const { late } = group;
  const none = !group.ready && !group.starting && group.min_workers > 0;
  const state = paused ? "paused" : none ? "no workers" : late ? "falling behind" : "";
  say(chips, [state, paused ? "" : group.limited].filter(Boolean).join(", ") || "keeping up");
  chips.className = `chip ${paused ? "paused" : late || none ? "late" : ""}`;
  const own = seen.paused.includes(name);
  pause.dataset.does = own ? "resume" : "pause";
  pause.disabled = seen.paused.includes("*");
  say(pause, own ? "Resume" : "Pause");
  pause.setAttribute("aria-label", `${own ? "Resume" : "Pause"} ${name}`);
  say(reason, group.reason + (group.override ? `; ${group.override}` : "") + (group.held_back ? `; held back: ${group.held_back}` : ""));
  // What was seen before is no point of now.
  if (seen.verdict !== "blind") chart.add(seen.at, group);
}

/** @type {Promise<void> | null} */
let loading = null;

/** Read the records for the charts. */
export function load() {
  loading ??= (async () => {
    try {
      /** @type {Records} */
      const found = await ask(`history?range=${find("range").value}`);
      for (const [name, chart] of charts) chart.load(found.groups[name], range());
      remember(found.decisions);
      tellCharts();
    } catch (error) {
      notify(words(error));
    }
    loading = null;
  })();
  return loading;
}
