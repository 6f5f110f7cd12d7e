"use strict";
// One chart as SVG: curves broken where a level has no runs, bands, dense lines, names at the ends.

const DASHES = ["none", "6 3", "2 3"];
const narrow = matchMedia("(max-width: 40rem)");
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function ticksOf(low, high, count = 5) {
  const rough = (high - low || 1) / count;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * ([1, 2, 5, 10].find((m) => m * unit >= rough) || 10);
  const ticks = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-6; t += step) ticks.push(+t.toFixed(10));
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); 10 ** e <= high; e += 1)
    for (const m of [1, 2, 5]) if (m * 10 ** e >= low * 0.999 && m * 10 ** e <= high * 1.001) ticks.push(m * 10 ** e);
  return ticks.length > 1 ? ticks : [low, high];
}

const short = (v) => v === null ? "unknown" : Math.abs(v) >= 1e6 ? `${+(v / 1e6).toPrecision(3)}M` : Math.abs(v) >= 1e4 ? `${+(v / 1e3).toPrecision(3)}k` : String(+v.toPrecision(4));

const SHAPES = {
  o: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z", s: "M-3.6,-3.6h7.2v7.2h-7.2Z",
  "^": "M0,-4.8L4.6,3.6H-4.6Z", v: "M0,4.8L4.6,-3.6H-4.6Z",
  "<": "M-4.8,0L3.6,4.6V-4.6Z", ">": "M4.8,0L-3.6,4.6V-4.6Z", D: "M0,-4.8L4.8,0L0,4.8L-4.8,0Z",
  P: "M-1.6,-4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3Z",
  X: "M-4.4,-2.4L-2.4,-4.4L0,-2L2.4,-4.4L4.4,-2.4L2,0L4.4,2.4L2.4,4.4L0,2L-2.4,4.4L-4.4,2.4L-2,0Z",
};
const shapeOf = (marker) => SHAPES[marker] || SHAPES.o;

// names at the right, pushed apart so that none lies on another
function spreadOut(names, top, bottom, gap = 12) {
  names.sort((a, b) => a.y - b.y);
  names.forEach((n, i) => { n.at = Math.max(n.y, i ? names[i - 1].at + gap : top); });
  for (let i = names.length - 1, limit = bottom; i >= 0; i -= 1, limit -= gap) {
    names[i].at = Math.min(names[i].at, limit);
    limit = Math.min(limit, names[i].at);
  }
}

