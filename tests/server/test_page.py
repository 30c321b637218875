"""The page in a real browser, on the real server: what a person can do, see and read, and what no document can do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import loopback
import pytest
from conftest import tiny_llama

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
pytest.importorskip("playwright", reason="the browser tests need the package playwright")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no Chromium; scripts/install_browser.sh installs it"),
]

from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright  # noqa: E402

PATIENCE_MS = 180_000
expect.set_options(timeout=PATIENCE_MS)
NOTE = (
    "# The lamp of Port Merrow\n\n## Keeper\n\nAda Quill keeps the lighthouse of Port Merrow.\n\n"
    "## Lamp\n\nThe lamp burns forty litres of oil in a week. A storm broke its glass in 1884.\n"
)
HOSTILE = (
    "<script>window.broken = 1; alert(1)</script> is what the first line of this note says 🎉.\n\n"
    "The 🐈 cat of the <b>keeper</b> sat on the <img src=x onerror=alert(2)> mat in 1884. It purred 😺 all day.\n"
)
HOSTILE_TITLE = '<img src="https://elsewhere.example/x.png" onerror="alert(3)">'
VIEWS = ["", "memories/lamp", "memories/lamp/document/3", "memories/lamp/compare"]
SHIFT_WATCHER = """
    window.shift = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
      if (!entry.hadRecentInput) window.shift += entry.value;
    })).observe({ type: "layout-shift", buffered: true });
"""


class Server:
    """`lift serve` as a process of its own, on a library and a tiny random model."""

    def __init__(self, library: Path, model: Path, *arguments: str) -> None:
        self._arguments = ["--library", str(library), "--model", str(model), "--port", "0", "--json", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "LIFT_CACHE": str(library.parent / "cache")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from lift.cli import main; main()", "serve", *self._arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        assert self.process.stdout is not None
        started = json.loads(self.process.stdout.readline())
        self.url: str = started["url"]
        self.http = loopback.Client(base_url=self.url, timeout=PATIENCE_MS / 1000)

    def order(self, text: str, source: str, **order: Any) -> str:
        """Upload a text and order its absorption; the job's id."""
        file = self.http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": (source, text)}).json()
        base = self.http.get("/v1/models").json()["data"][0]["id"]
        made = self.http.post("/v1/fine_tuning/jobs", json={"model": base, "training_file": file["id"], **order})
        return str(made.json()["id"])

    def absorb(self, text: str, name: str, title: str, source: str) -> None:
        """Absorb a text as quickly as that can be."""
        quick = {"suffix": name, "metadata": {"title": title}, "hyperparameters": {"n_epochs": 1}}
        job = self.order(text, source, **quick)
        with self.http.stream("GET", f"/api/jobs/{job}/events") as events:
            told = events.read()
        assert self.http.get(f"/api/jobs/{job}").json()["status"] == "succeeded", told

    def close(self) -> None:
        self.http.close()
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    directory = tmp_path_factory.mktemp("model") / "tiny"
    tiny_llama().save_pretrained(directory)
    tiny_tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Server]:
    with closing(Server(tmp_path_factory.mktemp("served") / "library", model)) as running:
        running.absorb(NOTE, "lamp", "The lamp", "lamp.md")
        running.absorb(HOSTILE, "hostile", HOSTILE_TITLE, "hostile.txt")
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


