// Questions to the person. <dialog> gives what such a question owes: focus kept inside, Escape, focus given back.

import { button, h } from "./dom.js";

/** Opens a dialog; resolves to the text of `field` ("" without one), or to null where it was called off. */
function open({ title, text, field, action, kind = "primary", calledOff = "Cancel", problem }) {
  return new Promise((resolve) => {
    const answer = () => {
      resolve(field ? field.value.trim() : "");
      dialog.close();
    };
    const form = h(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          answer();
        },
      },
      h("h2", { id: "dialog-title" }, title),
      problem && h("p.problem", problem),
      text && h("p", text),
      field && h("label", h("span", field.title), field),
      h(
        "div.row.end",
        calledOff && button(calledOff, () => dialog.close(), "", { autofocus: kind === "danger" }),
        h("button", { class: `button ${kind}` }, action),
      ),
    );
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(null);
    });
    document.body.append(dialog);
    dialog.showModal();
    field?.select();
  });
}

export async function confirmed(title, text, action) {
  return (await open({ title, text, action, kind: "danger", calledOff: "Keep it" })) !== null;
}

export function askName(current) {
  const field = h("input", { type: "text", required: true, maxlength: 100, value: current, title: "New name" });
  return open({ title: "Rename", text: "Programs that ask this memory use its name.", field, action: "Rename" });
}

let asking = null;

/** The key of this server. However many requests want it at once, it is asked for once. */
export function askKey(problem) {
  const field = h("input", { type: "password", required: true, autocomplete: "off", title: "Key" });
  asking ??= open({
    title: "This server wants a key",
    text: "Whoever runs it can give you one. It is kept until you close this tab.",
    field,
    action: "Continue",
    problem,
  })
    .then((key) => {
      if (key === null) throw new Error("Without a key, nothing can be shown. Load the page again to enter it.");
      return key;
    })
    .finally(() => {
      asking = null;
    });
  return asking;
}
