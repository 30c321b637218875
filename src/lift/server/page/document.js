// The document, each sentence marked by whether the memory could be shown to know it.

import { json, memoryPath } from "./api.js";
import { button, h, svg } from "./dom.js";
import { memoryHead } from "./memory.js";
import { number, percent, place } from "./words.js";

const STATES = ["recalled", "forgotten", "not probed"];
const MAP_CELLS = 96;

export async function documentView(main, signal, name, sentence) {
  const head = memoryHead(main, signal, name, "document");
  const [{ text, sentences, places = [], parts = [] }, { probes = [] }] = await Promise.all([
    json("GET", memoryPath(name, "/document"), undefined, signal),
    json("GET", memoryPath(name, "/recall"), undefined, signal),
    head,
  ]);
  const detail = h("div.detail", { role: "status" });
  const spans = new Map();
  const page = h("article.document", { "aria-label": "Text of the document" });
  const turn = (to) => {
    const span = spans.get(to);
    if (!span) return;
    page.querySelector(".here")?.classList.remove("here");
    span.classList.add("here");
    span.scrollIntoView({ block: "center" });
    span.focus({ preventScroll: true });
    showProbes(
      detail,
      sentences.find((each) => each.index === to),
      probes,
      placeOf(places, sentences, to),
    );
    here = to;
  };
  let here = -1;
  const next = (forwards) => {
    const forgotten = sentences.filter((each) => each.state === "forgotten").map((each) => each.index);
    const found = forwards ? forgotten.find((each) => each > here) : forgotten.findLast((each) => each < here);
    turn(found ?? forgotten.at(forwards ? 0 : -1));
  };
  page.append(...paragraphs(text, sentences, places, parts, spans));
  page.addEventListener("click", (event) => {
    const index = event.target.closest(".sentence")?.dataset.index;
    if (index !== undefined) turn(Number(index));
  });
  const anyForgotten = sentences.some((each) => each.state === "forgotten");
  const step = (label, forwards) => button(label, () => next(forwards), "small", { disabled: !anyForgotten });
  main.append(
    legend(sentences),
    h(
      "section.known",
      { "aria-label": "Map of what the memory knows" },
      heatMap(sentences, turn),
      h("div.row", h("span.soft", "Forgotten:"), step("Previous", false), step("Next", true)),
    ),
    page,
    detail,
  );
  if (sentence !== undefined) turn(Number(sentence));
}

function legend(sentences) {
  const of = (state) => sentences.filter((each) => each.state === state).length;
  const words = {
    recalled: "answered when asked about",
    forgotten: "asked about in vain",
    "not probed": "not asked about",
  };
  return h(
    "ul.legend",
    STATES.map((state) =>
      h("li", h("span", { class: `sentence ${kind(state)}` }, state), ` ${number(of(state))} ${words[state]}`),
    ),
  );
}

const kind = (state) => state.replace(" ", "-");

/** The whole document as one strip: what is recalled stands on the ground, what is forgotten hangs from the top. */
function heatMap(sentences, turn) {
  const size = Math.max(1, Math.ceil(sentences.length / MAP_CELLS));
  const cells = [];
  for (let start = 0; start < sentences.length; start += size) cells.push(sentences.slice(start, start + size));
  const share = (state, cell) => cell.filter((each) => each.state === state).length / cell.length;
  const column = (cell, index) => {
    const recalled = 11 * share("recalled", cell);
    const forgotten = 8 * share("forgotten", cell);
    return svg(
      "g",
      { onclick: () => turn(cell[0].index) },
      svg("rect", { x: index, y: 0, width: 1, height: 20, class: "cell" }),
      svg("rect", { x: index, y: 20 - recalled, width: 1, height: recalled, class: "cell recalled" }),
      svg("rect", { x: index, y: 0, width: 1, height: forgotten, class: "cell forgotten" }),
    );
  };
  const known = sentences.filter((each) => each.state === "recalled").length;
  const probed = sentences.filter((each) => each.state !== "not probed").length;
  const label = `Map of the document: ${probed ? percent(known / probed) : "none"} of the sentences asked about are recalled`;
  return svg(
    "svg",
    { viewBox: `0 0 ${cells.length} 20`, preserveAspectRatio: "none", class: "map", role: "img", "aria-label": label },
    cells.map(column),
  );
}

/** Text and sentences -> paragraphs of marked sentences; `spans` gets the element of each sentence. */
function paragraphs(text, sentences, places, parts, spans) {
  // offsets count characters as Python does, not UTF-16 units
  const points = /[\ud800-\udfff]/.test(text) ? Array.from(text) : null;
  const cut = (start, end) => (points ? points.slice(start, end).join("") : text.slice(start, end));
  const headings = new Set(places.map((each) => each.heading));
  const marks = [
    ...parts.map((part) => ({ start: part.start, element: () => h("h2", part.title) })),
    ...places
      .filter((each) => each.page)
      .map((each) => ({ start: each.start, element: () => h("p.page", `page ${each.page}`) })),
  ].sort((one, other) => one.start - other.start);
  const made = [];
  let paragraph = null;
  let end = 0;
  for (const each of sentences) {
    const between = cut(end, each.start);
    const due = [];
    while (marks.length && marks[0].start <= each.start) due.push(marks.shift().element());
    if (!paragraph || due.length || /\n\s*\n/.test(between)) {
      paragraph = h("p");
      made.push(...due, paragraph);
    } else paragraph.append(between);
    const said = cut(each.start, each.end);
    const classes = `sentence ${kind(each.state)} ${headings.has(said.trim()) ? "heading" : ""}`.trim();
    const span = h("span", { class: classes, "data-index": each.index, tabindex: "-1" }, said);
    spans.set(each.index, span);
    paragraph.append(span);
    end = each.end;
  }
  return made;
}

function placeOf(places, sentences, index) {
  const start = sentences.find((each) => each.index === index)?.start;
  return place(places.findLast((each) => each.start <= start));
}

function showProbes(detail, sentence, probes, where) {
  const asked = probes.filter((probe) => probe.sentence === sentence.index);
  const heard = (probe) =>
    probe.recalled ? `✓ answered “${probe.answer}”` : `✗ answered “${probe.answer}”, expected “${probe.expected}”`;
  detail.replaceChildren(
    h(
      "div.label",
      h("span", h("span", { class: `sentence ${kind(sentence.state)}` }, sentence.state), where && ` ${where}`),
      button("Close", () => detail.replaceChildren(), "quiet"),
    ),
    ...asked.map((probe) => h("dl.probe", h("dt", probe.question), h("dd", heard(probe)))),
    asked.length ? "" : h("p.soft", "No question was put about this sentence."),
  );
}