class Visitor:
    """A browser with an empty profile on the page of `url`.

    What must never happen is noted in `faults`, as are requests that failed in a way that `refusals` does not foresee.
    """

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url, self.faults, self.refusals = url, list[str](), list[str]()
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        self.context.add_init_script(SHIFT_WATCHER)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", lambda said: self._heard(said.text))
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}") or dialog.dismiss())
        self.page.on(
            "request", lambda asked: asked.url.startswith((url, "blob:")) or self.faults.append(f"request: {asked.url}")
        )

    def _heard(self, said: str) -> None:
        if "Failed to load resource" not in said or not any(each in said for each in self.refusals):
            self.faults.append(f"console: {said}")

    def open(self, view: str) -> Page:
        """A view, when what it shows has come."""
        self.page.goto(f"{self.url}/#/{view}")
        shown = {"": ".card", "document": ".sentence >> nth=3", "compare": ".column"}
        key = next((each for each in ("document", "compare") if each in view), view and "ask")
        self.page.locator(shown.get(key, "#question")).first.wait_for()
        self.page.wait_for_load_state("networkidle")
        return self.page

    def ask(self, question: str) -> Locator:
        """The turn of the conversation with the answer in it."""
        self.page.get_by_label("Your question").fill(question)
        self.page.keyboard.press("Enter")
        turn = self.page.locator(".turn").last
        expect(self.page.get_by_role("button", name="Ask", exact=True)).to_be_visible()
        return turn


@pytest.fixture
def visitor(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Visitor]:
    """Somebody at the page; the test fails where the browser complained, or asked anybody but this server."""
    found = Visitor(browser, server.url, **getattr(request, "param", {}))
    yield found
    found.context.close()
    assert not found.faults


def drop(page: Page, name: str, text: str) -> None:
    """Let a file fall onto the page, as a mouse does."""
    transfer = page.evaluate_handle(
        "([name, text]) => { const all = new DataTransfer(); all.items.add(new File([text], name)); return all; }",
        [name, text],
    )
    page.dispatch_event(".absorb", "dragover", {"dataTransfer": transfer})
    expect(page.locator(".absorb.over")).to_be_visible()
    page.dispatch_event(".absorb", "drop", {"dataTransfer": transfer})


def test_a_document_is_dropped_absorbed_asked_compared_renamed_exported_and_deleted(
    visitor: Visitor, server: Server
) -> None:
    page = visitor.open("")
    drop(page, "harbour.md", NOTE.replace("lamp", "harbour"))
    expect(page.locator(".tiles")).to_contain_text("Takes")
    page.get_by_label("Time to spend").select_option("1 minute")
    expect(page.locator(".plan-facts")).not_to_have_attribute("aria-busy", "true")
    for fact in ("about", "of training", "Pays", "Adapter", "sentences"):
        expect(page.locator(".tiles")).to_contain_text(fact)
    expect(page.get_by_label("Title")).to_have_value("The harbour of Port Merrow")
    page.get_by_text("The text as it was read").click()
    expect(page.locator(".source pre")).to_contain_text("The harbour of Port Merrow")
    known = {job["id"] for job in server.http.get("/api/jobs").json()["data"]}
    page.get_by_label("Title").fill("Harbour")
    page.get_by_role("button", name="Absorb").click()

    page.locator(".curve .line[d]").wait_for()
    job = next(each for each in server.http.get("/api/jobs").json()["data"] if each["id"] not in known)
    assert (job["title"], job["budget_s"]) == ("Harbour", 60.0)
    assert page.url.endswith(job["id"])
    page.get_by_role("link", name="Ask it").wait_for()
    assert page.locator(".curve .line").get_attribute("d").count("L") > 5
    expect(page.locator(".stages [aria-current]")).to_have_text("Ready")

    page.get_by_role("link", name="Ask it").click()
    page.get_by_label("Your question").wait_for()
    turn = visitor.ask("Who keeps the lighthouse of Port Merrow?")
    link = turn.locator(".evidence a").first
    quoted = link.locator("span").first.inner_text()
    expect(turn.locator(".place").first).to_contain_text("“")
    link.click()
    expect(page.locator(".sentence.here")).to_have_text(quoted)
    expect(page.locator(".sentence.here")).to_be_focused()
    expect(page.locator(".sentence.here")).to_be_in_viewport()
    page.go_back()
    expect(page.locator(".turn")).to_have_count(1)

    page.get_by_role("link", name="Compare").click()
    page.get_by_label("Your question").fill("What burns the lamp?")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".column .answer-text")).to_have_count(3)

    visitor.refusals = ["400", "404"]
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("New name").fill("no/such name")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="cannot name a memory")).to_be_visible()
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("New name").fill("port")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#/memories/port/compare")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export").click()
    assert saved.value.suggested_filename == "port.zip"

    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Keep it").click()
    assert server.http.get("/api/memories/port").status_code == 200
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.wait_for_url("**/#/")
    page.get_by_role("link", name="The lamp", exact=True).wait_for()
    expect(page.get_by_role("link", name="Harbour")).to_have_count(0)
    assert server.http.get("/api/memories/port").status_code == 404


