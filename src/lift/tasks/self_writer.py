"""The task generator `self`: the base model writes the tasks about the document that it is to learn (method 1.2).

It replies in labelled lines, as the paper's generator did: models of this size seldom write valid JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lift.endpoints.reply_cache import ReplyCache, request_key
from lift.errors import GenerationError
from lift.models.control_tokens import content_ids, decode_content, rendered_ids
from lift.recipes.recipe import GeneratorSettings
from lift.tasks.checks import doubt
from lift.tasks.generation import GenerationCounts
from lift.tasks.language_model import RETRY_TEMPERATURE, Outcome, open_reply_cache
from lift.tasks.reply_parsing import ParsedReply, Unusable, read_labelled
from lift.tasks.requests import TaskRequest, instructions, material

if TYPE_CHECKING:
    from lift.models.base_model import BaseModel

BATCH_REQUESTS = 16


@dataclass(frozen=True)
class _Prompt:
    """A request as the model reads it, in words and in tokens."""

    text: str
    ids: tuple[int, ...]


class SelfWriter:
    """Writer that is the base model; what is attached to it while it writes takes part."""

    def __init__(self, base: BaseModel, settings: GeneratorSettings) -> None:
        self._base = base
        self._settings = settings
        # At least half of the window is for reading.
        self._max_new_tokens = min(settings.max_output_tokens, base.window_tokens // 2)
        self._prompts: dict[TaskRequest, _Prompt] = {}
        self.origin = "self"
        self.place = f"the base model {base.id}"
        self.advice = "use a larger model, or generator.kind rules or openai"

    def key(self, request: TaskRequest) -> str:
        """See Writer."""
        return request_key(
            base=[self._base.fingerprint, self._base.identity.model_dump()],
            prompt=self._prompt(request).text,
            temperature=self._settings.temperature,
            max_tokens=self._max_new_tokens,
            format="labelled",
        )

    def outcomes(
        self, requests: Sequence[TaskRequest], counts: GenerationCounts
    ) -> Generator[tuple[int, Outcome], None, None]:
        """See Writer. In order, BATCH_REQUESTS at a time."""
        keys = [self.key(request) for request in requests]
        with open_reply_cache() as cache:
            for first in range(0, len(requests), BATCH_REQUESTS):
                batch = requests[first : first + BATCH_REQUESTS]
                outcomes = self._batch(batch, keys, cache, counts)
                yield from ((request.number, outcomes[request.number]) for request in batch)

    def _batch(
        self, batch: Sequence[TaskRequest], keys: Sequence[str], cache: ReplyCache, counts: GenerationCounts
    ) -> dict[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        waiting: list[TaskRequest] = []
        for request in batch:
            stored = cache.get(keys[request.number])
            outcome = None if stored is None else read_labelled(request, stored)
            if isinstance(outcome, ParsedReply):
                counts.answered += 1
                counts.from_cache += 1
                outcomes[request.number] = outcome
            else:
                waiting.append(request)
        replies: dict[int, str] = {}
        asked = waiting
        for attempt in range(self._settings.retries + 1):
            again: list[TaskRequest] = []
            for request, reply in zip(waiting, self._write(waiting, attempt, keys), strict=True):
                outcome = read_labelled(request, reply)
                reason = doubt(request, outcome) if isinstance(outcome, ParsedReply) else outcome.reason
                if isinstance(outcome, ParsedReply):
                    outcomes[request.number], replies[request.number] = outcome, reply
                else:
                    outcomes.setdefault(request.number, outcome)
                if reason and attempt < self._settings.retries:
                    counts.retried[reason] += 1
                    again.append(request)
            waiting = again
        for request in asked:
            outcome = outcomes[request.number]
            if isinstance(outcome, Unusable):
                counts.failed[outcome.reason] += 1
            else:
                counts.answered += 1
                cache.put(keys[request.number], replies[request.number])
        return outcomes

    def _write(self, requests: Sequence[TaskRequest], attempt: int, keys: Sequence[str]) -> list[str]:
        """One reply a request; retries are sampled, by a seed of their own. Cut-off last lines are left out."""
        if not requests:
            return []
        import torch

        from lift.inference.generate import generate

        temperature = self._settings.temperature
        seed = hashlib.sha256("\n".join([str(attempt), *(keys[request.number] for request in requests)]).encode())
        replies = generate(
            self._base.model,
            [self._prompt(request).ids for request in requests],
            max_new_tokens=self._max_new_tokens,
            end_ids=self._base.end_token_ids,
            batch_size=BATCH_REQUESTS,
            temperature=max(temperature, RETRY_TEMPERATURE) if attempt else temperature,
            generator=torch.Generator(self._base.device).manual_seed(int.from_bytes(seed.digest()[:7])),
        )
        texts = []
        for request, tokens in zip(requests, replies, strict=True):
            text = decode_content(self._base.tokenizer, tokens)
            if not self._base.has_chat_template:
                text = f"{_opening(request)}{text}"
            # Half a number is another number.
            texts.append(text if len(tokens) < self._max_new_tokens else text.rpartition("\n")[0])
        return texts

    def _prompt(self, request: TaskRequest) -> _Prompt:
        """A prompt that leaves room for the reply: sentences farthest from what is asked are left out first.

        Raises GenerationError where a single sentence does not fit.
        """
        if request not in self._prompts:
            limit = self._base.window_tokens - self._max_new_tokens
            prompt = self._rendered(request)
            shown = request.shorter()
            while (length := len(prompt.ids)) > limit:
                if shown is None:
                    raise GenerationError(
                        f"expected a prompt of at most {limit} tokens for {self._base.id}, got {length} for one "
                        "sentence; use a model with a longer window, or generator.kind rules"
                    )
                prompt, shown = self._rendered(shown), shown.shorter()
            self._prompts[request] = prompt
        return self._prompts[request]

    def _rendered(self, request: TaskRequest) -> _Prompt:
        # One message of the user: some templates refuse a system's message, others put words of their own into it.
        text = f"{instructions(request, labelled=True)}\n\n{material(request)}"
        tokenizer = self._base.tokenizer
        if not self._base.has_chat_template:
            text = f"{text}\n\n{_opening(request)}"
            return _Prompt(text, tuple(content_ids(tokenizer, text, add_special_tokens=True)))

        def render(contents: Sequence[str]) -> str:
            turns = [{"role": "user", "content": contents[0]}]
            rendered: str = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            return rendered

        return _Prompt(render([text]), tuple(rendered_ids(tokenizer, render, [text])))


def _opening(request: TaskRequest) -> str:
    """Where a base model without a chat template goes on from."""
    return "Summary:" if request.form == "paragraph" else "Question:"
