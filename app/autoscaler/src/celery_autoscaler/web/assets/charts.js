// The charts of a group, the decisions on their time axis, and the sentence of the one that is looked at.

import { asText, clock, make, say, seconds, sync } from "./dom.js";

const LEFT = 40;
const RIGHT = 44;
// Pixels within which decisions share a mark.
const MARK = 16;
/** @type {(keyof Columns)[]} */
const COLUMNS = ["at", "ready", "starting", "draining", "max_workers", "waiting", "age"];
// Seconds between two points that stay.
const EVERY = 10;
// Seconds without a record after which the line is broken: nothing was seen.
const GAP = 45;

/** @param {string} name */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/**
 * Say a decision as the command line does.
 * @param {Decision} decision
 */
export const sentence = (decision) => `${headline(decision)}: ${reasons(decision)}`;

/**
 * Return the first clause of the sentence of a decision: what changes.
 * @param {Decision} decision
 */
export function headline(decision) {
  const group = decision.group === "*" ? "all groups" : decision.group;
  if (decision.by) return group;
  return `${group} ${decision.change}`;
}

/**
 * Return the rest of the sentence of a decision: the arithmetic.
 * @param {Decision} decision
 */
export const reasons = ({ by, held_back: held, reason }) => reason + (held && !by ? `; held back: ${held}` : "");

/** @param {Decision} one */
export const decisionKey = (one) => `${one.at} ${one.host} ${one.group} ${one.here} ${one.reason}`;

/** @typedef {HTMLButtonElement & { decisions: Decision[] }} Mark */

