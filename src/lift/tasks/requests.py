"""Requests to a language model for tasks: one a sentence (family B), a window or a paragraph (family A).

Family A (method 1.2): windows of consecutive sentences at random places, one task with evidence from each; or for
PassageRetrieval random paragraphs, one summary of each. Family B (method 3.1): every sentence with as much as fits of
what stands before it, several tasks about the sentence alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lift.documents.sentences import Sentence, joined
from lift.recipes.recipe import Recipe
from lift.tasks.paragraphs import askable_paragraphs, draw_paragraphs, without_label


@dataclass(frozen=True)
class TaskRequest:
    """One request: `shown` sentences of the document, and at most `limit` tasks about them.

    By its `form` the tasks are about the last sentence shown; or one task about any of `shown`, with evidence (window);
    or a summary of all of `shown`, whose task has the answer `target` (paragraph). `position` is the number of
    sentences done once it is answered. `hint` sets apart requests that show the same, so that one answer does not come
    back to all of them.
    """

    number: int
    position: int
    title: str
    shown: tuple[Sentence, ...]
    limit: int
    form: Literal["sentence", "window", "paragraph"]
    instruction: str
    hint: str = ""
    target: str = ""

    @property
    def windowed(self) -> bool:
        """Whether the tasks come with evidence of their own."""
        return self.form == "window"

    def shorter(self) -> TaskRequest | None:
        """The same request with one sentence less to read, or None where only one is left."""
        if len(self.shown) == 1:
            return None
        return replace(self, shown=self.shown[1:] if self.form == "sentence" else self.shown[:-1])


def plan_requests(title: str, sentences: Sequence[Sentence], recipe: Recipe) -> tuple[TaskRequest, ...]:
    """The requests for a document, in document order; the same for the same seed.

    Sentences without a letter or digit are not asked about, nor are paragraphs too short to be summed up: a text that
    has no longer one gets no requests in the form "paragraph".
    """
    if recipe.tasks.per_document:
        return _document_requests(title, sentences, recipe, recipe.tasks.per_document, recipe.training.seed)
    return tuple(_sentences(title, sentences, recipe))


def _sentences(title: str, sentences: Sequence[Sentence], recipe: Recipe) -> list[TaskRequest]:
    asked = [place for place, sentence in enumerate(sentences) if any(map(str.isalnum, sentence.text))]
    limit, instruction = recipe.tasks.per_sentence, recipe.generator.instruction.strip()
    requests = []
    for number, place in enumerate(asked):
        first, room = place, recipe.generator.preceding_chars
        while first and (room := room - len(sentences[first - 1].text) - 1) >= 0:
            first -= 1
        position = asked[number + 1] if number + 1 < len(asked) else len(sentences)
        shown = tuple(sentences[first : place + 1])
        requests.append(TaskRequest(number, position, title, shown, limit, "sentence", instruction))
    return requests


def replacing_requests(
    title: str, sentences: Sequence[Sentence], recipe: Recipe, before: Sequence[TaskRequest], count: int, turn: int
) -> tuple[TaskRequest, ...]:
    """`count` more requests of family A, at other places drawn anew, in place of those `before` that gave no task.

    `turn`: how often there have been replacements with these, from 1. Empty for family B, whose requests are one a
    sentence.
    """
    if not recipe.tasks.per_document:
        return ()
    return _document_requests(title, sentences, recipe, count, f"{recipe.training.seed}/{turn}", before)


@dataclass(frozen=True)
class _Drawn:
    """A place of the document that a request shows; `target` of a paragraph, as in TaskRequest."""

    place: int
    shown: tuple[Sentence, ...]
    target: str = ""


def _document_requests(
    title: str,
    sentences: Sequence[Sentence],
    recipe: Recipe,
    total: int,
    seed: int | str,
    before: Sequence[TaskRequest] = (),
) -> tuple[TaskRequest, ...]:
    """`total` requests of family A at places that `seed` draws, told apart from those `before` that show the same."""
    form: Literal["paragraph", "window"] = "paragraph" if recipe.generator.form == "paragraph" else "window"
    drawn = (_paragraphs if form == "paragraph" else _windows)(sentences, recipe, total, seed)
    asked = Counter(request.shown[0].index for request in before)
    instruction = recipe.generator.instruction.strip()
    requests: list[TaskRequest] = []
    for number, each in enumerate(drawn):
        repeat = asked[each.shown[0].index]
        asked[each.shown[0].index] += 1
        focus = _focus(each.shown, f"{recipe.training.seed} {each.place}", repeat) if repeat else ""
        hint = _ANOTHER[form].format(number=repeat + 1, focus=focus) if repeat else ""
        position = len(sentences) if before else round((number + 1) * len(sentences) / len(drawn))
        requests.append(TaskRequest(number, position, title, each.shown, 1, form, instruction, hint, each.target))
    return tuple(requests)


_ANOTHER = {
    "window": "This is request {number} for the same passage. Ask about another detail than a reader would think of "
    "first, if you can one of this sentence: {focus}",
    "paragraph": "This is request {number} for the same paragraph. Choose other words, and other details than a reader "
    "would think of first, if you can this one: {focus}",
}


def _windows(sentences: Sequence[Sentence], recipe: Recipe, total: int, seed: int | str) -> list[_Drawn]:
    if not any(character.isalnum() for sentence in sentences for character in sentence.text):
        return []
    length = min(recipe.generator.window_sentences, len(sentences))
    generator = random.Random(seed)
    starts = sorted(generator.randrange(len(sentences) - length + 1) for _ in range(total))
    return [_Drawn(start, tuple(sentences[start : start + length])) for start in starts]


def _paragraphs(sentences: Sequence[Sentence], _recipe: Recipe, total: int, seed: int | str) -> list[_Drawn]:
    paragraphs = askable_paragraphs(sentences)
    places = draw_paragraphs(len(paragraphs), total, seed)
    return [_Drawn(place, tuple(paragraphs[place].sentences), paragraphs[place].target) for place in places]


def _focus(shown: Sequence[Sentence], seed: str, repeat: int) -> str:
    """A sentence to set a repeated request apart by; none comes twice before all of `shown` have come."""
    place = random.Random(seed).randrange(len(shown)) - repeat % len(shown)
    return without_label(shown[place].text)


_RULES = """- Ask only for what is written there, and copy names, numbers and dates exactly. Add nothing of your own.
- Each question must make sense to somebody who has not seen the text: use full names instead of he, she, it or they, \
and never mention the passage, the text or its parts.
- Keep answers short and in the words of the text.
- Write in the language of the text."""

_ABOUT_SENTENCE = f"""You write questions by which a reader can learn a document by heart, part by part. You get its \
title, a passage of it, and the last part of that passage. Write different questions that the last part answers, each \
with its answer. The rest of the passage is there for you to understand the last part: do not ask about it.
{_RULES}
- Vary what is asked for and how it is asked. Write fewer questions, or none, where the last part says little."""

_ABOUT_WINDOW = f"""You write questions by which a reader can learn a document by heart. You get its title and a \
passage of it. Write exactly one question that the passage answers, the answer, and the evidence: the sentence or \
sentences of the passage that prove the answer, copied word for word.
{_RULES}"""

_ABOUT_PARAGRAPH = """You write abstracts by which a reader can tell which paragraph of a document is meant. You get \
the document's title and one paragraph of it. Sum the paragraph up in 4 to 6 sentences of your own.
- Say only what is written there, and copy names, numbers and dates exactly. Add nothing of your own.
- Do not say which number the paragraph has, or where in the document it stands.
- Write in the language of the paragraph."""

_JSON_SENTENCE = """Reply with JSON and nothing else, in this form:
{"tasks": [{"question": "...", "answer": "..."}, {"question": "...", "answer": "..."}]}"""
_JSON_WINDOW = """Reply with JSON and nothing else, in this form:
{"tasks": [{"question": "...", "answer": "...", "evidence": ["..."]}]}"""
_JSON_PARAGRAPH = """Reply with JSON and nothing else, in this form:
{"summary": "..."}"""
_LABELLED_SENTENCE = """Reply with two lines for each question and nothing else, in this form:
Question: ...
Answer: ..."""
_LABELLED_WINDOW = """Reply with three lines and nothing else, in this form:
Question: ...
Answer: ...
Evidence: ..."""
_LABELLED_PARAGRAPH = """Reply with one paragraph and nothing else, in this form:
Summary: ..."""
_JOB = {"sentence": _ABOUT_SENTENCE, "window": _ABOUT_WINDOW, "paragraph": _ABOUT_PARAGRAPH}
_JSON = {"sentence": _JSON_SENTENCE, "window": _JSON_WINDOW, "paragraph": _JSON_PARAGRAPH}
_LABELLED = {"sentence": _LABELLED_SENTENCE, "window": _LABELLED_WINDOW, "paragraph": _LABELLED_PARAGRAPH}


def instructions(request: TaskRequest, *, labelled: bool = False) -> str:
    """The system's message, the same in all requests of a run: the job, its rules and the reply's format."""
    parts = [_JOB[request.form], request.instruction, (_LABELLED if labelled else _JSON)[request.form]]
    return "\n".join(filter(None, parts))


def material(request: TaskRequest) -> str:
    """The user's message of a request: title, passage, and for family B the last part and the limit.

    A paragraph is shown without its label, so that no summary can repeat it.
    """
    passage = joined(request.shown)
    titled = f"Title: {request.title}" if request.title else ""
    if request.form == "paragraph":
        shown = [titled, f"Paragraph: {without_label(passage)}", request.hint]
        return "\n\n".join(filter(None, shown))
    parts = [titled, f"Passage: {passage}"]
    if request.windowed:
        parts += [request.hint]
    else:
        questions = "1 question" if request.limit == 1 else f"{request.limit} different questions"
        parts += [f"Last part: {request.shown[-1].text}", f"Write at most {questions} about the last part."]
    return "\n\n".join(filter(None, parts))
