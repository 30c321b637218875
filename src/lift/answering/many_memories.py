"""Questions to many memories -> their answers: each row of a batch uses the memory that it asks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from lift.adapters.adapter import attached
from lift.adapters.batched_lora import keeping_room
from lift.adapters.resident import hold_stored
from lift.adapters.row_assignment import restoring
from lift.answering.answer import Answer, check_questions
from lift.answering.answerer import generate_texts, reader_adapter, stored_adapter, strategies_of
from lift.answering.steps import GenerateRequest, ModelRequest, execute, run_strategies
from lift.errors import UsageError
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.turns import turn_of
from lift.packing.prompts import PLAIN_FORM, PromptForm

RESIDENT_MEMORIES = 32


def ask_memories(
    base: BaseModel,
    asked: Sequence[tuple[StoredMemory, str]],
    context: str = "none",
    *,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
    resident: int = RESIDENT_MEMORIES,
    form: PromptForm = PLAIN_FORM,
) -> list[Answer]:
    """The answer of each memory to its question, in the order asked; as open_memory and ask give it, one by one.

    At most `resident` stored memories are attached to the base at a time, beside what reads for them; the longest
    unused are detached for others, and those attached last stay for the next call. A batch holds up to `batch_size`
    questions to up to `resident` memories; each memory is attached once a call. While batches are answered, LoRA
    memories take their room twice. The whole call is one turn of the model.
    Raises UsageError where `resident` or `batch_size` is less than 1, for an unknown context, an empty question or a
    memory at an endpoint, WrongBaseModelError for a memory of other weights, and LibraryError for damaged files.
    """
    if resident < 1 or batch_size < 1:
        raise UsageError(f"expected resident and batch_size of at least 1, got {resident} and {batch_size}")
    check_questions([question for _, question in asked], context)
    adapters = {memory: stored_adapter(memory, base) for memory, _ in asked}
    readers = {memory: reader_adapter(memory, base) for memory in adapters}
    ways = {
        memory: strategies_of(memory, base, form, key, found[0] if (found := readers[memory]) else None)
        for memory, (key, _) in adapters.items()
    }
    keys = [adapters[memory][0] for memory, _ in asked]
    loads = dict(adapters.values())
    needed = [memory for memory in adapters if not ways[memory].in_one_step(context)]
    reading = dict(found for memory in needed if (found := readers[memory]) is not None)
    answers: dict[int, Answer] = {}
    with turn_of(base.model), restoring(base.model), keeping_room(base.model):
        present = set(attached(base.model))
        for batch in _batches(keys, present, batch_size, resident):
            wanted = {keys[index]: loads[keys[index]] for index in batch}
            hold_stored(base.model, {**reading, **wanted}, resident + len(reading))
            started = time.perf_counter()
            strategies = [ways[asked[index][0]].to(asked[index][1], context, max_new_tokens) for index in batch]
            found_answers = run_strategies(strategies, lambda requests: _execute(base, requests, batch_size))
            seconds = (time.perf_counter() - started) / len(batch)
            answers.update(zip(batch, (replace(answer, seconds=seconds) for answer in found_answers), strict=True))
    return [answers[index] for index in range(len(asked))]


def _batches(keys: Sequence[str], present: set[str], batch_size: int, resident: int) -> Iterator[list[int]]:
    """Indices of questions, those of one memory together and attached memories first, cut into batches."""
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    batch: list[int] = []
    for index in sorted(range(len(keys)), key=lambda index: (keys[index] not in present, first[keys[index]], index)):
        used = {keys[each] for each in batch}
        if len(batch) == batch_size or (len(used) == resident and keys[index] not in used):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _execute(base: BaseModel, requests: Sequence[ModelRequest], batch_size: int) -> list[Any]:
    """Texts of like length together, each row with the adapter that it wants."""

    def generate_all(requests: Sequence[GenerateRequest]) -> list[str]:
        return generate_texts(
            base,
            [request.prompt_ids for request in requests],
            requests[0].max_new_tokens,
            batch_size,
            adapters=[request.adapter for request in requests],
            excluded=requests[0].excluded,
        )

    return execute(base, requests, lambda request: (request.max_new_tokens, request.excluded), generate_all)
