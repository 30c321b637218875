"""A question to a whole library: the documents that it may be about are found, and the memory of one of them answers.

The best document of the search (memories/document_search.py) answers, unless others are nearly as good. Each of these
is asked then, in one batch. An answer that a sentence of its document supports goes before one that none does. Among
those the memory decides, by how much likelier it finds its own answer than the base does, which knows no document
(reranking.py), beside how well the document was found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lift.adapters.resident import holding_stored
from lift.answering.answer import Answer
from lift.answering.answerer import stored_adapter, trained_form
from lift.answering.many_memories import ask_memories
from lift.answering.steps import ScoreRequest, scored
from lift.errors import LibraryError
from lift.memories.document_search import FoundDocument
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.turns import turn_of
from lift.packing.prompts import prompt_ids

# Documents that are looked at, and the share of the best one's score from which on one is nearly as good.
CANDIDATES = 4
NEAR_SHARE = 0.85
# Nats of a memory's likelihood count as much as this power of the search's score.
_SCORE_POWER = 8.0
_MOST_NATS = 4.0


@dataclass(frozen=True)
class LibraryAnswer:
    """The answer of the memory `memory`; `found`: the documents that the question may be about, those asked first.

    `left_out`: memories whose texts could not be searched, each with the sentence why.
    """

    memory: str
    title: str
    answer: Answer
    found: tuple[FoundDocument, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


def near_documents(found: Sequence[FoundDocument]) -> list[FoundDocument]:
    """Those that are nearly as good as the best one, which comes first."""
    return [each for each in found if each.score >= NEAR_SHARE * found[0].score]


def check_found(found: Sequence[FoundDocument], question: str) -> None:
    """Raise LibraryError where no document has a word of the question."""
    if not found:
        raise LibraryError(
            f"expected a question that shares a word with a document of the library, got {question!r}; ask it in other "
            "words, or name the memory that is to answer"
        )


def ask_found(
    base: BaseModel,
    memories: Sequence[StoredMemory],
    found: Sequence[FoundDocument],
    question: str,
    context: str = "auto",
) -> LibraryAnswer:
    """Ask the memories of `found`, which are its first ones, and choose; raises as many_memories.ask_memories."""
    answers = ask_memories(base, [(memory, question) for memory in memories], context)
    best = 0
    if len(memories) > 1:
        gains = memory_gains(base, memories, question, answers)
        scores = [
            (answer.supported, max(-_MOST_NATS, min(gain, _MOST_NATS)) + _SCORE_POWER * math.log(document.score))
            for answer, gain, document in zip(answers, gains, found, strict=False)
        ]
        best = max(range(len(scores)), key=lambda place: (scores[place], -place))
    return LibraryAnswer(memories[best].name, memories[best].manifest.title, answers[best], tuple(found))


def memory_gains(
    base: BaseModel, memories: Sequence[StoredMemory], question: str, answers: Sequence[Answer]
) -> list[float]:
    """log P_memory(answer | question) - log P_base(answer | question) of each memory and its own answer, in nats."""
    adapters = [stored_adapter(memory, base) for memory in memories]
    prompts = [tuple(prompt_ids(base.tokenizer, question, None, trained_form(memory))) for memory in memories]
    with turn_of(base.model), holding_stored(base.model, dict(adapters)):
        requests = [
            ScoreRequest(adapter, prompt, (answer.text,))
            for (key, _), prompt, answer in zip(adapters, prompts, answers, strict=True)
            for adapter in (key, None)
        ]
        values = [value for (value,) in scored(base, requests)]
    return [known - before for known, before in zip(values[::2], values[1::2], strict=True)]