def test_a_job_is_cancelled_and_goes_on_when_tried_again(visitor: Visitor, server: Server) -> None:
    job = server.order(NOTE * 3, "long.md", hyperparameters={"n_epochs": 1000})
    page = visitor.page
    page.goto(f"{server.url}/#/jobs/{job}")
    page.locator(".curve .line[d]").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    # the old end of the job stands among the events that are read again, and must not be taken for the new one
    page.locator(".stages [aria-current]", has_text="Training").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Go on").wait_for()
    page.get_by_role("link", name="Library").click()
    expect(page.locator(".card.cancelled").first).to_contain_text("Cancelled")


def test_what_nothing_supports_is_marked_and_what_something_does_is_not(visitor: Visitor) -> None:
    page = visitor.open("memories/lamp")
    answer_with(page, "Of <b>cheese</b>.", supported=False)
    turn = visitor.ask("What is the moon made of?")
    expect(turn.locator(".answer-text")).to_contain_text("Of <b>cheese</b>.")
    expect(turn.locator(".unsupported")).to_contain_text("No sentence of the document answers the question so")
    expect(turn.locator(".evidence")).to_contain_text("Found in")
    expect(turn.locator(".evidence")).not_to_contain_text("Supported by")
    answer_with(page, "Ada Quill.", supported=True)
    turn = visitor.ask("Who keeps the lighthouse?")
    expect(turn.locator(".evidence")).to_contain_text("Supported by")
    expect(turn.locator(".unsupported")).to_have_count(0)


def test_every_view_by_keyboard_alone(visitor: Visitor) -> None:
    page = visitor.open("")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    tab_to(page, page.locator("#file"))
    tab_to(page, page.get_by_role("link", name="The lamp", exact=True))
    page.keyboard.press("Enter")
    page.get_by_label("Your question").wait_for()
    expect(page.locator("main")).to_be_focused()
    tab_to(page, page.get_by_label("Your question"))
    page.keyboard.type("Who keeps the lighthouse of Port Merrow?")
    page.keyboard.press("Enter")
    evidence = page.locator(".evidence a").first
    evidence.wait_for()
    tab_to(page, evidence, back=True)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator(".sentence.here")).to_be_focused()
    tab_to(page, page.get_by_role("button", name="Next"), back=True)
    page.keyboard.press("Enter")
    expect(page.locator(".sentence.forgotten.here")).to_be_focused()
    tab_to(page, page.get_by_role("button", name="Delete"), back=True)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Delete")).to_be_focused()


def test_what_a_document_and_its_title_hold_is_only_shown(visitor: Visitor, server: Server) -> None:
    page = visitor.open("")
    expect(page.get_by_role("link", name=HOSTILE_TITLE)).to_be_visible()
    page = visitor.open("memories/hostile/document")
    document = server.http.get("/api/memories/hostile/document").json()
    shown = page.locator(".document .sentence").all_inner_texts()
    assert shown == [document["text"][each["start"] : each["end"]] for each in document["sentences"]]
    assert "<script>window.broken = 1; alert(1)</script>" in " ".join(shown)
    visitor.open("memories/hostile")
    turn = visitor.ask("Where is the <img src=x onerror=alert(4)> cat?")
    expect(turn.locator(".question")).to_contain_text("<img src=x onerror=alert(4)>")
    turn.locator(".evidence a").first.click()
    page.locator(".here").wait_for()
    assert page.evaluate("window.broken === undefined && !document.querySelector('main img, main b, main script')")


