// The loss, step by step, as a line of SVG. Its box is there before the first step, so nothing jumps.

import { h, svg } from "./dom.js";
import { number } from "./words.js";

const HEIGHT = 220;
const LEFT = 44;
const BOTTOM = 28;
const TOP = 12;
const RIGHT = 12;
const MOST_POINTS = 300;

/** {element, add(step, loss), draw()}: `draw` once for any number of points added. */
export function lossCurve() {
  const points = [];
  const line = svg("path.line");
  const head = svg("circle.line-head", { r: 4, visibility: "hidden" });
  const grid = svg("g.grid");
  const text = svg("g.ticks");
  const chart = svg("svg.curve", { role: "img", "aria-label": "Loss curve: no step yet" }, grid, line, head, text);
  const element = h("figure", h("figcaption", "Loss, by training step"), chart);

  function draw() {
    if (!points.length) return;
    const width = chart.clientWidth; // a unit is a pixel, or the words would shrink on a phone
    chart.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const [lastStep, lastLoss] = points.at(-1);
    const top = niceAbove(Math.max(...points.map(([, loss]) => loss)));
    const first = points[0][0];
    const x = (step) => LEFT + ((width - LEFT - RIGHT) * (step - first)) / Math.max(1, lastStep - first);
    const y = (loss) => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - TOP) * loss) / top;
    line.setAttribute(
      "d",
      thinned(points)
        .map(([step, loss]) => `${x(step).toFixed(1)} ${y(loss).toFixed(1)}`)
        .join(" L")
        .replace(/^/, "M"),
    );
    head.setAttribute("cx", x(lastStep));
    head.setAttribute("cy", y(lastLoss));
    head.setAttribute("visibility", "visible");
    const levels = [0, top / 2, top];
    grid.replaceChildren(...levels.map((at) => svg("path", { d: `M${LEFT} ${y(at)}H${width - RIGHT}` })));
    text.replaceChildren(
      ...levels.map((at) => svg("text", { x: LEFT - 8, y: y(at) + 4, "text-anchor": "end" }, String(at))),
      svg("text", { x: LEFT, y: HEIGHT - 8 }, `step ${number(first)}`),
      svg("text", { x: width - RIGHT, y: HEIGHT - 8, "text-anchor": "end" }, `step ${number(lastStep)}`),
    );
    chart.setAttribute(
      "aria-label",
      `Loss curve: ${lastLoss.toFixed(2)} at step ${number(lastStep)}, ${points[0][1].toFixed(2)} at the first`,
    );
  }

  return { element, add: (step, loss) => points.push([step, loss]), draw };
}

function niceAbove(value) {
  const size = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 4, 5, 10].map((factor) => factor * size).find((level) => level >= value);
}

// means of neighbours: what is left out would otherwise be a matter of chance
function thinned(points) {
  const group = Math.ceil(points.length / MOST_POINTS);
  if (group === 1) return points;
  const means = [];
  for (let start = 0; start < points.length; start += group) {
    const some = points.slice(start, start + group);
    means.push([some.at(-1)[0], some.reduce((sum, [, loss]) => sum + loss, 0) / some.length]);
  }
  return means;
}
