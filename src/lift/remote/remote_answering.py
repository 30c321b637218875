"""A fine-tuned model at an endpoint answers, with as much of the document as its window allows (truncated ICL)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lift.answering.answer import Answer, check_questions, supported_answer
from lift.answering.strategies import EVIDENCE_SENTENCES
from lift.documents.document import Document
from lift.documents.retrieval import SentenceIndex
from lift.documents.sentences import Sentence, document_sentences, joined
from lift.endpoints.openai_endpoint import (
    OPENAI_URL,
    Endpoint,
    EndpointRefusal,
    MalformedReply,
    list_of,
    resolve_base_url,
)
from lift.endpoints.retry_policy import RetryPolicy
from lift.errors import RemoteError, UsageError
from lift.memories.memory import StoredMemory
from lift.models.control_tokens import without_known_marks
from lift.packing.prompts import ELLIPSIS, MAX_ANSWER_TOKENS, truncate_middle, user_text
from lift.remote.remote_model import base_fingerprint, base_id, read_remote_model
from lift.remote.token_estimate import estimate_chat_tokens, token_offsets

# The estimate of tokens may fall short; each time the endpoint finds a prompt too long, this share of it is kept.
_SHRINK = 0.8
_MOST_SHRINKS = 6


def open_remote_memory(
    memory: StoredMemory, *, base_url: str = "", retry_policy: RetryPolicy | None = None
) -> RemoteAnswerer:
    """Answer from a memory that is a fine-tuned model at an endpoint.

    The API key goes to OpenAI, or to the endpoint that the caller has chosen by `base_url` or OPENAI_BASE_URL, never to
    one that a memory alone names. Raises RemoteError for another endpoint, LibraryError where the memory is damaged.
    """
    remote = read_remote_model(memory)
    memory.check_base(base_id(remote.base), base_fingerprint(remote.base, remote.base_url))
    if remote.base_url not in (OPENAI_URL, resolve_base_url(base_url)):
        raise RemoteError(
            f"the memory {memory.name!r} is asked at {remote.base_url}, which is not the endpoint you have chosen; "
            "if you trust it with your API key and questions, set OPENAI_BASE_URL to it"
        )
    sentences = document_sentences(memory.document)
    return RemoteAnswerer(
        Endpoint(remote.base_url, retry_policy), remote.model, memory.document, sentences, remote.window_tokens
    )


class RemoteAnswerer:
    """Answers questions about one document with the model called `model` at `endpoint`, as Answerer does locally.

    A prompt and its answer have at most `window_tokens` estimated tokens (token_estimate.py).
    """

    def __init__(
        self, endpoint: Endpoint, model: str, document: Document, sentences: Sequence[Sentence], window_tokens: int
    ) -> None:
        self.endpoint = endpoint
        self.model = model
        self.document = document
        self.index = SentenceIndex(sentences)
        self.window_tokens = window_tokens

    def ask(self, question: str, context: str = "auto", *, on_text: Callable[[str], None] | None = None) -> Answer:
        """Answer one question; `on_text` gets the text when it is there. See ask_many for what is raised."""
        return self.ask_many([question], context, on_text=on_text)[0]

    def ask_many(
        self,
        questions: Sequence[str],
        context: str = "auto",
        *,
        max_new_tokens: int = MAX_ANSWER_TOKENS,
        batch_size: int = 16,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer]:
        """Answer in the order of the questions, `batch_size` requests at once. "auto" is "truncated" (method 4.1).

        Raises UsageError for an unknown context, an empty question, or a text that does not fit the window, and
        RemoteError where the endpoint refuses or cannot be reached.
        """
        check_questions(questions, context)
        used = "truncated" if context == "auto" else context
        with ThreadPoolExecutor(max_workers=max(1, min(batch_size, len(questions)))) as workers:
            answers = list(workers.map(lambda question: self._answer(question, used, max_new_tokens), questions))
        for answer in answers:
            if on_text:
                on_text(answer.text)
        return answers

    def _answer(self, question: str, context: str, max_new_tokens: int) -> Answer:
        started = time.perf_counter()
        window_tokens = self.window_tokens
        for _ in range(_MOST_SHRINKS):
            prompt, cut = self._prompt(question, context, window_tokens - max_new_tokens)
            try:
                text, prompt_tokens = self._complete(prompt, max_new_tokens)
                break
            except EndpointRefusal as refusal:
                if refusal.code != "context_length_exceeded" or context == "none":
                    raise
                window_tokens = int(window_tokens * _SHRINK)
        else:
            raise RemoteError(
                f"{self.endpoint.url} finds every prompt too long for {self.model}, down to about {window_tokens:,} "
                "tokens; use --context none or evidence"
            )
        return supported_answer(
            self.index,
            self.document,
            question,
            text,
            context=context,
            truncated=cut,
            prompt_tokens=prompt_tokens,
            seconds=time.perf_counter() - started,
        )

    def _prompt(self, question: str, context: str, limit_tokens: int) -> tuple[str, bool]:
        """The user's turn, and whether the document was cut for it."""
        if context == "none":
            return question, False
        text = self.document.text
        if context == "evidence":
            text = joined(self.index.evidence(question, EVIDENCE_SENTENCES))
        shown, cut = fit_text(question, text, limit_tokens)
        if cut and context == "full":
            raise UsageError(
                f"the whole text does not fit the window of {self.window_tokens} tokens of {self.model}; "
                "use --context truncated or evidence"
            )
        return user_text(question, shown), cut

    def _complete(self, prompt: str, max_new_tokens: int) -> tuple[str, int]:
        """The reply, and the tokens of the prompt as the endpoint counts them, else as they are estimated here."""

        def request() -> tuple[str, int]:
            reply: Any = self.endpoint.client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": without_known_marks(prompt)}],
                max_tokens=max_new_tokens,
                temperature=0,
            )
            choices = list_of(reply, "choices")
            content = getattr(getattr(choices[0] if choices else None, "message", None), "content", None)
            if not isinstance(content, str):
                raise MalformedReply("expected an answer as its choices[0].message.content, got none")
            counted = getattr(getattr(reply, "usage", None), "prompt_tokens", None)
            return content.strip(), counted if isinstance(counted, int) else estimate_chat_tokens([prompt])

        return self.endpoint.call("ask the model", request)


def fit_text(question: str, text: str, limit_tokens: int) -> tuple[str, bool]:
    """The most of `text`, head and tail, that keeps the prompt within `limit_tokens`; and whether it was cut.

    As prompts.fit_context, in estimated tokens (method 1.5). Raises UsageError where the question alone is too long.
    """
    if estimate_chat_tokens([user_text(question, text)]) <= limit_tokens:
        return text, False
    # one token less: the pieces are counted apart, and a run of characters may end at each of their joints
    keep_tokens = limit_tokens - estimate_chat_tokens([user_text(question, ELLIPSIS)]) - 1
    if keep_tokens < 0:
        raise UsageError(f"the question alone is longer than the {limit_tokens} tokens that the prompt may have")
    return truncate_middle(text, token_offsets(text), keep_tokens), True
