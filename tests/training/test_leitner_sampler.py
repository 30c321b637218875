"""Spaced repetition: what is known pauses, longer and longer; what is not comes up in every epoch."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from lift.training.leitner_sampler import LeitnerSampler


def epochs_shown(leitner: LeitnerSampler, answers: list[bool], epochs: int) -> list[int]:
    """The epochs in which task 0 comes up, answered as `answers` say, and rightly after these."""
    shown = []
    for epoch in range(epochs):
        if leitner.due(0, epoch):
            leitner.record(0, epoch, answers[len(shown)] if len(shown) < len(answers) else True)
            shown.append(epoch)
    return shown


def test_a_known_task_pauses_twice_as_long_each_time_up_to_the_longest_pause() -> None:
    assert epochs_shown(LeitnerSampler(8), [], 32) == [0, 2, 6, 14, 22, 30]
    assert epochs_shown(LeitnerSampler(1), [], 5) == [0, 1, 2, 3, 4]


def test_a_task_that_is_not_known_comes_up_in_the_next_epoch_and_starts_anew() -> None:
    assert epochs_shown(LeitnerSampler(8), [False, False, True, True, False], 16) == [0, 1, 2, 4, 8, 9, 11, 15]


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 20))
def test_no_pause_is_longer_than_the_longest_and_a_wrong_answer_never_waits(answers: list[bool], longest: int) -> None:
    shown = epochs_shown(LeitnerSampler(longest), answers, 60)
    pauses = [later - earlier for earlier, later in itertools.pairwise(shown)]
    assert all(1 <= pause <= longest for pause in pauses)
    assert all(pause == 1 for pause, correct in zip(pauses, answers, strict=False) if not correct)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40), st.integers(1, 9))
def test_an_epoch_that_is_interrupted_holds_what_it_held(records: list[tuple[int, bool]], longest: int) -> None:
    """Records of an epoch change later ones, not the epoch itself; the state goes through a checkpoint."""
    leitner = LeitnerSampler(longest)
    for epoch in range(3):
        due = [leitner.due(task, epoch) for task in range(12)]
        for task, correct in records:
            if due[task]:
                leitner.record(task, epoch, correct)
        assert [leitner.due(task, epoch) for task in range(12)] == due
        restored = LeitnerSampler(longest)
        restored.load_state(leitner.state())
        for later in range(epoch, epoch + 12):
            assert [restored.due(task, later) for task in range(12)] == [leitner.due(task, later) for task in range(12)]


def test_the_known_share_counts_what_came_up() -> None:
    leitner = LeitnerSampler(4)
    assert leitner.known_share == 0
    for task, correct in enumerate([True, False, True, True]):
        leitner.record(2 * task, 0, correct)
    assert leitner.known_share == 3 / 4
