"""An export in vLLM's server, in float32 for the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lift.errors import ExportError
from lift.exporting.export import Export
from lift.exporting.readme import vllm_rank
from lift.exporting.server_program import ServerProgram, running_server

_READY_S = 600.0
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GB, of a server on a CPU
}


@contextmanager
def opened_vllm(export: Export, program: Path) -> Iterator[VllmConsumer]:
    """`vllm serve` with the base model and the export's adapters; raises ExportError."""
    longest = max((len(row.prompt_ids) + len(row.target_ids) for row in export.replay), default=0)
    command = [
        *(str(program), "serve", export.base_files, "--served-model-name", "base"),
        *("--host", "127.0.0.1", "--port", "{port}", "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", str(min(export.window_tokens, max(longest + 64, 512)))),
        *("--enable-lora", "--max-lora-rank", str(vllm_rank(max(each.rank for each in export.adapters)))),
        *("--max-loras", str(len(export.adapters)), "--lora-modules"),
        *(f"{each.role}={export.directory / each.path}" for each in export.adapters),
    ]
    # the scripts of an environment that is not active are on no PATH
    with running_server("vllm", command, _ENVIRONMENT, ready_path="/health", within_s=_READY_S) as server:
        yield VllmConsumer(server)


class VllmConsumer:
    """As consumers.Consumer."""

    name = "vllm"

    def __init__(self, server: ServerProgram) -> None:
        self._server = server
        self.version = str(server.get("/version").get("version", "unknown"))

    def generate(self, adapter: str, prompt_ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """See Consumer."""
        choice = self._complete(adapter, prompt_ids, max_tokens=max_new_tokens, return_token_ids=True)
        return [int(token) for token in choice["token_ids"]]

    def judge(self, adapter: str, prompt_ids: Sequence[int], target_ids: Sequence[int]) -> float:
        """See Consumer."""
        choice = self._complete(adapter, [*prompt_ids, *target_ids], max_tokens=1, prompt_logprobs=0)
        told = choice["prompt_logprobs"][len(prompt_ids) :]
        if len(told) != len(target_ids):
            raise ExportError(f"expected the log-probabilities of {len(target_ids)} tokens of vllm, got {len(told)}")
        return sum(float(each[str(token)]["logprob"]) for each, token in zip(told, target_ids, strict=True))

    def logits(self, adapter: str, prompt_ids: Sequence[int], target_ids: Sequence[int]) -> None:
        """It gives none away."""

    def tokenize(self, text: str) -> list[int]:
        """See Consumer."""
        reply = self._server.post("/tokenize", {"model": "base", "prompt": text, "add_special_tokens": False})
        return [int(token) for token in reply["tokens"]]

    def _complete(self, adapter: str, prompt_ids: Sequence[int], **options: object) -> dict[str, Any]:
        body = {"model": adapter, "prompt": list(prompt_ids), "temperature": 0.0, **options}
        choice: dict[str, Any] = self._server.post("/v1/completions", body)["choices"][0]
        return choice