export class Charts {
  /** @param {string} name */
  constructor(name) {
    this.name = name;
    /** @type {Columns} */
    this.columns = { at: [], ready: [], starting: [], draining: [], max_workers: [], waiting: [], age: [] };
    this.kept = 0;
    /** @type {uPlot[]} */
    this.plots = [];
    /** @type {number[]} */
    this.times = [];
    /** @type {Decision[]} */
    this.decisions = [];
    this.range = 3600;
    this.target_wait = 0;
    /** @type {[number, Group] | null} */
    this.last = null;
    /** @type {Mark | null} */
    this.chosen = null;
    this.narrated = "";
    this.workersLegend = make("div", "legend");
    this.waitLegend = make("div", "legend");
    this.workersBox = make("div", "", "", { role: "img" });
    this.waitBox = make("div", "", "", { role: "img" });
    this.marks = make("div", "marks", "", { role: "group", "aria-label": `Decisions for ${name}; arrow keys move` });
    this.told = make("p", "told", "", { "aria-live": "off" });
    this.marks.onkeydown = (event) => this.move(event);
    this.marks.onmouseleave = () => this.choose(null);
    this.node = make("div", "", [
      this.workersLegend, this.workersBox, this.waitLegend, this.waitBox, this.marks, this.told,
    ]);
    new ResizeObserver(() => this.resize()).observe(this.node);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.build());
  }

  /**
   * Take in what was recorded.
   * @param {Columns | undefined} history
   * @param {number} range
   */
  load(history, range) {
    this.range = range;
    for (const column of COLUMNS) this.columns[column] = [...(history?.[column] ?? [])];
    this.kept = this.columns.at.length;
    if (this.last) this.add(...this.last);
    if (!this.plots.length) this.build();
  }

  /**
   * Take in what is seen now; the last point stays in its place until the next one is due.
   * @param {number} at
   * @param {Group} group
   */
  add(at, group) {
    this.last = [at, group];
    this.target_wait = group.target_wait;
    const { columns } = this;
    for (const column of COLUMNS) columns[column].length = this.kept;
    columns.at.push(at);
    const figures = /** @type {(keyof Group & keyof Columns)[]} */ (COLUMNS.slice(1));
    for (const column of figures) columns[column].push(group[column] ?? 0);
    if (at - (columns.at[this.kept - 1] ?? 0) >= EVERY) this.kept += 1;
    this.draw();
  }

  /** @param {Decision[]} decisions */
  tell(decisions) {
    this.decisions = decisions;
    this.mark();
  }

  build() {
    for (const plot of this.plots) plot.destroy();
    const dim = colour("dim");
    /**
     * @param {uPlot.Axis} options
     * @returns {uPlot.Axis}
     */
    const axis = (options) => ({
      stroke: dim, font: "11px system-ui", ticks: { show: false }, grid: { stroke: colour("grid"), width: 1 }, ...options,
    });
    const step = uPlot.paths.stepped?.({ align: 1 });
    /**
     * @param {string} name
     * @returns {uPlot.Series}
     */
    const area = (name) => ({ stroke: colour(name), fill: colour(name), width: 1, paths: step, points: { show: false } });
    /** @type {uPlot.Range.Function} */
    const whole = (_, low, high) => [0, Math.max(1, high) * 1.08];
    const common = {
      width: Math.max(200, this.node.clientWidth), legend: { show: false },
      cursor: { sync: { key: "fleet" }, drag: { x: false, y: false }, points: { show: false }, y: false },
      hooks: { setCursor: [(/** @type {uPlot} */ plot) => this.point(plot.cursor.idx)] },
    };
    /** @type {uPlot.Scale} */
    const time = { time: true, range: () => this.span() };
    /** @type {uPlot.Axis} */
    const hours = { values: (_, splits) => splits.map((at) => clock(at).slice(0, 5)), size: 22, space: 60 };
    const workers = new uPlot({
      ...common, height: 100, padding: [6, RIGHT, 6, 0],
      scales: { x: time, y: { range: whole } },
      axes: [axis({ ...hours, show: false }), axis({ size: LEFT, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], space: 24 })],
      series: [
        {}, area("draining"), area("starting"), area("ready"),
        { stroke: dim, width: 1, dash: [4, 4], paths: step, points: { show: false } },
      ],
    }, this.data()[0], this.workersBox);
    const wait = new uPlot({
      ...common, height: 132, padding: [6, 0, 0, 0],
      scales: { x: time, y: { range: (_, low, high) => [0, Math.max(high, this.target_wait) * 1.1] }, backlog: { range: whole } },
      axes: [
        axis(hours), axis({ size: LEFT, space: 28, values: (_, splits) => splits.map((value) => short(value)) }),
        axis({ side: 1, scale: "backlog", size: RIGHT, space: 28, grid: { show: false }, values: (_, splits) => splits.map(many) }),
      ],
      series: [
        {},
        { scale: "backlog", stroke: colour("backlog"), width: 1, points: { show: false } },
        { stroke: colour("wait"), fill: `${colour("wait")}33`, width: 1.5, points: { show: false } },
        { stroke: colour("target-wait"), width: 1.5, dash: [6, 4], points: { show: false } },
      ],
    }, this.data()[1], this.waitBox);
    this.plots = [workers, wait];
    this.draw();
  }

  /** @returns {[number, number]} */
  span() {
    const end = this.last?.[0] ?? Date.now() / 1000;
    return [end - this.range, end];
  }

  /**
   * Return the data of both plots: workers are stacked, and lines are broken where nothing was seen.
   * @returns {uPlot.AlignedData[]}
   */
  data() {
    const { at, ready, starting, draining, max_workers, waiting, age } = this.columns;
    const gap = Math.max(GAP, 2.5 * (this.range / 360));
    /** @type {(number | null)[][]} */
    const found = [[], [], [], [], [], [], [], []];
    /** @param {(number | null)[]} values */
    const push = (...values) => values.forEach((value, number) => found[number].push(value));
    at.forEach((time, n) => {
      if (n && time - at[n - 1] > gap) push(at[n - 1] + 1, null, null, null, null, null, null, null);
      const busy = ready[n] + starting[n];
      push(time, busy + draining[n], busy, ready[n], max_workers[n], waiting[n], age[n], this.target_wait);
    });
    const [, ...columns] = found;
    const times = /** @type {number[]} */ (found[0]);
    this.times = times;
    return [[times, ...columns.slice(0, 4)], [times, ...columns.slice(4)]];
  }

  draw() {
    if (!this.plots.length) return;
    this.data().forEach((data, number) => this.plots[number].setData(data));
    if (this.plots[0].cursor.idx === null || !this.plots[0].over.matches(":hover")) this.point(null);
    this.mark();
    if (!this.last) return;
    const [, group] = this.last;
    const slots = group.max_concurrency ? ` with ${group.slots} slots` : "";
    const people = `${this.name}: ${group.ready} workers ready${slots}, ${group.starting} starting, ${group.draining} draining, `;
    this.workersBox.setAttribute("aria-label", asText(`${people}at most ${group.max_workers}`));
    const wait = `${this.name}: ${group.waiting} tasks waiting, oldest ${seconds(group.age)}, `;
    this.waitBox.setAttribute("aria-label", asText(`${wait}target wait ${seconds(group.target_wait)}`));
  }

  /**
   * Show in the legends the figures under the cursor, or those of now.
   * @param {number | null | undefined} index
   */
  point(index) {
    const { columns } = this;
    let n = columns.at.length - 1;
    if (index !== null && index !== undefined) n = columns.at.findLastIndex((at) => at <= this.times[index]);
    if (n < 0) return;
    /** @type {Parameters<typeof legend>[1]} */
    const workers = [
      ["ready", "ready", columns.ready[n]], ["starting", "starting", columns.starting[n]],
      ["draining", "draining", columns.draining[n]], ["max_workers", "max_workers", columns.max_workers[n]],
    ];
    const [, now] = this.last ?? [];
    if (now?.max_concurrency) workers.push(["slots", "slots now", `${now.slots} of ${now.want_slots} wanted`]);
    legend(this.workersLegend, workers);
    legend(this.waitLegend, [
      ["age", "oldest waits", seconds(columns.age[n])], ["target_wait", "target wait", seconds(this.target_wait)],
      ["waiting", "waiting", columns.waiting[n]],
    ]);
  }

  resize() {
    const width = this.node.clientWidth;
    if (!width) return;
    for (const plot of this.plots) plot.setSize({ width, height: plot.height });
    this.mark();
  }

  // --- The decisions ----------------------------------------------------------------------------------

  mark() {
    const [begin, end] = this.span();
    const width = this.marks.clientWidth || 300;
    const slot = (MARK * (end - begin)) / width;
    /** @type {Map<number, Decision[]>} */
    const slots = new Map();
    for (const one of this.decisions) {
      if (one.at < begin || (one.group !== this.name && one.group !== "*")) continue;
      const key = Math.floor(one.at / slot);
      slots.set(key, [...(slots.get(key) ?? []), one]);
    }
    const clusters = [...slots].sort(([a], [b]) => a - b);
    for (const [, list] of clusters) list.sort((a, b) => a.at - b.at);
    sync(this.marks, clusters, ([key]) => `${key} ${slot}`, () => this.newMark(), (node, [key, list]) => {
      node.decisions = list;
      const middle = ((key + 0.5) * slot - begin) / (end - begin);
      node.style.left = `${(100 * Math.min(1, Math.max(0, middle))).toFixed(2)}%`;
      const sum = list.reduce((total, one) => total + one.here + one.children, 0);
      const kind = list.some((one) => one.by) ? "person" : sum < 0 ? "down" : "up";
      if (node.className !== kind) node.className = kind;
      say(node, { person: "●", up: "▲", down: "▼" }[kind]);
      const text = asText(list.map((one) => `${clock(one.at)} ${sentence(one)}`).join("; "));
      if (node.getAttribute("aria-label") !== text) node.setAttribute("aria-label", text);
    });
    // One stop for the tab key; the arrow keys go on from there.
    const nodes = this.markNodes();
    const last = nodes.at(-1);
    if (last && !nodes.some((node) => node.tabIndex === 0)) last.tabIndex = 0;
    this.narrate();
  }

  markNodes() {
    return /** @type {Mark[]} */ ([...this.marks.children]);
  }

  /** @returns {Mark} */
  newMark() {
    const node = Object.assign(make("button", "", "", { type: "button" }), { decisions: [] });
    node.tabIndex = -1;
    node.onmouseenter = () => this.choose(node);
    node.onfocus = () => this.choose(node);
    node.onclick = () => this.choose(node);
    return node;
  }

  /** @param {KeyboardEvent} event */
  move(event) {
    const step = event.key === "ArrowLeft" ? -1 : event.key === "ArrowRight" ? 1 : 0;
    const nodes = this.markNodes();
    const next = nodes[nodes.findIndex((node) => node === document.activeElement) + step];
    if (!step || !next) return;
    event.preventDefault();
    for (const node of nodes) node.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  /** @param {Mark | null} node */
  choose(node) {
    this.chosen = node;
    this.narrate();
  }

  narrate() {
    if (this.chosen && !this.chosen.isConnected) this.chosen = null;
    const own = this.decisions.filter((one) => one.group === this.name || one.group === "*");
    const latest = [...own].sort((a, b) => b.at - a.at).slice(0, 1);
    const shown = this.chosen?.decisions ?? latest;
    const key = shown.map(decisionKey).join();
    if (this.narrated === key) return;
    this.narrated = key;
    this.told.replaceChildren(
      ...shown.slice(-3).flatMap((one, n) => [
        ...(n ? [make("br")] : []), make("time", "", clock(one.at)), asText(` ${sentence(one)}`),
      ]),
    );
  }
}

/** @param {number} value */
const short = (value) => (value >= 3600 ? `${+(value / 3600).toFixed(1)}h` : value >= 120 ? `${+(value / 60).toFixed(1)}m` : `${+value.toFixed(1)}s`);
/** @param {number} value */
const many = (value) => (value >= 1e6 ? `${+(value / 1e6).toFixed(1)}M` : value >= 1e3 ? `${+(value / 1e3).toFixed(1)}k` : Number.isInteger(value) ? value : "");

/**
 * @param {HTMLElement} node
 * @param {[string, string, Shown][]} entries
 */
function legend(node, entries) {
  /** @param {[string, string, Shown]} entry */
  const create = ([name, label]) => make("span", "", [make("i", name), `${label} `, make("b")]);
  sync(node, entries, ([name]) => name, create, (entry, [, , value]) => say(/** @type {Node} */ (entry.lastChild), value));
}
