"""A memory, and as much of the document as the context allows -> an answer with the sentences that support it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch

from lift.adapters.adapter import Adapter, applied_state, attached
from lift.adapters.resident import Load, hold_stored
from lift.adapters.rows import activate, using
from lift.adapters.starting_point import find_starting_point
from lift.choosing import Vote, choose
from lift.documents.document import Document, Place
from lift.errors import UsageError
from lift.memories.manifest import ADAPTER_STATE_FILE
from lift.memories.memory import Memory
from lift.models.base_model import BaseModel
from lift.models.generate import Rows, generate
from lift.models.prefix_cache import PrefixCache
from lift.prompts import (
    CUT_STEP_TOKENS,
    MAX_ANSWER_TOKENS,
    PLAIN_FORM,
    PromptForm,
    end_of_answer_id,
    fit_context,
    prompt_ids,
)
from lift.recipes.recipe import AdapterSettings
from lift.retrieval import SentenceIndex
from lift.scoring import f1
from lift.sentences import Sentence, split_sentences

Context = Literal["auto", "none", "truncated", "full", "evidence"]
CONTEXTS: tuple[str, ...] = get_args(Context)
EVIDENCE_SENTENCES = 3
SUPPORTED_COVERAGE = 0.6
AGREEMENT_F1 = 0.5

_kept: WeakKeyDictionary[torch.nn.Module, PrefixCache] = WeakKeyDictionary()


@dataclass(frozen=True)
class Evidence:
    """A sentence of the document that supports an answer, and where it stands."""

    sentence: int
    text: str
    place: Place | None


@dataclass(frozen=True)
class Answer:
    """What came back. `context` is what was used ("auto" never stands here); `truncated` says that text was cut.

    `supported` is False where no sentence of the document holds the answer: read it with doubt.
    """

    text: str
    context: str
    evidence: tuple[Evidence, ...]
    supported: bool
    truncated: bool
    prompt_tokens: int
    seconds: float


@dataclass(frozen=True)
class Prompt:
    """A question as the model reads it: `ids`, tokens, with the text that `context` says; `truncated`: it was cut."""

    question: str
    context: str
    ids: tuple[int, ...]
    truncated: bool


def kept_prefixes(model: torch.nn.Module) -> PrefixCache:
    """What was read on a resident model and is kept for later questions, one cache for all that it answers."""
    if model not in _kept:
        _kept[model] = PrefixCache(applied_state)
    return _kept[model]


def open_memory(memory: Memory, base: BaseModel, form: PromptForm = PLAIN_FORM, *, keeps_text: bool = True) -> Answerer:
    """Attach a memory to the resident base model, in place of whatever was attached, and answer from it.

    `keeps_text` as for Answerer. Raises WrongBaseModelError on other weights than those it was trained on, LibraryError
    where its files are damaged.
    """
    key, load = stored_adapter(memory, base)
    reader = reader_adapter(memory, base)
    loads = {key: load} | ({} if reader is None else dict([reader]))
    hold_stored(base.model, loads, at_most=len(loads))
    activate(base.model, key)
    adapter = attached(base.model)[key]
    return read_document(memory, base, form, adapter, reader=reader[0] if reader else None, keeps_text=keeps_text)


def stored_adapter(memory: Memory, base: BaseModel) -> tuple[str, Load]:
    """The name under which a memory's adapter is attached to `base`, and what loads it; raises as open_memory."""
    memory.check_base(base.id, base.fingerprint)
    if ADAPTER_STATE_FILE not in memory.manifest.files:
        raise UsageError(f"the memory {memory.name!r} is a model at an endpoint; ask it there, with `lift ask`")
    key = memory.manifest.files[ADAPTER_STATE_FILE].sha256
    return key, lambda: (memory.adapter_config, memory.load_adapter_state())


def reader_adapter(memory: Memory, base: BaseModel) -> tuple[str, Load] | None:
    """The starting point that the memory began at, as stored_adapter: it reads better than what it has become.

    None where there was none, or it lay in a directory that is gone; the memory then reads itself.
    """
    wanted = memory.manifest.recipe.get("adapter", {}).get("starting_point", "none")
    if wanted not in ("none", "auto") and not Path(wanted).is_dir():
        return None
    start = find_starting_point(base, AdapterSettings(starting_point=wanted))
    return None if start is None else (start.digest, lambda: (start.config, start.state))


def read_document(
    memory: Memory,
    base: BaseModel,
    form: PromptForm,
    adapter: Adapter | None,
    *,
    reader: str | None = None,
    keeps_text: bool = False,
) -> Answerer:
    """Answers from a memory's document, on whatever is attached to `base`.

    `adapter` and `reader` are what the caller attached; see Answerer.
    """
    window_tokens = memory.manifest.recipe.get("context", {}).get("window_tokens", 0)
    sentences = split_sentences(memory.document.text)
    return Answerer(
        base, adapter, memory.document, sentences, window_tokens, form, reader=reader, keeps_text=keeps_text
    )


