"""The values are those that the official SQuAD 1.1 script gives for the same pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.answering.scoring import contained, exact_match, f1, normalised_words


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("The Saxon Garden.", ["Saxon Garden"], (1.0, 1.0, 1.0)),
        ("in 1943", ["1943"], (1.0, 0.0, 2 / 3)),
        ("1943", ["7 January 1943"], (0.0, 0.0, 0.5)),
        ("an owl and a cat", ["owl", "cat"], (1.0, 0.0, 0.5)),
        ("", ["owl"], (0.0, 0.0, 0.0)),
        ("owls", ["owl"], (0.0, 0.0, 0.0)),
        ("U.S. Army", ["us army"], (1.0, 1.0, 1.0)),
    ],
)
def test_scores_of_fixed_pairs(answer: str, references: list[str], expected: tuple[float, float, float]) -> None:
    assert (contained(answer, references), exact_match(answer, references)) == expected[:2]
    assert f1(answer, references) == pytest.approx(expected[2])


@given(st.text(max_size=30), st.text(max_size=30))
def test_scores_lie_between_0_and_1_and_exact_means_full_f1(answer: str, reference: str) -> None:
    assert 0 <= f1(answer, [reference]) <= 1
    if exact_match(answer, [reference]) and normalised_words(reference):
        assert f1(answer, [reference]) == contained(answer, [reference]) == 1