function chart({ title, x, y, names, levels, curves, dense = [], colors, full, log = false, decimals = 2 }) {
  const points = curves.flatMap((c) => c.points);
  const lines = dense.flatMap((c) => c.points);
  if (!points.length && !lines.length) return null;
  const labelled = [...curves, ...dense].filter((c) => c.points.length);
  const width = narrow.matches ? 380 : 520;
  const longest = Math.min(narrow.matches ? 16 : 26, Math.max(...labelled.map((c) => c.label.length)));
  // as high as the names at its right need
  const bottom = Math.max(276, 16 + 12 * labelled.length);
  const box = { left: 52, right: width - 16 - longest * 6.3, top: 10, bottom };
  const all = [...points, ...lines];
  let low = Math.min(...all.map((p) => p.mean - (p.std || 0)));
  let high = Math.max(...all.map((p) => p.mean + (p.std || 0)));
  const room = (high - low || Math.abs(high) * 0.1 || 1) * 0.06;
  low = low >= 0 ? Math.max(0, low - room) : low - room;
  high += room;
  const xs = names ? names.map((_, i) => i) : points.map((p) => p.x);
  let first = Math.min(...xs), last = Math.max(...xs);
  if (!points.length) [first, last] = [0, 1];
  if (log) { first /= 1.15; last *= 1.15; } else { const pad = names ? 0.5 : (last - first) * 0.04 || 5; first -= pad; last += pad; }
  const scale = log ? Math.log10 : (v) => v;
  const toX = (v) => box.left + ((scale(v) - scale(first)) / (scale(last) - scale(first))) * (box.right - box.left);
  const toY = (v) => box.bottom - ((v - low) / (high - low)) * (box.bottom - box.top);
  const place = (p) => toX(names ? names.indexOf(p.x) : p.x);
  const root = svg("svg", { viewBox: `0 0 ${width} ${bottom + 40}`, role: "img", "aria-label": `${title}: ${y} against ${x}; the table below has the numbers` });
  for (const t of ticksOf(low, high)) {
    root.append(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: toY(t), y2: toY(t) }));
    root.append(svg("text", { class: "soft", x: box.left - 6, y: toY(t) + 4, "text-anchor": "end" }, short(t)));
  }
  const marks = names ? names.map((n, i) => [i, n]) : (log ? logTicks(first, last) : ticksOf(first, last, 6)).map((t) => [t, short(t)]);
  for (const [at, text] of marks) {
    root.append(svg("line", { class: "axis", x1: toX(at), x2: toX(at), y1: box.bottom, y2: box.bottom + 4 }));
    root.append(svg("text", { class: "soft", x: toX(at), y: box.bottom + 17, "text-anchor": "middle" }, text));
  }
  root.append(svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  root.append(svg("text", { x: (box.left + box.right) / 2, y: bottom + 34, "text-anchor": "middle" }, x));
  root.append(svg("text", { transform: `translate(13 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, y));
  const ends = [];
  for (const curve of dense) for (const p of curve.points) {
    const color = colors(curve.label);
    if (p.std) root.append(svg("rect", { x: box.left, width: box.right - box.left, y: toY(p.mean + p.std), height: toY(p.mean - p.std) - toY(p.mean + p.std), fill: color.color, opacity: 0.1 }));
    const line = svg("line", { class: "dense", x1: box.left, x2: box.right, y1: toY(p.mean), y2: toY(p.mean), stroke: color.color, "stroke-width": 1.6, "stroke-dasharray": DASHES[color.dash] });
    root.append(tipped(line, curve, p, decimals));
    ends.push({ y: toY(p.mean), label: curve.label, color: color.color });
  }
  for (const curve of curves) {
    const color = colors(curve.label);
    let part = [];
    const flush = () => {
      if (part.length > 1 && !names) {
        const up = part.map((p) => `${place(p)},${toY(p.mean + (p.std || 0))}`);
        const down = part.map((p) => `${place(p)},${toY(p.mean - (p.std || 0))}`).reverse();
        root.append(svg("polygon", { points: [...up, ...down].join(" "), fill: color.color, opacity: 0.15 }));
        root.append(svg("polyline", { class: "curve", points: part.map((p) => `${place(p)},${toY(p.mean)}`).join(" "), fill: "none", stroke: color.color, "stroke-width": 2, "stroke-dasharray": DASHES[color.dash] }));
      } else for (const p of part.filter((q) => q.std)) {
        root.append(svg("line", { x1: place(p), x2: place(p), y1: toY(p.mean - p.std), y2: toY(p.mean + p.std), stroke: color.color, "stroke-width": 1.5 }));
      }
      part = [];
    };
    for (const level of levels || curve.points.map((p) => p.level)) {
      const p = curve.points.find((q) => q.level === level);
      if (p) part.push(p); else flush();
    }
    flush();
    for (const p of curve.points) {
      const hollow = full && p.seeds.length < full;
      root.append(tipped(svg("path", { class: "point", d: shapeOf(color.marker), transform: `translate(${place(p)} ${toY(p.mean)})`, fill: hollow ? "var(--panel)" : color.color, stroke: color.color, "stroke-width": 1.4 }), curve, p, decimals));
    }
    const end = curve.points.at(-1);
    if (end) ends.push({ y: toY(end.mean), label: curve.label, color: color.color });
  }
  spreadOut(ends, box.top + 6, box.bottom);
  for (const end of ends) {
    const text = end.label.length > longest ? `${end.label.slice(0, longest - 1)}…` : end.label;
    root.append(svg("text", { class: "end", x: box.right + 9, y: end.at + 4, style: `fill:${end.color}` }, text));
  }
  return root;
}

function tipped(node, curve, p, decimals) {
  const number = (v) => v.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  const text = `${curve.label}${p.where ? `, ${p.where}` : ""}\n${number(p.mean)}${p.std === null ? "" : ` ± ${number(p.std)}`} (${p.seeds.length} seed${p.seeds.length === 1 ? "" : "s"}: ${p.seeds.map(seed => seed ?? "not known").join(", ")})${p.more ? `\n${p.more}` : ""}`;
  const tip = document.getElementById("tip");
  const show = (event) => {
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(4, event.clientY - tip.offsetHeight - 10)}px`;
  };
  node.addEventListener("pointerenter", show);
  node.addEventListener("pointermove", show);
  node.addEventListener("pointerleave", () => { tip.hidden = true; });
  return node;
}
