"""Asking a memory closed book beside reading: time to the first token, speed, questions at once, bytes, switching.

How fast a memory is does not depend on what it knows: a new adapter of the recipe's shape stands for one where none is
given. Reading is done by the base model without any memory.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lift.adapters.adapter import applied_invocation, applied_state, attached
from lift.adapters.attach import create_adapter, restore_adapter
from lift.adapters.resident import attach_stored, release
from lift.adapters.row_assignment import activate
from lift.answering.strategies import EVIDENCE_SENTENCES
from lift.bench.in_flight_bench import bench_in_flight
from lift.bench.llama_peer import LlamaPeer, beside_llama
from lift.bench.machine import describe_machine
from lift.bench.texts import RULE, text_of_length
from lift.documents.retrieval import SentenceIndex
from lift.documents.sentences import joined, split_sentences
from lift.errors import UsageError, cleaning_up
from lift.evaluation.method_costs import kv_cache_bytes
from lift.inference.generate import generate
from lift.inference.prefix_cache import PrefixCache
from lift.memories.manifest import ADAPTER_STATE_FILE
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.device import stopwatch
from lift.packing.prompts import CUT_STEP_TOKENS, fit_context, invocation_of, prompt_ids
from lift.recipes.recipe import AdapterSettings

TRUNCATED_TOKENS = 1024
WHOLE = ("full", "kept")
READING = (*WHOLE, "truncated", "evidence")
LoadAdapter = Callable[[], tuple[dict[str, Any], dict[str, torch.Tensor]]]
_NO_END = {-1}
_STORED_BYTES = 2
_QUOTED_WORDS = 6
_MEMORY = "lift-bench"


@dataclass(frozen=True)
class AskPlan:
    """Tokens of texts and answers, questions at once, and how often each is measured: the median counts."""

    lengths: Sequence[int] = (1024, 4096, 8192)
    answer_tokens: int = 24
    in_flight: Sequence[int] = (1, 8, 32)
    repeats: int = 3


@dataclass(frozen=True)
class Timing:
    """Of one question: tokens of the prompt, seconds from the question to the first token, tokens a second after it."""

    prompt_tokens: int
    first_token_s: float
    tokens_per_s: float


def untrained_memory(base: BaseModel, settings: AdapterSettings, directory: Path) -> LoadAdapter:
    """A new adapter stored in `directory` as a memory's is, in bfloat16; what loads it from there."""
    adapter = create_adapter(base.model, settings, 0, invocation=invocation_of(base.tokenizer))
    config, state = adapter.stored()
    adapter.detach()
    path = directory / "adapter_model.safetensors"
    save_file({key: value.to(torch.bfloat16).contiguous() for key, value in state.items()}, path)
    return lambda: (config, load_file(path))


def stored_memory(memory: StoredMemory, base: BaseModel) -> LoadAdapter:
    """The loader of a memory's adapter from its library.

    Raises UsageError for a memory without one, WrongBaseModelError on other weights than it was trained on.
    """
    if ADAPTER_STATE_FILE not in memory.manifest.files:
        raise UsageError(
            f"expected a memory with an adapter, got {memory.name!r}, a model at an endpoint; take another"
        )
    memory.check_base(base.id, base.fingerprint, base.identity)
    return lambda: (memory.adapter_config, memory.load_adapter_state())


