"use strict";
// The data of the page as a tree: a level for each name of a path, with what is beneath it summed up.

const DATA = JSON.parse(document.getElementById("data").textContent);
const LEAVES = DATA.leaves || { path: [], shape: [], dtype: [], bytes: [], stats: {}, bins: {}, spectrum: {}, diff: {}, value: {}, axes: {}, sharding: {}, damage: {}, unread: 0 };
const IS_COMPARED = Boolean(DATA.compared);

function makeNode(name, path, parent) {
  return { name, path, parent, children: [], byName: new Map(), leaf: -1, level: parent ? parent.level + 1 : 0,
    bytes: 0, leaves: 0, elements: 0, change: -1, spoilt: 0, isOpen: false, shown: 0, shownBytes: 0 };
}

const ROOT = makeNode("", "", null);
const LEAF_NODES = [];

function elementsOf(leaf) {
  const shape = LEAVES.shape[leaf];
  return shape ? shape.reduce((product, extent) => product * extent, 1) : 1;
}

// How far a leaf has changed: the largest difference by the largest value; -1 where it has not, or nobody knows.
function changeOf(leaf) {
  const diff = LEAVES.diff[leaf];
  if (!diff || diff.kind === "equal") return -1;
  if (diff.kind !== "value") return Infinity;
  return typeof diff.relative === "number" ? diff.relative : Infinity;
}

function buildTree() {
  LEAVES.path.forEach((path, leaf) => {
    let node = ROOT;
    for (const name of path === "" ? ["(root)"] : path.split("/")) {
      let child = node.byName.get(name);
      if (!child) {
        child = makeNode(name, node === ROOT ? name : `${node.path}/${name}`, node);
        node.byName.set(name, child);
        node.children.push(child);
      }
      node = child;
    }
    node.leaf = leaf;
    LEAF_NODES.push(node);
    const size = LEAVES.bytes[leaf], count = elementsOf(leaf), change = changeOf(leaf);
    const stats = LEAVES.stats[leaf], isSpoilt = Boolean(stats && (stats[4] || stats[5]));
    for (let at = node; at; at = at.parent) {
      at.bytes += size;
      at.leaves += 1;
      at.elements += count;
      at.change = Math.max(at.change, change);
      at.spoilt += isSpoilt ? 1 : 0;
    }
  });
  ROOT.isOpen = true;
  showAll();
}

function showAll() {
  const walk = node => {
    node.shown = node.leaves;
    node.shownBytes = node.bytes;
    node.children.forEach(walk);
  };
  walk(ROOT);
}

// Show only what matches, with the levels above it. Returns how many leaves that are.
function showOnly(matches) {
  const clear = node => { node.shown = 0; node.shownBytes = 0; node.children.forEach(clear); };
  clear(ROOT);
  let found = 0;
  for (const node of LEAF_NODES) {
    if (!matches(node.path)) continue;
    found += 1;
    for (let at = node; at; at = at.parent) { at.shown += 1; at.shownBytes += LEAVES.bytes[node.leaf]; }
  }
  return found;
}

// What is typed is a glob over whole paths if it has a star, a question mark, a bracket or a brace; a level that matches
// stands for all beneath it. Anything else is looked for anywhere in a path, whatever its case.
function matcherOf(text) {
  if (!/[*?[{]/.test(text)) {
    const part = text.toLowerCase();
    return path => path.toLowerCase().includes(part);
  }
  const whole = new RegExp(`^(?:${globSource(text)})(?:/.*)?$`);
  return path => whole.test(path);
}

function globSource(glob) {
  let source = "", depth = 0;
  for (let at = 0; at < glob.length; at += 1) {
    const char = glob[at];
    const isLevel = (at === 0 || "/{,".includes(glob[at - 1])) && glob.startsWith("**", at);
    if (isLevel && (at + 2 === glob.length || "/},".includes(glob[at + 2]))) {
      if (glob[at + 2] === "/") { source += "(?:[^/]+/)*"; at += 2; }
      else { source += "[^/]*(?:/[^/]+)*"; at += 1; }
    } else if (char === "*") source += "[^/]*";
    else if (char === "?") source += "[^/]";
    else if (char === "{") { source += "(?:"; depth += 1; }
    else if (char === "}" && depth) { source += ")"; depth -= 1; }
    else if (char === "," && depth) source += "|";
    else if (char === "[" && glob.indexOf("]", at + 2) > 0) {
      const end = glob.indexOf("]", at + 2), inside = glob.slice(at + 1, end);
      source += `[${inside[0] === "!" ? `^/${inside.slice(1)}` : inside}]`.replace(/\\/g, "\\\\");
      at = end;
    } else source += (char === "\\" && at + 1 < glob.length ? glob[at += 1] : char).replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  }
  return source + ")".repeat(depth);
}

// --- words

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

function bytesText(size) {
  let power = 0;
  while (size >= 999.5 && power < UNITS.length - 1) { size /= 1000; power += 1; }
  return `${power ? Number(size.toPrecision(3)) : size} ${UNITS[power]}`;
}

function numberText(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return value.toLocaleString("en");
  return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function countText(count, one, many) { return `${count.toLocaleString("en")} ${count === 1 ? one : many}`; }

function escaped(text) {
  return String(text).replace(/[&<>"']/g, char => `&#${char.charCodeAt(0)};`);
}

function wordsOf(leaf) {
  const shape = LEAVES.shape[leaf];
  return shape ? `${LEAVES.dtype[leaf]}[${shape.join(",")}]` : LEAVES.dtype[leaf];
}

const CHANGES = { missing: "only in the first", extra: "only in the second", shape: "other shape", dtype: "other dtype", container: "other kind", equal: "equal" };

function changeText(leaf) {
  const diff = LEAVES.diff[leaf];
  if (!diff) return "not compared";
  if (diff.kind !== "value") return CHANGES[diff.kind];
  return typeof diff.relative === "number" ? `± ${numberText(diff.relative)}` : "other value";
}

// The colour of a change: from pale to strong over six powers of ten; what is not a number has colours of its own.
function changeColour(change, kind) {
  if (kind === "missing") return "var(--bad)";
  if (kind === "extra") return "var(--good)";
  if (kind && kind !== "value" && kind !== "equal") return "var(--shape)";
  if (change < 0) return "var(--line)";
  const share = Math.min(1, Math.max(0.12, (Math.log10(Math.max(change, 1e-12)) + 6) / 6));
  return `color-mix(in srgb, var(--warm) ${Math.round(share * 100)}%, var(--line))`;
}
