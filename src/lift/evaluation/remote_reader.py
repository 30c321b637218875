"""A model at an endpoint of OpenAI's shape as a reader, and how such an endpoint is asked one prompt."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from lift.endpoints.openai_endpoint import Endpoint, EndpointRefusal, MalformedReply, list_of, resolve_base_url
from lift.endpoints.retry_policy import RetryPolicy
from lift.errors import RemoteError, UsageError
from lift.evaluation.reader import QuestionBatch, Reply, clipped
from lift.models.control_tokens import without_known_marks
from lift.packing.prompts import ELLIPSIS, PromptForm, truncate_middle, user_text
from lift.remote.remote_model import base_fingerprint, base_id, remote_name
from lift.remote.token_estimate import estimate_chat_tokens, estimate_tokens, token_offsets

WINDOW_TOKENS = 8192
REQUESTS_AT_ONCE = 8
# Refused key (401, 403) and account without credit (429; a mere rate limit is tried again and is no Refusal).
_FINAL_STATUSES = frozenset({401, 403, 429})
_NO_SUCH_PATH = frozenset({404, 405})
_NO_SUCH_MODEL = "model_not_found"
_TOO_LONG = "context_length_exceeded"


class Unreachable(RemoteError):
    """No connection to the endpoint could be made in all tries."""


@dataclass(frozen=True)
class EndpointCompletion:
    """The reply of an endpoint, and its own counts of tokens, None where it gave none."""

    text: str
    prompt_tokens: int | None
    answer_tokens: int | None


def ends_asking(error: RemoteError) -> bool:
    """Whether every other request would fail as well: no connection, or key, account or model refused."""
    if isinstance(error, EndpointRefusal):
        return error.status in _FINAL_STATUSES or error.code == _NO_SUCH_MODEL
    return isinstance(error, Unreachable)


def complete_chat(
    endpoint: Endpoint, model: str, prompt: str, max_new_tokens: int, system: str = ""
) -> EndpointCompletion:
    """The greedy reply to one user's turn over /chat/completions, behind what the `system` says, if anything.

    Raises Refusal where the endpoint refuses, Unreachable where no connection can be made, and RemoteError where it
    fails otherwise in all its tries.
    """

    turns = [*([("system", system)] if system else []), ("user", prompt)]
    messages: Any = [{"role": role, "content": without_known_marks(said)} for role, said in turns]

    def request() -> EndpointCompletion:
        reply: Any = endpoint.client.chat.completions.create(
            model=model,
            messages=messages,
            max_tokens=max_new_tokens,
            temperature=0,
        )
        return _completion(reply, getattr(_first_choice(reply), "message", None), "content")

    return _ask(endpoint, request)


def complete_text(endpoint: Endpoint, model: str, prompt: str, max_new_tokens: int) -> EndpointCompletion:
    """The greedy continuation of `prompt` over /completions, without a chat template; raises as complete_chat."""

    def request() -> EndpointCompletion:
        reply: Any = endpoint.client.completions.create(
            model=model, prompt=prompt, max_tokens=max_new_tokens, temperature=0
        )
        return _completion(reply, _first_choice(reply), "text")

    return _ask(endpoint, request)


def open_remote_reader(
    name: str, base_url: str = "", window_tokens: int = WINDOW_TOKENS, retry_policy: RetryPolicy | None = None
) -> RemoteReader:
    """The reader "openai:NAME" at `base_url`, else OPENAI_BASE_URL, else OpenAI's own endpoint; nothing is asked yet.

    Raises UsageError for another kind of name or a bad URL, RemoteError where there is no API key.
    """
    model = remote_name(name)
    if model is None:
        raise UsageError(f"expected a model at an endpoint such as openai:gpt-4o-mini, got {name!r}; write openai:NAME")
    return RemoteReader(Endpoint(resolve_base_url(base_url), retry_policy), model, window_tokens)


class RemoteReader:
    """Answers with the model called `model` at `endpoint`; a reader.Reader.

    Prompt and answer have at most `window_tokens` estimated tokens (token_estimate.py). A form with `chat` is asked
    over /chat/completions; its `answer_prefix` is then the last line of the user's turn, since such an endpoint cannot
    be made to begin its answer with it, and an answer that repeats it loses it. A form without `chat` is asked over
    /completions, prefix and all; where the endpoint offers none for this model its chat is asked instead, which `notes`
    then says.
    """

    def __init__(self, endpoint: Endpoint, model: str, window_tokens: int) -> None:
        self.id = base_id(model)
        self.fingerprint = base_fingerprint(model, endpoint.url)
        self.window_tokens = window_tokens
        self.notes: tuple[str, ...] = ()
        self._endpoint = endpoint
        self._model = model

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, end) of each estimated token of `text`."""
        return token_offsets(text)

    def fit(self, question: str, text: str, form: PromptForm, max_new_tokens: int) -> tuple[str, bool]:
        """As much of `text`, head and tail, as the window takes by estimate; and whether it was cut.

        Raises UsageError where the question alone is too long.
        """
        limit_tokens = self.window_tokens - max_new_tokens
        if self._estimate(question, text, form) <= limit_tokens:
            return text, False
        # one token less: the pieces are counted apart, and a run of characters may end at each of their joints
        keep_tokens = limit_tokens - self._estimate(question, ELLIPSIS, form) - 1
        if keep_tokens < 0:
            raise UsageError(
                f"expected a question that fits the {limit_tokens} tokens that the prompt may have, got "
                f"{question[:60]!r}; shorten it, or raise the window of {self.id}"
            )
        return truncate_middle(text, token_offsets(text), keep_tokens), True

    def read(self, batch: QuestionBatch) -> list[Reply]:
        """Answer greedily, in order, several requests at once unless one by one.

        A question that fails gets a Reply with its error. Raises RemoteError where all would fail: the endpoint cannot
        be reached, or refuses the key, the account or the model. `first_token_s` is never measured.
        """
        started = time.perf_counter()
        workers = 1 if batch.one_by_one else max(1, min(REQUESTS_AT_ONCE, len(batch.questions)))
        with ThreadPoolExecutor(max_workers=workers) as pool:
            form, limit_tokens = batch.form, batch.max_new_tokens
            replies = list(pool.map(lambda pair: self._reply(pair[0], pair[1], form, limit_tokens), batch.pairs))
        if batch.one_by_one:
            return [replace(reply, alone=True) for reply in replies]
        share_s = (time.perf_counter() - started) / max(1, len(replies))
        return [replace(reply, seconds=share_s) for reply in replies]

    def _reply(self, question: str, context: str | None, form: PromptForm, max_new_tokens: int) -> Reply:
        started = time.perf_counter()
        prompt = user_text(question, context, form)
        try:
            prompt, completion = self._complete(prompt, form, max_new_tokens)
        except RemoteError as error:
            if ends_asking(error):
                raise
            said = str(error)
            if isinstance(error, EndpointRefusal) and error.code == _TOO_LONG:
                said += f"; the estimate of tokens fell short, so choose a smaller window than {self.window_tokens}"
            return Reply("", clipped(prompt), 0, 0, time.perf_counter() - started, error=said)
        text = completion.text.strip()
        if prefix := form.answer_prefix.strip():
            text = text.removeprefix(prefix).strip()
        prompt_tokens, answer_tokens = completion.prompt_tokens, completion.answer_tokens
        return Reply(
            text=text,
            prompt=clipped(prompt),
            prompt_tokens=estimate_chat_tokens([prompt]) if prompt_tokens is None else prompt_tokens,
            answer_tokens=estimate_tokens(completion.text) if answer_tokens is None else answer_tokens,
            seconds=time.perf_counter() - started,
        )

    def _complete(self, text: str, form: PromptForm, max_new_tokens: int) -> tuple[str, EndpointCompletion]:
        """The messages sent for the turn `text`, and the reply."""
        if not form.chat and not self.notes:
            sent = text + form.answer_prefix
            try:
                return sent, complete_text(self._endpoint, self._model, sent, max_new_tokens)
            except EndpointRefusal as refusal:
                # an unknown model comes here too, and is refused by the chat in its turn
                if refusal.status not in _NO_SUCH_PATH and refusal.code != _NO_SUCH_MODEL:
                    raise
            told = f"{self._endpoint.url} offers no /completions for {self._model}; it was asked as a chat instead"
            self.notes = (told,)
        sent = _with_prefix(text, form)
        return sent, complete_chat(self._endpoint, self._model, sent, max_new_tokens)

    @staticmethod
    def _estimate(question: str, text: str, form: PromptForm) -> int:
        return estimate_chat_tokens([_with_prefix(user_text(question, text, form), form)])


