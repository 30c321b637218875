"""Every document ends once, whoever dies, fails or reports late, in whatever order."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lift.errors import UsageError
from lift.farm.work_queue import Failure, Work, WorkQueue

OOPS = Failure("Oops", "it failed")


def queue_of(*sizes: float, **options: int) -> WorkQueue:
    queue = WorkQueue([Work(str(number), size) for number, size in enumerate(sizes)], **options)
    queue.join("a")
    return queue


@settings(max_examples=200)
@given(
    sizes=st.lists(st.integers(0, 100), max_size=25),
    bad=st.sets(st.integers(0, 24), max_size=4),
    poisoned=st.sets(st.integers(0, 24), max_size=3),
    data=st.data(),
)
def test_every_document_ends_once_whatever_happens(
    sizes: list[int], bad: set[int], poisoned: set[int], data: st.DataObject
) -> None:
    """Workers report, fail, die, come back and report late at random; a poisoned document kills whoever is at it."""
    queue = WorkQueue([Work(str(number), size) for number, size in enumerate(sizes)])
    dead: list[tuple[str, str]] = []  # reports that arrive when their worker is lost already
    ended: Counter[str] = Counter()
    born, chance_deaths, steps = 0, 0, 0
    while not queue.is_finished:
        steps += 1
        assert steps < 2000
        if len(queue.workers) < 3:
            born += 1
            queue.join(f"w{born}")
        worker = data.draw(st.sampled_from(queue.workers))
        held = queue.leased(worker) or queue.lease(worker)
        everywhere = [id for each in queue.workers for id in queue.leased(each)]
        assert len(everywhere) == len(set(everywhere)) and not set(everywhere) & (queue.done | queue.failed.keys())
        if not held:
            continue
        dies = chance_deaths < 10 and data.draw(st.integers(0, 5)) == 0
        if int(held[0]) in poisoned or dies:
            chance_deaths += int(held[0]) not in poisoned
            assert queue.lose(worker, "killed") == held[0]
            dead += [(worker, id) for id in held]
        elif int(held[0]) in bad:
            ended[held[0]] += queue.record_failure(worker, held[0], OOPS)
        else:
            ended[held[0]] += queue.record_done(worker, held[0])
        if dead and data.draw(st.booleans()):
            assert not queue.record_done(*dead.pop())
    assert queue.done.isdisjoint(queue.failed)
    assert queue.done | queue.failed.keys() == {str(number) for number in range(len(sizes))}
    assert all(count == 1 for count in ended.values() if count)
    assert not {str(number) for number in bad | poisoned} & queue.done
    innocent = {id for id, failure in queue.failed.items() if int(id) not in bad | poisoned}
    assert 3 * len(innocent) <= chance_deaths  # only by three accidents each
    assert queue.waiting_size == 0


def test_the_longest_go_first_and_what_is_left_can_be_divided() -> None:
    queue = queue_of(1, 9, 3, *[1] * 20)
    queue.join("b")
    assert queue.lease("a")[0] == "1"
    assert queue.lease("b")[0] == "2"
    many = queue_of(*[1] * 100)
    many.join("b")
    leases = []
    while not many.is_finished:
        for worker in ("a", "b"):
            leases.append(taken := many.lease(worker))
            assert all(many.record_done(worker, id) for id in taken)
    assert max(map(len, leases)) == 8
    assert len(leases[-1]) <= 1


def test_what_failed_is_tried_by_another_worker() -> None:
    queue = queue_of(1)
    queue.join("b")
    assert queue.lease("a") == ("0",)
    assert not queue.record_failure("a", "0", OOPS)
    assert queue.lease("a") == ()
    assert queue.lease("b") == ("0",)
    assert queue.record_failure("b", "0", OOPS)
    assert queue.failed == {"0": OOPS}


def test_where_no_other_worker_lives_the_same_one_tries_again() -> None:
    queue = queue_of(1)
    queue.join("b")
    queue.lease("a")
    queue.record_failure("a", "0", OOPS)
    queue.lose("b", "killed")
    assert queue.lease("a") == ("0",)


def test_a_document_that_kills_is_leased_alone_and_given_up() -> None:
    queue = queue_of(5, 1, 1, 1, kills=2)
    for worker in ("a", "b"):
        queue.join(worker)
        while queue.lease(worker) and "0" not in queue.leased(worker):
            assert all(queue.record_done(worker, id) for id in queue.leased(worker))
        assert queue.lose(worker, "killed") == "0"
    queue.join("c")
    while held := queue.lease("c"):
        assert all(queue.record_done("c", id) for id in held)
    assert queue.is_finished and queue.done == {"1", "2", "3"}
    assert queue.failed["0"].kind == "WorkerDied"
    assert "died 2 times (killed)" in queue.failed["0"].sentence


def test_who_holds_documents_or_has_not_joined_gets_none() -> None:
    queue = queue_of(1, 1)
    queue.lease("a")
    for worker in ("a", "stranger"):
        with pytest.raises(UsageError):
            queue.lease(worker)
    with pytest.raises(UsageError):
        WorkQueue([Work("same", 1), Work("same", 2)])


def test_giving_up_ends_all() -> None:
    queue = queue_of(1, 1, 1)
    queue.lease("a")
    queue.give_up(OOPS)
    assert queue.is_finished and set(queue.failed) == {"0", "1", "2"}
    assert queue.lease("a") == ()
