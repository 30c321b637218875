"""Every input that fuzzing begins with, or once failed on, is read by its reader: each ends as the reader says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzing.readers import CORPORA, READERS

INPUTS = [path for path in sorted(CORPORA.rglob("*")) if path.is_file()]


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: str(path.relative_to(CORPORA)))
def test_an_input_that_is_known_is_read_or_refused(path: Path) -> None:
    READERS[path.parent.name](path.read_bytes())


def test_every_reader_has_a_corpus() -> None:
    assert {path.parent.name for path in INPUTS} == set(READERS)


@settings(max_examples=5, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", READERS)
def test_damage_is_read_or_refused(name: str, data: st.DataObject) -> None:
    content = data.draw(st.sampled_from([path for path in INPUTS if path.parent.name == name])).read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    READERS[name](content[:start] + data.draw(st.binary(max_size=12)) + content[end:])
