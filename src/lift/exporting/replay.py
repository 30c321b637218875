"""Held-out questions with the memory's own greedy answers: what another program should say to the same tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from lift.absorbing.recall_report import choose_probes
from lift.adapters.resident import holding_stored
from lift.adapters.row_assignment import restoring, using
from lift.answering.answerer import stored_adapters, strategies_of
from lift.exporting.prompt_notes import render_tokens
from lift.inference.generate import generate
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.control_tokens import decode_content
from lift.models.turns import turn_of
from lift.packing.forward import labelled_logits
from lift.packing.prompts import IGNORED, MAX_ANSWER_TOKENS, PLAIN_FORM, Example, end_of_answer_id
from lift.packing.trie import pack

ReplayedBy = Literal["memory", "reader"]
MEMORY: ReplayedBy = "memory"
READER: ReplayedBy = "reader"
_BATCH_SIZE = 16


@dataclass(frozen=True)
class ReplayRow:
    """One question, and what the memory, or the reader behind evidence, answers to it on its own.

    `target_ids`: the tokens of the answer and, where it ended within the longest answer, of its end.
    `log_probability`: of these behind `prompt_ids`, in nats.
    """

    adapter: ReplayedBy
    question: str
    prompt: str
    prompt_ids: tuple[int, ...]
    answer: str
    answer_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    log_probability: float

    def to_json(self) -> str:
        """One line of replay.jsonl."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


class Replayer:
    """A memory and its reader, attached to a base model inside of `opened`, which answer tokens and judge them."""

    def __init__(self, memory: StoredMemory, base: BaseModel) -> None:
        self.base = base
        self.memory = memory
        key, reader, self._loads = stored_adapters(memory, base)
        self._names: dict[ReplayedBy, str] = {MEMORY: key} | ({READER: reader} if reader else {})
        self._strategies = strategies_of(memory, base, PLAIN_FORM, key, reader)

    @contextmanager
    def opened(self) -> Iterator[Replayer]:
        """Inside the block the adapters are attached, and the model's turn is taken."""
        model = self.base.model
        with turn_of(model), restoring(model), holding_stored(model, self._loads):
            yield self

    def record(self, questions: int) -> list[ReplayRow]:
        """At most so many held-out questions, asked closed book of the memory, and behind evidence of its reader.

        None where the memory has no held-out question.
        """
        probes = choose_probes(self.memory.tasks, questions)
        contexts = {MEMORY: "none", READER: "evidence"}
        asked = [
            (adapter, task.question, self._strategies.prompt(task.question, contexts[adapter], MAX_ANSWER_TOKENS).ids)
            for adapter in self._names
            for task in probes
        ]
        said = self._generate([adapter for adapter, _, _ in asked], [ids for _, _, ids in asked])
        return [self._row(*each, ids) for each, ids in zip(asked, said, strict=True)]

    def logits(self, row: ReplayRow) -> torch.Tensor:
        """The logits that each token of the row's target was judged by. [M, vocabulary], float32"""
        return self._logits(row.adapter, row.prompt_ids, row.target_ids)

    def _row(self, adapter: ReplayedBy, question: str, prompt: tuple[int, ...], ids: Sequence[int]) -> ReplayRow:
        tokenizer = self.base.tokenizer
        end = [end_of_answer_id(tokenizer)] if len(ids) < MAX_ANSWER_TOKENS else []
        target = (*ids, *end)
        return ReplayRow(
            adapter=adapter,
            question=question,
            prompt=render_tokens(tokenizer, prompt),
            prompt_ids=tuple(prompt),
            answer=decode_content(tokenizer, list(ids)).strip(),
            answer_ids=tuple(ids),
            target_ids=target,
            log_probability=log_probability(self._logits(adapter, prompt, target), target),
        )

    def _generate(self, adapters: Sequence[ReplayedBy], prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
        ends = {end_of_answer_id(self.base.tokenizer), *self.base.end_token_ids}
        said: list[list[int]] = []
        for adapter in dict.fromkeys(adapters):
            own = [prompt for each, prompt in zip(adapters, prompts, strict=True) if each == adapter]
            with using(self.base.model, self._names[adapter]):
                said += generate(
                    self.base.model, own, max_new_tokens=MAX_ANSWER_TOKENS, end_ids=ends, batch_size=_BATCH_SIZE
                )
        return said

    @torch.no_grad()
    def _logits(self, adapter: ReplayedBy, prompt: Sequence[int], target: Sequence[int]) -> torch.Tensor:
        example = Example((*prompt, *target), (*[IGNORED] * len(prompt), *target))
        with using(self.base.model, self._names[adapter]):
            return labelled_logits(self.base.model, pack([example])).float()


def log_probability(logits: torch.Tensor, target: Sequence[int]) -> float:
    """log P of the tokens `target` under logits [M, vocabulary], in nats."""
    chosen = torch.tensor(list(target), device=logits.device)
    return -float(torch.nn.functional.cross_entropy(logits.float(), chosen, reduction="sum"))