class Answerer:
    """Answers questions about one document on a resident base model, with its memory (an adapter) or without.

    `truncated_tokens` bounds the prompt of a truncated context, as it was bounded in training; 0: the model's window.
    `form`: the words around every question. `reader`: the attached adapter that reads for "auto", None: the memory
    itself. `keeps_text`: the keys and values of what is read are kept for the next
    question, in kept_prefixes; not where times are measured, or the model is trained by others than an Adapter.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: Adapter | None,
        document: Document,
        sentences: Sequence[Sentence],
        truncated_tokens: int = 0,
        form: PromptForm = PLAIN_FORM,
        *,
        reader: str | None = None,
        keeps_text: bool = False,
    ) -> None:
        self.base = base
        self.adapter = adapter
        self.document = document
        self.reader = reader
        self._truncated_tokens = truncated_tokens
        self._form = form
        self._prefixes = kept_prefixes(base.model) if keeps_text else None
        self.index = SentenceIndex(sentences)

    def ask(self, question: str, context: str = "auto", *, on_text: Callable[[str], None] | None = None) -> Answer:
        """Answer one question; `on_text` gets the text piece by piece. See ask_many for what is raised."""
        return self.ask_many([question], context, on_text=on_text)[0]

    def ask_many(
        self,
        questions: Sequence[str],
        context: str = "auto",
        *,
        max_new_tokens: int = MAX_ANSWER_TOKENS,
        batch_size: int = 16,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer]:
        """Answer in batches, in the order of the questions.

        "auto" lets the memory's starting point read the evidence, and asks the memory closed book. Where they differ,
        the answer is the one that choosing.py finds likelier, and the sentence that fits the question best stands
        beside the one that supports it. It is shown in one piece, since it is chosen at the end.
        Raises UsageError for an unknown context, an empty question, or a text that does not fit the window.
        """
        check_questions(questions, context)
        if context == "auto":
            return self._ask_auto(questions, max_new_tokens, batch_size, on_text)
        started = time.perf_counter()
        prompts = [self.prompt(question, context, max_new_tokens) for question in questions]
        texts = generate_texts(
            self.base,
            [prompt.ids for prompt in prompts],
            max_new_tokens,
            batch_size,
            on_text=on_text,
            prefixes=self._prefixes,
        )
        seconds = (time.perf_counter() - started) / max(len(questions), 1)
        return [self.answer(prompt, text, seconds) for prompt, text in zip(prompts, texts, strict=True)]

    def prompt(self, question: str, context: str, max_new_tokens: int) -> Prompt:
        """What the model reads to answer; `context` is none but "auto". Raises UsageError as ask_many."""
        text, cut = self._context_text(question, context, max_new_tokens)
        return Prompt(question, context, tuple(prompt_ids(self.base.tokenizer, question, text, self._form)), cut)

    def answer(self, prompt: Prompt, text: str, seconds: float) -> Answer:
        """What the model said behind `prompt`, with the sentence that supports it."""
        return supported_answer(
            self.index,
            self.document,
            prompt.question,
            text,
            context=prompt.context,
            truncated=prompt.truncated,
            prompt_tokens=len(prompt.ids),
            seconds=seconds,
        )

    def vote(self, question: str, answers: Sequence[Answer], memory: str | None, max_new_tokens: int) -> Vote:
        """Who judges the answers of "auto"; `memory` is the name of the memory's adapter."""
        return Vote(
            answers=tuple(answer.text for answer in answers),
            reader=self.reader or memory,
            memory=memory,
            prior=self.reader,
            evidence_ids=self.prompt(question, "evidence", max_new_tokens).ids,
            bare_ids=self.prompt(question, "none", max_new_tokens).ids,
        )

    def settled(self, question: str, answers: Sequence[Answer], chosen: int) -> Answer:
        """The chosen one of the answers, with the time of all; and the best sentence beside it where they differ."""
        answer = replace(answers[chosen], seconds=sum(each.seconds for each in answers))
        if all(f1(answer.text, [other.text]) > AGREEMENT_F1 for other in answers):
            return answer
        found = self.index.search(question, 1)
        new = [each for each in found if all(each.index != known.sentence for known in answer.evidence)]
        beside = [Evidence(each.index, each.text, self.document.place_at(each.start)) for each in new]
        return replace(answer, evidence=(*answer.evidence, *beside))

    def _ask_auto(
        self,
        questions: Sequence[str],
        max_new_tokens: int,
        batch_size: int,
        on_text: Callable[[str], None] | None,
    ) -> list[Answer]:
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
        if self.adapter is None:
            return self.ask_many(questions, "evidence", on_text=on_text, **options)
        with using(self.base.model, self.reader or self.adapter.name):
            read = self.ask_many(questions, "evidence", **options)
        rounds = [read, self.ask_many(questions, "none", **options)]
        answers = settle(self.base, [self] * len(questions), questions, [self.adapter.name] * len(questions), rounds)
        if on_text:
            for answer in answers:
                on_text(answer.text)
        return answers

    def _context_text(self, question: str, context: str, max_new_tokens: int) -> tuple[str | None, bool]:
        window_tokens = self.base.window_tokens - max_new_tokens
        tokenizer = self.base.tokenizer
        if context == "none":
            return None, False
        if context == "evidence":
            found = self.index.evidence(question, EVIDENCE_SENTENCES)
            shown = " ".join(sentence.text for sentence in found)
            return fit_context(tokenizer, question, shown, window_tokens, form=self._form)
        if context == "truncated" and self._truncated_tokens:
            window_tokens = min(window_tokens, self._truncated_tokens - max_new_tokens)
        text, cut = fit_context(tokenizer, question, self.document.text, window_tokens, CUT_STEP_TOKENS, self._form)
        if cut and context == "full":
            raise UsageError(
                f"the whole text does not fit the model's window of {self.base.window_tokens} tokens; "
                "use --context truncated, evidence or auto"
            )
        return text, cut


