"""A memory, and as much of the document as the context allows -> an answer with the sentences that support it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from lift.adapters.adapter import Adapter, applied_invocation, applied_state
from lift.adapters.resident import Load, hold_stored, holding_stored
from lift.adapters.row_assignment import activate, restoring, using
from lift.adapters.warm_start import find_reader
from lift.answering.answer import Answer, check_questions
from lift.answering.steps import GenerateRequest, ModelRequest, execute, run_strategies
from lift.answering.strategies import AnsweringAdapters, Strategies
from lift.documents.document import Document
from lift.documents.sentences import Sentence, document_sentences
from lift.errors import UsageError
from lift.inference.generate import generate
from lift.inference.prefix_cache import PrefixCache
from lift.memories.manifest import ADAPTER_STATE_FILE
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.control_tokens import decode_content
from lift.models.template_text import NO_QUOTES, TemplateQuotes
from lift.models.turns import turn_of
from lift.packing.prompts import PLAIN_FORM, PromptForm, end_of_answer_id
from lift.packing.published_prompts import PROMPT_FORMS
from lift.recipes.recipe import AdapterSettings

_kept: WeakKeyDictionary[torch.nn.Module, PrefixCache] = WeakKeyDictionary()


def kept_prefixes(model: torch.nn.Module) -> PrefixCache:
    """The prefix cache of a resident model, kept for later questions, one for all that it answers."""
    return _kept.setdefault(model, PrefixCache(applied_state, invocation=applied_invocation))


def open_memory(
    memory: StoredMemory, base: BaseModel, form: PromptForm = PLAIN_FORM, *, keeps_text: bool = True
) -> Answerer:
    """Attach a memory to the resident base model, in place of whatever was attached, and answer from it.

    `keeps_text` as for Answerer. Raises WrongBaseModelError on other weights than those it was trained on, LibraryError
    where its files are damaged.
    """
    key, reader, loads = stored_adapters(memory, base)
    with turn_of(base.model):
        hold_stored(base.model, loads, at_most=len(loads))
        activate(base.model, key)
    strategies = strategies_of(memory, base, form, key, reader)
    return Answerer(base, strategies, loads, keeps_text=keeps_text)


def stored_adapter(memory: StoredMemory, base: BaseModel) -> tuple[str, Load]:
    """The name under which a memory's adapter is attached to `base`, and what loads it; raises as open_memory."""
    memory.check_base(base.id, base.fingerprint, base.identity)
    if ADAPTER_STATE_FILE not in memory.manifest.files:
        raise UsageError(f"the memory {memory.name!r} is a model at an endpoint; ask it there, with `lift ask`")
    return memory.manifest.adapter_id, lambda: (memory.adapter_config, memory.load_adapter_state())


def reader_adapter(memory: StoredMemory, base: BaseModel) -> tuple[str, Load] | None:
    """The reader of memories that began where this one did, as stored_adapter: it reads better than a memory.

    None where there was no warm start, or it lay in a directory that is gone; the memory then reads itself.
    """
    wanted = memory.manifest.recipe.get("adapter", {}).get("warm_start", "none")
    if wanted not in ("none", "auto") and not Path(wanted).is_dir():
        return None
    reader = find_reader(base, AdapterSettings(warm_start=wanted))
    return None if reader is None else (reader.digest, lambda: (reader.config, reader.state))


def stored_adapters(memory: StoredMemory, base: BaseModel) -> tuple[str, str | None, dict[str, Load]]:
    """The names of a memory's adapter and of its reader, None without one, and what loads each; as stored_adapter."""
    key, load = stored_adapter(memory, base)
    reader = reader_adapter(memory, base)
    return (key, None, {key: load}) if reader is None else (key, reader[0], {key: load} | dict([reader]))


def strategies_of(memory: StoredMemory, base: BaseModel, form: PromptForm, key: str, reader: str | None) -> Strategies:
    """The ways to answer about a memory's document; `key` and `reader` are the names under which they are attached.

    Where `form` is the plain one, the words around a question are those that the memory was trained with.
    """
    recipe = memory.manifest.recipe
    form = trained_form(memory) if form == PLAIN_FORM else form
    adapters = AnsweringAdapters(key, reader or key, cites=bool(recipe.get("tasks", {}).get("cited_share")))
    window_tokens = recipe.get("context", {}).get("window_tokens", 0)
    return Strategies(base, memory.document, document_sentences(memory.document), adapters, window_tokens, form)


def trained_form(memory: StoredMemory) -> PromptForm:
    """The words around a question that a memory was trained with."""
    name = memory.manifest.recipe.get("tasks", {}).get("prompt", "plain")
    return PROMPT_FORMS.get(name, PLAIN_FORM).about(memory.document.title)


