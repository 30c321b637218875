"""The task of LIFT's PassageRetrieval: a summary of one paragraph, and which paragraph of the text it is of. Pure.

The model sums up a paragraph that is drawn at random; what is trained is the prompt that asks for the paragraph of an
abstract, with that summary as the abstract (method 1.2). Nothing a model can get wrong becomes the answer: the number
is counted, or read from the paragraph itself.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from lift.documents.sentences import Sentence, joined, split_sentences
from lift.tasks.support import content_words, tokens

# What is shorter (a heading, a line of a list) cannot be summed up in several sentences.
SHORTEST_PARAGRAPH_WORDS = 30
# 4 to 6 are asked for; a sentence more or less is a matter of where one sees its end.
FEWEST_SENTENCES, MOST_SENTENCES = 3, 7
LONGEST_SUMMARY_CHARS = 2_000
_LABEL = re.compile(
    r"\W{0,3}((?:paragraph|passage|section|chapter|article|document|text)\s+\d{1,5})\s*[.:)–—-]\W{0,3}", re.IGNORECASE
)


@dataclass(frozen=True)
class Paragraph:
    """A paragraph that can be asked for: its sentences, and the `target`, what it is called ("Paragraph 7")."""

    sentences: tuple[Sentence, ...]
    target: str


def askable_paragraphs(sentences: Sequence[Sentence]) -> list[Paragraph]:
    """The paragraphs with something to sum up, in the order of the text.

    Where most of them begin with a label of their own, such as "Paragraph 7:", the label is the target, and those
    without one, or with one that stands twice, are left out. Otherwise all paragraphs of the text are counted from 1.
    """
    groups = [tuple(group) for _, group in groupby(sentences, key=lambda sentence: sentence.paragraph)]
    counted = [
        Paragraph(group, f"Paragraph {number}")
        for number, group in enumerate(groups, 1)
        if len(tokens(joined(group))) >= SHORTEST_PARAGRAPH_WORDS
    ]
    labelled = [
        Paragraph(paragraph.sentences, " ".join(label[1].split()))
        for paragraph in counted
        if (label := _LABEL.match(joined(paragraph.sentences)))
    ]
    if 2 * len(labelled) <= len(counted):
        return counted
    times = Counter(paragraph.target.casefold() for paragraph in labelled)
    return [paragraph for paragraph in labelled if times[paragraph.target.casefold()] == 1]


def draw_paragraphs(count: int, total: int, seed: int | str) -> list[int]:
    """`total` places out of range(count), sorted: each once before any is drawn twice. Empty where count is 0."""
    generator = random.Random(seed)
    drawn: list[int] = []
    while count and len(drawn) < total:
        drawn += generator.sample(range(count), min(count, total - len(drawn)))
    return sorted(drawn)


def without_label(text: str) -> str:
    """`text` without the label that it begins with, which would tell a summary's reader the answer."""
    return _LABEL.sub("", text, count=1) if _LABEL.match(text) else text


def question_about(title: str, summary: str, target: str) -> str:
    """The question that `target` answers: which paragraph of the text an abstract is of."""
    noun = target.split(maxsplit=1)[0]
    of = f"“{title}”" if title else "the text"
    return (
        f"This is an abstract of one {noun.lower()} of {of}:\n\n{summary}\n\n"
        f"Which {noun.lower()} is it? Answer with its number alone, in the form “{noun} 1”."
    )


def summary_fault(summary: str, sentences: Sequence[Sentence], target: str) -> str | None:
    """The first reason to reject a summary of the paragraph `sentences`, or None."""
    if not summary:
        return "empty"
    length = len(split_sentences(summary))
    if length < FEWEST_SENTENCES:
        return "too short"
    if length > MOST_SENTENCES or len(summary) > LONGEST_SUMMARY_CHARS:
        return "too long"
    noun, number = map(re.escape, target.split())
    if re.search(
        rf"\b{noun}\W*(?:number|no\b\.?|n[°º])?\W*{number}(?!\w)|(?<!\w){number}(?:st|nd|rd|th)\W+{noun}\b",
        summary,
        re.IGNORECASE,
    ):
        return "gives its number away"
    if not set(content_words(summary)) & set(content_words(without_label(joined(sentences)))):
        return "names nothing of the text"
    return None
