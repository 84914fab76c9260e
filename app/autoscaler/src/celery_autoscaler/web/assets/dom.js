// Small helpers. What comes from Redis reaches the page as text only, never as markup.

/**
 * Return an element of the page.
 * @template {keyof Elements} Id
 * @param {Id} id
 * @returns {Elements[Id]}
 */
export const find = (id) => /** @type {any} */ (document.getElementById(id));

// Controls, marks that turn the order of reading, and what is not seen.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/**
 * Return something as text that can be read as it is: what hides or reorders is shown as an escape.
 * @param {unknown} value
 */
export function asText(value) {
  return String(value).replace(HIDDEN, (char) => {
    const code = char.codePointAt(0) ?? 0;
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

/**
 * Make an element with a class, some text or children, and attributes.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Shown | (Node | Shown)[]} content
 * @param {Record<string, Shown>} attributes
 */
export function make(tag, className = "", content = "", attributes = {}) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (Array.isArray(content)) node.append(...content.map((part) => (part instanceof Node ? part : asText(part))));
  else node.textContent = asText(content);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, asText(value));
  return node;
}

/**
 * Set the text of an element if it is another one: what has the focus or is read aloud stays.
 * @param {Node} node
 * @param {unknown} text
 */
export function say(node, text) {
  const shown = asText(text);
  if (node.textContent !== shown) node.textContent = shown;
}

/**
 * Keep the children of an element in step with a list: each item's element is made once and updated.
 * @template Item
 * @template {HTMLElement} Element
 * @param {HTMLElement} parent
 * @param {Item[]} items
 * @param {(item: Item) => Shown} key
 * @param {(item: Item) => Element} create
 * @param {(node: Element, item: Item) => void} update
 */
export function sync(parent, items, key, create, update) {
  const children = /** @type {Element[]} */ ([...parent.children]);
  const known = new Map(children.map((node) => [node.dataset.key, node]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let node = known.get(name);
    known.delete(name);
    if (!node) {
      node = create(item);
      node.dataset.key = name;
    }
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
    update(node, item);
  }
  for (const node of known.values()) node.remove();
}

/**
 * Keep the cells of a table's row in step with a list of texts, or [text, class].
 * @param {HTMLTableRowElement} row
 * @param {Cell[]} values
 */
export function cells(row, values) {
  values.forEach((value, number) => {
    const [text, className] = Array.isArray(value) ? value : [value, ""];
    const cell = row.cells[number] ?? newCell(row, number);
    if (cell.className !== className) cell.className = className;
    say(cell, text);
  });
}

/**
 * Add a cell that also says its column, for screens that are too narrow for a table.
 * @param {HTMLTableRowElement} row
 * @param {number} number
 */
function newCell(row, number) {
  const cell = row.insertCell();
  const heading = row.closest("table")?.tHead?.rows[0].cells[number];
  row.setAttribute("role", "row");
  cell.setAttribute("role", "cell");
  if (heading) cell.dataset.label = heading.textContent ?? "";
  return cell;
}

/** @param {number} value */
export function seconds(value) {
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

/** @param {number} at */
export const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false });

/** @param {number | null} value */
export const rate = (value) => (value === null ? "…" : `${value < 10 ? value.toFixed(1) : Math.round(value)}/s`);

/** @param {number} value */
export const bytes = (value) =>
  value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(1)} GiB` : `${Math.round(value / 2 ** 20)} MiB`;
