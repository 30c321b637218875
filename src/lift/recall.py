"""The recall report: how much of the document a memory can be shown to know, sentence by sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lift.answering import Answerer
from lift.scoring import contained, f1
from lift.sentences import Sentence
from lift.tasks.task import Task

_PROBE_TOKENS = 24
_RECALLED_F1 = 0.5


@dataclass(frozen=True)
class Probe:
    """One held-back question, asked closed book. `recalled`: the answer holds the expected one, or F1 >= 0.5."""

    sentence: int
    question: str
    expected: str
    answer: str
    recalled: bool


@dataclass(frozen=True)
class RecallReport:
    """All probes of a memory, in document order, and the sentences that none of its probes could show to be known."""

    probes: tuple[Probe, ...]
    sentences: int

    @property
    def probed(self) -> list[int]:
        """Sentences that were asked about."""
        return sorted({probe.sentence for probe in self.probes})

    @property
    def recalled(self) -> list[int]:
        """Sentences with at least one right answer."""
        return sorted({probe.sentence for probe in self.probes if probe.recalled})

    @property
    def forgotten(self) -> list[int]:
        """Sentences that were asked about in vain."""
        return sorted(set(self.probed) - set(self.recalled))

    @property
    def share(self) -> float:
        """Share of the probed sentences that were recalled, 0 to 1."""
        return len(self.recalled) / len(self.probed) if self.probed else 0.0

    def rows(self) -> list[dict[str, Any]]:
        """Lines of recall.jsonl."""
        return [asdict(probe) for probe in self.probes]


def probe_recall(answerer: Answerer, sentences: Sequence[Sentence], tasks: Sequence[Task]) -> RecallReport:
    """Ask every held-back task closed book (none of them was trained on)."""
    held_back = [task for task in tasks if task.held_back]
    answers = answerer.ask_many(
        [task.question for task in held_back], "none", max_new_tokens=_PROBE_TOKENS, batch_size=32
    )
    probes = []
    for task, answer in zip(held_back, answers, strict=True):
        recalled = bool(contained(answer.text, [task.answer])) or f1(answer.text, [task.answer]) >= _RECALLED_F1
        probes.append(Probe(task.evidence[0], task.question, task.answer, answer.text, recalled))
    return RecallReport(tuple(probes), len(sentences))
