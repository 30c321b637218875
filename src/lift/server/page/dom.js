// Elements out of tags and text. Strings become text nodes, never markup: what a document, a name or a model says is
// only ever shown.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `h("a.big.red", {href: "#/", onclick: f}, "text", other)`; attributes may be left out, and children that
 * are null or false are. */
export function h(what, ...rest) {
  const [tag, ...classes] = what.split(".");
  return filled(document.createElement(tag), classes, rest);
}

/** The same for an element of SVG. */
export function svg(what, ...rest) {
  const [tag, ...classes] = what.split(".");
  return filled(document.createElementNS(SVG, tag), classes, rest);
}

function filled(element, classes, rest) {
  const attributes = rest[0]?.constructor === Object ? rest.shift() : {};
  element.classList.add(...classes);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...rest.flat(2).filter((child) => child !== null && child !== false && child !== undefined));
  return element;
}

export function button(label, onclick, kind = "", attributes = {}) {
  return h("button", { type: "button", class: `button ${kind}`.trim(), onclick, ...attributes }, label);
}

/** A share of 1 as a bar; the number always stands beside it, so it is hidden from screen readers. */
export function bar(share, kind = "") {
  const fill = h("span.fill");
  fill.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  return h("span", { class: `bar ${kind}`.trim(), "aria-hidden": "true" }, fill);
}

/** Reserved space while something is loading. */
export const waiting = (lines = 3) =>
  h(
    "div.waiting",
    { "aria-hidden": "true" },
    Array.from({ length: lines }, () => h("span")),
  );

/** Said to screen readers, not shown. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/** A fault or a result that belongs to no place on the page; it stays until it is dismissed or the view changes. */
export function notify(text) {
  const notice = document.getElementById("notice");
  if (notice.firstChild?.textContent === text) return; // or it would be read out again and again
  notice.replaceChildren(
    h("span", text),
    button("Dismiss", () => notice.replaceChildren(), "quiet"),
  );
}

export function silence() {
  document.getElementById("notice").replaceChildren();
}

export function fault(text, again) {
  return h("div.fault", { role: "alert" }, h("p", text), again && button("Try again", again));
}
