// The library: what is being absorbed, what is known, and the place where a document is dropped.

import { absorbPanel } from "./absorb.js";
import { json } from "./api.js";
import { bar, h, notify, waiting } from "./dom.js";
import { facts, memoryHash, recallBar } from "./memory.js";
import { duration } from "./words.js";

const LOOK_AGAIN_MS = 3000;
const RECENT_S = 86_400;
const STATES = { queued: "Waiting for its turn", running: "Being absorbed", failed: "Failed", cancelled: "Cancelled" };

export async function libraryView(main, signal) {
  document.title = "Library – Lift";
  const list = h("div.list", waiting(4));
  main.append(
    h("h1", "Library"),
    absorbPanel(signal),
    h("section", { "aria-labelledby": "memories" }, h("h2", { id: "memories" }, "Memories"), list),
  );
  let shown = "";
  const look = async () => {
    const [memories, jobs] = await Promise.all([
      json("GET", "/api/memories", undefined, signal),
      json("GET", "/api/jobs", undefined, signal),
    ]);
    // drawn again only where something changed, or the focus would be lost every few seconds
    const now = JSON.stringify([memories, jobs]);
    if (now === shown) return;
    shown = now;
    draw(list, memories, jobs.data);
  };
  await look();
  const timer = setInterval(
    () => document.hidden || look().catch((error) => signal.aborted || notify(error.message)),
    LOOK_AGAIN_MS,
  );
  signal.addEventListener("abort", () => clearInterval(timer));
}

function draw(list, memories, jobs) {
  const focused = document.activeElement?.getAttribute("href");
  const recent = (job) => !job.finished_at || Date.now() / 1000 - job.finished_at < RECENT_S;
  const newest = [...memories.data].sort((one, other) => (one.created_at < other.created_at ? 1 : -1));
  const cards = [
    ...jobs.filter((job) => job.status in STATES && recent(job)).map(jobCard),
    ...newest.map(memoryCard),
    ...memories.damaged.map(({ name, damage }) => h("li.card", name, h("p.problem", damage))),
  ];
  list.replaceChildren(cards.length ? h("ul.cards", cards) : empty());
  if (focused) [...list.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
}

function memoryCard(memory) {
  return h(
    "li.card",
    h("a", { href: memoryHash(memory.name), class: "card-title" }, memory.title),
    recallBar(memory),
    h(
      "p.facts",
      facts(memory).map((fact) => h("span", fact)),
    ),
  );
}

function jobCard(job) {
  const left = job.status === "running" && job.eta_s ? `, about ${duration(job.eta_s)} left` : "";
  return h(
    "li",
    { class: `card ${job.status}` },
    h("a", { href: `#/jobs/${encodeURIComponent(job.id)}`, class: "card-title" }, job.title),
    h("span.recall", bar(job.progress ?? 0, "working"), h("span", STATES[job.status])),
    h("p.facts", h("span", job.error || `${Math.round(100 * (job.progress ?? 0))} % done${left}`)),
  );
}

function empty() {
  return h(
    "div.empty",
    h("p", "Nothing here yet. A memory is made in three steps:"),
    h(
      "ol",
      h(
        "li",
        h("strong", "Drop a document."),
        " A contract, minutes, a manual: PDF, Word, EPUB, HTML, Markdown or text.",
      ),
      h("li", h("strong", "Look at the plan."), " You see what absorbing it takes before anything is started."),
      h("li", h("strong", "Ask."), " Answers come from memory, each with the sentences that support it."),
    ),
  );
}
