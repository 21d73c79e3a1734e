// The tree: one row for each level and leaf that is open, of which only those in view are in the document.

const ROW = 26, MARGIN = 12;
const box = document.getElementById("tree"), space = document.getElementById("space"), rowsBox = document.getElementById("rows");
const field = document.getElementById("search"), order = document.getElementById("order"), count = document.getElementById("count");
const tree = { rows: [], at: 0, matches: null, drawn: "" };

const ORDERS = {
  saved: ["as it is", null],
  bytes: ["largest first", (a, b) => b.shownBytes - a.shownBytes],
  name: ["by name", (a, b) => a.name.localeCompare(b.name, "en", { numeric: true })],
};
if (IS_COMPARED) ORDERS.change = ["most changed first", (a, b) => b.change - a.change];

function flattenTree() {
  const compare = ORDERS[order.value][1], rows = [];
  const walk = node => {
    const shown = node.children.filter(child => child.shown > 0);
    if (compare) shown.sort(compare);
    shown.forEach((child, place) => {
      child.place = place + 1;
      child.siblings = shown.length;
      rows.push(child);
      if (isOpen(child)) walk(child);
    });
  };
  walk(ROOT);
  tree.rows = rows;
  space.style.height = `${rows.length * ROW}px`;
}

// While something is looked for, levels are open unless they are closed by hand.
function isOpen(node) {
  return node.children.length > 0 && (tree.matches ? !node.isShut : node.isOpen);
}

function setOpen(node, open) {
  if (tree.matches) node.isShut = !open;
  else node.isOpen = open;
}

function drawRows() {
  const first = Math.max(0, Math.floor(box.scrollTop / ROW) - MARGIN);
  const last = Math.min(tree.rows.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + MARGIN);
  const parts = [];
  for (let at = first; at < last; at += 1) parts.push(rowText(tree.rows[at], at));
  const made = parts.join("");
  if (made !== tree.drawn) { rowsBox.innerHTML = made; tree.drawn = made; }
  const active = document.getElementById(`row-${tree.at}`);
  if (active) box.setAttribute("aria-activedescendant", active.id);
  else box.removeAttribute("aria-activedescendant");
}

function rowText(node, at) {
  const isLevel = node.children.length > 0, open = isOpen(node), leaf = node.leaf;
  const state = isLevel ? ` aria-expanded="${open}"` : "";
  const what = isLevel ? countText(node.shown, "leaf", "leaves") : wordsOf(leaf);
  const share = ROOT.bytes ? node.shownBytes / ROOT.bytes * 100 : 0;
  const size = node.shownBytes || !isLevel ? bytesText(node.shownBytes) : "";
  const name = isLevel ? `<b>${escaped(node.name)}</b>` : escaped(node.name);
  const spoken = `${node.name}, ${what}, ${size}${node.spoilt ? ", has numbers that are not finite" : ""}${IS_COMPARED && !isLevel ? `, ${changeText(leaf)}` : ""}`;
  return `<div class="row" role="treeitem" id="row-${at}" data-at="${at}" aria-level="${node.level}" aria-posinset="${node.place}"`
    + ` aria-setsize="${node.siblings}" aria-selected="${at === tree.at}"${state} aria-label="${escaped(spoken)}"`
    + ` style="top:${at * ROW}px;padding-left:${8 + (node.level - 1) * 16}px" title="${escaped(node.path)}">`
    + `<span class="name"><span class="caret">${isLevel ? (open ? "▾" : "▸") : ""}</span>${name}</span>`
    + `<span class="what">${escaped(what)}</span>${spoiltChip(node)}${changeChip(node)}${spark(leaf)}`
    + `<span class="size" style="--share:${share.toFixed(2)}%">${size}</span></div>`;
}

function spoiltChip(node) {
  if (!node.spoilt) return "";
  const stats = node.leaf >= 0 ? LEAVES.stats[node.leaf] : null;
  return `<span class="chip spoilt">${stats && !stats[4] ? "inf" : "NaN"}</span>`;
}

function changeChip(node) {
  if (!IS_COMPARED) return "";
  const diff = node.leaf >= 0 ? LEAVES.diff[node.leaf] : null;
  const colour = changeColour(node.change, diff ? diff.kind : null);
  const text = node.leaf >= 0 ? changeText(node.leaf) : node.change < 0 ? "" : node.change === Infinity ? "changed" : `± ${numberText(node.change)}`;
  return text ? `<span class="chip change" style="box-shadow:inset 0 0 0 2px ${colour}">${escaped(text)}</span>` : "";
}

