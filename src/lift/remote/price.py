"""The price of a fine-tuning, estimated before anything leaves the machine. Pure.

Prices and limits are those of OpenAI's own endpoint as far as they are known from its lists of 2025; they were not
checked against the list of today, and the estimate says so. Other endpoints have others, so there the price is unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lift.endpoints.openai_endpoint import OPENAI_URL
from lift.remote.training_file import TrainingFile


@dataclass(frozen=True)
class _Published:
    usd_per_million_tokens: float
    line_limit_tokens: int


# By the name of the model without the date of its snapshot.
_PUBLISHED = {
    "gpt-3.5-turbo": _Published(8.00, 16_385),
    "gpt-4o": _Published(25.00, 65_536),
    "gpt-4o-mini": _Published(3.00, 65_536),
    "gpt-4.1": _Published(25.00, 65_536),
    "gpt-4.1-mini": _Published(5.00, 65_536),
    "gpt-4.1-nano": _Published(1.50, 65_536),
}


@dataclass(frozen=True)
class Estimate:
    """The upload and payment to come. `price_usd` is None where no price is known; all tokens are estimated."""

    model: str
    base_url: str
    lines: int
    segments: int
    file_bytes: int
    tokens: int
    epochs: int
    price_usd: float | None

    @property
    def billed_tokens(self) -> int:
        """Tokens of all epochs: what is paid for."""
        return self.tokens * self.epochs

    def __str__(self) -> str:
        price = "price unknown" if self.price_usd is None else f"about ${self.price_usd:.2f} by the list of 2025"
        return (
            f"{self.lines:,} lines ({self.file_bytes:,} bytes, about {self.tokens:,} tokens) to {self.model} at "
            f"{self.base_url}, {self.epochs} epochs: {price}"
        )


def estimate_price(file: TrainingFile, model: str, base_url: str, epochs: int) -> Estimate:
    """The price of training `model` on `file` for `epochs`: tokens x epochs x the published price of a token."""
    known = _published(model, base_url)
    price_usd = file.tokens * epochs * known.usd_per_million_tokens / 1e6 if known else None
    lines = len(file.line_tokens)
    return Estimate(model, base_url, lines, file.segments, len(file.content), file.tokens, epochs, price_usd)


def line_limit_tokens(model: str, base_url: str, otherwise: int) -> int:
    """The published longest line of a training file for `model`, else `otherwise`. In tokens."""
    known = _published(model, base_url)
    return known.line_limit_tokens if known else otherwise


def _published(model: str, base_url: str) -> _Published | None:
    if base_url != OPENAI_URL:
        return None
    # a fine-tuned model, ft:BASE:..., can be trained on and costs what its base does
    name = model.split(":")[1] if model.startswith("ft:") and ":" in model[3:] else model
    return _PUBLISHED.get(re.sub(r"-\d{4}(-\d\d-\d\d)?$", "", name))
