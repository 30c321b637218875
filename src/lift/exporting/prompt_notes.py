"""The prompt that a memory was trained with, as other programs need it: an answer is only right behind that prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lift.models.base_model import BaseModel
from lift.packing.prompts import MAX_ANSWER_TOKENS, PLAIN_FORM, PromptForm, end_of_answer_id, prompt_ids

_QUESTION, _CONTEXT = "{question}", "{context}"


@dataclass(frozen=True)
class PromptNotes:
    """The prompts of a base model, rendered, with {question} and {context} for what is to be put in.

    The text holds every special token, so it is tokenised with special tokens parsed and none added. `is_exact`: the
    text gives the trained tokens then; where it does not, token ids are to be sent. `end_token_ids` end an answer.
    """

    closed_book: str
    reading: str
    is_exact: bool
    end_token_ids: tuple[int, ...]
    max_answer_tokens: int
    chat_template: str | None

    @classmethod
    def of(cls, base: BaseModel, form: PromptForm = PLAIN_FORM) -> PromptNotes:
        """Those that Lift trains and asks with, in the words of `form`."""
        tokenizer = base.tokenizer
        ids = [prompt_ids(tokenizer, _QUESTION, form=form), prompt_ids(tokenizer, _QUESTION, _CONTEXT, form)]
        texts = [render_tokens(tokenizer, each) for each in ids]
        read = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        ends = {end_of_answer_id(tokenizer), *base.end_token_ids}
        template = tokenizer.chat_template
        return cls(texts[0], texts[1], read == ids, tuple(sorted(ends)), MAX_ANSWER_TOKENS, template and str(template))

    def record(self, tokenizer: Any, invocation: tuple[int, ...]) -> dict[str, Any]:
        """The content of prompt.json."""
        return {
            "closed_book": self.closed_book,
            "reading": self.reading,
            "text_gives_the_trained_tokens": self.is_exact,
            "add_special_tokens": False,
            "end_token_ids": list(self.end_token_ids),
            "end_tokens": [render_tokens(tokenizer, [token]) for token in self.end_token_ids],
            "max_answer_tokens": self.max_answer_tokens,
            "invocation_token_ids": list(invocation),
            "invocation": render_tokens(tokenizer, invocation),
            "decoding": "greedy",
        }


def render_tokens(tokenizer: Any, ids: Any) -> str:
    """The text of tokens, special ones included."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