def settle(
    base: BaseModel,
    answerers: Sequence[Answerer],
    questions: Sequence[str],
    memories: Sequence[str],
    rounds: Sequence[Sequence[Answer]],
    max_new_tokens: int = MAX_ANSWER_TOKENS,
) -> list[Answer]:
    """The answer of "auto" to each question: one of those that the `rounds` gave, what was read and what was recalled.

    `memories`: the name of each memory's adapter.
    """
    given = list(zip(*rounds, strict=True))
    asked = list(zip(answerers, questions, given, strict=True))
    chosen = choose(
        base,
        [
            answerer.vote(question, answers, memory, max_new_tokens)
            for (answerer, question, answers), memory in zip(asked, memories, strict=True)
        ],
    )
    return [
        answerer.settled(question, answers, index)
        for (answerer, question, answers), index in zip(asked, chosen, strict=True)
    ]


def generate_texts(
    base: BaseModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    *,
    on_text: Callable[[str], None] | None = None,
    open_rows: Callable[[Sequence[int]], AbstractContextManager[Rows]] | None = None,
    prefixes: PrefixCache | None = None,
) -> list[str]:
    """What the model answers to each prompt, until it ends its answer; `open_rows` and `prefixes` as for generate."""
    tokenizer = base.tokenizer
    generated = generate(
        base.model,
        prompts,
        max_new_tokens=max_new_tokens,
        end_ids={end_of_answer_id(tokenizer), *base.end_token_ids},
        batch_size=batch_size,
        on_token=_text_stream(tokenizer, on_text) if on_text else None,
        open_rows=open_rows,
        prefixes=prefixes,
    )
    return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in generated]


def check_questions(questions: Sequence[str], context: str) -> None:
    """Raise UsageError for an unknown context or an empty question, whoever is to answer."""
    if context not in CONTEXTS:
        raise UsageError(f"expected a context of {', '.join(CONTEXTS)}, got {context!r}")
    if any(not question.strip() for question in questions):
        raise UsageError("expected a question, got an empty one")


def supported_answer(
    index: SentenceIndex,
    document: Document,
    question: str,
    text: str,
    *,
    context: str,
    truncated: bool,
    prompt_tokens: int,
    seconds: float,
) -> Answer:
    """The answer `text` with the sentence of the document that supports it best, whoever gave it."""
    support = index.support(question, text)
    evidence = []
    if support is not None and support.coverage > 0:
        sentence = support.sentence
        evidence.append(Evidence(sentence.index, sentence.text, document.place_at(sentence.start)))
    supported = support is not None and support.coverage >= SUPPORTED_COVERAGE
    return Answer(text, context, tuple(evidence), supported, truncated, prompt_tokens, seconds)


def _text_stream(tokenizer: Any, on_text: Callable[[str], None]) -> Callable[[int, int], None]:
    """Turn tokens into pieces of text, holding back while a character is still incomplete."""
    ids: list[int] = []
    shown = ""

    def on_token(_row: int, token: int) -> None:
        nonlocal shown
        ids.append(token)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if not text.endswith("�"):
            on_text(text[len(shown) :])
            shown = text

    return on_token
