"""The one place where chat templates, truncation and labels meet: question, task or segment -> tokens.

The prompt of a training example is, token for token, the prompt that is generated from later: prompt and answer are
tokenised apart and joined, so the mask is the answer and its end token by construction (method 7, faults 1-3).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from lift.errors import UsageError
from lift.models.control_tokens import content_ids, rendered_ids
from lift.models.token_spans import token_spans

IGNORED = -100
ELLIPSIS = "..."
RECITE = "\n\nRecite the next passage of the text above.\n\n"
CITE = "\n\nWhich sentence says so?"
CUT_STEP_TOKENS = 32
_SHORT_CHARS = 4096  # a text of so many characters is tokenised as quickly as its tokens are looked up
_KEPT_CHARS = 256
_LOCAL_TOKENS = 16  # on either side of a cut: no token changes for what is further away
_DOUBTED_TOKENS = 2  # arithmetic may be wrong by so many where a tokenizer knows no words
MAX_ANSWER_TOKENS = 48
SYSTEM = "You are a helpful assistant."
TEXT_TELLS_NOTHING = "The text does not tell."
_SLOT = re.compile(r"\{question\}|\{context\}|\{title\}")


@dataclass(frozen=True)
class Example:
    """Token ids of one training sample; `labels` is the id where loss is taken and IGNORED elsewhere.

    `reads_evidence`: the prompt holds what proves the answer. `teacher_ids`: the prompt that the same base model would
    be asked with if it could read the evidence, for context distillation; its answer is that of this example.
    `kl_to_base`: what is to be matched is not its labels but what the base model says at their places.
    `drawn_anew`: other epochs show other text in its place. `task`: the number of the task that it was made of.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    weight: float = 1.0
    reads_evidence: bool = False
    teacher_ids: tuple[int, ...] | None = None
    kl_to_base: bool = False
    drawn_anew: bool = False
    task: int | None = None

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens before the first label."""
        return self.ids[: next(index for index, label in enumerate(self.labels) if label != IGNORED)]

    @property
    def labelled_tokens(self) -> int:
        """Tokens that carry loss."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class PromptForm:
    """The words around a question. `reading` has {context} and {question}, `closed_book` {question} alone.

    Both may have {title}, which stands for `title`, the document's. `chat`: whether the model's chat template is used,
    where it has one; `system`: what its system message says, in front of the question where the template has no such
    role. `special_tokens`: whether a prompt without a chat template begins with the tokenizer's own. `answer_prefix`
    begins the answer, behind the header of the assistant's turn.
    """

    reading: str = "{context}\n\n{question}"
    closed_book: str = "{question}"
    chat: bool = True
    answer_prefix: str = ""
    system: str = ""
    title: str = ""
    special_tokens: bool = True

    def about(self, title: str) -> PromptForm:
        """The same words about the document of that title; itself where they do not name it."""
        return replace(self, title=title) if "{title}" in self.reading + self.closed_book else self


PLAIN_FORM = PromptForm()


def user_text(question: str, context: str | None = None, form: PromptForm = PLAIN_FORM) -> str:
    """The text of the user's turn: the question, or the part of the document it may use and then the question."""
    parts = {"{question}": question, "{context}": context or "", "{title}": form.title}
    template = form.closed_book if context is None else form.reading
    # one pass, so that braces within a document or question stay as they are
    return _SLOT.sub(lambda slot: parts[slot[0]], template)


def prompt_ids(tokenizer: Any, question: str, context: str | None = None, form: PromptForm = PLAIN_FORM) -> list[int]:
    """Tokens of the prompt up to where the answer begins, special tokens included once."""
    text = user_text(question, context, form)
    if tokenizer.chat_template and form.chat:
        turns = [("system", form.system)] * bool(form.system) + [("user", text)]
        if form.system and not takes_system_role(tokenizer):
            turns = _folded(turns)
        roles = [role for role, _ in turns]

        def render(contents: Sequence[str]) -> str:
            if len(roles) == 1:
                return _render_chat(tokenizer, contents[0]) + form.answer_prefix
            messages = [{"role": role, "content": said} for role, said in zip(roles, contents, strict=True)]
            return _apply_template(tokenizer, messages) + form.answer_prefix

        return rendered_ids(tokenizer, render, [said for _, said in turns])
    bare = text if form != PLAIN_FORM else f"{text}\nAnswer:"
    return content_ids(tokenizer, bare + form.answer_prefix, add_special_tokens=form.special_tokens)


