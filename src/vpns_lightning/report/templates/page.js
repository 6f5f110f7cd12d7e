// The page: filters, figures, tables, cost, layers, commands and what is missing.

const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const off = { dataset: new Set(), method: new Set() };
const chosen = { cost: "steps", layers: "" };

function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((c) => c !== null));
  return node;
}

const colors = (label) => {
  const style = data.styles[label] || { color: "#777777", dark: "#aaaaaa", marker: "o", dash: 0 };
  return { ...style, color: dark.matches ? style.dark : style.color };
};
const shows = (dataset, label) => !off.dataset.has(dataset) && (label === null || !off.method.has(label));

function swatch(label) {
  const { color, marker, dash } = colors(label);
  const flat = data.dense.includes(label);
  return svg("svg", { viewBox: "0 0 22 12", style: "width:22px;height:12px", "aria-hidden": "true" },
    svg("line", { x1: 0, x2: 22, y1: 6, y2: 6, stroke: color, "stroke-width": 2, "stroke-dasharray": DASHES[dash] }),
    flat ? "" : svg("path", { d: shapeOf(marker), transform: "translate(11 6)", fill: color }));
}

function filters() {
  const form = document.getElementById("filters");
  const group = (kind, name, values) => {
    const chip = (value) => el("label", { class: "chip" },
      el("input", { type: "checkbox", name: kind, value, checked: !off[kind].has(value), onchange: (event) => {
        off[kind][event.target.checked ? "delete" : "add"](value);
        render();
      } }), kind === "method" ? swatch(value) : null, value);
    const all = el("button", { type: "button", onclick: () => { off[kind].clear(); filters(); render(); } }, "all");
    const none = el("button", { type: "button", onclick: () => { values.forEach((v) => off[kind].add(v)); filters(); render(); } }, "none");
    return el("fieldset", {}, el("legend", {}, name), ...values.map(chip), all, none);
  };
  form.replaceChildren(group("dataset", "Data sets", data.datasets), group("method", "Methods", data.methods));
}

const NO_NUMBER = ["missing", "refused", "unknown", "none", "no run", ""];

function table({ title, columns, rows, note }, keep = () => true, name = "") {
  // words stand at the left, numbers at the right
  const worded = columns.map((_, i) => i > 0 && rows.every((row) => Number.isNaN(parseFloat(row[i].text))) && rows.some((row) => !NO_NUMBER.includes(row[i].text)));
  const head = el("tr", {}, ...columns.map((c, i) => el("th", { scope: "col", class: worded[i] ? "words" : null }, c)));
  const body = rows.filter(keep).map((row) => el("tr", {}, ...row.map((cell, i) => {
    const text = cell.bold ? el("strong", {}, cell.text) : cell.text;
    const lost = ["missing", "refused"].includes(cell.text);
    return i ? el("td", { class: lost ? "lost" : worded[i] ? "words" : null }, text) : el("th", { scope: "row" }, text);
  })));
  if (!body.length) return "";
  const inner = el("table", { "data-table": name }, el("caption", {}, title), el("thead", {}, head), el("tbody", {}, ...body));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, inner, note ? el("p", { class: "soft" }, note) : null);
}

function warning(title, items) {
  return items.length ? el("div", { class: "warn" }, el("strong", {}, title), el("ul", {}, ...items.map((i) => el("li", {}, i)))) : null;
}