class Answerer:
    """Answers questions about one document on a resident base model, with its memory (an adapter) or without.

    Each question, or batch of them, takes the model's turn, so any number of threads may ask at once. `loads`: the
    stored adapters that its strategies name; they are attached again where others have detached them. `keeps_text`: the
    keys and values of what is read are kept for the next question, in kept_prefixes; not where times are measured, or
    the model is trained by others than an Adapter.
    """

    def __init__(
        self,
        base: BaseModel,
        strategies: Strategies,
        loads: Mapping[str, Load] | None = None,
        *,
        keeps_text: bool = False,
    ) -> None:
        self.base = base
        self.strategies = strategies
        self._loads = loads or {}
        self._prefixes = kept_prefixes(base.model) if keeps_text else None

    @classmethod
    def of(
        cls,
        base: BaseModel,
        adapter: Adapter | None,
        document: Document,
        sentences: Sequence[Sentence],
        truncated_tokens: int = 0,
        *,
        form: PromptForm = PLAIN_FORM,
        keeps_text: bool = False,
    ) -> Answerer:
        """Answers by an attached adapter alone, or by the base; `truncated_tokens` and `form` as for Strategies."""
        name = adapter.name if adapter is not None else None
        strategies = Strategies(base, document, sentences, AnsweringAdapters(name, name), truncated_tokens, form)
        return cls(base, strategies, keeps_text=keeps_text)

    @property
    def document(self) -> Document:
        """The document that is asked about."""
        return self.strategies.document

    def ask(self, question: str, context: str = "auto", *, on_text: Callable[[str], None] | None = None) -> Answer:
        """Answer one question; `on_text` gets the text piece by piece. See ask_many for what is raised."""
        return self.ask_many([question], context, on_text=on_text)[0]

    def ask_many(
        self,
        questions: Sequence[str],
        context: str = "auto",
        *,
        max_new_tokens: int | None = None,
        batch_size: int = 16,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer]:
        """Answer in batches, in the order of the questions, by the strategies of strategies.py.

        Without `max_new_tokens` each may be as long as such a question wants (prose.py). An answer that is chosen among
        several is shown in one piece. The time of an answer begins with the model's turn. Raises UsageError for an
        unknown context, an empty question, or a text that does not fit the window, and LibraryError where an adapter is
        to be read again and its file is gone or changed.
        """
        check_questions(questions, context)
        streamed = on_text if all(self.strategies.in_one_step(context, each) for each in questions) else None
        model = self.base.model
        with turn_of(model), restoring(model), holding_stored(model, self._loads):
            started = time.perf_counter()
            strategies = [self.strategies.to(question, context, max_new_tokens) for question in questions]
            answers = run_strategies(strategies, lambda requests: self._execute(requests, batch_size, streamed))
            seconds = (time.perf_counter() - started) / max(len(questions), 1)
        if on_text and streamed is None:
            for answer in answers:
                on_text(answer.text)
        return [replace(answer, seconds=seconds) for answer in answers]

    def _execute(
        self, requests: Sequence[ModelRequest], batch_size: int, on_text: Callable[[str], None] | None
    ) -> list[Any]:
        return execute_by_adapter(
            self.base, requests, batch_size, on_text=on_text, quotes=self.strategies.quotes, prefixes=self._prefixes
        )


def execute_by_adapter(
    base: BaseModel,
    requests: Sequence[ModelRequest],
    batch_size: int,
    *,
    on_text: Callable[[str], None] | None = None,
    quotes: TemplateQuotes = NO_QUOTES,
    prefixes: PrefixCache | None = None,
) -> list[Any]:
    """The results of requests, as steps.execute; the rest as for generate_texts.

    Texts come adapter by adapter, so that those behind the same text are read together.
    """

    def generate_all(requests: Sequence[GenerateRequest]) -> list[str]:
        with using(base.model, requests[0].adapter):
            return generate_texts(
                base,
                [request.prompt_ids for request in requests],
                requests[0].max_new_tokens,
                batch_size,
                on_text=on_text,
                quotes=quotes,
                prefixes=prefixes,
                excluded=requests[0].excluded,
            )

    return execute(
        base, requests, lambda request: (request.adapter, request.max_new_tokens, request.excluded), generate_all
    )


def generate_texts(
    base: BaseModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    *,
    on_text: Callable[[str], None] | None = None,
    quotes: TemplateQuotes = NO_QUOTES,
    adapters: Sequence[str | None] | None = None,
    prefixes: PrefixCache | None = None,
    excluded: tuple[int, ...] = (),
) -> list[str]:
    """The model's answers to all prompts, until it ends its answer; `adapters`, `prefixes`, `excluded` as for generate.

    `on_text` gets a single text piece by piece, but for what is among the `quotes` of the chat template.
    """
    tokenizer = base.tokenizer
    shown = ShownText(tokenizer, on_text, quotes) if on_text else None
    generated = generate(
        base.model,
        prompts,
        max_new_tokens=max_new_tokens,
        end_ids={end_of_answer_id(tokenizer), *base.end_token_ids},
        batch_size=batch_size,
        on_token=shown.hear if shown else None,
        adapters=adapters,
        prefixes=prefixes,
        excluded=excluded,
    )
    if shown:
        shown.close()
    return [decode_content(tokenizer, ids).strip() for ids in generated]


class ShownText:
    """Turns the tokens of one text into pieces, holding out a character that is incomplete, and possible quotes."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None], quotes: TemplateQuotes) -> None:
        self._tokenizer = tokenizer
        self._on_text = on_text
        self._quotes = quotes
        self._ids: list[int] = []
        self._shown = 0  # characters

    def hear(self, _row: int, token: int) -> None:
        """One token more."""
        self._ids.append(token)
        text = decode_content(self._tokenizer, self._ids)
        if not text.endswith("\ufffd") and self._quotes.begin(text, ended=False) is None:
            self._show(text[: self._quotes.safe_end(text)])

    def close(self) -> None:
        """Show what was held out and is no quotation."""
        self._show(self._quotes.without(decode_content(self._tokenizer, self._ids)).rstrip())

    def _show(self, text: str) -> None:
        if len(text) > self._shown:
            self._on_text(text[self._shown :])
            self._shown = len(text)
