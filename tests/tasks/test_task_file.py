"""Tasks, candidates and parses on disk come back as they were put there."""

from __future__ import annotations

import tempfile
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.errors import GenerationError
from lift.tasks.candidate_file import CandidateFile, text_key
from lift.tasks.line_file import LineFile
from lift.tasks.rules.dependency_parse import BATCH_SENTENCES, ParseFile, parse_sentences
from lift.tasks.task import Task
from lift.tasks.task_file import TaskFile

texts = st.text(max_size=20)
tasks = st.builds(
    Task,
    texts,
    texts,
    st.lists(st.integers(0, 10**6), min_size=1, max_size=3).map(tuple),
    texts,
    st.floats(0.1, 4),
    st.booleans(),
)


@given(st.lists(st.binary(max_size=9), max_size=8), st.data())
def test_lines_are_read_in_any_order_between_writes(lines: list[bytes], data: st.DataObject) -> None:
    kept = LineFile()
    for count, line in enumerate(lines, 1):
        kept.append(line)
        number = data.draw(st.integers(0, count - 1))
        assert kept[number] == lines[number]
    assert list(kept) == lines
    for outside in (-1, len(lines)):
        with pytest.raises(IndexError):
            kept[outside]


@given(st.lists(tasks, max_size=6), st.lists(tasks, max_size=3))
def test_a_task_file_is_the_sequence_of_its_tasks(first: list[Task], later: list[Task]) -> None:
    kept = TaskFile(first)
    assert list(kept) == first
    kept.extend(later)
    whole = first + later
    assert list(kept) == whole
    assert kept[1:] == whole[1:]
    if whole:
        assert kept[-1] == whole[-1]
    with pytest.raises(IndexError):
        kept[len(whole)]


def test_a_task_on_disk_takes_next_to_no_memory() -> None:
    written = (Task(f"Which of the {number}?" * 5, "that" * 9, (number,), "test") for number in range(3000))
    tracemalloc.start()
    kept = TaskFile(written)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == 3000
    assert held < 3000 * 40


def test_a_disk_without_room_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    with pytest.raises(GenerationError, match=r"/nowhere/at/all.*TMPDIR"):
        TaskFile()


def test_of_candidates_that_ask_the_same_the_heaviest_stays_or_none() -> None:
    one = Task("Who owns the mill?", "Ada Quill", (0,), "test", 0.5)
    heavier = Task("Who owns a mill?", "Ada", (1,), "test", 0.9)
    contradicted = Task("Where is it?", "Merrow", (1,), "test")
    contradicting = Task("where is it", "Holt", (2,), "test")
    alone = Task("When did it burn?", "in 1907", (2,), "test")
    kept = CandidateFile([[one], [heavier, contradicted], [], [contradicting, alone]])
    assert list(kept.worth_keeping()) == [[], [heavier], [], [alone]]


def test_a_question_has_one_key_however_it_is_written() -> None:
    assert text_key("Who owns the mill?") == text_key("who owns a mill")
    assert text_key("Who owns the mill?") != text_key("Who owns the mills?")


def test_parses_come_back_as_the_parser_made_them() -> None:
    written = ["Ada Quill (born 1871) founded the museum in Merrow.", "Bram Holt: It owns 42 lenses [3].", "…"]
    written *= BATCH_SENTENCES // len(written) + 2  # more than a batch, and one that is not full
    parses = list(parse_sentences(written))
    kept = ParseFile()
    for parse in parses:
        kept.append(parse)
    back = list(kept)
    assert len(back) == len(parses)
    for one, other in zip(parses, back, strict=True):
        assert (one.text, one.offsets, one.asides, one.speaker) == (
            other.text,
            other.offsets,
            other.asides,
            other.speaker,
        )
        for mine, theirs in zip(one.doc, other.doc, strict=True):
            for name in ("text", "idx", "tag_", "pos_", "dep_", "lemma_", "ent_type_", "ent_iob_", "whitespace_"):
                assert getattr(mine, name) == getattr(theirs, name)
            assert mine.head.i == theirs.head.i
            assert str(mine.morph) == str(theirs.morph)
