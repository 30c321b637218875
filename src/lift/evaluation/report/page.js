"use strict";
(() => {
  const PAGE = 50;
  const OUTCOMES = { right: "right", partly: "partly right", wrong: "wrong", error: "error" };
  const CHOICES = ["suite", "method", "kind"];
  const FIELDS = [...CHOICES, "outcome", "search"];
  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const status = document.getElementById("status");
  const pages = document.getElementById("pages");
  let rows = [];
  let found = [];
  let page = 0;
  let more = {}; // conditions of a link that no field of the form shows, such as length and depth

  const field = (name) => form.elements.namedItem(name);

  // every text of the data gets into the page here, as text
  function element(name, text, attributes) {
    const made = document.createElement(name);
    if (text !== undefined && text !== null) made.textContent = String(text);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    return made;
  }

  async function openData() {
    if (typeof DecompressionStream === "undefined") {
      throw new Error("this browser cannot unpack them; use a newer one");
    }
    const packed = Uint8Array.from(atob(document.getElementById("data").textContent), (each) => each.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const data = await new Response(stream).json();
    const text = (place) => (place === null ? null : data.texts[place]);
    const fields = [...data.textFields, ...data.listFields, ...data.plainFields];
    const firstList = data.textFields.length;
    const firstPlain = firstList + data.listFields.length;
    return data.rows.map((values, index) => {
      const row = { line: index + 1 };
      fields.forEach((name, at) => {
        row[name] = at < firstList ? text(values[at]) : at < firstPlain ? values[at].map(text) : values[at];
      });
      row.score = row.scores[row.main] || 0;
      row.outcome = row.error !== null ? "error" : row.score >= 1 ? "right" : row.score > 0 ? "partly" : "wrong";
      return row;
    });
  }

  function words(row) {
    if (!row.words) {
      const said = [row.question, row.answer, row.error, row.title, row.document, row.question_id, ...row.gold];
      row.words = said.join("\n").toLowerCase();
    }
    return row.words;
  }

  function wanted(row) {
    for (const name of CHOICES) if (field(name).value && row[name] !== field(name).value) return false;
    if (field("outcome").value && row.outcome !== field("outcome").value) return false;
    for (const [name, value] of Object.entries(more)) {
      const own = row.cell && name in row.cell ? row.cell[name] : row[name];
      if (own === undefined || own === null) return false;
      if (typeof own === "number" ? own !== Number(value) : String(own) !== value) return false;
    }
    return field("search").value.toLowerCase().split(/\s+/).every((word) => words(row).includes(word));
  }

  function show(first) {
    page = first;
    found = rows.filter(wanted);
    const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
    const only = Object.entries(more).map(([name, value]) => `, only ${name} ${value}`).join("");
    status.textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} answers${only}`;
    list.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(item));
    pages.hidden = last === 0;
    pages.querySelector("span").textContent = `${page + 1} of ${last + 1}`;
    pages.querySelector('[data-step="-1"]').disabled = page === 0;
    pages.querySelector('[data-step="1"]').disabled = page === last;
  }

  function remember() {
    const kept = { ...more };
    for (const name of FIELDS) if (field(name).value) kept[name] = field(name).value;
    const query = new URLSearchParams(kept).toString();
    history.replaceState(null, "", query ? `#answers?${query}` : "#answers");
  }

  function item(row) {
    const made = element("li");
    const details = element("details");
    const summary = element("summary");
    summary.append(element("span", row.question, { class: "asked" }));
    const about = element("span", "", { class: "about" });
    about.append(outcome(row), ` · ${row.method} · ${row.suite} · ${row.title || row.document}`);
    summary.append(element("span", row.error === null ? row.answer : row.error, { class: "answer" }), about);
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(inside(row));
    });
    made.append(details);
    return made;
  }

  function outcome(row) {
    const score = row.outcome === "partly" ? ` ${(100 * row.score).toFixed(0)} %` : "";
    return element("span", OUTCOMES[row.outcome] + score, { "data-outcome": row.outcome });
  }

  function inside(row) {
    const made = element("div", "", { class: "inside" });
    const facts = element("dl", "", { class: "facts" });
    const fact = (label, value) => {
      if (value === null || value === undefined || value === "") return;
      const told = element("dd");
      told.append(value instanceof Node ? value : String(value));
      facts.append(element("dt", label), told);
    };
    const scores = Object.entries(row.scores).map(([name, value]) => {
      return `${name} ${(100 * value).toFixed(1)} %${name === row.main ? " (main)" : ""}`;
    });
    fact("Answer", row.answer ? element("pre", row.answer) : null);
    fact("Error", row.error);
    const references = row.gold.length ? bullets(row.gold) : "none: the document does not answer this";
    fact(row.gold.length > 1 ? "References" : "Reference", references);
    fact("Scores", scores.join(", "));
    fact("Judge", row.judge);
    fact("Prompt", element("pre", row.prompt));
    fact("Context", row.context + (row.truncated ? ", cut to fit" : ""));
    fact("Supported", row.supported === null ? null : row.supported ? "yes" : "no, the document does not say so");
    fact("Support", row.support.length ? bullets(row.support) : null);
    fact("Memory", row.memory);
    if (row.cell) fact("Cell", Object.entries(row.cell).map(([name, value]) => `${name} ${value}`).join(", "));
    fact("Kind", row.kind);
    fact("Document", row.title && row.title !== row.document ? `${row.title} (${row.document})` : row.document);
    fact("Question", row.question_id);
    fact("Tokens", `${row.prompt_tokens} in the prompt, ${row.answer_tokens} in the answer`);
    fact("Seconds", Number(row.seconds).toPrecision(3));
    fact("Where", `line ${row.line} of results.jsonl`);
    fact("Other methods", others(row));
    made.append(facts);
    return made;
  }

  function bullets(texts) {
    const made = element("ul");
    made.append(...texts.map((text) => element("li", text)));
    return made;
  }

  function others(row) {
    const same = ["suite", "document", "question_id"];
    const beside = rows.filter((other) => other !== row && same.every((name) => other[name] === row[name]));
    if (!beside.length) return null;
    const made = element("ul");
    for (const other of beside) {
      const line = element("li", `${other.method}: `);
      line.append(outcome(other), ` ${other.error === null ? other.answer : other.error} (line ${other.line})`);
      made.append(line);
    }
    return made;
  }

  function follow() {
    if (!location.hash.startsWith("#answers?")) return;
    const given = Object.fromEntries(new URLSearchParams(location.hash.slice("#answers?".length)));
    more = {};
    for (const name of FIELDS) field(name).value = given[name] || "";
    for (const [name, value] of Object.entries(given)) if (!FIELDS.includes(name)) more[name] = value;
    show(0);
    document.getElementById("answers").scrollIntoView();
  }

  function start(read) {
    rows = read;
    for (const name of CHOICES) {
      const values = [...new Set(rows.map((row) => row[name]))].filter(Boolean);
      field(name).append(...values.map((value) => element("option", value, { value })));
      field(name).closest("label").hidden = values.length < 2 && name === "kind";
    }
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => { show(0); remember(); });
    form.addEventListener("reset", () => setTimeout(() => { more = {}; show(0); remember(); }));
    pages.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      show(page + Number(button.dataset.step));
      status.scrollIntoView();
    });
    window.addEventListener("hashchange", follow);
    document.addEventListener("click", (event) => {
      const link = event.target.closest('a[href^="#answers?"]');
      if (link && link.hash === location.hash) follow(); // a second click on it changes no address
    });
    show(0);
    follow();
  }

  openData().then(start).catch((error) => {
    status.textContent = `The answers cannot be shown here (${error.message}); read them in results.jsonl.`;
  });
})();