def test_the_policy_lets_nothing_run_that_is_not_the_pages_own(browser: Browser, server: Server) -> None:
    with closing(browser.new_context()) as context:
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("requestfailed", lambda request: request.failure == "csp" and asked.remove(request.url))
        page.goto(f"{server.url}/")
        page.locator(".card").first.wait_for()
        page.evaluate(
            """() => {
              window.violations = [];
              addEventListener("securitypolicyviolation", (event) => window.violations.push(event.effectiveDirective));
              const add = (name, values) =>
                document.body.append(Object.assign(document.createElement(name), values));
              add("img", { src: "https://elsewhere.example/x.png" });
              add("link", { rel: "stylesheet", href: "https://elsewhere.example/x.css" });
              add("iframe", { src: "https://elsewhere.example/" });
              add("base", { href: "https://elsewhere.example/" });
              add("style", { textContent: "body { background: url(https://elsewhere.example/y.png) }" });
              const handled = document.createElement("b");
              try { handled.setAttribute("onclick", "window.broken = 1"); } catch { }
              document.body.append(handled);
              handled.click();
              for (const act of [
                () => add("script", { textContent: "window.broken = 2" }),
                () => add("script", { src: "https://elsewhere.example/x.js" }),
                () => add("object", { data: "https://elsewhere.example/x.swf" }),
                () => { document.body.innerHTML += "<img src=x onerror='window.broken = 3'>"; },
                () => setTimeout("window.broken = 4"),  // eval itself is let through to whoever drives the browser
                () => fetch("https://elsewhere.example/", { mode: "no-cors" }).catch(() => {}),
                () => add("form", { action: "https://elsewhere.example/", method: "post" }) ??
                  document.forms[document.forms.length - 1].submit(),
              ]) {
                try { act(); } catch { }
              }
            }"""
        )
        page.wait_for_timeout(500)
        assert page.evaluate("window.broken ?? null") is None
        assert page.evaluate("document.baseURI").startswith(server.url)
        assert {"img-src", "frame-src", "style-src-elem", "connect-src"} <= set(page.evaluate("window.violations"))
        assert not [url for url in asked if not url.startswith(server.url)]


def test_an_uploaded_page_is_saved_and_never_shown(browser: Browser, server: Server) -> None:
    markup = b"<html><script>document.title = 'broken'; fetch('/api/memories')</script><p>Ada Quill.</p></html>"
    form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("<img src=x>.html", markup)}}
    stored = server.http.post("/v1/files", **form).json()
    with closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(f"{server.url}/")
        with page.expect_download() as download:
            page.evaluate("(url) => { location.href = url; }", f"{server.url}/v1/files/{stored['id']}/content")
        assert Path(download.value.path()).read_bytes() == markup
        assert page.title().endswith("Lift")
        for path in ("/api/memories/hostile", "/api/memories/hostile/document", f"/v1/files/{stored['id']}"):
            page.goto(server.url + path)
            assert page.evaluate("window.broken === undefined && !document.querySelector('script, img, b')")


def test_each_sentence_is_marked_by_more_than_colour(visitor: Visitor, server: Server) -> None:
    page = visitor.open("memories/lamp/document")
    expect(page.locator(".legend .sentence")).to_have_text(["recalled", "forgotten", "not probed"])
    states = [each["state"] for each in server.http.get("/api/memories/lamp/document").json()["sentences"]]
    classes = [each.get_attribute("class") for each in page.locator(".document .sentence").all()]
    assert all(state.replace(" ", "-") in found for state, found in zip(states, classes, strict=True))
    lines = [
        each.evaluate("element => getComputedStyle(element).textDecoration.replace(/rgb.*/, '')")
        for each in page.locator(".legend .sentence").all()
    ]
    assert len(set(lines)) == 3
    probe = server.http.get("/api/memories/lamp/recall").json()["probes"][0]
    page.locator(f'.document [data-index="{probe["sentence"]}"]').click()
    expect(page.locator(".detail")).to_contain_text(probe["question"])


