"""How results look: JSON for programs, tables and sentences for people. Nothing else of the command line writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lift.cli.terminal_text import printable_json, printable_line, printable_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lift.absorbing.recall_report import RecallReport
    from lift.answering.answer import Answer
    from lift.documents.document import Document, Place

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")
_FORGOTTEN_SHOWN = 10
_WHOLE_CHARS = 32  # of the 80 columns of a narrow terminal
NO_SUPPORT = "nothing in the document supports this answer"
NOT_JUDGED = "this sentence fits the question best; whether it says yes or no was not judged"
_RELATIONS = {"supports": "supported by:", "found": "found in:", "related": "see also:"}


def stdout() -> Console:
    """A console for results."""
    from lift.cli.safe_console import SafeConsole

    return SafeConsole(highlight=False)


def stderr() -> Console:
    """A console for progress and remarks."""
    from lift.cli.safe_console import SafeConsole

    return SafeConsole(stderr=True, highlight=False)


def say(text: str = "", end: str = "\n") -> None:
    """Text on standard output, at once."""
    sys.stdout.write(printable_text(text) + end)
    sys.stdout.flush()


def write_json(value: Any) -> None:
    """One JSON value as one line of standard output, at once."""
    sys.stdout.write(printable_json(json.dumps(value, ensure_ascii=False, allow_nan=False)) + "\n")
    sys.stdout.flush()


def remark(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(printable_line(text) + "\n")
    sys.stderr.flush()


def print_facts(facts: Iterable[tuple[str, str]], title: str | None = None) -> None:
    """Two columns: what, and how much of it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in facts:
        table.add_row(label, Text(value))
    stdout().print(table)


def build_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """A table of plain strings; brackets in them stay brackets, and what is too long is folded, never left out.

    The first column, which names the rows, is left whole while its names are short enough to leave room for others.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    kept = list(rows)
    widest = max((len(row[0]) for row in kept), default=0)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0 and widest <= _WHOLE_CHARS)
    for row in kept:
        table.add_row(*(Text(cell) for cell in row))
    return table


def print_forgotten(report: RecallReport, document: Document) -> None:
    """The sentences of `document` that were asked about in vain, with what was asked, expected and answered."""
    from rich.padding import Padding
    from rich.text import Text

    from lift.documents.sentences import document_sentences

    forgotten = report.forgotten
    if not forgotten:
        return
    sentences = document_sentences(document)
    shown = "" if len(forgotten) <= _FORGOTTEN_SHOWN else f", the first {_FORGOTTEN_SHOWN} of {len(forgotten)}"
    stdout().print(f"\nNot recalled{shown}:", markup=False)
    for index in forgotten[:_FORGOTTEN_SHOWN]:
        probe = next(probe for probe in report.probes if probe.sentence == index)
        said = sentences[index].text if index < len(sentences) else probe.expected
        stdout().print(Padding(Text(f"“{said}”"), (0, 0, 0, 2)))
        asked = f"asked: {probe.question}  expected: {probe.expected}  answered: {probe.answer or 'nothing'}"
        stdout().print(Padding(Text(asked, style="dim"), (0, 0, 0, 4)))


def print_source(document: Document) -> None:
    """The text as it was read; where a page or section begins, its number or name in dimmed brackets.

    A heading that the text itself says there is not said twice.
    """
    from rich.text import Text

    console = stdout()
    whole, place_before = Text(), 0
    before: Place | None = None
    for place in document.places:
        whole.append(document.text[place_before : place.start])
        place_before = place.start
        place_named = document.place_at(place.start) or place
        said = document.text.startswith(place.heading or "\0", place.start)
        page = f"page {place.page}" if place.page is not None and (before is None or place.page != before.page) else ""
        is_new = before is None or place.heading != before.heading
        heading = f"“{place.heading}”" if place.heading and is_new and not said else ""
        marks = ", ".join(part for part in (place_named.file or "", page, heading) if part)
        if marks:
            at_line = place.start == 0 or document.text[place.start - 1] == "\n"
            whole.append(f"[{marks}]{chr(10) if at_line else ' '}", style="dim")
        before = place
    whole.append(document.text[place_before:])
    console.print(whole, soft_wrap=True)


def format_seconds(seconds: float) -> str:
    """0.42 -> "0.42 s", 75 -> "1 min 15 s", 4000 -> "1 h 07 min"."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    if round(seconds) < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def format_bytes(count: float) -> str:
    """39400000 -> "39.4 MB" (powers of 1000, as disks are sold)."""
    for unit in _BYTE_UNITS:
        if count < 999.95 or unit == _BYTE_UNITS[-1]:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable: the last unit takes any count")


def format_share(part: int, whole: int) -> str:
    """3, 4 -> "3 of 4 (75 %)"."""
    return f"{part} of {whole} ({100 * part / whole:.0f} %)" if whole else "none asked about"


def format_recall(recalled: int, probed: int) -> str:
    """3, 4 -> "3 of 4 (75 %) of the sentences asked about"."""
    return format_share(recalled, probed) + (" of the sentences asked about" if probed else "")


def describe_generation(counts: Mapping[str, Any]) -> list[str]:
    """The requests to a language model that wrote the tasks, and their results; nothing where rules wrote them."""
    if not counts.get("requests"):
        return []
    lines = [
        f"{counts['requests']:,} requests: {counts['answered']:,} answered, {counts['from_cache']:,} of these known "
        f"from before; {counts['kept']:,} tasks kept"
    ]
    for word in ("failed", "rejected"):
        reasons = counts.get(word) or {}
        if reasons:
            told = ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items()))
            lines.append(f"{word}: {told}")
    return lines


def answer_record(question: str, answer: Answer, question_id: Any = None) -> dict[str, Any]:
    """An answer as a line of JSON; the id comes first where the question had one."""
    identity = {} if question_id is None else {"id": question_id}
    return {
        **identity,
        "question": question,
        "answer": answer.text,
        "context": answer.context,
        "supported": answer.supported,
        "evidence": [
            {
                "relation": evidence.relation,
                "sentence": evidence.sentence,
                "text": evidence.text,
                "page": evidence.place.page if evidence.place else None,
                "heading": evidence.place.heading if evidence.place else None,
                "file": evidence.place.file if evidence.place else None,
            }
            for evidence in answer.evidence
        ],
        "seconds": round(answer.seconds, 4),
    }


def print_document(memory: str, title: str) -> None:
    """The document that an answer is of, dimmed."""
    import shlex

    from rich.text import Text

    stdout().print(Text(f"  in “{title}” (lift ask {shlex.quote(memory)})", style="dim"))


def print_support(answer: Answer) -> None:
    """The sentence that supports the answer, dimmed, with its place; or, not to be overlooked, that none does.

    That the text does not tell is supported by nothing, and needs no such mark.
    """
    from rich.text import Text

    from lift.answering.abstention import abstains

    if not answer.supported and not abstains(answer.text):
        is_quotation = any(evidence.text == answer.text for evidence in answer.evidence)
        stdout().print(Text(f"  ! {NOT_JUDGED if is_quotation else NO_SUPPORT}", style="bold yellow"))
    for evidence in answer.evidence:
        place = f"({evidence.place})" if evidence.place and str(evidence.place) else ""
        relation = _RELATIONS[evidence.relation]
        is_quoted = evidence.text in answer.text  # and is not said twice
        shown = f"{relation[:-1]} this sentence" if is_quoted else f"{relation} “{evidence.text}”"
        stdout().print(Text(f"  {shown} {place}".rstrip(), style="dim"))
