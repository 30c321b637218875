"""Pictures of the page for docs/: a library of the examples is absorbed on the default model, served and looked at.

python scripts/screenshots.py                        about fifteen minutes on two cores
python scripts/screenshots.py --library DIRECTORY    quicker the second time: what is absorbed stays
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
DOCUMENTS = ("university-of-chicago.txt", "lease.md", "minutes.md")
TITLES = {"university-of-chicago.txt": "The campus of the University of Chicago"}
BUDGET_S = "300"
DESK: dict[str, Any] = {"viewport": {"width": 1100, "height": 760}}
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2}
MOST_BYTES = 150_000
PATIENCE_MS = 300_000


def main() -> None:
    """Write the five pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, help="where the memories are kept; a temporary directory otherwise")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, served(arguments.library or Path(directory)) as url:
        absorb_examples(url)
        with sync_playwright() as playwright:
            options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            look(playwright.chromium.launch(executable_path=CHROMIUM, args=options), url, arguments.out)
    for picture in arguments.out.glob("page-*.png"):
        assert picture.stat().st_size < MOST_BYTES, f"{picture} is too large for docs/"


@contextmanager
def served(library: Path) -> Iterator[str]:
    """The address of `lift serve` on that library."""
    command = ["serve", "--library", str(library), "--port", "0", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from lift.cli import main; main()", *command],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        text=True,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait(60)


def absorb_examples(url: str) -> None:
    """Have every example absorbed; what the library holds already is not trained again."""
    with httpx.Client(base_url=url, timeout=None) as http:
        base = http.get("/v1/models").json()["data"][0]["id"]
        known = {memory["source"] for memory in http.get("/api/memories").json()["data"]}
        for name in DOCUMENTS:
            if name in known:
                continue
            content = (ROOT / "examples" / name).read_bytes()
            file = http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": (name, content)}).json()
            metadata = {"budget_s": BUDGET_S} | ({"title": TITLES[name]} if name in TITLES else {})
            order = {"model": base, "training_file": file["id"], "metadata": metadata}
            job = http.post("/v1/fine_tuning/jobs", json=order).json()
            http.get(f"/api/jobs/{job['id']}/events")


def look(browser: Browser, url: str, out: Path) -> None:
    """Take the pictures into `out`."""
    names = {memory["source"]: memory["name"] for memory in httpx.get(f"{url}/api/memories").json()["data"]}
    lease, campus = (f"{url}/#/memories/{names[source]}" for source in ("lease.md", "university-of-chicago.txt"))

    page = opened(browser, **DESK)
    page.goto(url)
    page.locator(".card").first.wait_for()
    page.set_input_files("#file", ROOT / "examples" / "minutes.md")
    page.locator(".tiles").wait_for()
    take(page, out / "page-library.png")

    page.goto(lease)
    ask(page, "How much is the monthly rent?")
    ask(page, "What colour is the boathouse?")
    take(page, out / "page-chat.png")

    page.goto(f"{campus}/document")
    page.locator(".document .sentence.recalled").first.click()
    take(page, out / "page-document.png")

    page = opened(browser, **DESK, color_scheme="dark")
    page.goto(f"{lease}/compare")
    page.get_by_label("Your question").fill("How much is the monthly rent?")
    page.get_by_role("button", name="Compare").click()
    page.locator(".column .answer-text").nth(2).wait_for()
    take(page, out / "page-dark.png")

    page = opened(browser, **PHONE)
    page.goto(lease)
    ask(page, "Where is the deposit held?")
    take(page, out / "page-phone.png")


def opened(browser: Browser, **options: Any) -> Page:
    """A page that waits as long as a slow machine takes."""
    page = browser.new_page(**options)
    page.set_default_timeout(PATIENCE_MS)
    return page


def ask(page: Page, question: str) -> None:
    """Put a question, and wait for the end of its answer."""
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
    page.locator(".turn").last.locator(".evidence, .unsupported").first.wait_for()


def take(page: Page, path: Path) -> None:
    """The window as it is, the mouse out of the way."""
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(400)
    page.screenshot(path=path)


if __name__ == "__main__":
    main()