def _with_prefix(text: str, form: PromptForm) -> str:
    prefix = form.answer_prefix.strip()
    said = f"{form.system}\n\n{text}" if form.system else text
    return f"{said}\n{prefix}" if prefix else said


def _ask(endpoint: Endpoint, request: Callable[[], EndpointCompletion]) -> EndpointCompletion:
    import openai

    unconnected = False

    def observed() -> EndpointCompletion:
        nonlocal unconnected
        unconnected = False
        try:
            return request()
        except openai.APIConnectionError as error:
            # by name, since which HTTP library the package openai stands on depends on its version
            unconnected = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
            raise

    try:
        return endpoint.call("ask the model", observed)
    except RemoteError as error:
        if unconnected:
            raise Unreachable(str(error)) from None
        raise


def _first_choice(reply: Any) -> Any:
    choices = list_of(reply, "choices")
    return choices[0] if choices else None


def _completion(reply: Any, holder: Any, field: str) -> EndpointCompletion:
    text = getattr(holder, field, None)
    if not isinstance(text, str):
        raise MalformedReply(f"expected an answer as {field} of its first choice, got none")
    usage = getattr(reply, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    prompt_tokens, answer_tokens = (count if isinstance(count, int) else None for count in counts)
    return EndpointCompletion(text, prompt_tokens, answer_tokens)
