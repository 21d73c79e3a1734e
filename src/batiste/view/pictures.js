// Pictures as SVG: the map of bytes, histograms, spectra.

const map = document.getElementById("map"), crumbs = document.getElementById("crumbs");
const HUES = [212, 28, 145, 285, 50, 340, 185, 100];
let mapNode = ROOT, chosen = ROOT;

// Rectangles whose areas are the sizes, as square as they can be (Bruls, Huizing and van Wijk, 2000).
function squarified(items, x, y, width, height) {
  const total = items.reduce((sum, item) => sum + item.size, 0), found = [];
  if (!total || width <= 0 || height <= 0) return found;
  const scale = width * height / total;
  let rest = items.slice(), row = [];
  const worst = (sizes, side) => {
    const sum = sizes.reduce((all, each) => all + each, 0);
    return Math.max(...sizes.map(each => Math.max(side * side * each / (sum * sum), sum * sum / (side * side * each))));
  };
  const place = () => {
    const sum = row.reduce((all, item) => all + item.size * scale, 0), across = width >= height;
    const thick = sum / (across ? height : width);
    let at = across ? y : x;
    for (const item of row) {
      const long = item.size * scale / thick;
      found.push(across ? { item, x, y: at, width: thick, height: long } : { item, x: at, y, width: long, height: thick });
      at += long;
    }
    if (across) { x += thick; width -= thick; } else { y += thick; height -= thick; }
    row = [];
  };
  while (rest.length) {
    const side = Math.min(width, height), sizes = row.map(item => item.size * scale), next = rest[0].size * scale;
    if (!row.length || worst([...sizes, next], side) <= worst(sizes, side)) row.push(rest.shift());
    else place();
  }
  place();
  return found;
}

// The largest of the parts, and the others together where they would be too small to see.
function partsOf(node, most) {
  const shown = node.children.filter(child => child.shownBytes > 0).sort((a, b) => b.shownBytes - a.shownBytes);
  const parts = shown.slice(0, most).map(child => ({ node: child, size: child.shownBytes }));
  const others = shown.slice(most), size = others.reduce((sum, child) => sum + child.shownBytes, 0);
  return size ? [...parts, { node: null, size, count: others.length }] : parts;
}

// The map is of a level with enough in it to see what is chosen among others.
function drawMap(node) {
  let at = node.children.length ? node : node.parent || ROOT;
  while (at.parent && at.shown < 8) at = at.parent;
  for (let only = at; only; only = at.children.find(child => child.children.length > 1 && child.shownBytes > 0.97 * at.shownBytes)) at = only;
  mapNode = at;
  chosen = node;
  const width = Math.max(120, map.clientWidth), height = Math.max(80, map.clientHeight), parts = [];
  squarified(partsOf(mapNode, 40), 0, 0, width, height).forEach((cell, place) => {
    const hue = HUES[place % HUES.length], child = cell.item.node;
    parts.push(cellText(cell, hue, ""));
    if (!drawsInner(cell)) return;
    for (const inner of squarified(partsOf(child, 24), cell.x + 3, cell.y + 18, cell.width - 6, cell.height - 21)) {
      if (inner.width > 3 && inner.height > 3) parts.push(cellText(inner, hue, "inner"));
    }
  });
  const words = `${mapNode.path || "everything"}: ${bytesText(mapNode.shownBytes)} in ${countText(mapNode.shown, "leaf", "leaves")}`;
  map.setAttribute("aria-label", `map of bytes, ${words}`);
  map.innerHTML = `<svg viewBox="0 0 ${width} ${height}" aria-hidden="true" class="${IS_COMPARED ? "compared" : ""}">${parts.join("")}</svg>`;
  drawCrumbs();
}

function drawsInner(cell) {
  return Boolean(cell.item.node && cell.item.node.children.length && cell.width >= 36 && cell.height >= 40);
}

