"""Generating beside llama.cpp: one question at a time, on the same GGUF file, prompts, threads and number of tokens."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lift.bench.arithmetic import Spread
from lift.errors import BenchError
from lift.inference.generate import generate
from lift.models.base_model import BaseModel
from lift.models.device import stopwatch
from lift.models.load import DEFAULT_MODEL
from lift.models.smollm2 import smollm2_gguf

_WORKER = Path(__file__).with_name("llama_worker.py")
_NO_END = {-1}
_WARMING_TOKENS = 24  # as many as Lift says before it packs weights to guess with


@dataclass(frozen=True)
class LlamaPeer:
    """A GGUF file, and the interpreter that has llama-cpp-python."""

    gguf: Path
    python: str


def find_llama(base: BaseModel, gguf: Path | None = None, python: str | None = None) -> LlamaPeer | None:
    """The peer of a base model; None where this interpreter has no llama_cpp and no other `python` is given.

    None too where the base is not of a GGUF file and none is given. Raises BenchError for a `gguf` that is not there.
    """
    if python is None and importlib.util.find_spec("llama_cpp") is None:
        return None
    if gguf is None and base.id == DEFAULT_MODEL:
        gguf = smollm2_gguf()
    elif gguf is None and base.id.endswith(".gguf"):
        gguf = Path(base.id)
    if gguf is None:
        return None
    if not gguf.is_file():
        raise BenchError(f"expected a GGUF file for llama.cpp, got {gguf}, which is not there; give another")
    return LlamaPeer(gguf, python or sys.executable)


def beside_llama(base: BaseModel, peer: LlamaPeer, prompts: Sequence[Sequence[int]], tokens: int) -> dict[str, Any]:
    """Greedy answers of `tokens` tokens, of at least two, to each prompt by both, on the CPU with torch's threads.

    `base` is asked as it is, with what is attached to it. "same" is the share of tokens before the first that differs.
    Raises BenchError where llama.cpp does not answer.
    """
    theirs = _ask_llama(peer, prompts, tokens)
    answers = theirs["answers"]
    _ask_lift(base, prompts[0], max(tokens, _WARMING_TOKENS))
    ours = [_ask_lift(base, prompt, tokens) for prompt in prompts]
    sides = {
        name: {
            "first_token_s": asdict(Spread.of([answer["first_token_s"] for answer in side])),
            "tokens_per_s": asdict(Spread.of([(tokens - 1) / answer["rest_s"] for answer in side])),
        }
        for name, side in (("lift", ours), ("llama_cpp", answers))
    }
    same = [_same(mine["said"], other["said"]) / tokens for mine, other in zip(ours, answers, strict=True)]
    lift, llama = sides["lift"], sides["llama_cpp"]
    return {
        **sides,
        "version": theirs["version"],
        "gguf": peer.gguf.name,
        "threads": torch.get_num_threads(),
        "prompts": len(prompts),
        "tokens": tokens,
        "same": sum(same) / len(same),
        "speed": lift["tokens_per_s"]["median"] / llama["tokens_per_s"]["median"],
        "sooner": llama["first_token_s"]["median"] / lift["first_token_s"]["median"],
    }


def _ask_lift(base: BaseModel, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
    now = stopwatch(base.device)
    arrived: list[float] = []
    begun = now()
    said = generate(
        base.model,
        [prompt],
        max_new_tokens=tokens,
        end_ids=_NO_END,
        on_token=lambda _row, _token: arrived.append(now()),
    )[0]
    return {"first_token_s": arrived[0] - begun, "rest_s": arrived[-1] - arrived[0], "said": said}


def _ask_llama(peer: LlamaPeer, prompts: Sequence[Sequence[int]], tokens: int) -> dict[str, Any]:
    threads = torch.get_num_threads()
    request = {
        "gguf": str(peer.gguf.absolute()),
        "prompts": [list(prompt) for prompt in prompts],
        "tokens": tokens,
        "threads": threads,
    }
    # isolated: another interpreter must not import what this one was told to
    command = [peer.python, "-I", str(_WORKER)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, encoding="utf-8", env=environment, check=False
        )
    except OSError as error:
        raise BenchError(f"expected an interpreter, got {peer.python} ({error.strerror}); give another") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        cause = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise BenchError(
            f"expected answers of llama.cpp from {peer.python}, got {cause}; "
            "give an interpreter that has llama-cpp-python, and a GGUF file that it reads"
        )
    answers: dict[str, Any] = json.loads(lines[-1])
    return answers


def _same(mine: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(mine, other, strict=True))
    return next((index for index, (left, right) in pairs if left != right), len(mine))