function figure(exhibit) {
  const panels = exhibit.panels.filter((p) => shows(p.dataset, null));
  const visible = panels.map((p) => ({ ...p, curves: p.curves.filter((c) => shows(p.dataset, c.label)), dense: p.dense.filter((c) => shows(p.dataset, c.label)) }));
  const drawn = visible.map((p) => [p, chart({ ...p, colors })]).filter(([, drawing]) => drawing);
  // what holds for all tables stands below the last
  const tables = visible.map((p, i) => table({ ...p.table, note: i === visible.length - 1 ? p.table.note : "" }, (row) => shows(p.dataset, row[0].text), exhibit.id));
  const differences = visible.filter((p, i) => p.differences && shows(p.dataset, panels[i].curves[0].label)).map((p) => table(p.differences, (row) => shows(p.dataset, row[0].text), exhibit.id));
  return [
    el("div", { class: drawn.length === 1 ? "panels one" : "panels" }, ...drawn.map(([p, drawing]) => el("div", { class: "panel", "data-panel": p.title }, el("h3", {}, p.title), drawing, ...p.notes.map((n) => el("p", { class: "soft" }, n))))),
    drawn.length ? null : el("p", { class: "soft" }, exhibit.panels.length ? "Nothing of this is selected above." : ""),
    warning("Not drawn, because the runs must not be mixed", exhibit.refused),
    warning(`Without all runs: ${exhibit.missing.length} (hollow marks, gaps, “missing”)`, exhibit.missing.slice(0, 40).concat(exhibit.missing.length > 40 ? [`and ${exhibit.missing.length - 40} more`] : [])),
    exhibit.absent.length ? el("p", { class: "soft" }, `The paper's figure has besides: ${exhibit.absent.join("; ")}.`) : null,
    ...tables,
    ...differences,
  ];
}

// drawn of all runs beforehand, so the choices above do not change it
function further(picture) {
  const files = picture.files.map((file) => el("a", { href: file }, file));
  const links = el("p", { class: "soft" }, "Files beside this page: ", ...files.flatMap((file, i) => (i ? [", ", file] : [file])));
  if (!picture.picture) return [el("p", { class: "soft" }, picture.said), links];
  const image = el("img", { src: picture.picture, alt: picture.alt, class: picture.wide ? "wide" : null });
  const frame = el("div", { class: "picture", tabindex: 0, role: "region", "aria-label": picture.title }, image);
  return [el("figure", {}, frame, el("figcaption", { class: "soft" }, `${picture.said} Of all runs, whatever is chosen above.`)), links];
}

const plainTables = (exhibit) => exhibit.tables.map((t) => table(t, (row) => {
  const texts = row.slice(0, 2).map((c) => c.text);
  return !texts.some((t2) => off.dataset.has(t2) || off.method.has(t2)) && (!t.dataset || shows(t.dataset, null));
}, exhibit.id));

const COSTS = { steps: "gradient steps", passes: "forward-backward passes", seconds: "seconds" };

function cost() {
  const select = el("select", { id: "cost-axis", onchange: (event) => { chosen.cost = event.target.value; render(); document.getElementById("cost-axis").focus(); } },
    ...Object.entries(COSTS).map(([key, name]) => el("option", { value: key, selected: key === chosen.cost }, name)));
  const groups = Map.groupBy ? Map.groupBy(data.cells, (c) => c.where) : data.cells.reduce((m, c) => m.set(c.where, [...(m.get(c.where) || []), c]), new Map());
  const panels = [...groups].map(([where, cells]) => {
    const kept = cells.filter((c) => shows(c.dataset, c.label) && c[chosen.cost] > 0);
    const labels = [...new Set(kept.map((c) => c.label))];
    const curves = labels.map((label) => ({ label, points: kept.filter((c) => c.label === label && c[chosen.cost] !== null).map((c) => ({ ...c, x: c[chosen.cost], level: c.level, where: `${c.level} % sparsity`, more: `${short(c.steps)} steps, ${short(c.passes)} passes, ${short(c.seconds)} s` })).sort((a, b) => a.x - b.x || a.level - b.level) }));
    const xs = kept.map((c) => c[chosen.cost]);
    const drawing = chart({ title: where, x: COSTS[chosen.cost], y: "test accuracy (%)", curves, colors, levels: [], log: Math.max(...xs) / Math.min(...xs) > 8 });
    return drawing ? el("div", { class: "panel" }, el("h3", {}, where), drawing) : null;
  }).filter(Boolean);
  return [el("p", {}, el("label", {}, "Cost: ", select)), el("p", { class: "soft" }, "One mark for each method and sparsity: what a whole run cost, and what it reached."),
    el("div", { class: panels.length === 1 ? "panels one" : "panels" }, ...panels)];
}

