"""A llama-server in small, in the place of its process: it really computes, with adapters that it reads from GGUF.

It knows the adapters that it was started with, lets an activated one act behind its invocation alone, tells of odds as
llama.cpp does (nothing of a token that is no whole character), and ends when it is told to. Its fault is llama.cpp's,
too: of two requests with one activated adapter that are under way together, the second is computed without it.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gguf
import torch

from lift.exporting.gguf_names import GgufNames
from lift.models.base_model import BaseModel


class ScriptedLlama:
    """As engines.llama_process.LlamaProcess; `starts` holds the adapters of each start."""

    def __init__(self, base: BaseModel, window_tokens: int = 1024) -> None:
        self.base = base
        self.window_tokens = window_tokens
        self.starts: list[list[Path]] = []
        self.asked: list[dict[str, Any]] = []
        self.port = 0  # a free one
        self.meta: dict[str, int] = {}  # of its model
        self._models: dict[Path, tuple[Any, list[int]]] = {}
        self._adapters: list[Path] = []
        self._under_way: list[Path] = []
        self._server: Any = None

    @property
    def is_running(self) -> bool:
        return self._server is not None

    def start(self, adapters: Sequence[Path]) -> str:
        self.stop()
        self.starts.append(list(adapters))
        self._adapters = list(adapters)
        for path in adapters:
            if path not in self._models:
                self._models[path] = _with_adapter(self.base, path)
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/v1/models":
                    return self.reply({"data": [{"id": "base", "meta": scripted.meta}]})
                if self.path == "/props":
                    return self.reply(
                        {"build_info": "b1-scripted", "default_generation_settings": {"n_ctx": scripted.window_tokens}}
                    )
                return self.reply(
                    [{"id": number, "path": str(path), "scale": 0.0} for number, path in enumerate(scripted._adapters)]
                )

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                scripted.asked.append(body)
                self.reply(scripted._complete(body))

            def reply(self, value: Any) -> None:
                data = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        model, invocation = self.base.model, []
        path: Path | None = None
        if body["lora"]:
            (chosen,) = body["lora"]
            path = self._adapters[chosen["id"]]
            model, invocation = self._models[path]
            if invocation and path in self._under_way:
                model = self.base.model
            self._under_way.append(path)
        try:
            return self._say(body, model, invocation)
        finally:
            if path is not None:
                self._under_way.remove(path)

    def _say(self, body: dict[str, Any], model: Any, invocation: list[int]) -> dict[str, Any]:
        time.sleep(0.01)
        ids, said, told, stop_type = list(body["prompt"]), [], [], "limit"
        generator = torch.Generator().manual_seed(body.get("seed", 0))
        biases = body.get("logit_bias", [])
        for _ in range(body["n_predict"]):
            logits = self._logits(model, ids, invocation)
            odds = torch.log_softmax(logits, -1)
            biased = {token: -torch.inf if bias is False else bias for token, bias in biases}
            logits = logits + torch.tensor([biased.get(token, 0.0) for token in range(len(odds))])
            if body["temperature"] > 0:
                token = int(torch.multinomial(torch.softmax(logits / body["temperature"], -1), 1, generator=generator))
            else:
                token = int(logits.argmax())
            ids.append(token)
            said.append(token)
            if body.get("n_probs") and not _is_part_of_character(token):
                top = odds.topk(min(body["n_probs"], len(odds)))
                named = [
                    {"id": each, "logprob": value}
                    for each, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)
                ]
                told.append({"id": token, "logprob": float(odds[token]), "top_logprobs": named})
            if token in self.base.end_token_ids:
                stop_type = "eos"
                break
        return {"tokens": said, "completion_probabilities": told, "stop_type": stop_type}

    def _logits(self, model: Any, ids: list[int], invocation: list[int]) -> torch.Tensor:
        """Next-token logits. [vocabulary]"""
        with torch.inference_mode():
            if not invocation:
                found: torch.Tensor = model(torch.tensor([ids])).logits[0, -1].clone()
                return found
            length = len(invocation)
            begins = [place for place in range(len(ids)) if ids[place : place + length] == invocation]
            if not begins:
                return self.base.model(torch.tensor([ids])).logits[0, -1].clone()
            before = ids[: begins[-1]]
            cache = self.base.model(torch.tensor([before]), use_cache=True).past_key_values
            return model(torch.tensor([ids[begins[-1] :]]), past_key_values=cache).logits[0, -1].clone()


def _is_part_of_character(token: int) -> bool:
    """Tokens of the tiny tokenizer are bytes."""
    return token - 3 >= 0x80


def _with_adapter(base: BaseModel, path: Path) -> tuple[Any, list[int]]:
    """A copy of the model with a GGUF adapter's product added, and the adapter's invocation tokens."""
    reader, names = gguf.GGUFReader(path), GgufNames.of(base)
    state = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    alpha = float(reader.fields[gguf.Keys.Adapter.LORA_ALPHA].contents())
    field = reader.fields.get(gguf.Keys.Adapter.ALORA_INVOCATION_TOKENS)
    changed = copy.deepcopy(base.model)
    for place, module in changed.named_modules():
        if isinstance(module, torch.nn.Linear) and place != "lm_head" and f"{names.name(place)}.lora_a" in state:
            down, up = state[f"{names.name(place)}.lora_a"], state[f"{names.name(place)}.lora_b"]
            if place.endswith(("q_proj", "k_proj")):
                heads = base.model.config.num_attention_heads
                heads = heads if place.endswith("q_proj") else base.model.config.num_key_value_heads
                rows, columns = up.shape
                up = up.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)
            module.weight.data += alpha / len(down) * (up @ down)
    return changed, [int(token) for token in field.contents()] if field is not None else []
