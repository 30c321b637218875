// A document being absorbed, live.

import { follow, json } from "./api.js";
import { lossCurve } from "./curve.js";
import { announce, bar, button, fault, h, notify } from "./dom.js";
import { memoryHash } from "./memory.js";
import { duration, percent } from "./words.js";

const STAGES = ["Waiting", "Reading", "Measuring", "Training", "Checking recall", "Ready"];
// event kinds -> the stage that is under way once they have come
const UNDER_WAY = {
  queued: 0,
  retried: 0,
  interrupted: 0,
  resumed: 0,
  started: 1,
  writing: 1,
  prepared: 2,
  fitting: 3,
  planned: 3,
  trained: 3,
  probing: 4,
};
const ENDS = { succeeded: "Ready", failed: "It failed", cancelled: "Cancelled" };

export async function jobView(main, signal, id) {
  const path = `/api/jobs/${encodeURIComponent(id)}`;
  let job = await json("GET", path, undefined, signal);
  document.title = `Absorbing ${job.title} – Lift`;
  const stages = STAGES.map((stage) => h("li", stage));
  const fill = bar(0);
  const share = h("strong.big");
  const left = h("span.soft");
  const said = h("p.said");
  const outcome = h("div.outcome");
  const curve = lossCurve();
  main.append(
    h(
      "header.head",
      h("nav", { "aria-label": "Where you are" }, h("a", { href: "#/", class: "up" }, "Library")),
      h("h1", job.title),
    ),
    h("ol.stages", { "aria-label": "Stages" }, stages),
    h("div.progress", h("p", share, left), fill, said),
    outcome,
    curve.element,
  );

  const progress = (done, eta) => {
    share.textContent = percent(done);
    left.textContent = eta === null || eta === undefined ? "" : `about ${duration(eta)} left`;
    fill.firstChild.style.width = `${100 * done}%`;
  };
  const stage = (now) => {
    if (stages[now].hasAttribute("aria-current")) return;
    stages.forEach((item, index) => {
      item.classList.toggle("done", index < now || now === STAGES.length - 1);
      item.removeAttribute("aria-current");
    });
    stages[now].setAttribute("aria-current", "step");
    announce(STAGES[now]);
  };
  const act = (label, what, kind) =>
    button(
      label,
      async (event) => {
        event.target.disabled = true;
        try {
          await json("POST", `${path}/${what}`);
          if (what === "retry") watch();
        } catch (error) {
          event.target.disabled = false;
          notify(error.message);
        }
      },
      kind,
    );
  const settled = async () => {
    job = await json("GET", path, undefined, signal).catch(() => job); // a server that is gone has not ended the job
    if (!(job.status in ENDS)) return false;
    progress(job.status === "succeeded" ? 1 : (job.progress ?? 0), null);
    document.title = `${ENDS[job.status]}: ${job.title} – Lift`;
    announce(`${job.title}: ${ENDS[job.status]}`);
    if (job.status === "succeeded") {
      stage(STAGES.length - 1);
      outcome.replaceChildren(
        h("a.button.primary", { href: memoryHash(job.memory) }, "Ask it"),
        h("a.button", { href: memoryHash(job.memory, "document") }, "See what it knows"),
      );
    } else if (job.status === "failed")
      outcome.replaceChildren(fault(job.error ?? "It failed."), act("Try again", "retry"));
    else
      outcome.replaceChildren(
        h("p", "Cancelled. What was trained is kept, so trying again goes on from there."),
        act("Go on", "retry"),
      );
    return true;
  };

  async function watch() {
    outcome.replaceChildren(act("Cancel", "cancel"));
    progress(job.progress ?? 0, job.eta_s);
    stage(0);
    try {
      for await (const event of follow(`${path}/events`, signal)) {
        if (!event) {
          // what has not ended was cut off
          if (await settled()) break;
          said.textContent = "The connection broke; trying again …";
          continue;
        }
        said.textContent = event.message;
        if (event.kind in UNDER_WAY) stage(UNDER_WAY[event.kind]);
        if (event.kind === "trained") {
          curve.add(event.data.step, event.data.loss);
          progress(event.data.progress, event.data.eta_s);
          redraw(curve);
        }
      }
    } catch (error) {
      if (!signal.aborted) outcome.replaceChildren(fault(error.message, watch));
    }
  }
  watch();
}

// a thousand past steps arrive at once when the view is opened late
let drawing = 0;
function redraw(curve) {
  cancelAnimationFrame(drawing);
  drawing = requestAnimationFrame(curve.draw);
}
