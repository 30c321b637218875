"""Training, prefill and decoding under several settings of torch's threads, on idle cores and beside busy processes.

Each setting runs in a process of its own, since OpenMP reads its environment once, with as many other processes beside
it that do nothing but compute, one thread each.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lift.absorbing.preparation import prepare, prepare_document
from lift.absorbing.resolved_recipe import resolve
from lift.absorbing.task_writing import TaskWriter
from lift.adapters.attach import create_adapter
from lift.bench.machine import describe_machine
from lift.bench.processes import in_own_process
from lift.documents.document import Document
from lift.models.base_model import BaseModel
from lift.models.threads import core_limit
from lift.packing.trie import pack
from lift.recipes.recipe import Recipe
from lift.tasks.task_file import TaskFile
from lift.training.objective import Objective

PREFILL_TOKENS = 512
_DECODED_BEFORE_RESTART = 128
LIBGOMP_SPIN_ITERATIONS = 300_000
# The variables that a user may have set, and that a setting must not inherit.
_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
NOTES = (
    "governed: Lift's own choice; its threads spin for microseconds and their number follows the cores that are free",
    "spinning: torch as it comes; passive: the same threads, put to sleep at every barrier (OMP_WAIT_POLICY=passive)",
    "training: forward and backward of the recipe's own batches; prefill: one prompt of "
    f"{PREFILL_TOKENS} tokens; decode: one token at a time behind a short prompt, without speculative decoding",
)


def thread_settings(cores: int) -> dict[str, dict[str, str]]:
    """Name of each setting -> the variables that make it."""
    every = {"OMP_NUM_THREADS": str(cores)}
    return {
        "governed": {},
        "one thread": {"OMP_NUM_THREADS": "1"},
        "all, spinning": {**every, "GOMP_SPINCOUNT": str(LIBGOMP_SPIN_ITERATIONS)},
        "all, passive": {**every, "OMP_WAIT_POLICY": "passive"},
    }


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """`count` processes that compute on one thread each, as long as the block lasts."""
    command = [sys.executable, "-c", "while True: pass"]
    with_devnull: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    running = [subprocess.Popen(command, **with_devnull) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def bench_threads(
    model: str,
    document: Document,
    recipe: Recipe,
    *,
    loads: Sequence[int],
    seconds: float,
    say: Callable[[str], None],
    run: Callable[..., dict[str, Any]] = in_own_process,
) -> dict[str, Any]:
    """Measure every setting beside every number of busy processes; `seconds` for each of the three kinds of work.

    Raises BenchError where a measuring process fails.
    """
    job = {
        "kind": "threads",
        "model": model,
        "recipe": recipe.model_dump(mode="json"),
        "document": {"title": document.title, "text": document.text},
        "seconds": seconds,
    }
    outside = {key: value for key, value in os.environ.items() if key not in _VARIABLES}
    settings = thread_settings(core_limit())
    rows = []
    for number, (load, name) in enumerate(itertools.product(loads, settings)):
        say(f"{number + 1} of {len(loads) * len(settings)}: {name}, {load} busy processes beside it")
        with busy_processes(load):
            measured = run(job, environment={**outside, **settings[name]})
        rows.append({"busy_processes": load, "setting": name, **measured})
    return {
        "machine": describe_machine(torch.device("cpu")),
        "settings": {"seconds": seconds, "prefill_tokens": PREFILL_TOKENS},
        "rows": rows,
        "notes": list(NOTES),
    }


def measure_threads(base: BaseModel, document: Document, recipe: Recipe, seconds: float) -> dict[str, Any]:
    """Tokens a second of training, prefill and decoding in this process, and the threads that torch had at the end."""
    made = prepare_document(document, base, recipe)
    tasks = TaskFile(task for piece in TaskWriter(made, base, recipe).stream() for task in piece.tasks)
    sampler = prepare(made, tasks, base, resolve(recipe, base)).sampler
    batches = [pack(batch) for update in sampler.optimizer_steps(0) for batch in update.batches]
    adapter = create_adapter(base.model, recipe.adapter, recipe.training.seed)
    objective = Objective(base.model, adapter, recipe.objective)
    endless = itertools.cycle(batches)

    def train_batch() -> int:
        batch = next(endless)
        objective.loss(batch).backward()  # type: ignore[no-untyped-call]
        return batch.tokens

    try:
        adapter.set_trainable(True)
        training = _tokens_per_s(train_batch, seconds)
    finally:
        adapter.set_trainable(False)
        adapter.detach()
    with torch.inference_mode():
        ids = torch.arange(PREFILL_TOKENS)[None] % base.tokenizer.vocab_size  # [1, PREFILL_TOKENS]
        prefill = _tokens_per_s(lambda: _prefill(base.model, ids), seconds)
        decoder = _decoding(base.model, ids[:, : PREFILL_TOKENS // 8])
        decode = _tokens_per_s(lambda: next(decoder), seconds)
    return {
        "training_tokens_per_s": training,
        "prefill_tokens_per_s": prefill,
        "decode_tokens_per_s": decode,
        "threads_at_end": torch.get_num_threads(),
        "dtype": str(base.dtype).removeprefix("torch."),
    }


def _tokens_per_s(work: Callable[[], int], seconds: float) -> float:
    """The speed of `work`, which returns the tokens that it has done, over `seconds` behind one warm-up."""
    work()
    begun, tokens = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        tokens += work()
    return tokens / (time.perf_counter() - begun)


def _prefill(model: Any, ids: torch.Tensor) -> int:
    model(input_ids=ids, logits_to_keep=1)
    return ids.shape[1]


def _decoding(model: Any, prompt: torch.Tensor) -> Iterator[int]:
    """Decode one token at a time behind `prompt`, [1, tokens], beginning again now and then; yields 1 for each."""
    while True:
        cache = model(input_ids=prompt, use_cache=True, logits_to_keep=1).past_key_values
        for _ in range(_DECODED_BEFORE_RESTART):
            model(input_ids=prompt[:, -1:], past_key_values=cache, use_cache=True)
            yield 1
