"""Measure the PDF reader on real files: time and memory a page, words against pdftotext, tables, headings.

    python scripts/measure_pdf.py DATA_DIR [--tables TABLES.json]

Each file is read in a process of its own. `pdftotext` (poppler-utils) is the yardstick: its words by number, normalised
to letters and digits; its lines of the listed tables, each of whose figures must stand in the row of the same label;
and its lines that begin with "Item N.", each of which must be a heading of its page. TABLES.json is a list of
{"file", "page", "first", "last"}: a table's page and the labels of its first and last row.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from pathlib import Path

_WORD = re.compile(r"[^\W_]+(?:[.,][^\W_]+)*")
_FIGURE = re.compile(r"\d[\d,.]*")
_ITEM = re.compile(r"\s*(item\s+\d{1,2}[a-z]?\.\s*\S.*)", re.IGNORECASE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--one", action="store_true", help="read one file and print what it took, as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(read_one(arguments.data)))
        return
    files = sorted(arguments.data.glob("*.pdf"))
    if not files:
        sys.exit(f"{arguments.data}: expected a directory with PDFs, got one without; name another")
    tables = json.loads(arguments.tables.read_text("utf-8")) if arguments.tables else []
    shares = []
    print(f"{'file':24} {'pages':>5} {'ms/page':>8} {'MB':>5} {'recall':>7} {'precision':>9}  {'no heads':>15}  items")
    for path in files:
        done = subprocess.run(
            [sys.executable, __file__, str(path), "--one"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"{path.name:24} {done.stderr.strip().splitlines()[-1]}")
            continue
        read = json.loads(done.stdout)
        layout = pages_by_pdftotext(path)
        recall, precision = compared(words("\n".join(layout)), words(read["text"]))
        bare = compared(words("\n".join(without_heads(layout))), words(read["text"]))
        found, missed = headings_found(layout, read["headings"])
        shares.append(read["ms_a_page"])
        print(
            f"{path.name:24} {read['pages']:5} {read['ms_a_page']:8.1f} {read['mb']:5.0f} {recall:7.4f} "
            f"{precision:9.4f}  {bare[0]:7.4f} {bare[1]:7.4f}  {found}/{found + len(missed)} {'; '.join(missed)}"
        )
        for told in read["warnings"]:
            print(f"    {told}")
        for table in tables:
            if table["file"] == path.name:
                right, wrong = rows_found(layout[table["page"] - 1], read["text_by_page"][str(table["page"])], table)
                print(f"    page {table['page']}, {table['first']} ...: {right} rows right, wrong: {wrong}")
    if shares:
        print(f"median of files: {statistics.median(shares):.1f} ms a page")


def read_one(path: Path) -> dict[str, object]:
    """Read a file in this process: text, headings with their pages, processor time and peak memory."""
    from lift.documents.parse import parse_document

    data = path.read_bytes()
    began = time.process_time()
    document = parse_document(data, path.name)
    took_s = time.process_time() - began
    ends = [place.start for place in document.places[1:]] + [len(document.text)]
    by_page: dict[int, str] = {}
    for place, end in zip(document.places, ends, strict=True):
        by_page[place.page or 1] = by_page.get(place.page or 1, "") + document.text[place.start : end]
    pages = len(pages_by_pdftotext(path))
    return {
        "text": document.text,
        "text_by_page": by_page,
        "headings": [(place.page, place.heading) for place in document.places if place.heading],
        "warnings": document.warnings,
        "pages": pages,
        "ms_a_page": 1000 * took_s / pages,
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def pages_by_pdftotext(path: Path) -> list[str]:
    """The pages as pdftotext lays them out."""
    done = subprocess.run(["pdftotext", "-layout", str(path), "-"], capture_output=True, check=True)
    return done.stdout.decode("utf-8").removesuffix("\f").split("\f")


def words(text: str) -> Counter[str]:
    """How often each word is there, normalised."""
    return Counter(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def compared(expected: Counter[str], got: Counter[str]) -> tuple[float, float]:
    """Recall and precision."""
    both = (expected & got).total()
    return both / max(expected.total(), 1), both / max(got.total(), 1)


def without_heads(pages: list[str]) -> list[str]:
    """The pages without lines of their margins that come again on three pages, the page's number aside."""
    margins = []
    for page in pages:
        lines = [line for line in page.split("\n") if line.strip()]
        margins.append({_without_page_number(line) for line in lines[:2] + lines[-2:]})
    often = Counter(line for margin in margins for line in margin)
    return ["\n".join(line for line in page.split("\n") if often[_without_page_number(line)] < 3) for page in pages]


def _without_page_number(line: str) -> str:
    return re.sub(r"^\d{1,4}\b|\b\d{1,4}$", "#", line.strip())


def headings_found(pages: list[str], headings: list[list[object]]) -> tuple[int, list[str]]:
    """How many lines "Item N. ..." are headings at their page, and those that are not; a table of contents is none."""
    known = {(page, squeezed(str(heading))) for page, heading in headings}
    found, missed = 0, []
    for number, page in enumerate(pages, start=1):
        items = [match[1] for line in page.split("\n") if (match := _ITEM.match(line))]
        if len(items) > 5:
            continue
        for item in items:
            begins = squeezed(item)[:40]
            if any(at == number and heading.startswith(begins) for at, heading in known):
                found += 1
            else:
                missed.append(f"page {number} {item[:40]}")
    return found, missed


def rows_found(layout: str, text: str, table: dict[str, object]) -> tuple[int, list[str]]:
    """How many of a table's lines have all their figures, in order, in the row of their label; and the others."""
    lines = layout.split("\n")
    first = next((index for index, line in enumerate(lines) if line.strip().startswith(str(table["first"]))), None)
    if first is None:
        return 0, ["the page has no such table"]
    last = max(
        index for index, line in enumerate(lines) if line.strip().startswith((str(table["first"]), str(table["last"])))
    )
    rows = [(squeezed(row), figures(row)) for row in text.split("\n") if " | " in row]
    right, wrong = 0, []
    for line in lines[first : last + 1]:
        label, values = _parted(line)
        if values and not any(squeezed(label) in row and found[-len(values) :] == values for row, found in rows):
            wrong.append(" ".join(line.split()))
        else:
            right += bool(values)
    return right, wrong


def _parted(line: str) -> tuple[str, list[str]]:
    found = re.match(r"\s*(\S+(?: \S+)*)\s{2,}(.*)", line)
    return (found[1], figures(found[2])) if found else (line.strip(), [])


def figures(text: str) -> list[str]:
    """The numbers of a line."""
    return [figure.rstrip(".,") for figure in _FIGURE.findall(text)]


def squeezed(text: str) -> str:
    """Letters and digits in lower case."""
    return "".join(character for character in text.casefold() if character.isalnum())


if __name__ == "__main__":
    main()
