"""A vLLM in small: it really computes, with a tiny model whose weights get each adapter's product added.

It keeps what vLLM keeps, with the same faults: the weights of an adapter by name and path, however its files change;
adapters apart in each API server; on a CPU a failure where it judges beside other requests; and before 0.32 a request
under way goes on with an adapter that is loaded meanwhile.
"""

from __future__ import annotations

import contextlib
import copy
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file

from lift.models.base_model import BaseModel


class ScriptedVllm:
    """A server on a free port; a context manager. `api_servers`: as many lists of adapters, taken in turns.

    `loads`, `unloads`, `asked` and `judged` hold the names in their order, `most_loaded` the largest number at a time.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        version: str = "0.32.0",
        api_servers: int = 1,
        loads_adapters: bool = True,
        max_model_len: int = 1024,
        token_s: float = 0.0,
        on_cpu: bool = False,
    ) -> None:
        self.base = base
        self.version = version
        self.loads_adapters = loads_adapters
        self.max_model_len = max_model_len
        self.token_s = token_s
        self.on_cpu = on_cpu
        self.faults = 0
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.asked: list[str] = []
        self.judged: list[str] = []
        self.most_loaded = 0
        self.under_way = 0
        self._lists: list[dict[str, str]] = [{} for _ in range(api_servers)]
        self._turn = 0
        self._weights: dict[tuple[str, str], Any] = {}
        self._last_loaded: tuple[float, Any] = (0.0, None)
        self._lock = threading.RLock()
        self._connections: set[socket.socket] = set()
        self._port = 0
        self._start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def loaded(self) -> dict[str, str]:
        return dict(self._lists[0])

    def _start(self) -> None:
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                scripted._connections.add(self.connection)
                with scripted._lock:
                    scripted._turn += 1
                    self.adapters = scripted._lists[scripted._turn % len(scripted._lists)]

            def do_GET(self) -> None:
                if self.path == "/version":
                    return self.reply({"version": scripted.version})
                if self.path == "/health":
                    return self.reply({})
                if self.path == "/v1/models":
                    cards = [
                        {
                            "id": "base",
                            "root": getattr(scripted, "root", "/models/tiny"),
                            "parent": None,
                            "max_model_len": scripted.max_model_len,
                        }
                    ]
                    cards += [{"id": name, "root": path, "parent": "base"} for name, path in self.adapters.items()]
                    return self.reply({"data": cards})
                return self.reply({"detail": "Not Found"}, 404)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                routes = {
                    "/tokenize": scripted._tokenize,
                    "/v1/load_lora_adapter": scripted._load,
                    "/v1/unload_lora_adapter": scripted._unload,
                    "/v1/completions": scripted._complete,
                }
                if self.path.endswith("lora_adapter") and not scripted.loads_adapters:
                    return self.reply({"detail": "Not Found"}, 404)
                routes[self.path](self, body)
                return None

            def reply(self, value: Any, status: int = 200) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def refuse(self, status: int, message: str) -> None:
                self.reply({"error": {"message": message, "type": "Error", "param": None, "code": status}}, status)

            def log_message(self, *_: Any) -> None:
                """Silent."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: Any) -> None:
                """A client that went away is no error here."""

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """End at once, with all that is under way; what was loaded is lost."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()
        self._thread.join()
        self._lists = [{} for _ in self._lists]
        self._weights = {}

    def restart(self, after_s: float = 0.0) -> None:
        """Kill it, and start it at the same port."""
        self.kill()
        time.sleep(after_s)
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _tokenize(self, handler: Any, body: dict[str, Any]) -> None:
        ids = self.base.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])["input_ids"]
        handler.reply({"tokens": list(ids)})

    def _load(self, handler: Any, body: dict[str, Any]) -> None:
        name, path = body["lora_name"], body["lora_path"]
        if name in handler.adapters:
            return handler.refuse(400, f"The lora adapter '{name}' has already been loaded.")
        if not (Path(path) / "adapter_config.json").is_file():
            return handler.refuse(404, f"The lora adapter '{name}' with path '{path}' cannot be found.")
        config = json.loads((Path(path) / "adapter_config.json").read_text("utf-8"))
        if config.get("alora_invocation_tokens"):
            return handler.refuse(500, "vLLM does not support Activated LoRA (aLoRA).")
        with self._lock:
            if (name, path) not in self._weights:
                self._weights[name, path] = _merged(self.base.model, Path(path), config)
            self._last_loaded = time.monotonic(), self._weights[name, path]
            handler.adapters[name] = path
            self.loads.append(name)
            self.most_loaded = max(self.most_loaded, len(handler.adapters))
        return handler.reply("Success")

    def _unload(self, handler: Any, body: dict[str, Any]) -> None:
        if handler.adapters.pop(body["lora_name"], None) is None:
            return handler.refuse(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        self.unloads.append(body["lora_name"])
        return handler.reply("Success")

    def _complete(self, handler: Any, body: dict[str, Any]) -> None:
        name, prompt = body["model"], body["prompt"]
        self.asked.append(name)
        if name != "base" and name not in handler.adapters:
            return handler.refuse(404, f"The model `{name}` does not exist.")
        if len(prompt) + body["max_tokens"] > self.max_model_len:
            return handler.refuse(400, f"This model's maximum context length is {self.max_model_len} tokens.")
        model = self.base.model if name == "base" else self._weights[name, handler.adapters[name]]
        self.under_way += 1
        try:
            if body.get("stream"):
                return self._stream(handler, body, model)
            self.judged.append(name)
            time.sleep(self.token_s)
            if self.on_cpu and self.under_way > 1:
                self.faults += 1
                return handler.refuse(500, "EngineCore encountered an issue.")
            with torch.inference_mode():
                odds = torch.log_softmax(model(torch.tensor([prompt])).logits[0], -1)
            told = [None] + [
                {str(token): {"logprob": float(odds[place][token])}} for place, token in enumerate(prompt[1:])
            ]
            return handler.reply({"choices": [{"prompt_logprobs": told}]})
        finally:
            self.under_way -= 1

    def _stream(self, handler: Any, body: dict[str, Any], model: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        ids, began = list(body["prompt"]), time.monotonic()
        generator = torch.Generator().manual_seed(body["seed"])
        for place in range(body["max_tokens"]):
            time.sleep(self.token_s)
            if self.version < "0.32" and self._last_loaded[0] > began:
                model = self._last_loaded[1]
            with torch.inference_mode():
                logits = model(torch.tensor([ids])).logits[0, -1]
            odds = torch.log_softmax(logits, -1)
            biases = body.get("logit_bias", {})
            logits = logits + torch.tensor([biases.get(str(token), 0.0) for token in range(len(odds))])
            if body["temperature"] > 0:
                shares = torch.softmax(logits / body["temperature"], -1)
                token = int(torch.multinomial(shares, 1, generator=generator))
            else:
                token = int(logits.argmax())
            ids.append(token)
            is_end = token in body["stop_token_ids"]
            is_last = is_end or place + 1 == body["max_tokens"]
            choice: dict[str, Any] = {"token_ids": [token], "finish_reason": None}
            if "logprobs" in body:
                top = odds.topk(max(1, body["logprobs"]))
                pairs = dict(zip(top.indices.tolist(), top.values.tolist(), strict=True)) | {token: float(odds[token])}
                choice["logprobs"] = {
                    "token_logprobs": [float(odds[token])],
                    "top_logprobs": [{f"token_id:{key}": value for key, value in pairs.items()}],
                }
            if is_last:
                choice["finish_reason"] = "stop" if is_end else "length"
            self._event(handler, json.dumps({"choices": [choice]}))
            if is_last:
                break
        self._event(handler, "[DONE]")
        handler.wfile.write(b"0\r\n\r\n")

    @staticmethod
    def _event(handler: Any, data: str) -> None:
        content = f"data: {data}\n\n".encode()
        handler.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        handler.wfile.flush()


def _merged(model: Any, directory: Path, config: dict[str, Any]) -> Any:
    """A copy of the model with alpha / r B A added to the matrices that a PEFT directory has factors of."""
    state = load_file(directory / "adapter_model.safetensors")
    changed = copy.deepcopy(model)
    for key, down in state.items():
        if key.endswith(".lora_A.weight"):
            path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            up = state[key.replace("lora_A", "lora_B")].float()
            weight = changed.get_submodule(path).weight
            weight.data += config["lora_alpha"] / config["r"] * (up @ down.float())
    return changed
