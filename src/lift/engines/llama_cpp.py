"""llama.cpp's server as a token server: adapters are chosen by the request, out of those that it was started with.

It loads adapters at its start alone. A server that Lift has started is therefore started again, when nothing is under
way, with those that are wanted and those used last; one at a URL answers with the adapters that it was given, and an
adapter that it lacks is named with the file that it wants. Requests with different adapters are computed one after
another. Two with one activated adapter are never under way together: the server would compute both prompts in one
batch, and the second one without its adapter. The tokens of a stream lack those that are part of a character, so
answers are asked for in pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from lift.adapters.resident import Load
from lift.engines.adapter_files import AdapterFile, AdapterFiles
from lift.engines.gate import Gate
from lift.engines.http_server import HttpServer, Refused
from lift.engines.llama_process import LlamaProcess
from lift.engines.served_forms import check_served
from lift.engines.token_server import AdapterGone, Continuation, ServerGone
from lift.errors import EngineError
from lift.inference.sampling import SampledToken
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel

_PIECE_TOKENS = 16
_FORCE = 1e6  # added to the logit of a token that is to be said; what it tells of odds is without it
_NAMED_TOKENS = 500  # beside a token that is no whole character, which the server tells nothing of when it is said
_MOST_SEED = 2**32 - 1
_UNKNOWN = "unknown"


class LlamaCppServer:
    """As TokenServer; `process` is started on `open` and owned, without one the server at `url` is used as it is."""

    name = "llama.cpp"

    def __init__(self, base: BaseModel, files: AdapterFiles, *, url: str = "", process: LlamaProcess | None = None):
        self.url = url
        self.version = _UNKNOWN
        self.window_tokens = base.window_tokens
        self._base = base
        self._files = files
        self._process = process
        self._http: HttpServer | None = None
        self._at_most = 1
        self._ids: dict[str, int] = {}  # of the adapters that it was started with
        self._recent: OrderedDict[str, AdapterFile] = OrderedDict()  # the longest unused first
        self._wanted: Counter[str] = Counter()  # by requests that wait or run
        self._activated: set[str] = set()
        # one that tells of no odds where a character is not whole; ASCII is whole whatever the vocabulary
        self._plain_token = int(base.tokenizer("a", add_special_tokens=False)["input_ids"][0])

    @property
    def resident(self) -> int:
        """See TokenServer."""
        return len(self._ids)

    def check_memory(self, memory: StoredMemory) -> None:
        """See TokenServer."""
        check_served(memory, "llama.cpp")

    async def open(self) -> None:
        """See TokenServer."""
        self._gate = Gate()
        self._one_activated = asyncio.Lock()
        if self._process is not None:
            await self._start([])
        else:
            await self._reach(self.url)
        await self._check_model()
        props = await self._server.get("/props")
        if not isinstance(props, dict):
            raise EngineError(f"expected the properties of llama-server at {self.url}, got none; check the address")
        self.version = str(props.get("build_info", _UNKNOWN))
        window = (props.get("default_generation_settings") or {}).get("n_ctx")
        if isinstance(window, int) and window > 0:
            self.window_tokens = min(self.window_tokens, window)

    async def _check_model(self) -> None:
        """Refuse a model of another size, where the server tells of its size."""
        told: dict[str, Any] = {}
        with contextlib.suppress(Refused, KeyError, IndexError, TypeError, ValueError):
            told = dict((await self._server.get("/v1/models"))["data"][0]["meta"])
        config = self._base.model.config.get_text_config()
        for name, expected in (("n_vocab", config.vocab_size), ("n_embd", config.hidden_size)):
            if isinstance(found := told.get(name), int) and found != expected:
                raise EngineError(
                    f"expected llama-server at {self.url} to serve {self._base.id} ({name} {expected}), got a model of "
                    f"{name} {found}; serve the base model of the memories there"
                )

    async def check_health(self) -> None:
        """See TokenServer; an own one that has ended is started again by the next question, and is healthy so long."""
        if self._process is None or self._process.is_running:
            await self._server.get("/health")

    async def close(self) -> None:
        """See TokenServer."""
        try:
            if self._http is not None:
                await self._http.close()
        finally:
            if self._process is not None:
                self._process.stop()  # in no other thread: none is begun any more while Python ends

    def keep(self, at_most: int) -> None:
        """See TokenServer."""
        self._at_most = max(1, at_most)

    @contextlib.asynccontextmanager
    async def adapter(self, key: str | None, load: Load | None) -> AsyncIterator[str | None]:
        """See TokenServer."""
        if self._process is not None and not self._process.is_running:
            await self._revive()
        if key is None or load is None:
            async with self._gate.passing():
                yield None
            return
        file = await asyncio.to_thread(self._files.get, key, load, list(self._recent))
        self._wanted[file.name] += 1
        if file.is_activated:
            self._activated.add(file.name)
        self._recent[file.name] = file
        self._recent.move_to_end(file.name)
        try:
            while True:
                async with self._gate.passing():
                    if file.name in self._ids:
                        yield file.name
                        return
                await self._start_with(file)
        finally:
            self._wanted[file.name] -= 1

    async def generate(self, wanted: Continuation) -> AsyncGenerator[SampledToken, None]:
        """See TokenServer."""
        sampling = wanted.sampling
        said: list[int] = []
        odds: dict[str, Any] = {"temperature": 0.0, "samplers": ["top_k"], "top_k": 1}
        if not sampling.is_greedy:
            odds = {"temperature": sampling.temperature, "samplers": ["temperature", "top_p"], "top_p": sampling.top_p}
        while len(said) < wanted.max_tokens:
            piece_tokens = min(_PIECE_TOKENS, wanted.max_tokens - len(said))
            reply = await self._complete(
                wanted.adapter,
                [*wanted.prompt, *said],
                n_predict=piece_tokens,
                seed=(wanted.seed + len(said)) % _MOST_SEED,
                n_probs=0 if sampling.top_logprobs is None else max(1, sampling.top_logprobs),
                logit_bias=[[token, False] for token in sampling.excluded],
                **odds,
            )
            found = _sampled_tokens(reply, sampling.top_logprobs or 0)
            for sampled in found:
                yield sampled
            said += [sampled.token for sampled in found if sampled.token is not None]
            if reply.get("stop_type") != "limit" or not found:
                return

    async def score(self, adapter: str | None, prompt: Sequence[int], answer: Sequence[int]) -> float:
        """See TokenServer. It judges no given text, so each token is made the next one, and tells its own odds."""
        total = 0.0
        for place, token in enumerate(answer):
            total += await self._score_next(adapter, [*prompt, *answer[:place]], token)
        return total

    async def _score_next(self, adapter: str | None, before: Sequence[int], token: int) -> float:
        greedy: dict[str, Any] = {"n_predict": 1, "temperature": 0.0, "samplers": ["top_k"], "top_k": 1}
        reply = await self._complete(adapter, before, logit_bias=[[token, _FORCE]], n_probs=1, **greedy)
        for told in reply.get("completion_probabilities") or ():
            if told.get("id") == token:
                return float(told["logprob"])
        reply = await self._complete(
            adapter, before, logit_bias=[[self._plain_token, _FORCE]], n_probs=_NAMED_TOKENS, **greedy
        )
        named = [each for told in reply.get("completion_probabilities") or () for each in told["top_logprobs"]]
        if not named:
            raise EngineError(
                f"expected llama-server at {self.url} to tell of odds (n_probs), got none; use a newer one"
            )
        found = next((float(each["logprob"]) for each in named if each["id"] == token), None)
        return found if found is not None else min(float(each["logprob"]) for each in named)

    async def _complete(self, adapter: str | None, prompt: Sequence[int], **options: Any) -> dict[str, Any]:
        lora = []
        if adapter is not None:
            if self._process is None:  # it may have been started again, with other adapters under these numbers
                await self._read_adapters()
            if adapter not in self._ids:
                raise AdapterGone(f"llama-server at {self.url} was started again without an adapter that is wanted")
            lora = [{"id": self._ids[adapter], "scale": 1.0}]
        body = {"prompt": list(prompt), "cache_prompt": True, "return_tokens": True, "lora": lora, **options}
        async with self._one_activated if adapter in self._activated else contextlib.nullcontext():
            reply = await self._server.post("/completion", body)
        if not isinstance(reply, dict):
            raise EngineError(f"expected JSON of llama-server at {self.url}, got something else; check the address")
        return reply

    @property
    def _server(self) -> HttpServer:
        if self._http is None:
            raise ServerGone("llama-server is being started")
        return self._http

    async def _reach(self, url: str) -> None:
        """Use the server at that address, and the adapters that it has."""
        if self._http is not None:
            await self._http.close()
        self.url = url
        self._http = HttpServer(self.name, url)
        await self._read_adapters()

    async def _read_adapters(self) -> None:
        """The adapters that the server has now, and their numbers there."""
        told = await self._server.get("/lora-adapters")
        try:
            self._ids = {_name_of(str(each["path"])): int(each["id"]) for each in told}
        except (KeyError, TypeError, ValueError):
            raise EngineError(
                f"expected the list of adapters of llama-server at {self.url}, got something else; check the address"
            ) from None

    async def _start(self, files: Sequence[AdapterFile]) -> None:
        """Start the own server with these; who is cancelled meanwhile waits too, so that the gate is shut so long."""
        work = asyncio.ensure_future(self._start_now(files))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await work
            raise

    async def _start_now(self, files: Sequence[AdapterFile]) -> None:
        assert self._process is not None
        self._ids = {}
        await self._reach(await asyncio.to_thread(self._process.start, [file.path for file in files]))

    async def _start_with(self, file: AdapterFile) -> None:
        """Have that adapter in the server; one that Lift has not started can be given none."""
        if self._process is None:
            await self._read_adapters()  # it may have been started again
            if file.name in self._ids:
                return
            raise EngineError(
                f"llama-server at {self.url} was not started with the adapter {file.path}, and loads none while it "
                "runs; start it again with --lora and that file, or let Lift start it, without --engine-url"
            )
        async with self._gate.changing():
            if file.name in self._ids:
                return
            used = [name for name in self._recent if self._wanted[name]]
            idle = [name for name in self._recent if not self._wanted[name]]
            room = max(0, self._at_most - len(used))
            for name in idle[: len(idle) - room]:
                del self._recent[name]
            await self._start(list(self._recent.values()))

    async def _revive(self) -> None:
        """Start the own server again, which has ended."""
        assert self._process is not None
        async with self._gate.changing():
            if not self._process.is_running:
                await self._start(list(self._recent.values()))


def _name_of(path: str) -> str:
    """The name of an adapter whose file Lift has written, which stands in its path."""
    return Path(path).parent.name


def _sampled_tokens(reply: dict[str, Any], most: int) -> list[SampledToken]:
    """The tokens of a reply, with their odds; a token that is no whole character has none."""
    told = list(reply.get("completion_probabilities") or ())
    found = []
    for token in reply.get("tokens") or ():
        if told and told[0].get("id") == token:
            odds = told.pop(0)
            top = tuple((int(each["id"]), float(each["logprob"])) for each in odds.get("top_logprobs", ())[:most])
            found.append(SampledToken(int(token), float(odds["logprob"]), top))
        else:
            found.append(SampledToken(int(token)))
    return found
