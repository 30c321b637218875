// Which view the address names. A view fills `main`; its signal says when the person has left it.

import { Fault } from "./api.js";
import { chatView } from "./chat.js";
import { compareView } from "./compare.js";
import { documentView } from "./document.js";
import { announce, fault, silence } from "./dom.js";
import { jobView } from "./job.js";
import { libraryView } from "./library.js";

const VIEWS = [
  [/^#?\/?$/, libraryView],
  [/^#\/jobs\/([^/]+)$/, jobView],
  [/^#\/memories\/([^/]+)$/, chatView],
  [/^#\/memories\/([^/]+)\/document(?:\/(\d+))?$/, documentView],
  [/^#\/memories\/([^/]+)\/compare$/, compareView],
];

const main = document.getElementById("main");
let leaving = new AbortController();

async function show(arrived) {
  // the skip link's "#main" is a place on the page, not a view
  if (location.hash && !location.hash.startsWith("#/")) return;
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  silence();
  const [found, view] = VIEWS.map(([pattern, made]) => [pattern.exec(location.hash), made]).find(([m]) => m) ?? [];
  main.replaceChildren();
  try {
    if (!view) throw new Fault("There is no such page. The library is behind the name at the top.", 404);
    document.title = "Lift";
    await view(main, signal, ...found.slice(1).map((part) => part && decodeURIComponent(part)));
  } catch (error) {
    if (signal.aborted) return;
    main.replaceChildren(fault(error.message, () => show(false)));
  }
  if (signal.aborted || !arrived) return;
  announce(document.title);
  // a view that shows one place of itself has put the focus there already
  if (!main.contains(document.activeElement)) main.focus({ preventScroll: true });
}

// a file that misses its target must not take the page away
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
window.addEventListener("hashchange", () => show(true));
show(false);
