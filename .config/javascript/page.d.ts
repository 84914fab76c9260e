// What the supervisor sends to the page (celery_autoscaler: web/feed.py, supervisor/publishing.py), and the parts of index.html.

interface Decision {
  at: number;
  host: string;
  group: string;
  have: number;
  want: number;
  here: number;
  children: number;
  change: string;
  reason: string;
  held_back: string;
  by: string;
  emergency: boolean;
}

interface Group {
  target_wait: number;
  min_workers: number;
  max_workers: number;
  max_concurrency: number;
  slots: number;
  want_slots: number;
  ready: number;
  starting: number;
  draining: number;
  waiting: number;
  age: number;
  reason: string;
  limit: string;
  override: string;
  limited: string;
  late: boolean;
  held_back: string;
}

interface Step {
  step: number;
  length: number;
  future: number;
  age: number;
  in: number | null;
  out: number | null;
}

interface Queue {
  group: string;
  queue: string;
  steps: Step[];
}

interface Host {
  host: string;
  state: string;
  why: string;
  cpus: number;
  cpu: number;
  memory: number;
  capacity: number;
  workers: number;
  releases: string[];
  held_back: string[];
  tick: { every: number; took: number };
}

interface WorkerStatus {
  name: string;
  state: string;
  why: string;
  active: number;
  processed: number;
  failed: number;
  memory: number;
  release: string;
  running: { task: string; seconds: number }[];
}

interface Finding {
  word: string;
  why: string;
}

/** What is sent although nothing can be seen. */
interface Verdict {
  host: string;
  project: string;
  pages: Record<string, string>;
  at: number;
  as_of: number | null;
  verdict: string;
  why: string;
  also: Finding[];
}

/** What is sent while all can be seen. */
interface Contents {
  paused: string[];
  dead_letters: Record<string, number>;
  last_change?: Decision | null;
  groups: Record<string, Group>;
  queues: Queue[];
  hosts: Host[];
  workers: WorkerStatus[];
  failures: Record<string, number>;
  ended: Record<string, number>;
  decisions?: Decision[];
}

type Snapshot = Verdict & Contents;
type Sent = Verdict & Partial<Contents>;

interface Columns {
  at: number[];
  ready: number[];
  starting: number[];
  draining: number[];
  max_workers: number[];
  waiting: number[];
  age: number[];
}

interface Records {
  groups: Record<string, Columns>;
  decisions: Decision[];
}

interface DeadLetter {
  when: string;
  task: string;
  arguments: string;
  worker: string;
  reason: string;
}

interface FailureKind {
  kind: string;
  task: string;
  exception: string;
  place: string;
  function: string;
  count: number;
  last: number;
  since_release: string;
  example: { id: string; worker: string; text: string; arguments: string; traceback: string; retries: number };
}

/** What an operator asks for. */
interface ActionRequest {
  group?: string;
  queue?: string;
  worker?: string;
  kind?: string;
  undo?: boolean;
  min_workers?: number;
  max_workers?: number;
}

type Shown = string | number;
/** A text, or a text with the class of its cell. */
type Cell = Shown | [Shown, string];

/** The elements of index.html, by their ids. */
interface Elements {
  projects: HTMLElement;
  verdict: HTMLElement;
  why: HTMLElement;
  pause: HTMLButtonElement;
  resume: HTMLButtonElement;
  range: HTMLSelectElement;
  also: HTMLElement;
  "as-of": HTMLElement;
  slowest: HTMLElement;
  "change-term": HTMLElement;
  change: HTMLElement;
  groups: HTMLElement;
  queues: HTMLElement;
  failures: HTMLElement;
  "no-failures": HTMLElement;
  "failure-kinds": HTMLElement;
  "dead-letters": HTMLElement;
  "no-dead-letters": HTMLElement;
  hosts: HTMLElement;
  workers: HTMLElement;
  "no-workers": HTMLElement;
  decisions: HTMLElement;
  name: HTMLInputElement;
  source: HTMLElement;
  said: HTMLElement;
  ask: HTMLDialogElement;
  question: HTMLElement;
  no: HTMLButtonElement;
  yes: HTMLButtonElement;
  login: HTMLDialogElement;
  "login-form": HTMLFormElement;
  "login-title": HTMLElement;
  token: HTMLInputElement;
}