def bench_ask(
    base: BaseModel,
    text: str,
    plan: AskPlan,
    *,
    memory: LoadAdapter | None,
    adapter: AdapterSettings,
    say: Callable[[str], None],
    llama: LlamaPeer | None = None,
) -> dict[str, Any]:
    """Measure all of it with `memory`, or with an untrained one of the shape `adapter`; the model is left as it was.

    The base model alone is measured beside `llama` too. Raises AdapterError where the memory does not fit, UsageError
    for an empty text, BenchError where llama.cpp does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="lift-bench-") as directory:
        load = memory or untrained_memory(base, adapter, Path(directory))
        with cleaning_up(lambda: release(base.model)):
            return _measured(base, text, plan, load, memory is None, say, llama)


def _measured(
    base: BaseModel,
    text: str,
    plan: AskPlan,
    load: LoadAdapter,
    untrained: bool,
    say: Callable[[str], None],
    llama: LlamaPeer | None,
) -> dict[str, Any]:
    say("switching between two memories")
    switch = _switching(base, load, plan.repeats)
    adapter_bytes = _STORED_BYTES * sum(tensor.numel() for tensor in load()[1].values())
    rows: list[dict[str, Any]] = []
    for length in sorted(plan.lengths):
        asker = _Asker(base, text_of_length(base.tokenizer, text, length), plan, load)
        kept = {"none": adapter_bytes, "full": kv_cache_bytes(base.model.config.get_text_config(), length)}
        for context in ("none", *READING):
            say(f"{length:,} tokens, {'closed book' if context == 'none' else context}")
            timing = asker.time(context)
            if context == "kept" and timing:
                kept[context] = asker.kept_bytes
            measured = (
                asdict(timing) if timing else {"prompt_tokens": None, "first_token_s": None, "tokens_per_s": None}
            )
            held = {"length": length, "context": context, "fits": timing is not None, "bytes": kept.get(context)}
            rows.append({**held, **measured})
    asker = _Asker(base, text_of_length(base.tokenizer, text, min(plan.lengths)), plan, load)
    limits: dict[str, Any] = {"answer_tokens": plan.answer_tokens, "repeats": plan.repeats}
    in_flight = bench_in_flight(base, load, asker.questions, plan.in_flight, say=say, **limits)
    if llama is not None:
        say("llama.cpp")
    return {
        "machine": describe_machine(base.device),
        "llama_cpp": asker.beside_llama(llama) if llama is not None else None,
        "memory": "untrained" if untrained else "given",
        "rows": rows,
        "in_flight": in_flight,
        "switch": switch,
        "adapter_bytes": adapter_bytes,
        "speedup": _speedup(rows),
        "settings": {"truncated_tokens": TRUNCATED_TOKENS, "answer_tokens": plan.answer_tokens, "lengths": RULE},
    }


class _Asker:
    """Questions about one text, asked with the memory attached, or read by the base model with nothing attached."""

    def __init__(self, base: BaseModel, text: str, plan: AskPlan, load: LoadAdapter) -> None:
        self._base = base
        self._text = text
        self._plan = plan
        self._load = load
        self._now = stopwatch(base.device)
        self._prefixes = PrefixCache(applied_state, limit_bytes=sys.maxsize, invocation=applied_invocation)
        sentences = split_sentences(text)
        self._index = SentenceIndex(sentences)
        openings = [" ".join(sentence.text.split()[:_QUOTED_WORDS]) for sentence in sentences] or [text[:40]]
        wanted = max([*plan.in_flight, plan.repeats + 1])
        self.questions = [f"What is said after “{openings[i % len(openings)]}” ({i + 1})?" for i in range(wanted)]

    @property
    def kept_bytes(self) -> int:
        """Keys and values that are held for "kept"."""
        return self._prefixes.bytes

    def time(self, context: str) -> Timing | None:
        """Medians of asking one question at a time; None where the text does not fit the model's window.

        "full" reads the whole text for each question; "kept", asked after it, has what the last of those has read.
        """
        if context in WHOLE:
            asked = self.questions[: self._plan.repeats + 1]
            longest = max(len(prompt_ids(self._base.tokenizer, question, self._text)) for question in asked)
            if longest + self._plan.answer_tokens > self._base.window_tokens:
                return None
        self._use_memory(context == "none")
        # the first question warms up: of a long text it would cost as much as a measurement
        if context not in WHOLE:
            self._ask(self.questions[0], context)
        first = 0 if context == "kept" else 1  # not the question whose prompt is kept
        timings = [self._ask(question, context) for question in self.questions[first : first + self._plan.repeats]]
        return Timing(
            round(median(timing.prompt_tokens for timing in timings)),
            median(timing.first_token_s for timing in timings),
            median(timing.tokens_per_s for timing in timings),
        )

    def beside_llama(self, llama: LlamaPeer) -> dict[str, Any]:
        """The base model without any memory beside llama.cpp, closed book."""
        self._use_memory(False)
        prompts = [prompt_ids(self._base.tokenizer, question) for question in self.questions[: self._plan.repeats]]
        return beside_llama(self._base, llama, prompts, self._plan.answer_tokens)

    def _use_memory(self, wanted: bool) -> None:
        if wanted:
            attach_stored(self._base.model, _MEMORY, self._load)
        else:
            release(self._base.model)

    def _ask(self, question: str, context: str) -> Timing:
        if context == "full":
            self._prefixes.clear()
        begun = self._now()
        prompt = self._prompt(question, context)
        arrived: list[float] = []
        prefixes = self._prefixes if context in WHOLE else None
        self._generate([prompt], 1, lambda _row, _token: arrived.append(self._now()), prefixes)
        return Timing(len(prompt), arrived[0] - begun, (len(arrived) - 1) / (arrived[-1] - arrived[0]))

    def _prompt(self, question: str, context: str) -> list[int]:
        tokenizer, text = self._base.tokenizer, self._text
        if context == "none":
            return prompt_ids(tokenizer, question)
        if context == "evidence":
            text = joined(self._index.evidence(question, EVIDENCE_SENTENCES))
        limit = self._base.window_tokens - self._plan.answer_tokens
        if context == "truncated":
            limit = min(limit, TRUNCATED_TOKENS)
        if context not in WHOLE:
            text, _ = fit_context(tokenizer, question, text, limit, CUT_STEP_TOKENS)
        return prompt_ids(tokenizer, question, text)

    def _generate(
        self,
        prompts: list[list[int]],
        batch_size: int,
        on_token: Callable[[int, int], None] | None = None,
        prefixes: PrefixCache | None = None,
    ) -> None:
        # no token ends an answer here: all are of one length
        generate(
            self._base.model,
            prompts,
            max_new_tokens=self._plan.answer_tokens,
            end_ids=_NO_END,
            batch_size=batch_size,
            on_token=on_token,
            prefixes=prefixes,
        )


def _switching(base: BaseModel, load: LoadAdapter, repeats: int) -> dict[str, float]:
    """Median seconds until another memory is in use: read from its file, and where both are attached already."""
    model, now = base.model, stopwatch(base.device)
    read, attached_already = [], []
    for turn in range(repeats + 1):
        begun = now()
        attach_stored(model, f"{_MEMORY}-{turn}", load)
        read.append(now() - begun)
    release(model)
    names = [f"{_MEMORY}-a", f"{_MEMORY}-b"]
    for name in names:
        restore_adapter(model, *load(), name)
    for turn in range(2 * repeats):
        begun = now()
        activate(model, names[turn % 2])
        attached_already.append(now() - begun)
    for name in names:
        attached(model)[name].detach()
    return {"from_file_s": median(read[1:]), "attached_s": median(attached_already)}


def _speedup(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many times sooner, quicker and smaller a memory is than each way of reading, by the tokens of the text."""
    found: dict[str, Any] = {"first_token": {}, "tokens_per_s": {}, "bytes": {}}
    closed = {row["length"]: row for row in rows if row["context"] == "none"}
    for row in rows:
        if row["context"] == "none":
            continue
        memory, length = closed[row["length"]], str(row["length"])
        if row["context"] == "full":
            found["bytes"][length] = row["bytes"] / memory["bytes"]
        if row["fits"]:
            sooner, quicker = (found[name].setdefault(row["context"], {}) for name in ("first_token", "tokens_per_s"))
            sooner[length] = row["first_token_s"] / memory["first_token_s"]
            quicker[length] = memory["tokens_per_s"] / row["tokens_per_s"]
    return found
