// One question, answered three ways: from memory, with the whole text, with what a search finds.

import { json } from "./api.js";
import { supportOf } from "./chat.js";
import { fault, h, waiting } from "./dom.js";
import { memoryHead } from "./memory.js";
import { duration } from "./words.js";

const WAYS = [
  ["memory", "Memory", "Nothing of the text is read."],
  ["full", "Full text", "The whole text is read, where it fits."],
  ["evidence", "Retrieval", "A search finds sentences, and those are read."],
];

export async function compareView(main, signal, name) {
  await memoryHead(main, signal, name, "compare");
  const field = h("input", {
    type: "text",
    "aria-label": "Your question",
    placeholder: "One question, three answers",
    required: true,
  });
  const go = h("button.button.primary", "Compare");
  const columns = WAYS.map(([, title, text]) => {
    const answer = h("div.column-answer", h("p.soft", text));
    return { answer, element: h("section.column", h("h2", title), answer) };
  });
  const form = h("form.composer.still", field, go);
  main.append(
    form,
    h(
      "div.columns",
      { "aria-live": "polite" },
      columns.map(({ element }) => element),
    ),
  );

  const compare = async () => {
    go.disabled = true;
    for (const { answer } of columns) answer.replaceChildren(waiting(2));
    try {
      const answers = await json("POST", "/api/compare", { model: name, question: field.value.trim() }, signal);
      WAYS.forEach(([way], index) => columns[index].answer.replaceChildren(...answered(name, answers[way])));
    } catch (error) {
      if (!signal.aborted) for (const { answer } of columns) answer.replaceChildren(fault(error.message, compare));
    }
    go.disabled = false;
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    compare();
  });
}

function answered(name, answer) {
  if (!answer || answer.error) return [h("p.problem", answer?.error?.message ?? "No answer this way.")];
  return [
    h("p.answer-text", answer.text || "(no answer)"),
    h("p.soft", `${duration(answer.seconds)}, ${answer.prompt_tokens} tokens read`),
    ...supportOf(name, answer),
  ].filter(Boolean);
}