function layers() {
  const cells = data.cells.filter((c) => c.layers && shows(c.dataset, c.label));
  const wheres = [...new Set(cells.map((c) => `${c.where}, ${c.level} %`))];
  const current = wheres.includes(chosen.layers) ? chosen.layers : wheres.at(-1) || "";
  const select = el("select", { id: "layer-level", onchange: (event) => { chosen.layers = event.target.value; render(); document.getElementById("layer-level").focus(); } },
    ...wheres.map((w) => el("option", { value: w, selected: w === current }, w)));
  const kept = cells.filter((c) => `${c.where}, ${c.level} %` === current);
  const names = [...new Set(kept.flatMap((c) => Object.keys(c.layers)))];
  const head = el("tr", {}, el("th", { scope: "col" }, "layer"), ...kept.map((c) => el("th", { scope: "col" }, c.label)));
  const rows = names.map((n) => el("tr", {}, el("th", { scope: "row" }, n), ...kept.map((c) => {
    const v = c.layers[n];
    return v === undefined ? el("td", {}, "") : el("td", { class: "heat", style: `--share:${(0.75 * (v / 100) ** 2).toFixed(3)}` }, v.toFixed(1));
  })));
  return [el("p", {}, el("label", {}, "Runs: ", select)), kept.length ? el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Sparsity of each layer" }, el("table", { "data-table": "layers" }, el("caption", {}, "Weights removed of each layer (%), mean over seeds; the darker, the sparser"), el("thead", {}, head), el("tbody", {}, ...rows))) : el("p", { class: "soft" }, "Nothing is selected above.")];
}

function commands() {
  const kept = data.runs.filter((r) => shows(r.dataset, r.label));
  return [el("p", { class: "soft" }, `${kept.length} of ${data.runs.length} runs are selected above. The words of each command are those it was started with.`),
    el("details", {}, el("summary", {}, `${kept.length} commands`), ...kept.map((r) => el("div", {}, el("p", {}, el("strong", {}, `${r.label}, ${r.dataset}, ${r.level} %, seed ${r.seed ?? "not known"}: `), `${r.accuracy.toFixed(2)} % `, el("span", { class: "soft" }, r.path)), el("pre", {}, r.command || "unknown"))))];
}

function lacking() {
  return [
    warning(`${data.broken.length} files could not be read and were left out`, data.broken.map((b) => `${b.path}: ${b.reason}`)),
    ...data.notes.map((note) => el("p", { class: "soft" }, note)),
    data.lacking.length ? table({ title: "Of the paper, without runs here", columns: ["id", "what", "how to make it"], rows: data.lacking.map((r) => r.map((text) => ({ text }))), note: "" }) : el("p", {}, "Every figure and table of the paper has runs here."),
  ];
}

const sections = [
  ...data.exhibits.map((e) => ({ id: e.id, title: e.title, tag: e.id, body: () => (e.panels.length ? figure(e) : plainTables(e)) })),
  ...data.further.map((picture) => ({ id: picture.id, title: picture.title, body: () => further(picture) })),
  { id: "cost", title: "Cost against accuracy", body: cost },
  { id: "layers", title: "Sparsity of each layer", body: layers },
  { id: "commands", title: "Commands", body: commands },
  { id: "lacking", title: "What is missing", body: lacking },
];

function render() {
  for (const section of sections) {
    const node = document.getElementById(`body-${section.id}`);
    const open = [...node.querySelectorAll("details")].map((d) => d.open);
    node.replaceChildren(...section.body().filter((child) => child !== null && child !== ""));
    node.querySelectorAll("details").forEach((d, i) => { d.open = open[i] || false; });
  }
}

document.getElementById("summary").textContent = data.summary;
document.getElementById("contents").append(...sections.map((s) => el("a", { href: `#${s.id}` }, s.tag && /^(fig|tab)/.test(s.tag) ? s.tag : s.title)));
document.getElementById("main").append(...sections.map((s) => el("section", { id: s.id }, el("h2", {}, s.title, s.tag && s.tag !== "runs" ? el("span", { class: "id" }, ` ${s.tag}`) : null), el("div", { id: `body-${s.id}` }))));
filters();
render();
for (const query of [dark, narrow]) query.addEventListener("change", () => { filters(); render(); });
