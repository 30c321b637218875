"""Questions to many memories -> their answers: each row of a batch uses the memory that it asks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from lift.adapters.adapter import attached
from lift.adapters.lora_rows import keeping_room
from lift.adapters.resident import hold_stored
from lift.adapters.rows import restoring, rows
from lift.answering import (
    Answer,
    Answerer,
    check_questions,
    generate_texts,
    read_document,
    reader_adapter,
    settle,
    stored_adapter,
)
from lift.errors import UsageError
from lift.memories.memory import Memory
from lift.models.base_model import BaseModel
from lift.prompts import MAX_ANSWER_TOKENS, PLAIN_FORM, PromptForm

RESIDENT_MEMORIES = 32


def ask_memories(
    base: BaseModel,
    asked: Sequence[tuple[Memory, str]],
    context: str = "none",
    *,
    max_new_tokens: int = MAX_ANSWER_TOKENS,
    batch_size: int = 32,
    resident: int = RESIDENT_MEMORIES,
    form: PromptForm = PLAIN_FORM,
) -> list[Answer]:
    """The answer of each memory to its question, in the order asked; as open_memory and ask give it, one by one.

    At most `resident` stored memories are attached to the base at a time, the longest unused are detached for others,
    and those attached last stay for the next call. A batch holds up to `batch_size` questions to up to `resident`
    memories; each memory is attached once a call. While batches are answered, LoRA memories take their room twice.
    Raises UsageError where `resident` or `batch_size` is less than 1, for an unknown context, an empty question or a
    memory at an endpoint, WrongBaseModelError for a memory of other weights, and LibraryError for damaged files.
    """
    if resident < 1 or batch_size < 1:
        raise UsageError(f"expected resident and batch_size of at least 1, got {resident} and {batch_size}")
    check_questions([question for _, question in asked], context)
    adapters = {memory: stored_adapter(memory, base) for memory, _ in asked}
    readers = {memory: reader_adapter(memory, base) if context == "auto" else None for memory in adapters}
    answerers = {
        memory: read_document(memory, base, form, None, reader=found[0] if found else None)
        for memory, found in readers.items()
    }
    keys = [adapters[memory][0] for memory, _ in asked]
    loads = dict(adapters.values())
    reading = dict(found for found in readers.values() if found is not None)
    present = set(attached(base.model))
    answers: dict[int, Answer] = {}
    with restoring(base.model), keeping_room(base.model):
        for batch in _batches(keys, present, batch_size, resident):
            wanted = {keys[index]: loads[keys[index]] for index in batch}
            hold_stored(base.model, {**reading, **wanted}, resident + len(reading))
            questions = [(answerers[asked[index][0]], asked[index][1]) for index in batch]
            names = [keys[index] for index in batch]
            answers.update(zip(batch, _answer(base, questions, names, context, max_new_tokens), strict=True))
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


def _answer(
    base: BaseModel, questions: Sequence[tuple[Answerer, str]], names: Sequence[str], context: str, max_new_tokens: int
) -> list[Answer]:
    """The answers of one batch: each question is asked with the adapter of its name."""
    if context == "auto":
        readers = [answerer.reader or name for (answerer, _), name in zip(questions, names, strict=True)]
        asked = [(readers, "evidence"), (names, "none")]
        rounds = [_answer(base, questions, who, what, max_new_tokens) for who, what in asked]
        answerers, texts = [answerer for answerer, _ in questions], [text for _, text in questions]
        return settle(base, answerers, texts, names, rounds, max_new_tokens)
    started = time.perf_counter()
    prompts = [answerer.prompt(question, context, max_new_tokens) for answerer, question in questions]
    texts = generate_texts(
        base,
        [prompt.ids for prompt in prompts],
        max_new_tokens,
        len(prompts),
        open_rows=lambda chosen: rows(base.model, [names[row] for row in chosen]),
    )
    seconds = (time.perf_counter() - started) / len(prompts)
    return [
        answerer.answer(prompt, text, seconds)
        for (answerer, _), prompt, text in zip(questions, prompts, texts, strict=True)
    ]
