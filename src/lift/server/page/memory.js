// What stands above every view of a memory: its name, what it knows, what can be done with it.

import { download, json, memoryPath } from "./api.js";
import { askName, confirmed } from "./dialogs.js";
import { bar, button, h, notify } from "./dom.js";
import { bytes, date, number, percent } from "./words.js";

/** The address of a view of a memory. */
export const memoryHash = (name, view = "") => `#/memories/${encodeURIComponent(name)}${view && `/${view}`}`;

/** Recall as a bar and a number, or in words where nothing was probed. */
export function recallBar(memory) {
  if (!memory.recall?.probed) return h("span.recall", bar(0), h("span", "not probed"));
  const share = memory.recall.recalled / memory.recall.probed;
  return h("span.recall", bar(share), h("span", `${percent(share)} recalled`));
}

/** Loads the memory, puts its head into `main`, and returns both; `here` is the view that is open. */
export async function memoryHead(main, signal, name, here) {
  const memory = await json("GET", memoryPath(name), undefined, signal);
  const tab = (label, view) =>
    h("a", { href: memoryHash(name, view), "aria-current": view === here && "page", class: "tab" }, label);
  document.title = `${memory.title} – Lift`;
  main.append(
    h(
      "header.head",
      h("nav", { "aria-label": "Where you are" }, h("a", { href: "#/", class: "up" }, "Library")),
      h(
        "div.head-line",
        h("h1", memory.title),
        h(
          "div.row",
          button("Rename", () => rename(name, here), "quiet"),
          button("Export", () => save(name), "quiet"),
          button("Delete", () => remove(memory), "quiet danger"),
        ),
      ),
      h("p.facts", recallBar(memory), ...facts(memory).map((fact) => h("span", fact))),
      h("nav.tabs", { "aria-label": "Views" }, tab("Ask", ""), tab("Document", "document"), tab("Compare", "compare")),
    ),
  );
  return memory;
}

/** What is said of a memory in a line. */
export const facts = (memory) => [
  memory.name,
  `${number(memory.tokens)} tokens`,
  bytes(memory.size_bytes),
  date(memory.created_at),
  ...(memory.servable ? [] : [`made on ${memory.base}, which this server does not run: it cannot be asked here`]),
];

async function rename(name, here) {
  const wanted = await askName(name);
  if (wanted === null || wanted === name) return;
  try {
    const renamed = await json("PATCH", memoryPath(name), { name: wanted });
    location.hash = memoryHash(renamed.name ?? wanted, here);
  } catch (error) {
    notify(error.message);
  }
}

async function save(name) {
  notify("Packing the memory …");
  try {
    await download(memoryPath(name, "/export?to=peft"), `${name}.zip`);
    notify(`Saved as ${name}.zip: a LoRA adapter in PEFT's layout.`);
  } catch (error) {
    notify(error.message);
  }
}

async function remove(memory) {
  const text = "The adapter, the text and the recall report are removed from the library. This cannot be undone.";
  if (!(await confirmed(`Delete “${memory.title}”?`, text, "Delete"))) return;
  try {
    await json("DELETE", memoryPath(memory.name));
    location.hash = "#/";
  } catch (error) {
    notify(error.message);
  }
}