function cellText(cell, hue, kind) {
  const { node, size, count: others } = cell.item;
  const name = node ? node.name : `${others} more`;
  const diff = node && node.leaf >= 0 ? LEAVES.diff[node.leaf] : null;
  const compared = kind === "" && drawsInner(cell) ? "var(--ground)" : node ? changeColour(node.change, diff ? diff.kind : null) : "var(--line)";
  const fill = IS_COMPARED ? compared : `hsl(${hue} var(--map-s) var(--map-l))`;
  const room = Math.floor((cell.width - 8) / 6.4);
  const label = cell.height > 15 && room >= 3 ? (name.length <= room ? name : `${name.slice(0, room - 1)}…`) : "";
  const path = node ? ` data-path="${escaped(node.path)}"` : "";
  const box = `x="${cell.x.toFixed(1)}" y="${cell.y.toFixed(1)}" width="${cell.width.toFixed(1)}" height="${cell.height.toFixed(1)}"`;
  const told = `${node ? node.path : name}: ${bytesText(size)}${node && IS_COMPARED && node.leaf >= 0 ? `, ${changeText(node.leaf)}` : ""}`;
  const isChosen = node && chosen !== mapNode && (chosen === node || (kind === "" && chosen.path.startsWith(`${node.path}/`) && !drawsInner(cell)) || (kind !== "" && chosen.path.startsWith(`${node.path}/`)));
  return `<g${path}${isChosen ? ' class="chosen"' : ""}><title>${escaped(told)}</title><rect class="${kind}" ${box} rx="2" style="fill:${fill}"/>`
    + (label ? `<text x="${(cell.x + 5).toFixed(1)}" y="${(cell.y + 13).toFixed(1)}">${escaped(label)}</text>` : "") + "</g>";
}

function drawCrumbs() {
  const levels = [];
  for (let at = mapNode; at; at = at.parent) levels.unshift(at);
  crumbs.innerHTML = levels.map((node, place) => `<button type="button" data-path="${escaped(node.path)}">${place ? escaped(node.name) : "everything"}</button>`).join("<span>/</span>")
    + `<span>&nbsp;${bytesText(mapNode.shownBytes)}</span>`;
}

function nodeAt(path) {
  let node = ROOT;
  for (const name of path ? path.split("/") : []) node = node && node.byName.get(name);
  return node;
}

function startMap() {
  const go = event => {
    const at = event.target.closest("[data-path]");
    if (!at) return;
    const node = nodeAt(at.dataset.path);
    if (node) reveal(node);
  };
  map.addEventListener("click", go);
  crumbs.addEventListener("click", go);
}

// --- plots

function barsPath(bins, width, height) {
  const most = Math.max(...bins, 1), step = width / bins.length;
  return bins.map((value, at) => {
    const tall = value ? Math.max(0.6, value / most * height) : 0;
    return tall ? `M${(at * step).toFixed(2)} ${height}v${(-tall).toFixed(2)}h${(step * 0.9).toFixed(2)}v${tall.toFixed(2)}z` : "";
  }).join("");
}

function histogramPlot(leaf) {
  const bins = LEAVES.bins[leaf], stats = LEAVES.stats[leaf];
  if (!bins || !bins.length) return "";
  const most = Math.max(...bins), [low, high] = [stats[2], stats[3]];
  const words = `histogram from ${numberText(low)} to ${numberText(high)}, the fullest of ${bins.length} parts with ${countText(most, "element", "elements")}`;
  return `<h3>histogram</h3><svg class="plot" viewBox="0 0 400 130" preserveAspectRatio="none" role="img" aria-label="${words}">`
    + `<title>${words}</title><path class="fill" d="${barsPath(bins, 400, 108)}"/><line class="axis" x1="0" x2="400" y1="108" y2="108" stroke="currentColor"/></svg>`
    + ends(low, high);
}

function spectrumPlot(leaf) {
  const found = LEAVES.spectrum[leaf];
  if (!found || !found.values.length) return "";
  const floor = found.values[0] * 1e-8 || 1e-30;
  const logs = found.values.map(value => Math.log10(Math.max(value, floor)));
  const high = Math.max(...logs), low = Math.min(...logs, high - 1), last = Math.max(found.count, 2);
  const points = logs.map((value, at) => `${((found.at[at] - 1) / (last - 1) * 400).toFixed(1)},${(4 + (high - value) / (high - low) * 100).toFixed(1)}`);
  const words = `${countText(found.count, "singular value", "singular values")} from ${numberText(found.values[0])} to ${numberText(found.values[found.values.length - 1])}; the first ${found.rank} hold 99% of the squares`;
  return `<h3>spectrum</h3><svg class="plot" viewBox="0 0 400 130" preserveAspectRatio="none" role="img" aria-label="${words}"><title>${words}</title>`
    + `<line class="axis" x1="0" x2="400" y1="108" y2="108" stroke="currentColor"/><polyline class="curve" vector-effect="non-scaling-stroke" points="${points.join(" ")}"/></svg>`
    + ends(`1: ${numberText(found.values[0])}`, `${found.count}: ${numberText(found.values[found.values.length - 1])}`) + `<p class="note">${words}.</p>`;
}

function ends(left, right) {
  const text = value => typeof value === "string" ? escaped(value) : numberText(value);
  return `<div class="note" style="display:flex;justify-content:space-between;margin-top:-1.2rem"><span>${text(left)}</span><span>${text(right)}</span></div>`;
}