function spark(leaf) {
  const bins = leaf >= 0 ? LEAVES.bins[leaf] : null;
  if (!bins || !bins.length) return `<span class="spark"></span>`;
  return `<svg class="spark" viewBox="0 0 ${bins.length} 18" preserveAspectRatio="none" aria-hidden="true"><path d="${barsPath(bins, bins.length, 18)}"/></svg>`;
}

// --- choosing

function choose(at, { scroll = true } = {}) {
  if (!tree.rows.length) return;
  tree.at = Math.max(0, Math.min(tree.rows.length - 1, at));
  if (scroll) {
    const top = tree.at * ROW;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + ROW > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW - box.clientHeight;
  }
  drawRows();
  showNode(tree.rows[tree.at]);
}

function redraw(node) {
  flattenTree();
  const at = node ? tree.rows.indexOf(node) : -1;
  tree.at = at >= 0 ? at : Math.min(tree.at, Math.max(0, tree.rows.length - 1));
  drawRows();
}

function toggle(node, open) {
  if (!node.children.length) return;
  setOpen(node, open === undefined ? !isOpen(node) : open);
  redraw(node);
}

// Choose a node wherever it is: open the levels above it.
function reveal(node) {
  for (let at = node.parent; at; at = at.parent) setOpen(at, true);
  if (node === ROOT) { showNode(ROOT); return; }
  redraw(node);
  choose(tree.rows.indexOf(node));
}

function onKey(event) {
  const node = tree.rows[tree.at], page = Math.max(1, Math.floor(box.clientHeight / ROW) - 1);
  if (!node || event.ctrlKey || event.metaKey || event.altKey) return;
  const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  if (event.key in moves) choose(moves[event.key] === Infinity ? tree.rows.length - 1 : Math.max(0, tree.at + moves[event.key]));
  else if (event.key === "ArrowRight") { if (isOpen(node)) choose(tree.at + 1); else toggle(node, true); }
  else if (event.key === "ArrowLeft") { if (isOpen(node)) toggle(node, false); else if (node.parent !== ROOT) choose(tree.rows.indexOf(node.parent)); }
  else if (event.key === "Enter" || event.key === " ") toggle(node);
  else if (event.key === "*") {
    const walk = each => { setOpen(each, true); each.children.forEach(walk); };
    walk(node);
    redraw(node);
  } else return;
  event.preventDefault();
}

function search() {
  const begun = performance.now(), text = field.value.trim(), kept = tree.rows[tree.at];
  try { tree.matches = text ? matcherOf(text) : null; } catch { tree.matches = () => false; }
  const forget = node => { node.isShut = false; node.children.forEach(forget); };
  forget(ROOT);
  if (tree.matches) {
    const found = showOnly(tree.matches);
    count.textContent = `${found.toLocaleString("en")} of ${countText(ROOT.leaves, "leaf", "leaves")}, ${bytesText(ROOT.shownBytes)}`;
  } else {
    showAll();
    count.textContent = `${countText(ROOT.leaves, "leaf", "leaves")}, ${bytesText(ROOT.bytes)}`;
  }
  box.scrollTop = 0;
  redraw(kept);
  if (tree.rows.length) choose(tree.at);
  drawMap(tree.matches ? ROOT : mapNode);
  performance.measure("search", { start: begun, end: performance.now() });
}

function startTree() {
  for (const [name, [words]] of Object.entries(ORDERS)) order.add(new Option(words, name));
  if (ROOT.children.length === 1) ROOT.children[0].isOpen = true;
  for (const child of ROOT.children) if (child.children.length && child.leaves <= 60) child.isOpen = true;
  flattenTree();
  box.addEventListener("scroll", drawRows, { passive: true });
  box.addEventListener("keydown", onKey);
  box.addEventListener("click", event => {
    const row = event.target.closest(".row");
    if (!row) return;
    const node = tree.rows[Number(row.dataset.at)];
    choose(Number(row.dataset.at), { scroll: false });
    if (node.children.length) toggle(node);
  });
  field.addEventListener("input", search);
  field.addEventListener("keydown", event => {
    if (event.key === "Escape") { field.value = ""; search(); box.focus(); }
    else if (event.key === "ArrowDown" || event.key === "Enter") { box.focus(); event.preventDefault(); }
  });
  order.addEventListener("change", () => { redraw(tree.rows[tree.at]); choose(tree.at); });
  window.addEventListener("resize", () => { drawRows(); drawMap(mapNode); });
  document.addEventListener("keydown", event => {
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key === "/" && !isTyping) { field.focus(); field.select(); event.preventDefault(); }
  });
  search();
  showNode(ROOT);
}