@pytest.mark.parametrize("visitor", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=str)
def test_axe_finds_no_serious_fault(visitor: Visitor) -> None:
    for view in VIEWS:
        page = visitor.open(view)
        check_accessible(page, view)
        if view == "":
            page.set_input_files("#file", {"name": "a.md", "mimeType": "text/markdown", "buffer": NOTE.encode()})
            page.locator(".tiles").wait_for()
            check_accessible(page, "the plan")
        elif view == "memories/lamp":
            visitor.ask("Who keeps the lighthouse of Port Merrow?").locator(".evidence").wait_for()
            check_accessible(page, "an answer")
            page.get_by_role("button", name="Delete").click()
            check_accessible(page, "a dialog")
            page.keyboard.press("Escape")
    finished_job(page, visitor)
    check_accessible(page, "a job")


@pytest.mark.parametrize(
    "visitor",
    [{"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}],
    indirect=True,
    ids=["phone"],
)
def test_nothing_is_wider_than_a_phone(visitor: Visitor) -> None:
    for view in [*VIEWS, "memories/hostile", "memories/hostile/document"]:
        page = visitor.open(view)
        if view == "memories/lamp":
            visitor.ask("w" * 200).locator(".answer").wait_for()
        assert_fits(page, view)
    finished_job(page, visitor)
    assert_fits(page, "a job")


def test_nothing_jumps_while_it_loads_or_answers(visitor: Visitor) -> None:
    for view in VIEWS:
        visitor.page.goto("about:blank")
        page = visitor.open(view)
        if view == "memories/lamp":
            visitor.ask("Who keeps the lighthouse of Port Merrow?").locator(".evidence").wait_for()
        assert page.evaluate("window.shift") < 0.1, view  # what Core Web Vitals calls good


@pytest.mark.parametrize("visitor", [{"reduced_motion": "reduce"}], indirect=True, ids=["reduced"])
def test_nothing_moves_for_who_wants_no_motion(visitor: Visitor) -> None:
    page = visitor.open("")
    hold_out(page, "**/api/plan")
    page.set_input_files("#file", {"name": "a.md", "mimeType": "text/markdown", "buffer": NOTE.encode()})
    waiting = page.locator(".plan .waiting span").first
    assert waiting.evaluate("element => getComputedStyle(element).animationName") == "none"


def test_a_broken_stream_goes_on_behind_the_last_event(visitor: Visitor) -> None:
    page = visitor.open("")
    job = {"id": "ftjob-1", "title": "Note", "status": "running", "progress": 0.0, "eta_s": None, "memory": None}
    asked_after: list[str | None] = []
    steps = [[(3, 2.0), (4, 1.0)], [(5, 0.5)], []]

    def events(route: Route) -> None:
        asked_after.append(route.request.headers.get("last-event-id"))
        told = "".join(
            f"id: {number}\ndata: {json.dumps(step_event(number, loss))}\n\n"
            for number, loss in steps[len(asked_after) - 1]
        )
        if len(asked_after) == len(steps):
            job.update(status="succeeded", memory="lamp", progress=1.0)
        route.fulfill(body=told, content_type="text/event-stream")

    page.route("**/api/jobs/ftjob-1", lambda route: route.fulfill(json=job))
    page.route("**/api/jobs/ftjob-1/events", events)
    page.goto(f"{visitor.url}/#/jobs/ftjob-1")
    page.get_by_role("link", name="Ask it").wait_for()
    assert asked_after == [None, "4", "5"]
    assert page.locator(".curve .line").get_attribute("d").count("L") == 2


def test_faults_are_told_in_words_and_can_be_tried_again(visitor: Visitor, server: Server) -> None:
    visitor.refusals = ["400", "404", "429", "ERR_FAILED"]
    page = visitor.open("memories/lamp")
    busy = {"error": {"message": "too many questions are waiting", "type": "x", "param": None, "code": "busy"}}
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=429, json=busy, headers={"Retry-After": "7"})
    )
    expect(visitor.ask("Who?").locator(".problem")).to_have_text("Too many questions are waiting. Try again in 7 s.")
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    expect(visitor.ask("Who?").locator(".problem")).to_contain_text("The server does not answer.")
    page.goto(f"{visitor.url}/#/memories/nobody")
    expect(page.get_by_role("alert").first).to_contain_text("nobody")
    page.goto(f"{visitor.url}/#/")
    page.locator(".card").first.wait_for()
    page.set_input_files("#file", {"name": "a.pdf", "mimeType": "application/pdf", "buffer": b"no pdf at all"})
    expect(page.locator(".plan-facts .fault")).to_contain_text("a.pdf")
    expect(page.get_by_role("button", name="Absorb")).to_be_disabled()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#file")).to_be_focused()


