// What is chosen in words, curves, tables, the theme, and the start.

const card = document.getElementById("card");

function pairs(rows) {
  const shown = rows.filter(([, value]) => value !== "" && value !== undefined && value !== null);
  return `<dl>${shown.map(([name, value]) => `<dt>${escaped(name)}</dt><dd>${value}</dd>`).join("")}</dl>`;
}

function shareText(size) { return ROOT.bytes ? ` (${(size / ROOT.bytes * 100).toPrecision(3)}%)` : ""; }

function showNode(node) {
  drawMap(node);
  card.innerHTML = node.leaf >= 0 ? leafText(node) : levelText(node);
}

function leafText(node) {
  const leaf = node.leaf, stats = LEAVES.stats[leaf], shape = LEAVES.shape[leaf], axes = LEAVES.axes[leaf];
  const parts = [`<h2>${escaped(node.path)}</h2>`, pairs([
    ["shape", shape ? `[${shape.join(", ")}]` : ""], ["dtype", escaped(LEAVES.dtype[leaf])],
    ["value", LEAVES.value[leaf] ? escaped(LEAVES.value[leaf]) : ""],
    ["elements", shape ? elementsOf(leaf).toLocaleString("en") : ""], ["bytes", shape ? bytesText(node.bytes) + shareText(node.bytes) : ""],
    ["axes", axes ? escaped(axes.map(name => name === null ? "–" : name).join(", ")) : ""],
    ["sharding", LEAVES.sharding[leaf] ? escaped(LEAVES.sharding[leaf]) : ""],
  ])];
  if (LEAVES.damage[leaf]) parts.push(`<p class="bad">It cannot be read: ${escaped(LEAVES.damage[leaf])}</p>`);
  if (IS_COMPARED) parts.push(differenceText(leaf));
  if (stats) {
    const names = ["mean", "spread", "min", "max", "NaN", "infinite"];
    parts.push(`<h3>${IS_COMPARED ? "numbers of the first" : "numbers"}</h3><div class="numbers">`, ...names.map((name, at) =>
      `<div class="${at > 3 && stats[at] ? "bad" : ""}"><span>${name}</span>${numberText(stats[at])}</div>`), "</div>");
    parts.push(histogramPlot(leaf), spectrumPlot(leaf));
  } else if (shape && LEAVES.unread) parts.push(`<p class="note">Not read: it is beyond the budget of --stats.</p>`);
  return parts.join("");
}

function differenceText(leaf) {
  const diff = LEAVES.diff[leaf];
  if (!diff) return `<h3>difference</h3><p class="note">Not compared: it is beyond the budget of --stats.</p>`;
  const kind = { missing: "bad", extra: "good", value: "warm", equal: "" }[diff.kind] ?? "shape";
  const rows = [["it is", `<span class="${kind}">${escaped(CHANGES[diff.kind] || "changed")}</span>`]];
  if (diff.kind !== "equal") rows.push(["first", escaped(diff.left || "")], ["second", escaped(diff.right || "")]);
  for (const [name, words] of [["distance", "largest difference"], ["relative", "by the largest value"], ["unequal", "elements that differ"]]) {
    if (diff[name] !== undefined && diff[name] !== null) rows.push([words, numberText(diff[name])]);
  }
  return `<h3>difference</h3>${pairs(rows)}`;
}

function levelText(node) {
  const kinds = new Map(), changes = new Map(), changed = [];
  const walk = each => {
    if (each.leaf >= 0) {
      const dtype = LEAVES.dtype[each.leaf];
      kinds.set(dtype, (kinds.get(dtype) || 0) + LEAVES.bytes[each.leaf]);
      const kind = LEAVES.diff[each.leaf] ? LEAVES.diff[each.leaf].kind : "not compared";
      changes.set(kind, (changes.get(kind) || 0) + 1);
      if (each.change >= 0) changed.push(each);
    }
    each.children.forEach(walk);
  };
  walk(node);
  const module = (DATA.modules || {})[node.path.split("/").slice(1).join("/")];
  const dtypes = [...kinds].sort((a, b) => b[1] - a[1]).map(([dtype, size]) => `${escaped(dtype)} ${bytesText(size)}`).join(", ");
  const parts = [`<h2>${escaped(node.path || "everything")}</h2>`, pairs([
    ["leaves", node.leaves.toLocaleString("en")], ["elements", node.elements.toLocaleString("en")],
    ["bytes", bytesText(node.bytes) + shareText(node.bytes)], ["dtypes", dtypes],
    ["NaN or infinite", node.spoilt ? `<span class="bad">${countText(node.spoilt, "leaf", "leaves")}</span>` : ""],
  ])];
  if (module) parts.push("<h3>module</h3>", pairs([
    ["class", escaped(module.kind)], ["calls", module.calls], ["returns", escaped(module.output)],
    ["FLOPs", `${module.flops.toLocaleString("en")} (${(module.share * 100).toPrecision(3)}%)`], ["activations", bytesText(module.activations)],
  ]));
  if (IS_COMPARED) {
    parts.push("<h3>differences</h3>", pairs([...changes].map(([kind, number]) => [CHANGES[kind] || (kind === "value" ? "changed" : kind), number.toLocaleString("en")])));
    changed.sort((a, b) => b.change - a.change);
    if (changed.length) parts.push(`<h3>most changed</h3>`, pairs(changed.slice(0, 6).map(each => [each.path, escaped(changeText(each.leaf))])));
  }
  return parts.join("");
}

// --- curves and tables

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#808080"];

function drawCurves() {
  const curves = DATA.curves || [], at = document.getElementById("curves");
  if (!curves.length) return;
  at.hidden = false;
  const legend = DATA.runs.length > 1 ? DATA.runs.map((run, place) => `<span><i style="background:${COLOURS[place % COLOURS.length]}"></i>${escaped(run)}</span>`).join("") : "";
  at.innerHTML = (legend ? `<div id="legend">${legend}</div>` : "")
    + curves.map(curve => `<figure><figcaption>${escaped(curve.name)}</figcaption>${curve.svg}</figure>`).join("");
}

function drawTables() {
  document.getElementById("tables").innerHTML = (DATA.tables || []).map(table => {
    const head = table.heads.length ? `<thead><tr>${table.heads.map(name => `<th scope="col">${escaped(name)}</th>`).join("")}</tr></thead>` : "";
    const body = table.rows.map(row => `<tr>${row.map(cell => `<td>${escaped(cell)}</td>`).join("")}</tr>`).join("");
    return `<div><h2>${escaped(table.title)}</h2><table>${head}<tbody>${body}</tbody></table></div>`;
  }).join("");
}

// --- the theme

function isDark() {
  const set = document.documentElement.dataset.theme;
  return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  document.getElementById("theme").setAttribute("aria-pressed", String(theme === "dark"));
  try { localStorage.setItem("batiste-theme", theme); } catch { /* a page without storage forgets it */ }
}

function start() {
  try { const kept = localStorage.getItem("batiste-theme"); if (kept) setTheme(kept); } catch { /* likewise */ }
  document.getElementById("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
  const facts = [...DATA.facts];
  if (DATA.compared) facts.push(`compared with ${DATA.compared.path}`);
  if (LEAVES.unread) facts.push(`${countText(LEAVES.unread, "leaf", "leaves")} not read`);
  document.getElementById("facts").textContent = facts.join(" · ");
  buildTree();
  drawCurves();
  drawTables();
  if (LEAVES.path.length) {
    document.getElementById("state").hidden = false;
    startMap();
    startTree();
  }
  document.documentElement.dataset.ready = "true";
}

start();