def invocation_of(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that open an answer, with which every prompt ends: an activated adapter acts from there on.

    They are the generation prompt of the chat template; where there is none, what the ends of all prompts share.
    """
    samples = [prompt_ids(tokenizer, question)[::-1] for question in ("Who was it?", "Name the place", "List all!")]
    common = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*samples, strict=False))
    ending = tuple(tokens[0] for tokens in common)[::-1]
    if tokenizer.chat_template:
        asked = [{"role": "user", "content": "Q"}]
        whole, part = (
            tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=k) for k in (True, False)
        )
        opening = tuple(tokenizer(whole.removeprefix(part), add_special_tokens=False)["input_ids"])
        if opening and ending[-len(opening) :] == opening:
            return opening
    return ending


def dialogue_ids(tokenizer: Any, turns: Sequence[tuple[str, str]]) -> list[int]:
    """Tokens of a dialogue up to where the answer to its last turn begins; as prompt_ids for one turn of the user's.

    `turns`: role and text of each. What the system says stands in front of the user's first turn where the chat
    template has no such role. Raises UsageError where the model's chat template refuses the dialogue.
    """
    if not tokenizer.chat_template:
        text = "\n".join(said for _, said in turns)
        return content_ids(tokenizer, f"{text}\nAnswer:", add_special_tokens=True)
    if not any(role == "system" for role, _ in turns):
        turns = [*((turn["role"], turn["content"]) for turn in _system_turn(tokenizer)), *turns]
    elif not takes_system_role(tokenizer):
        turns = _folded(turns)
    roles = [role for role, _ in turns]

    def render(contents: Sequence[str]) -> str:
        return _apply_template(
            tokenizer, [{"role": role, "content": said} for role, said in zip(roles, contents, strict=True)]
        )

    try:
        return rendered_ids(tokenizer, render, [said for _, said in turns])
    except Exception as error:  # a template is a program of the model's, and raises what it likes
        raise UsageError(
            f"expected a dialogue that the model's chat template takes, got {roles} ({error}); "
            "let turns of user and assistant follow each other"
        ) from error


def takes_system_role(tokenizer: Any) -> bool:
    """Whether the chat template says what a system message says; some raise at that role, some leave it out."""
    return _takes_system_role(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _takes_system_role(tokenizer: Any, _template: str) -> bool:
    told = "xQsystemvZ"
    turns = [{"role": "system", "content": told}, {"role": "user", "content": "Q"}]
    try:
        return told in _apply_template(tokenizer, turns)
    except Exception:  # as in dialogue_ids
        return False


def _folded(turns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The turns without the system's, whose texts stand in front of the user's first."""
    told = [said for role, said in turns if role == "system"]
    others = [turn for turn in turns if turn[0] != "system"]
    first = next((index for index, (role, _) in enumerate(others) if role == "user"), None)
    if first is None:
        return [("user", "\n\n".join(told)), *others]
    others[first] = ("user", "\n\n".join([*told, others[first][1]]))
    return others


def answer_ids(tokenizer: Any, answer: str, form: PromptForm = PLAIN_FORM) -> list[int]:
    """Tokens of the answer and of the token that ends it, behind a prompt of that form."""
    lead = "" if tokenizer.chat_template and form.chat else " "
    return [*content_ids(tokenizer, lead + answer), end_of_answer_id(tokenizer)]


def question_example(
    tokenizer: Any,
    question: str,
    answer: str,
    context: str | None = None,
    weight: float = 1.0,
    *,
    reads_evidence: bool = False,
    teacher_context: str | None = None,
    form: PromptForm = PLAIN_FORM,
) -> Example:
    """A task as an example: loss on the answer and its end token, on nothing else.

    `teacher_context` is what the teacher of a context distillation reads; see Example. `form`: the words around the
    question.
    """
    example = answer_example(tokenizer, prompt_ids(tokenizer, question, context, form), answer, form)
    teacher = tuple(prompt_ids(tokenizer, question, teacher_context, form)) if teacher_context is not None else None
    return replace(example, weight=weight, reads_evidence=reads_evidence, teacher_ids=teacher)


def citation_question(question: str) -> str:
    """The question that asks closed book for the sentence that answers the question, not for the answer."""
    return question + CITE


def citation_example(tokenizer: Any, question: str, sentence: str, weight: float = 1.0) -> Example:
    """A task whose answer is the sentence that tells it: what can be cited closed book can be read from."""
    return replace(
        answer_example(tokenizer, prompt_ids(tokenizer, citation_question(question)), sentence), weight=weight
    )


def answer_example(tokenizer: Any, prompt: Sequence[int], answer: str, form: PromptForm = PLAIN_FORM) -> Example:
    """An answer behind the tokens of a prompt of that form: loss on the answer and its end token, on nothing else."""
    target = answer_ids(tokenizer, answer, form)
    return Example((*prompt, *target), (*[IGNORED] * len(prompt), *target))


def contextual_segment_example(
    tokenizer: Any, head: Sequence[int], tail: Sequence[int], segment: Sequence[int], weight: float = 1.0
) -> Example:
    """A segment behind pieces of the document's head and tail: head ... tail, instruction, segment (method 1.3).

    Raw tokens without a chat template, as published; loss on the segment alone, its first token included.
    """
    ids = [*head, *content_ids(tokenizer, ELLIPSIS), *tail, *content_ids(tokenizer, RECITE)]
    return Example((*ids, *segment), (*[IGNORED] * len(ids), *segment), weight)


def recitation_tokens(tokenizer: Any) -> int:
    """Tokens that contextual_segment_example puts between the pieces, |p| of the method."""
    return len(content_ids(tokenizer, ELLIPSIS)) + len(content_ids(tokenizer, RECITE))


def segment_example(ids: Sequence[int], weight: float = 1.0) -> Example:
    """A bare segment as an example: loss on every token but the first (method 1.1)."""
    return Example(tuple(ids), (IGNORED, *ids[1:]), weight)


def preserved_example(ids: Sequence[int], weight: float = 1.0) -> Example:
    """A piece of another text, at every token of which the base model's own next-token odds are to be kept."""
    return replace(segment_example(ids, weight), kl_to_base=True)


def truncate_middle(text: str, offsets: Sequence[tuple[int, int]], keep_tokens: int) -> str:
    """The head and the tail of `text`, `keep_tokens` tokens in all, "..." between them (method 1.5).

    `offsets`: the characters [start, end) of each token of `text`. Whole text where it fits.
    """
    if len(offsets) <= keep_tokens:
        return text
    head_tokens = keep_tokens - keep_tokens // 2
    tail_tokens = keep_tokens // 2
    head = text[: offsets[head_tokens - 1][1]] if head_tokens else ""
    tail = text[offsets[-tail_tokens][0] :] if tail_tokens else ""
    return f"{head}{ELLIPSIS}{tail}"


def fit_context(
    tokenizer: Any,
    question: str,
    text: str,
    limit_tokens: int,
    step_tokens: int = 1,
    form: PromptForm = PLAIN_FORM,
) -> tuple[str, bool]:
    """The most of `text`, head and tail, that keeps the whole prompt within `limit_tokens`; and whether it was cut.

    What is kept is a multiple of `step_tokens`, so that questions of like length see the same text, whose prefix is
    then computed once. Only the document is ever cut, never the question or the template. A long text is tokenised once
    for all its questions (models/token_spans.py). Raises UsageError where not even an empty document leaves room.
    """
    if len(text) <= _SHORT_CHARS and len(prompt_ids(tokenizer, question, text, form)) <= limit_tokens:
        return text, False
    prompt = _CutPrompt(tokenizer, question, text, form)
    if len(text) > _SHORT_CHARS and prompt.count_tokens(len(prompt.spans), limit_tokens) <= limit_tokens:
        return text, False
    keep_tokens = limit_tokens - len(prompt_ids(tokenizer, question, ELLIPSIS, form))
    while keep_tokens >= 0:
        keep_tokens -= keep_tokens % step_tokens
        excess = prompt.count_tokens(keep_tokens, limit_tokens) - limit_tokens
        if excess <= 0:
            return truncate_middle(text, prompt.spans, keep_tokens), True
        keep_tokens -= excess  # tokens may join differently at the cut
    raise UsageError(
        f"expected a question that fits the {limit_tokens} tokens that the prompt may have, got {question[:60]!r}; "
        "shorten it, or raise context.window_tokens"
    )


class _CutPrompt:
    """How long a question's prompt is with more or less of a text in it, by arithmetic over the text's own tokens.

    A prompt with K tokens of the text has those of the question and the template, the K, and what tokens that join
    otherwise at the cut change. Both are measured in a few tokens on either side, since tokens do not reach far.
    """

    def __init__(self, tokenizer: Any, question: str, text: str, form: PromptForm) -> None:
        self.spans = token_spans(tokenizer, text)
        self._tokenizer, self._question, self._text, self._form = tokenizer, question, text, form
        self._around: int | None = None

    def count_tokens(self, keep_tokens: int, limit_tokens: int) -> int:
        """The tokens of the prompt with `keep_tokens` of the text; counted one by one near the limit, or if few."""
        if keep_tokens > 4 * _LOCAL_TOKENS:
            if self._around is None:
                least = 2 * _LOCAL_TOKENS
                self._around = self._read(least) - least - self._change_at_cut(least)
            whole = keep_tokens >= len(self.spans)
            counted = self._around + keep_tokens + (0 if whole else self._change_at_cut(keep_tokens))
            if abs(counted - limit_tokens) > _DOUBTED_TOKENS:
                return counted
        return self._read(keep_tokens)

    def _read(self, keep_tokens: int) -> int:
        shown = truncate_middle(self._text, self.spans, keep_tokens)
        return len(prompt_ids(self._tokenizer, self._question, shown, self._form))

    def _change_at_cut(self, keep_tokens: int) -> int:
        """Tokens of the two sides of the cut and the dots together, less those of the two sides in the text."""
        head, tail = keep_tokens - keep_tokens // 2, len(self.spans) - keep_tokens // 2
        left = self._text[self.spans[head - _LOCAL_TOKENS][0] : self.spans[head - 1][1]]
        right = self._text[self.spans[tail][0] : self.spans[tail + _LOCAL_TOKENS - 1][1]]
        return len(content_ids(self._tokenizer, f"{left}{ELLIPSIS}{right}")) - 2 * _LOCAL_TOKENS


def end_of_answer_id(tokenizer: Any) -> int:
    """The token that ends an answer: what the chat template puts after it, else the end-of-text token."""
    return _end_of_answer(tokenizer) if tokenizer.chat_template else int(tokenizer.eos_token_id)


@lru_cache(maxsize=8)
def _end_of_answer(tokenizer: Any) -> int:
    marker = "ANSWER"
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": marker}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    after = rendered[rendered.rindex(marker) + len(marker) :]
    ids = tokenizer(after.strip(), add_special_tokens=False)["input_ids"]
    return int(ids[0]) if ids and ids[0] in tokenizer.all_special_ids else int(tokenizer.eos_token_id)


def _render_chat(tokenizer: Any, text: str) -> str:
    # documents come again too seldom to be kept
    return _render_short(tokenizer, text) if len(text) <= _KEPT_CHARS else _render(tokenizer, text)


@lru_cache(maxsize=1024)
def _render_short(tokenizer: Any, text: str) -> str:
    return _render(tokenizer, text)


def _render(tokenizer: Any, text: str) -> str:
    return _apply_template(tokenizer, [*_system_turn(tokenizer), {"role": "user", "content": text}])


def _system_turn(tokenizer: Any) -> list[dict[str, str]]:
    """The system turn of a prompt that brings none: else a template may say what its model is, and be quoted."""
    return [{"role": "system", "content": SYSTEM}] if takes_system_role(tokenizer) else []


def _apply_template(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    # enable_thinking is read by the templates of reasoning models and ignored by the others
    rendered: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return rendered
