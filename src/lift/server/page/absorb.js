// A document is dropped, its plan is shown, and only then a click absorbs it.

import { json, request } from "./api.js";
import { button, fault, h, waiting } from "./dom.js";
import { bytes, duration, number, plural } from "./words.js";

const KINDS =
  ".pdf,.docx,.pptx,.xlsx,.odt,.ods,.odp,.rtf,.epub,.html,.htm,.mhtml,.md,.txt,.csv,.tsv,.eml,.mbox,.ipynb,.srt,.vtt,.json";
const BUDGETS = [
  ["60", "1 minute"],
  ["300", "5 minutes"],
  ["900", "15 minutes"],
  ["3600", "1 hour"],
  ["", "as long as it takes"],
];
const USUAL_BUDGET = "300";

/** The panel where it all happens. */
export function absorbPanel(signal) {
  const panel = h("section.absorb", { "aria-label": "Absorb a document" });
  const take = (files) => files.length && plan(panel, files[0], signal, take);
  const over = (is) => panel.classList.toggle("over", is);
  // anywhere on the page will do; between two elements of it, dragleave names the one that is entered
  document.addEventListener("dragover", () => over(true), { signal });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? over(false), { signal });
  document.addEventListener("drop", (event) => take(event.dataTransfer.files, over(false)), { signal });
  dropZone(panel, take);
  return panel;
}

function dropZone(panel, take) {
  const input = h("input", {
    type: "file",
    id: "file",
    class: "unseen",
    accept: KINDS,
    onchange: () => take(input.files),
  });
  panel.replaceChildren(
    h(
      "div.drop",
      h("p.drop-title", "Drop a document here"),
      h("p.soft", "PDF, Word, EPUB, HTML, Markdown or text. You see the plan first."),
      input,
      h("label", { for: "file", class: "button primary" }, "Choose a file"),
    ),
  );
}

async function plan(panel, file, signal, take) {
  const stopped = new AbortController();
  signal.addEventListener("abort", () => stopped.abort());
  const back = async () => {
    stopped.abort();
    dropZone(panel, take);
    panel.querySelector("input").focus();
  };
  const budget = h(
    "select",
    { id: "budget" },
    BUDGETS.map(([value, label]) => h("option", { value, selected: value === USUAL_BUDGET }, label)),
  );
  const title = h("input", { id: "title", type: "text", maxlength: 200, placeholder: "as in the document" });
  const go = h("button.button.primary", { disabled: true }, "Absorb");
  const facts = h("div.plan-facts", { "aria-live": "polite" });
  const form = h(
    "form.plan",
    h("h2", { tabindex: "-1" }, file.name),
    h("div.fields", labelled("Title", title), labelled("Time to spend", budget)),
    facts,
    h("div.row.end", button("Cancel", back), go),
  );
  panel.replaceChildren(form);
  form.querySelector("h2").focus();

  let stored = null;
  let asked = 0;
  const ask = async () => {
    const mine = ++asked;
    go.disabled = true;
    facts.setAttribute("aria-busy", "true");
    facts.replaceChildren(h("p.soft", "Reading it and timing a few steps on this machine …"), waiting(3));
    try {
      stored ??= await upload(file, stopped.signal);
      const body = { file_id: stored.id, ...(budget.value ? { budget_s: Number(budget.value) } : {}) };
      const made = await json("POST", "/api/plan", body, stopped.signal);
      if (mine !== asked) return;
      title.value ||= made.title;
      facts.replaceChildren(planFacts(made), leftOut(made), sourceText(made));
      go.disabled = false;
    } catch (error) {
      if (!stopped.signal.aborted && mine === asked) facts.replaceChildren(fault(error.message, ask));
    }
    facts.removeAttribute("aria-busy");
  };
  budget.addEventListener("change", ask);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    try {
      const job = await absorb(stored, title.value.trim(), budget.value);
      location.hash = `#/jobs/${encodeURIComponent(job.id)}`;
    } catch (error) {
      facts.replaceChildren(fault(error.message, ask));
    }
  });
  await ask();
}

const labelled = (label, field) => h("label", { for: field.id }, h("span", label), field);

async function upload(file, signal) {
  const body = new FormData();
  body.append("purpose", "fine-tune");
  body.append("file", file, file.name);
  return (await request("POST", "/v1/files", { body, signal })).json();
}

async function absorb(stored, title, budget) {
  const models = (await json("GET", "/v1/models")).data;
  const base = models.find((model) => !model.parent);
  const metadata = { ...(title ? { title } : {}), ...(budget ? { budget_s: budget } : {}) };
  return json("POST", "/v1/fine_tuning/jobs", { model: base.id, training_file: stored.id, metadata });
}

const ESTIMATED = "; estimated at a speed timed before, since a document is being absorbed";

function planFacts(made) {
  const pays =
    made.break_even_questions !== null
      ? `after ${plural(made.break_even_questions, "question")}`
      : made.full_read_s === null
        ? "at once: the text is too long to be read whole"
        : "not in time: reading the text costs no more";
  const read = made.full_read_s === null ? "too long for the model" : `${duration(made.full_read_s)} a question`;
  return h(
    "dl.tiles",
    tile(
      "Takes",
      `about ${duration(made.seconds)}`,
      `${number(made.train_tokens)} tokens of training${made.timing === "timed" ? "" : ESTIMATED}`,
    ),
    tile("Pays", pays, `from memory ${duration(made.ask_s)} a question, with the text ${read}`),
    tile("Adapter", bytes(made.adapter_bytes), `needs ${bytes(made.peak_bytes)} of working memory`),
    tile(
      "Text",
      `${number(made.tokens)} tokens`,
      `${plural(made.sentences, "sentence")}, ${number(made.tasks)} questions to learn`,
    ),
  );
}

/** What of the original is not in the text. */
function leftOut(made) {
  return made.warnings.length
    ? h("ul.left-out", { "aria-label": "Left out" }, made.warnings.map((warning) => h("li", warning)))
    : "";
}

/** The text as it was read, or its beginning. */
function sourceText(made) {
  const all = made.text.length >= made.text_chars;
  return h(
    "details.source",
    h("summary", "The text as it was read"),
    h("pre", { tabindex: "0" }, made.text),
    all ? "" : h("p.soft", `The first ${number(made.text.length)} of ${number(made.text_chars)} characters.`),
  );
}

const tile = (term, value, more) => h("div", h("dt", term), h("dd", value), h("dd.soft", more));
