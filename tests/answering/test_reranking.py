"""Reader and memory judge answers by how likely they are."""

from __future__ import annotations

import pytest

from lift.answering.reranking import likeliest


@pytest.mark.parametrize(
    ("reading", "recalling", "prior", "pmi_weight", "chosen"),
    [
        ([-1.0, -2.0], [-5.0, -5.0], [-5.0, -5.0], 0.5, 0),  # the memory is of two minds: what was read
        ([-1.0, -2.0], [-9.0, -1.0], [-9.0, -9.0], 0.5, 1),  # the memory knows better
        ([-1.0, -2.0], [-9.0, -1.0], [-9.0, -1.0], 0.5, 0),  # as likely without the document
        ([-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0], 0.5, 0),
        ([-1.0, -2.0], [-2.5, -1.0], [-1.0, -1.0], 0.5, 0),
        ([-1.0, -2.0], [-2.5, -1.0], [-1.0, -1.0], 1.0, 1),  # the same, and the memory's voice is louder
    ],
)
def test_the_vote(
    reading: list[float], recalling: list[float], prior: list[float], pmi_weight: float, chosen: int
) -> None:
    assert likeliest(reading, recalling, prior, pmi_weight=pmi_weight) == chosen


def test_without_a_vote_of_the_memory_the_reader_decides() -> None:
    assert likeliest([-2.0, -1.0, -1.0]) == 1
