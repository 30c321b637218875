"""Held-out questions asked of Lift and of other programs with the same memories: how many answers are the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lift.bench.machine import describe_machine
from lift.errors import ExportError
from lift.exporting.export import DEFAULT_QUESTIONS, export_memory
from lift.exporting.replay import Replayer
from lift.exporting.targets import Target
from lift.exporting.verify import verify_export
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel

PEERS: Mapping[str, Target] = {"peft": "peft", "llama.cpp": "gguf", "vllm": "vllm"}


def bench_parity(
    memories: Sequence[StoredMemory],
    base: BaseModel,
    peers: Mapping[str, Path | None],
    *,
    questions: int = DEFAULT_QUESTIONS,
    gguf: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Each memory exported to each of the `peers` (names of PEERS, with their programs) and replayed there.

    At most `questions` of a memory. A row says how many answers were the same, and how far log-probabilities, in nats
    an answer, and logits differed at most; or in "error" why there is none. `gguf`: the base model for llama.cpp.
    """
    rows = list[dict[str, Any]]()
    for memory in memories:
        for peer, program in peers.items():
            for row in _rows(memory, base, peer, program, questions, gguf):
                rows.append(row)
                told = row.get("error") or f"{row['adapter']}, {row['same']} of {row['questions']} answers are the same"
                say(f"{memory.name}, {peer}: {told}")
    return {
        "machine": describe_machine(base.device),
        "dtype": str(base.dtype).removeprefix("torch."),
        "rows": rows,
        "sums": [_sum(peer, adapter, rows) for peer in peers for adapter in ("memory", "reader")],
    }


def _rows(
    memory: StoredMemory, base: BaseModel, peer: str, program: Path | None, questions: int, gguf: Path | None
) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="lift-parity-") as temporary:
        about = {"memory": memory.name, "peer": peer}
        try:
            export = export_memory(
                memory, base, PEERS[peer], Path(temporary) / "export", questions=questions, gguf=gguf
            )
            told = verify_export(export, Replayer(memory, base), program)
        except ExportError as error:
            yield {**about, "error": str(error)}
            return
        for adapter, each in zip(told.adapters, told.record()["adapters"], strict=True):
            yield {**about, "version": told.version, "adapter": adapter.adapter, **each}


def _sum(peer: str, adapter: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = [row for row in rows if row["peer"] == peer and row.get("adapter") == adapter]
    asked = sum(row["questions"] for row in own)
    logits = [row["largest_logit_difference"] for row in own if row["largest_logit_difference"] is not None]
    return {
        "peer": peer,
        "adapter": adapter,
        "memories": len(own),
        "questions": asked,
        "same": sum(row["same"] for row in own),
        "share": sum(row["same"] for row in own) / asked if asked else None,
        "largest_judged_difference": max((row["largest_judged_difference"] for row in own), default=None),
        "largest_logit_difference": max(logits, default=None),
    }
