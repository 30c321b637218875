"""Which candidate tasks to keep: unambiguous ones, diverse over answers and forms, some held out as probes."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from lift.tasks.task import Task

# Where no task is held out by its answer, one of so many is.
TASKS_A_PROBE = 10
_ARTICLES = frozenset({"a", "an", "the"})


def normalised(text: str) -> str:
    """Lower case, without punctuation and articles (as SQuAD's scorer does)."""
    words = re.findall(r"\w+", text.lower())
    return " ".join(word for word in words if word not in _ARTICLES)


def unambiguous(tasks: Sequence[Task]) -> int | None:
    """The place of the one to keep of `tasks` that ask the same; None where their answers contradict each other.

    Answers agree where one contains the other: the heaviest, then the first, is kept.
    """
    best = max(range(len(tasks)), key=lambda place: tasks[place].weight)
    answer = f" {normalised(tasks[best].answer)} "
    others = (f" {normalised(task.answer)} " for task in tasks)
    return best if all(other in answer or answer in other for other in others) else None


def diverse(tasks: Sequence[Task], limit: int, generator: random.Random) -> list[Task]:
    """At most `limit` tasks: round robin over answers, the heaviest first, new forms of question before known ones."""
    queues: dict[str, list[Task]] = {}
    for task in tasks:
        queues.setdefault(normalised(task.answer), []).append(task)
    for queue in queues.values():
        generator.shuffle(queue)
        queue.sort(key=lambda task: task.weight, reverse=True)
    order = sorted(queues, key=lambda answer: queues[answer][0].weight, reverse=True)
    chosen: list[Task] = []
    forms: dict[str, set[str]] = {answer: set() for answer in queues}
    while len(chosen) < limit and any(queues.values()):
        for answer in order:
            queue = queues[answer]
            if not queue or len(chosen) >= limit:
                continue
            fresh = next((task for task in queue if task.question.split()[0] not in forms[answer]), queue[0])
            queue.remove(fresh)
            forms[answer].add(fresh.question.split()[0])
            chosen.append(fresh)
    return chosen


def hold_out(tasks: Sequence[Task], count: int) -> list[Task]:
    """Mark up to `count` tasks as held out, each of an answer that another of the tasks still trains."""
    remaining = list(tasks)
    held: list[Task] = []
    while len(held) < count:
        answers: dict[str, list[Task]] = {}
        for task in remaining:
            answers.setdefault(normalised(task.answer), []).append(task)
        taken = {normalised(task.answer) for task in held}
        groups = [group for answer, group in answers.items() if len(group) > 1 and answer not in taken]
        if not groups:
            break
        # The strongest fact, asked in its second best way: its best way is what training needs most.
        group = max(groups, key=lambda found: max(task.weight for task in found))
        probe = sorted(group, key=lambda task: task.weight, reverse=True)[1]
        remaining.remove(probe)
        held.append(replace(probe, held_out=True))
    return [*remaining, *held]


def hold_some_out(tasks: Sequence[Task], *, trained: bool) -> list[Task]:
    """The tasks, some of them held out if none is yet: all where tasks are not `trained`, else one of TASKS_A_PROBE.

    A single task is left as it is: it is all that there is to train.
    """
    if not trained:
        return [replace(task, held_out=True) for task in tasks]
    if len(tasks) < 2 or any(task.held_out for task in tasks):
        return list(tasks)
    return [replace(task, held_out=number % TASKS_A_PROBE == 1) for number, task in enumerate(tasks)]


def spread(groups: Sequence[Sequence[Task]], total: int) -> list[list[Task]]:
    """At most `total` trained tasks, spread evenly over the `groups`, the heaviest of each; held-out ones all stay.

    What a group lacks of its share is made up for by others, again evenly.
    """
    trained = [sorted((task for task in group if not task.held_out), key=lambda task: -task.weight) for group in groups]
    shares = [0] * len(groups)
    missing = min(total, sum(map(len, trained)))
    while missing:
        open_groups = [place for place, tasks in enumerate(trained) if shares[place] < len(tasks)]
        before = missing
        for turn in range(before):
            place = open_groups[(2 * turn + 1) * len(open_groups) // (2 * before)]
            if shares[place] < len(trained[place]):
                shares[place] += 1
                missing -= 1
    chosen = [set(map(id, tasks[:share])) for tasks, share in zip(trained, shares, strict=True)]
    return [
        [task for task in group if task.held_out or id(task) in keep]
        for group, keep in zip(groups, chosen, strict=True)
    ]
