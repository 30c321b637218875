"""Document and tasks -> the chat lines that a fine-tuning endpoint trains on, one JSON object a line. Pure.

The published runs on GPT-3.5 (LIFT v0, method 4.1) send each segment as the assistant's text alone. Raw language
modelling, with its loss on every token and no turn before it, cannot be expressed in chat lines: the endpoint trains
on what the assistant says and wants a user's turn before that. So a short one with the title stands there, the same
for all segments. The weights of tasks cannot be expressed either: a line counts in full or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lift.documents.document import Document
from lift.errors import RemoteError
from lift.models.control_tokens import without_known_marks
from lift.packing.segments import segments_of
from lift.recipes.recipe import Recipe
from lift.remote.token_estimate import estimate_chat_tokens, token_offsets
from lift.tasks.task import Task

FEWEST_LINES = 10
MOST_BYTES = 512 * 1024 * 1024
# A word that is longer is cut: scripts without spaces have no words to respect.
_LONGEST_WORD_CHARS = 32


@dataclass(frozen=True)
class TrainingFile:
    """The bytes to be uploaded; `line_tokens` are the estimated tokens of each line, `segments` of the lines come
    from segments, the rest from tasks."""

    content: bytes
    line_tokens: tuple[int, ...]
    segments: int

    @property
    def tokens(self) -> int:
        """Estimated tokens of all lines together: what one epoch trains on."""
        return sum(self.line_tokens)


def build_training_file(document: Document, tasks: Sequence[Task], recipe: Recipe, limit_tokens: int) -> TrainingFile:
    """The segments of `document` and then its `tasks`, those that are held out left out, as chat lines.

    A weight of 0 in the recipe leaves its kind out; above 0 all lines count alike. Lengths are in estimated tokens.
    Raises RemoteError where a line is longer than `limit_tokens` (with its number, counted from 1), where there are
    fewer than FEWEST_LINES lines, or where the file would have more than MOST_BYTES bytes.
    """
    exchanges = []
    if recipe.segments.weight:
        turn = f"Continue this passage of “{document.title}”."
        exchanges = [(turn, segment) for segment in _segment_texts(document, recipe)]
    segments = len(exchanges)
    if recipe.tasks.weight:
        exchanges += [(task.question, task.answer) for task in tasks if not task.held_out]
    line_tokens = tuple(estimate_chat_tokens(exchange) for exchange in exchanges)
    for number, tokens in enumerate(line_tokens, 1):
        if tokens > limit_tokens:
            kind, advice = ("task", "leave it out")
            if number <= segments:
                kind, advice = ("segment", "choose a smaller segments.length_tokens")
            raise RemoteError(
                f"expected lines of at most {limit_tokens:,} tokens in the training file, got about {tokens:,} in "
                f"line {number}, a {kind}; {advice}, or take a model with a longer window"
            )
    if len(exchanges) < FEWEST_LINES:
        raise RemoteError(
            f"expected at least {FEWEST_LINES} lines in the training file, got {len(exchanges)}; take a longer text, "
            "a smaller segments.step_tokens, or add tasks with --set tasks.weight=1"
        )
    content = b"".join(_line(question, answer) for question, answer in exchanges)
    if len(content) > MOST_BYTES:
        raise RemoteError(
            f"expected a training file of at most {MOST_BYTES:,} bytes, got {len(content):,}; split the text, or take "
            "a larger segments.step_tokens or a smaller tasks.per_sentence"
        )
    return TrainingFile(content, line_tokens, segments)


def _segment_texts(document: Document, recipe: Recipe) -> list[str]:
    """The windows of the title and the text below it (method 1.1), cut between words: no token is left out."""
    text = f"{document.title}\n{document.text}"
    offsets = token_offsets(text)
    windows = segments_of(text, offsets, recipe.segments)
    cuts = [(_word_start(text, offsets[window.start][0]), offsets[window.end - 1][1]) for window in windows]
    return [text[start : len(text) if end == len(text) else _word_start(text, end)] for start, end in cuts]


def _word_start(text: str, position: int) -> int:
    """Where the word that holds `position` begins; `position` itself where there is no such place nearby."""
    for start in range(position, max(position - _LONGEST_WORD_CHARS, 0), -1):
        if text[start - 1].isspace():
            return start
    return 0 if position < _LONGEST_WORD_CHARS else position


def _line(question: str, answer: str) -> bytes:
    turns = (("user", question), ("assistant", answer))
    messages = [{"role": role, "content": without_known_marks(said)} for role, said in turns]
    return (json.dumps({"messages": messages}, ensure_ascii=False) + "\n").encode("utf-8", "replace")
