"""The number of threads follows the cores that are free, and what the user has set wins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.models.load import load_model
from lift.models.threads import (
    WINDOW_S,
    ProcessorTimes,
    ThreadGovernor,
    bound_spinning,
    free_cores,
    read_processor_times,
)

LOOK_S = 1.1 * WINDOW_S


class Machine:
    """Torch's count of threads, and a clock that moves on by LOOK_S with every look at the processor times."""

    def __init__(self, cores: int, others: Iterable[float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads = cores
        self.counts_set: list[int] = []
        self._cores = cores
        self._others: Iterator[float] = iter(others)
        self._now = ProcessorTimes(0.0, 0.0, 0.0)
        monkeypatch.setattr("lift.models.threads.time.monotonic", lambda: self._now.at_s + LOOK_S)

    def governor(self) -> ThreadGovernor:
        return ThreadGovernor(
            self._cores,
            get_threads=lambda: self.threads,
            set_threads=self.set_threads,
            read=self.read,
            cores=self._cores,
            began=self._now,
        )

    def set_threads(self, count: int) -> None:
        self.threads = count
        self.counts_set.append(count)

    def read(self) -> ProcessorTimes:
        """A window in which the other processes used so many cores, and this one its threads on what was left."""
        others_s = next(self._others) * LOOK_S
        own_s = min(self.threads * LOOK_S, self._cores * LOOK_S - others_s)
        last = self._now
        self._now = ProcessorTimes(last.at_s + LOOK_S, last.all_busy_s + others_s + own_s, last.own_busy_s + own_s)
        return self._now


def test_threads_leave_busy_cores_at_once_and_come_back_when_they_stay_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(2, [0.0, 1.0, 1.0, 0.0, 0.0, 0.0], monkeypatch)
    governor = machine.governor()
    seen = []
    for _ in range(6):
        governor.adjust()
        seen.append(machine.threads)
    assert seen == [2, 1, 1, 1, 2, 2]


def test_more_other_work_than_cores_leaves_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(2, [1.4, 2.0, 2.0], monkeypatch)
    governor = machine.governor()
    for _ in range(3):
        governor.adjust()
    assert machine.threads == 1


@given(st.lists(st.floats(0.0, 8.0), min_size=1, max_size=30))
def test_the_count_stays_within_the_cores(others: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(8, others, patch)
        governor = machine.governor()
        for _ in others:
            governor.adjust()
        assert all(1 <= count <= 8 for count in machine.counts_set)
        assert all(before != after for before, after in pairwise(machine.counts_set))


def test_a_count_that_the_user_sets_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(4, [0.0, 3.0, 3.0, 3.0], monkeypatch)
    governor = machine.governor()
    governor.adjust()
    machine.threads = 3
    for _ in range(3):
        governor.adjust()
    assert machine.threads == 3


def test_free_cores_are_those_that_others_did_not_use() -> None:
    before, after = ProcessorTimes(10.0, 100.0, 40.0), ProcessorTimes(12.0, 103.0, 42.0)
    assert free_cores(before, after, 4) == pytest.approx(3.5)


def test_a_user_who_says_how_threads_wait_is_heard() -> None:
    chosen: dict[str, str] = {"OMP_WAIT_POLICY": "active"}
    bound_spinning(chosen)
    assert chosen == {"OMP_WAIT_POLICY": "active"}
    counted = {"GOMP_SPINCOUNT": "7"}
    bound_spinning(counted)
    assert counted == {"GOMP_SPINCOUNT": "7"}


@pytest.mark.parametrize("users", [None, "1", "2"])
def test_a_loaded_model_is_governed_unless_the_user_sets_the_threads(
    users: str | None, tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    if users is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", users)
    model = load_model(str(tiny_directory), device="cpu").model
    assert bool(model._forward_pre_hooks) is (users is None)


@pytest.mark.slow  # each a process of its own, which imports torch
@pytest.mark.skipif(read_processor_times() is None, reason="needs /proc/stat")
@pytest.mark.parametrize(("users", "governed"), [(None, True), ("1", False), ("2", False)])
def test_a_process_has_the_threads_that_the_user_sets(
    users: str | None, governed: bool, tiny_directory: os.PathLike[str]
) -> None:
    program = (
        "import sys; import lift; from lift.models.load import load_model; import torch; "
        "model = load_model(sys.argv[1]).model; "
        "model(torch.tensor([[1]])); print(bool(model._forward_pre_hooks), torch.get_num_threads())"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")}
    if users is not None:
        environment["OMP_NUM_THREADS"] = users
    command = [sys.executable, "-W", "ignore", "-c", program, str(tiny_directory)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == str(governed)
    if users is not None:
        assert said[1] == users
