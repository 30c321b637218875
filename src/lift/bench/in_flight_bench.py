"""Many questions in one batch: all to one memory, or each to a memory of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lift.adapters.batched_lora import keeping_room
from lift.adapters.resident import Load, hold_stored, release
from lift.adapters.row_assignment import activate
from lift.bench.arithmetic import Spread
from lift.inference.generate import generate
from lift.models.base_model import BaseModel
from lift.models.device import stopwatch
from lift.packing.prompts import prompt_ids

_NO_END = {-1}


def bench_in_flight(
    base: BaseModel,
    load: Load,
    questions: Sequence[str],
    counts: Sequence[int],
    *,
    answer_tokens: int,
    repeats: int,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """For each of `counts` the speed of that many questions asked at once closed book: to one memory, to as many.

    What `load` reads stands for every memory: each of them is read from the file by itself and has tensors of its own.
    `questions_per_s` and `one_tokens_per_s` are of one memory, `many_tokens_per_s` of as many memories as questions,
    medians over `repeats`, prompts included; `ratio` is that of the second to the first, both measured in turn.
    `attach_s`: seconds to attach all memories from their files. Every stored adapter is detached afterwards. Raises
    AdapterError where the memory does not fit.
    """
    found = []
    for count in counts:
        say(f"{count} questions at once, to one memory and to {count}")
        found.append(_Batch(base, load, questions[:count], answer_tokens).measure(repeats))
    return found


class _Batch:
    """As many questions as memories, in one batch."""

    def __init__(self, base: BaseModel, load: Load, questions: Sequence[str], answer_tokens: int) -> None:
        self._base = base
        self._load = load
        self._questions = questions
        self._answer_tokens = answer_tokens
        self._names = [f"lift-bench-{index}" for index in range(len(questions))]
        self._now = stopwatch(base.device)

    def measure(self, repeats: int) -> dict[str, Any]:
        model, count = self._base.model, len(self._questions)
        release(model)
        begun = self._now()
        hold_stored(model, dict.fromkeys(self._names, self._load), at_most=count)
        attach_s = self._now() - begun
        one, many = [], []
        with keeping_room(model):
            for _ in range(repeats):
                activate(model, self._names[0])
                one.append(self._seconds())
                activate(model, None)
                many.append(self._seconds(self._names))
        release(model)
        tokens = count * self._answer_tokens
        ratio = Spread.of([alone / together for alone, together in zip(one, many, strict=True)])
        one_s, many_s = Spread.of(one).median, Spread.of(many).median
        return {
            "questions": count,
            "questions_per_s": count / one_s,
            "one_tokens_per_s": tokens / one_s,
            "many_tokens_per_s": tokens / many_s,
            "ratio": ratio.median,
            "ratio_least": ratio.least,
            "ratio_most": ratio.most,
            "attach_s": attach_s,
        }

    def _seconds(self, adapters: Sequence[str | None] | None = None) -> float:
        begun = self._now()
        generate(
            self._base.model,
            [prompt_ids(self._base.tokenizer, question) for question in self._questions],
            max_new_tokens=self._answer_tokens,
            end_ids=_NO_END,  # all answers are of one length
            batch_size=len(self._questions),
            adapters=adapters,
        )
        return self._now() - begun
