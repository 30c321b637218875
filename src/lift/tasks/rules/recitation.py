"""Tasks that need no parser: recite a sentence from its key words, its predecessor, its heading, or fill a blank."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from lift.documents.sentences import Sentence
from lift.tasks.rules.coreference import plain_title
from lift.tasks.task import Task

MAX_RECITED_WORDS = 60
_WORD = re.compile(r"[^\W_](?:[\w'’.-]*[^\W_])?")


def _key_words(text: str, count: int) -> list[str]:
    """The longest words and names of the sentence, in its order; a capital at its beginning makes no name."""
    words = list(dict.fromkeys(_WORD.findall(text)))
    names = {word for place, word in enumerate(words) if word[:1].isdigit() or (place and word[:1].isupper())}
    ranked = sorted(words, key=lambda word: (word in names, len(word)), reverse=True)[:count]
    return [word for word in words if word in ranked]


def recitation_tasks(title: str, sentences: Sequence[Sentence], position: int) -> list[Task]:
    """Zero to two recitations of `sentences[position]`."""
    sentence = sentences[position]
    text = " ".join(sentence.text.split())
    if len(text.split()) > MAX_RECITED_WORDS:
        return []
    words = _key_words(text, 3)
    name = plain_title(title) or title
    tasks: list[Task] = []
    if len(words) >= 2:
        listed = f"{', '.join(words[:-1])} and {words[-1]}"
        tasks.append(
            Task(f"Which sentence of “{name}” speaks of {listed}?", text, (sentence.index,), "rules:recite", 0.25)
        )
    if position and sentences[position - 1].paragraph == sentence.paragraph:
        before = " ".join(sentences[position - 1].text.split())
        if len(before.split()) <= MAX_RECITED_WORDS:
            tasks.append(
                Task(f"In “{name}”, which sentence follows “{before}”?", text, (sentence.index,), "rules:next", 0.2)
            )
    return tasks


def continuation_tasks(title: str, sentence: Sentence) -> list[Task]:
    """Asks how the sentence that begins so goes on; the last resort for sentences too short or too long to recite."""
    words = sentence.text.split()
    begun = max(1, min(8, len(words) // 2))
    answer = " ".join(words[begun : begun + 32]) or words[0]
    question = f"How does the passage of “{plain_title(title) or title}” that begins “{' '.join(words[:begun])}” go on?"
    return [Task(question, answer, (sentence.index,), "rules:continue", 0.2)]


def blank_tasks(sentence: Sentence, limit: int, generator: random.Random) -> list[Task]:
    """ "Complete: Ada Quill founded … in 1911." for up to `limit` words of the sentence, in any language."""
    text = " ".join(sentence.text.split())
    spans = [
        match.span()
        for match in _WORD.finditer(text)
        if len(match.group()) > 3 or match.group()[:1].isupper() or match.group().isdigit()
    ]
    if len(text.split()) < 3 or not spans:
        return []
    generator.shuffle(spans)
    return [
        Task(f"Complete: {text[:start]}…{text[end:]}", text[start:end], (sentence.index,), "rules:blank", 0.6)
        for start, end in sorted(spans[:limit])
    ]
