"""Answers as models give them, labelled by hand: is each supported by its document? And how often Lift says so.

`PYTHONPATH=src python tests/support_labels.py` prints precision and recall of `supported` on both parts of the set, and
with `--wrong` the answers that are told wrongly.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lift.answering.answer import supported_answer
from lift.documents.read import read_document
from lift.documents.retrieval import SentenceIndex
from lift.documents.sentences import split_sentences

DATA = Path(__file__).resolve().parent / "data" / "support"
# the rules were made with the first three in view; the other two were looked at when they were done
DEVELOPED_ON = ("manual", "contract", "minutes")
HELD_APART = ("handbook", "article")


@dataclass(frozen=True)
class Labelled:
    """An answer, whether it is supported, and whether Lift says that it is."""

    document: str
    question: str
    answer: str
    is_supported: bool
    said_supported: bool


def labelled(documents: Sequence[str]) -> list[Labelled]:
    """The labelled answers on these documents, each as Lift marks it."""
    found = []
    for name in documents:
        document = read_document(DATA / f"{name}.md")
        index = SentenceIndex(split_sentences(document.text))
        for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            answer = supported_answer(
                index,
                document,
                row["question"],
                row["answer"],
                context="evidence",
                truncated=False,
                prompt_tokens=0,
                seconds=0.0,
            )
            found.append(Labelled(name, row["question"], row["answer"], row["supported"], answer.supported))
    return found


def precision_and_recall(answers: Sequence[Labelled]) -> tuple[float, float]:
    """Of those that are said to be supported, the share that is; of those that are, the share that is said to be."""
    right = sum(each.is_supported and each.said_supported for each in answers)
    return right / sum(each.said_supported for each in answers), right / sum(each.is_supported for each in answers)


if __name__ == "__main__":
    for part, names in (("developed on", DEVELOPED_ON), ("held apart", HELD_APART)):
        if part == "held apart" and "--developed" in sys.argv:
            continue
        told = labelled(names)
        precision, recall = precision_and_recall(told)
        print(f"{part}: {len(told)} answers, precision {precision:.3f}, recall {recall:.3f}")
        for each in told if "--wrong" in sys.argv else ():
            if each.is_supported != each.said_supported:
                print(f"  {each.document}: said {each.said_supported}: {each.question} -> {each.answer}")
