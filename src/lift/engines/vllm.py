"""vLLM as a token server: adapters are loaded on demand and unloaded by LRU, answers are judged by prompt_logprobs.

An adapter's name and path hold the hash of its content: vLLM keys what it keeps of prompts on both, so nothing stale
answers after a new version. A name that is loaded there from another path than ours is never asked. vLLM before 0.32
could answer a request that was under way with an adapter that was loaded meanwhile; there, loading waits until nothing
is under way. On a CPU it dies (0.32) of judging an answer with an adapter in one batch with other requests and does not
tell where it computes: after such a failure answers are judged while nothing else is under way. Each API server has
adapters of its own, so there may be one alone behind the URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from lift.adapters.resident import Load
from lift.engines.adapter_files import AdapterFile, AdapterFiles
from lift.engines.gate import Gate
from lift.engines.http_server import HttpServer, Refused
from lift.engines.served_forms import check_served
from lift.engines.token_server import AdapterGone, BrokenOff, Continuation
from lift.errors import EngineError
from lift.exporting.readme import vllm_rank
from lift.inference.sampling import SampledToken
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel

_PROBE_TEXT = "The mill of Åse cost 1,250.50 kr in 1911 — “cheap”, said <b>all</b>.\n\tWho paid? 東京 🙂"
_SAFE_FROM = (0, 32)  # versions that tell a batch under way of adapters that are loaded meanwhile
_LOOKS = 3  # at the list of adapters, over connections of their own, to find other API servers behind the URL
_NEUTRAL = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}  # told each time, since vLLM would take the model's own suggestions
_NEVER = -100.0  # the least that the API takes for a token's logit


class VllmServer:
    """As TokenServer. `files`: where adapters are written, at a path that vLLM sees as the same."""

    name = "vLLM"

    def __init__(self, url: str, base: BaseModel, files: AdapterFiles) -> None:
        self.url = url
        self.version = "unknown"
        self.window_tokens = base.window_tokens
        self._base = base
        self._files = files
        self._model = ""
        self._at_most = 1
        self._loaded: OrderedDict[str, AdapterFile] = OrderedDict()  # the longest unused first
        self._used: Counter[str] = Counter()

    @property
    def resident(self) -> int:
        """See TokenServer."""
        return len(self._loaded)

    def check_memory(self, memory: StoredMemory) -> None:
        """See TokenServer."""
        check_served(memory, "vLLM")

    async def open(self) -> None:
        """See TokenServer."""
        self._http = HttpServer(self.name, self.url)
        self._gate = Gate()
        self._loading = asyncio.Lock()
        self.version = str(self._members(await self._http.get("/version")).get("version", "unknown"))
        self._is_safe = _numbers(self.version) >= _SAFE_FROM
        self._judges_alone = False
        cards = await self._cards()
        card = next((each for each in cards.values() if not each.get("parent")), None)
        if card is None:
            raise EngineError(f"expected vLLM at {self.url} to serve a base model, got none; check the address")
        self._model = str(card["id"])
        if isinstance(longest := card.get("max_model_len"), int):
            self.window_tokens = min(self.window_tokens, longest)
        for name, found in cards.items():  # that an earlier process had loaded there
            path = Path(str(found.get("root")))
            if found.get("parent") and path.parent == self._files.directory and path.name == name:
                self._loaded[name] = AdapterFile(name, path, 0)
        probe = {"model": self._model, "prompt": _PROBE_TEXT, "add_special_tokens": False}
        told = self._members(await self._http.post("/tokenize", probe))
        if told.get("tokens") != list(self._base.tokenizer(_PROBE_TEXT, add_special_tokens=False)["input_ids"]):
            raise EngineError(
                f"expected vLLM at {self.url} to serve {self._base.id}, got {card.get('root') or self._model}, which "
                "reads a text as other tokens; serve the base model of the memories there"
            )

    async def check_health(self) -> None:
        """See TokenServer."""
        await self._http.get("/health")

    async def close(self) -> None:
        """See TokenServer; adapters stay loaded there, for the next start."""
        await self._http.close()

    def keep(self, at_most: int) -> None:
        """See TokenServer."""
        self._at_most = max(1, at_most)

    @contextlib.asynccontextmanager
    async def adapter(self, key: str | None, load: Load | None) -> AsyncIterator[str | None]:
        """See TokenServer."""
        if key is None or load is None:
            yield None
            return
        file = await asyncio.to_thread(self._files.get, key, load, list(self._loaded))
        self._used[file.name] += 1
        try:
            if file.name not in self._loaded or len(self._loaded) > self._at_most:
                async with self._loading:
                    if file.name not in self._loaded:
                        await self._load(file)
                    await self._unload_unused()
            if file.name in self._loaded:
                self._loaded.move_to_end(file.name)
            yield file.name
        finally:
            self._used[file.name] -= 1

    async def generate(self, wanted: Continuation) -> AsyncGenerator[SampledToken, None]:
        """See TokenServer."""
        sampling = wanted.sampling
        body: dict[str, Any] = {
            "model": wanted.adapter or self._model,
            "prompt": list(wanted.prompt),
            "max_tokens": wanted.max_tokens,
            "stop_token_ids": list(wanted.end_ids),
            "stream": True,
            "return_token_ids": True,
            "temperature": 0.0 if sampling.is_greedy else sampling.temperature,
            "top_p": 1.0 if sampling.is_greedy else sampling.top_p,
            "seed": wanted.seed,
            **_NEUTRAL,
        }
        if sampling.excluded:
            body["logit_bias"] = {str(token): _NEVER for token in sampling.excluded}
        if sampling.top_logprobs is not None:
            body |= {"logprobs": sampling.top_logprobs, "return_tokens_as_token_ids": True}
        is_ended = False
        async with self._asking(wanted.adapter):
            async for event in self._http.stream("/v1/completions", body):
                if "error" in event:
                    raise _broken(self.url, str(event["error"]))
                for choice in event.get("choices", ()):
                    for sampled in _sampled_tokens(choice):
                        yield sampled
                    is_ended = is_ended or choice.get("finish_reason") is not None
                if is_ended:
                    return
        raise _broken(self.url, "its answer broke off")

    async def score(self, adapter: str | None, prompt: Sequence[int], answer: Sequence[int]) -> float:
        """See TokenServer."""
        body = {
            "model": adapter or self._model,
            "prompt": [*prompt, *answer],
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
        }
        try:
            async with self._asking(adapter, alone=self._judges_alone):
                reply = await self._http.post("/v1/completions", body)
        except Refused as refusal:
            self._judges_alone = self._judges_alone or (adapter is not None and refusal.status == 500)
            raise
        try:
            told = reply["choices"][0]["prompt_logprobs"][len(prompt) :]
            return sum(float(each[str(token)]["logprob"]) for each, token in zip(told, answer, strict=True))
        except (KeyError, IndexError, TypeError, ValueError):
            raise EngineError(
                f"expected prompt_logprobs of {len(answer)} tokens of vLLM at {self.url}, got none; "
                "use a vLLM of 0.10 or newer"
            ) from None

    @contextlib.asynccontextmanager
    async def _asking(self, adapter: str | None, *, alone: bool = False) -> AsyncIterator[None]:
        together = contextlib.nullcontext() if self._is_safe and not self._judges_alone else self._gate.passing()
        async with self._gate.changing() if alone else together:
            try:
                yield
            except Refused as refusal:
                if refusal.status == 404 and adapter is not None:
                    self._loaded.pop(adapter, None)
                    raise AdapterGone(
                        f"vLLM at {self.url} does not know an adapter that was loaded there; expected one API server "
                        "behind that address, since each has adapters of its own"
                    ) from refusal
                raise

    async def _load(self, file: AdapterFile) -> None:
        changing = contextlib.nullcontext() if self._is_safe else self._gate.changing()
        async with changing:
            try:
                await self._http.post("/v1/load_lora_adapter", {"lora_name": file.name, "lora_path": str(file.path)})
            except Refused as refusal:
                if not await self._has(file):
                    raise self._cannot_load(file, refusal) from refusal
            for _ in range(_LOOKS):
                if not await self._has(file, again=True):
                    raise EngineError(
                        f"expected one API server behind {self.url}, got several: an adapter that was loaded in one is "
                        "unknown in another; start vLLM with --api-server-count 1, and Lift with the address of one"
                    )
            self._loaded[file.name] = file

    async def _has(self, file: AdapterFile, *, again: bool = False) -> bool:
        """Whether vLLM has loaded that very file; one of its name at another path is unloaded and loaded anew."""
        card = (await self._cards(again=again)).get(file.name)
        if card is None:
            return False
        if card.get("root") == str(file.path):
            return True
        await self._http.post("/v1/unload_lora_adapter", {"lora_name": file.name})
        await self._http.post("/v1/load_lora_adapter", {"lora_name": file.name, "lora_path": str(file.path)})
        card = (await self._cards(again=again)).get(file.name)
        return card is not None and card.get("root") == str(file.path)

    async def _unload_unused(self) -> None:
        for name in list(self._loaded):
            if len(self._loaded) <= self._at_most:
                return
            if not self._used[name]:
                del self._loaded[name]
                with contextlib.suppress(Refused):  # where it was restarted, there is nothing to unload
                    await self._http.post("/v1/unload_lora_adapter", {"lora_name": name})

    def _members(self, reply: Any) -> dict[str, Any]:
        if not isinstance(reply, dict):
            raise EngineError(f"expected JSON of vLLM at {self.url}, got something else; check the address")
        return reply

    async def _cards(self, *, again: bool = False) -> dict[str, dict[str, Any]]:
        reply = await self._http.get("/v1/models", again=again)
        try:
            return {str(card["id"]): card for card in reply["data"]}
        except (KeyError, TypeError):
            raise EngineError(
                f"expected the list of models of vLLM at {self.url}, got something else; check the address"
            ) from None

    def _cannot_load(self, file: AdapterFile, refusal: Refused) -> EngineError:
        if refusal.status == 404 and str(file.path) not in refusal.message and file.name not in refusal.message:
            return EngineError(
                f"expected vLLM at {self.url} to load adapters while it runs, got no such route; start it with "
                "--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
            )
        return EngineError(
            f"vLLM at {self.url} cannot load {file.path} ({refusal.message}); it has to see that directory under the "
            f"same path (--engine-adapters), and --max-lora-rank {vllm_rank(file.rank)} or more"
        )


def _sampled_tokens(choice: dict[str, Any]) -> list[SampledToken]:
    """The tokens of a chunk, with their log-probabilities where they were asked for."""
    tokens = choice.get("token_ids") or ()
    told = choice.get("logprobs") or {}
    logprobs = told.get("token_logprobs") or [None] * len(tokens)
    tops = told.get("top_logprobs") or [None] * len(tokens)
    return [
        SampledToken(int(token), logprob, _top(top))
        for token, logprob, top in zip(tokens, logprobs, tops, strict=False)
    ]


def _top(told: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    found = [(int(name.removeprefix("token_id:")), value) for name, value in (told or {}).items()]
    return tuple(sorted(found, key=lambda each: -each[1]))


def _numbers(version: str) -> tuple[int, ...]:
    """ "0.32.0+cpu" -> (0, 32, 0); () where it is none."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _broken(url: str, what: str) -> BrokenOff:
    return BrokenOff(f"vLLM at {url} went away while it answered ({what})")
