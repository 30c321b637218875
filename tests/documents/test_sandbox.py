"""Every reader runs within limits: of memory, of processor time, of waiting and of what it may hand back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lift.documents.sandbox import SandboxLimits, limits_for, parse_in_child
from lift.errors import DocumentError

DATA = Path(__file__).resolve().parents[1] / "data"
FORMATS = [path for path in sorted((DATA / "formats").iterdir()) if path.name != "README.md"]
FORMATS += [DATA / "pdf" / "table.pdf", DATA / "formats" / "README.md"]


def parsed(path: Path, limits: SandboxLimits) -> str:
    with path.open("rb") as file:
        return parse_in_child(file, path.stat().st_size, path.name, None, limits).text


@pytest.mark.parametrize("path", FORMATS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    "tight",
    [{"memory_bytes": 48 * 1024 * 1024}, {"deadline_s": 0.01}, {"reply_bytes": 10}],
    ids=lambda tight: next(iter(tight)),
)
def test_a_reader_that_goes_over_a_limit_is_ended_with_a_sentence(path: Path, tight: dict[str, float]) -> None:
    limits = dataclasses.replace(limits_for(path.stat().st_size), **tight)
    with pytest.raises(DocumentError) as refused:
        parsed(path, limits)
    said = str(refused.value)
    assert said.startswith(path.name) and "\n" not in said and "expected" in said


def test_processor_time_ends_a_reader_that_does_not_end(tmp_path: Path) -> None:
    # a whole file that takes its reader longer than it is given
    busy = tmp_path / "busy.md"
    busy.write_text("| a | b |\n|---|---|\n" + "| *x* | [y](z) |\n" * 400_000, "utf-8")
    limits = dataclasses.replace(limits_for(busy.stat().st_size), processor_s=1.0, deadline_s=60.0)
    with pytest.raises(DocumentError, match=r"busy\.md"):
        parsed(busy, limits)


def test_limits_grow_with_the_file_and_have_an_end() -> None:
    small, large = limits_for(1000), limits_for(10_000_000)
    assert small.memory_bytes < large.memory_bytes and small.processor_s < large.processor_s <= 900
    assert limits_for(10**12).processor_s == 900
