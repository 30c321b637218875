// Asking a memory: answers as they come, and the sentences of the document that hold them.

import { chat, json, memoryPath } from "./api.js";
import { button, h } from "./dom.js";
import { memoryHash, memoryHead } from "./memory.js";
import { place } from "./words.js";

// kept while the page is open, so that a look at the document does not end the conversation
const conversations = new Map();

export async function chatView(main, signal, name) {
  const memory = await memoryHead(main, signal, name, "");
  // a name may be given anew, to this memory or to another
  const turns = conversations.get(memory.created_at) ?? [];
  conversations.set(memory.created_at, turns);
  const log = h("div.log", { role: "log", "aria-label": "Conversation" });
  const field = h("textarea", {
    id: "question",
    rows: 1,
    placeholder: "Ask a question",
    "aria-label": "Your question",
    enterkeyhint: "send",
  });
  const send = h("button.button.primary", "Ask");
  const form = h("form.composer", field, send);
  main.append(h("section.chat", { "aria-label": "Chat" }, log, form));
  let stop = null;

  const show = () => {
    if (turns.length) log.replaceChildren(...turns.map((turn) => turnElement(name, turn)));
    else empty(log, name, signal, ask);
  };
  async function ask(question) {
    if (stop || !question) return;
    if (!turns.length) log.replaceChildren();
    const turn = { question, answer: "", lift: null, problem: null };
    const before = turns.filter((each) => each.answer).flatMap((each) => said(each.question, each.answer));
    turns.push(turn);
    const element = turnElement(name, turn);
    log.append(element);
    log.setAttribute("aria-busy", "true"); // read out once, not word by word
    const line = element.querySelector(".answer-text");
    line.classList.add("thinking");
    element.scrollIntoView({ block: "nearest" });
    stop = new AbortController();
    signal.addEventListener("abort", () => stop?.abort());
    send.textContent = "Stop";
    try {
      const body = { model: name, messages: [...before, { role: "user", content: question }] };
      for await (const chunk of chat(body, stop.signal)) {
        turn.answer += chunk.choices?.[0]?.delta?.content ?? "";
        turn.lift = chunk.lift ?? turn.lift;
        line.textContent = turn.answer;
      }
    } catch (error) {
      turn.problem = stop.signal.aborted ? "Stopped." : error.message;
    }
    stop = null;
    send.textContent = "Ask";
    element.replaceWith(turnElement(name, turn));
    log.removeAttribute("aria-busy");
    log.lastElementChild?.scrollIntoView({ block: "nearest" });
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (stop) {
      stop.abort();
      return;
    }
    ask(field.value.trim());
    field.value = "";
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!stop) form.requestSubmit();
  });
  show();
}

const said = (question, answer) => [
  { role: "user", content: question },
  { role: "assistant", content: answer },
];

function turnElement(name, turn) {
  return h(
    "article.turn",
    h("p.question", h("span.unseen", "You: "), turn.question),
    h(
      "div.answer",
      h("p.answer-text", h("span.unseen", "Answer: "), turn.answer || (turn.lift ? "(no answer)" : "")),
      turn.problem && h("p.problem", turn.problem),
      ...supportOf(name, turn.lift),
    ),
  );
}

/** What an answer rests on: sentences that lead into the document, or a mark that nothing supports it. */
export function supportOf(name, lift) {
  if (!lift) return [];
  const notes = [];
  if (lift.asked_as) notes.push(`Asked as: ${lift.asked_as}`);
  if (lift.truncated) notes.push("The text did not fit, so only a part of it was read.");
  if (lift.timed_out) notes.push("The time was over before the answer was.");
  if (lift.dropped_turns)
    notes.push(`The first ${lift.dropped_turns} messages of this conversation no longer fit and were left out.`);
  const unsupported =
    lift.supported === false &&
    h("p.unsupported", h("strong", "Not supported."), " No sentence of the document answers the question so.");
  const evidence = Object.entries(RELATIONS).map(([relation, label]) => {
    const sentences = (lift.evidence ?? []).filter((each) => each.relation === relation);
    return (
      sentences.length > 0 &&
      h(
        "div.evidence",
        h("p.label", label),
        h(
          "ul",
          sentences.map((each) => h("li", evidenceLink(name, each))),
        ),
      )
    );
  });
  return [unsupported, ...evidence, ...notes.map((note) => h("p.note", note))];
}

const RELATIONS = { supports: "Supported by", found: "Found in", related: "See also" };

const evidenceLink = (name, each) =>
  h(
    "a",
    { href: memoryHash(name, `document/${each.sentence}`) },
    h("span", each.text),
    place(each.place) && h("span.place", place(each.place)),
  );

async function empty(log, name, signal, ask) {
  const suggestions = h("div.suggestions");
  log.replaceChildren(
    h(
      "div.empty",
      h(
        "p",
        "Ask anything that the document answers. Each answer shows the sentences that support it, or says that none does.",
      ),
      suggestions,
    ),
  );
  // suggestions are an extra: without them, nothing is missing
  const recall = await json("GET", memoryPath(name, "/recall"), undefined, signal).catch(() => ({}));
  const known = recall.suggestions ?? [];
  suggestions.replaceChildren(...known.map((question) => button(question, () => ask(question), "suggestion")));
}
