"""The identity of a base model beside its weights: what else its answers, and what is trained on it, depend on."""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")]
# Two tokenizers of one vocabulary may still split otherwise: digits, white space, scripts, marks, capitals.
_PROBE_TEXT = (
    "The Ünion's 1,234.5 kg  of\tcoal\n\n(see § 12b) weren't ﬁt: naïve café, ΑΒΓ где 東京で12月 مرحبا 🙂👍🏽 e\u0301 "
    "def f(x_1): return x**2 != 0x1F  # HTTPServer camelCase ALLCAPS 2026-11-29T08:15Z http://a.example/b?c=d&e=%20"
)


class BaseIdentity(BaseModel):
    """Number types of the weights, and SHA-256 (hex) of the tokenizer and of the chat template.

    A memory moves between machines, so it answers on other number types than it was made on; with another tokenizer or
    chat template its base is another model.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    dtype: _Word
    quantization: _Word | None
    tokenizer: Digest
    chat_template: Digest

    @classmethod
    def of(cls, model: Any, dtype: str, tokenizer: Any) -> BaseIdentity:
        """That of a loaded model that computes in `dtype`."""
        return cls(
            dtype=dtype,
            quantization=_quantization(model.config),
            tokenizer=_tokenizer_digest(tokenizer),
            chat_template=_sha256(tokenizer.chat_template),
        )

    def misfit(self, other: BaseIdentity) -> str | None:
        """The difference that keeps memories of this base from answering on the `other`, None without one."""
        if self.tokenizer != other.tokenizer:
            return "another tokenizer"
        return "another chat template" if self.chat_template != other.chat_template else None


def _quantization(config: Any) -> str | None:
    """nf4, int8, or the method's own name; None for weights as they are."""
    stated = getattr(config, "quantization_config", None)
    if stated is None:
        return None
    values = stated if isinstance(stated, dict) else stated.to_dict()
    if values.get("load_in_4bit"):
        return str(values.get("bnb_4bit_quant_type", "fp4"))
    if values.get("load_in_8bit"):
        return "int8"
    method = values.get("quant_method", "unknown")
    return re.sub(r"[^A-Za-z0-9_.-]", "-", str(getattr(method, "value", method)))[:40]


@lru_cache(maxsize=8)
def _tokenizer_digest(tokenizer: Any) -> str:
    """Of the vocabulary, the special tokens, and how a text is split.

    Not of its file: the same tokenizer is written otherwise by every other version of its library.
    """
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0]))
    split = list(tokenizer(_PROBE_TEXT)["input_ids"])
    return _sha256([vocabulary, sorted(tokenizer.all_special_ids), tokenizer.eos_token_id, split])


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