def test_an_empty_library_teaches_and_a_key_is_asked_for_once(browser: Browser, tmp_path: Path, model: Path) -> None:
    keys = tmp_path / "keys.jsonl"
    command = ["serve", "--new-key", "anna", "--scopes", "read,ask", "--api-key-file", str(keys), "--json"]
    made = subprocess.run(
        [sys.executable, "-c", "from lift.cli import main; main()", *command], capture_output=True, check=True
    )
    with closing(Server(tmp_path / "library", model, "--api-key-file", str(keys))) as server:
        visitor = Visitor(browser, server.url)
        visitor.refusals = ["401", "403"]
        page = visitor.page
        page.goto(server.url)
        page.get_by_label("Key", exact=True).fill("not the key")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog").locator(".problem")).to_be_visible()
        page.get_by_label("Key", exact=True).fill(json.loads(made.stdout)["key"])
        page.keyboard.press("Enter")
        expect(page.locator(".empty li")).to_have_count(3)
        check_accessible(page, "the empty library")
        page.set_input_files("#file", {"name": "a.md", "mimeType": "text/markdown", "buffer": NOTE.encode()})
        expect(page.locator(".fault")).to_contain_text("The key you gave does not allow this")
        page.reload()
        page.locator(".empty").wait_for()
        expect(page.get_by_role("dialog")).to_have_count(0)
        assert "key" not in page.url and page.evaluate("localStorage.length") == 0
        visitor.context.close()
    assert not visitor.faults


def check_accessible(page: Page, what: str) -> None:
    found = Axe().run(page).response
    assert len(found["passes"]) > 10
    serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    assert not serious, (what, [(each["id"], [node["target"] for node in each["nodes"]]) for each in serious])


def assert_fits(page: Page, what: str) -> None:
    wide, seen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= seen, what


def tab_to(page: Page, target: Locator, *, back: bool = False) -> None:
    """Press Tab until `target` has the focus; it must come."""
    for _ in range(60):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Shift+Tab" if back else "Tab")
    raise AssertionError(f"the keyboard does not reach {target}")


def answer_with(page: Page, text: str, *, supported: bool) -> None:
    """Let the next answers be these: what a random model says is no matter for a test."""
    page.unroute("**/v1/chat/completions")
    relation = "supports" if supported else "found"
    sentence = "Ada Quill keeps the lighthouse of Port Merrow."
    evidence = [{"relation": relation, "sentence": 2, "text": sentence, "place": None}]
    lift = {"evidence": evidence, "supported": supported, "truncated": False, "dropped_turns": 0}
    chunks = [{"choices": [{"delta": {"content": text}}]}, {"choices": [{"delta": {}}], "lift": lift}]
    told = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=told, content_type="text/event-stream"))


def hold_out(page: Page, path: str) -> None:
    """Let no answer come from `path`."""
    page.route(path, lambda route: None)


def step_event(number: int, loss: float) -> dict[str, Any]:
    data = {"step": number, "loss": loss, "progress": number / 10, "eta_s": 1.0}
    return {"number": number, "job": "ftjob-1", "kind": "trained", "message": f"step {number}", "data": data}


def finished_job(page: Page, visitor: Visitor) -> None:
    """Open the view of a job that has ended."""
    job = page.evaluate("fetch('/api/jobs').then((response) => response.json()).then((jobs) => jobs.data.at(-1).id)")
    page.goto(f"{visitor.url}/#/jobs/{job}")
    page.get_by_role("link", name="Ask it").wait_for()
