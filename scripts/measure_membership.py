"""Measure what an adapter alone tells: of its own text to somebody who lacks that text, and of a text it never saw.

    lift absorb examples/lease.md --name lease --budget 70s
    lift absorb examples/minutes.md --name minutes --budget 70s
    python scripts/measure_membership.py lease minutes

Three attackers hold the adapter, the base model and the packaged reader, and not the text:

membership  Was this text absorbed? Facts of a candidate text are scored as answers to questions about it, with the
            adapter and with the reader that it began at; a gain says yes. Told as the area under the ROC curve between
            facts of the own text and of the others: 0.5 is a coin, 1 is certainty.
questions   Who asks the right question gets the answer? Held-out questions (never trained in these words), closed book,
            beside the same questions asked of a memory of another text.
blind       Who knows nothing, not even the subject, asks general questions. Told is the share of the text's rare words
            and numbers that come out, beside what comes out of the memory of another text.

One JSON line a memory. Closed book throughout; with the text in the prompt a memory tells the text, of course.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any

from lift.answering.answerer import open_memory, reader_adapter, stored_adapter
from lift.answering.scoring import contained
from lift.answering.steps import ScoreRequest, scored
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.load import load_model
from lift.packing.prompts import prompt_ids
from lift.tasks.task import Task

MOST_FACTS = 40
BLIND = (
    "What is this text about?",
    "Who is named in it?",
    "Which persons are mentioned?",
    "Where does it take place?",
    "When did it happen?",
    "How much does it cost?",
    "How many are there?",
    "What was decided?",
    "What is forbidden?",
    "What is the name of the place?",
    "Which dates are given?",
    "What must be paid?",
    "Who is responsible?",
    "What is the title?",
    "Tell me everything you know about the document.",
    "Summarise the text.",
)


def main() -> None:
    """Measure the memories of the library that are named, each beside the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("memories", nargs="+", help="two or more memories of one base model")
    parser.add_argument("--model", default="smollm2")
    options = parser.parse_args()
    library, base = MemoryLibrary(None), load_model(options.model)
    memories = [library[name] for name in options.memories]
    if len(memories) < 2:
        parser.error("expected at least two memories, got one")
    facts = {memory.name: _facts(memory) for memory in memories}
    for memory in memories:
        others = [other for other in memories if other is not memory]
        print(json.dumps(_measured(base, memory, others, facts)), flush=True)


def _measured(
    base: Any, memory: StoredMemory, others: Sequence[StoredMemory], facts: dict[str, list[Task]]
) -> dict[str, Any]:
    foreign = [fact for other in others for fact in facts[other.name]]
    answerer = open_memory(memory, base)
    key, _ = stored_adapter(memory, base)
    reader = reader_adapter(memory, base)
    before = reader[0] if reader else None
    own_gains = _gains(base, key, before, facts[memory.name])
    foreign_gains = _gains(base, key, before, foreign)
    said = [each.text for each in answerer.ask_many(BLIND, "none")]
    asked = {name: _answered(answerer, each) for name, each in (("own", facts[memory.name]), ("foreign", foreign))}
    own_words = _rare_words(memory, others)
    return {
        "memory": memory.name,
        "trained_tokens_a_token": round(memory.manifest.cost.tokens / max(memory.manifest.sizes.document_tokens, 1), 1),
        "facts": len(own_gains),
        "foreign_facts": len(foreign_gains),
        "membership_auc": round(_auc(own_gains, foreign_gains), 3),
        "mean_gain_own_nats": round(sum(own_gains) / max(len(own_gains), 1), 2),
        "mean_gain_foreign_nats": round(sum(foreign_gains) / max(len(foreign_gains), 1), 2),
        "answered_own": round(asked["own"], 3),
        "answered_foreign": round(asked["foreign"], 3),
        "blind_own_words": round(_told(said, own_words), 3),
        "blind_foreign_words": round(_told(said, {word for o in others for word in _rare_words(o, [memory])}), 3),
    }


def _facts(memory: StoredMemory) -> list[Task]:
    """Questions that were held out first, then trained ones."""
    tasks = sorted(memory.tasks, key=lambda task: not task.held_out)
    return tasks[:MOST_FACTS]


def _gains(base: Any, adapter: str, before: str | None, facts: Sequence[Task]) -> list[float]:
    """How much likelier each answer is with the adapter, in nats."""
    requests = [
        ScoreRequest(name, tuple(prompt_ids(base.tokenizer, fact.question)), (fact.answer,))
        for name in (adapter, before)
        for fact in facts
    ]
    found = [each[0] for each in scored(base, requests)]
    return [after - first for after, first in zip(found[: len(facts)], found[len(facts) :], strict=True)]


def _answered(answerer: Any, facts: Sequence[Task]) -> float:
    answers = answerer.ask_many([fact.question for fact in facts], "none")
    right = [contained(answer.text, [fact.answer]) for answer, fact in zip(answers, facts, strict=True)]
    return sum(right) / max(len(right), 1)


def _auc(higher: Sequence[float], lower: Sequence[float]) -> float:
    """How often one of the first is above one of the second; ties count half."""
    wins = sum((one > other) + 0.5 * (one == other) for one in higher for other in lower)
    return wins / max(len(higher) * len(lower), 1)


def _rare_words(memory: StoredMemory, others: Sequence[StoredMemory]) -> set[str]:
    """Names and numbers of the text that no other of the texts and no question here has."""
    common = {word.lower() for text in (*BLIND, *(other.document.text for other in others)) for word in _words(text)}
    words = re.findall(r"(?<=[a-z,] )[A-Z]\w+|\d[\d,.:]*\d|\d", memory.document.text)
    return {word.lower() for word in words if word.lower() not in common}


def _told(said: Sequence[str], wanted: set[str]) -> float:
    told = {word.lower() for text in said for word in _words(text)}
    return len(wanted & told) / max(len(wanted), 1)


def _words(text: str) -> list[str]:
    return re.findall(r"\d[\d,.:]*\d|\w+", text)


if __name__ == "__main__":
    main()
