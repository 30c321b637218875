"""A loaded base model: frozen weights, their tokenizer, and the identity that memories are bound to.

The fingerprint guards against a silent fault: an adapter attached to other weights than those it was trained on still
runs, and answers nonsense.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lift.errors import ModelError
from lift.models.base_identity import BaseIdentity

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A causal language model in evaluation mode with every weight frozen, and its tokenizer.

    `id` is "smollm2", a hub id, or an absolute path. `fingerprint` is the hash of the weights as they lie in their
    files, so it does not change with the place of the files, the device, the runtime dtype or a runtime quantisation.
    """

    model: Any
    tokenizer: Any
    id: str
    fingerprint: str

    def __post_init__(self) -> None:
        self.model.eval()
        self.model.requires_grad_(False)

    @property
    def window_tokens(self) -> int:
        """The longest input in tokens, as the configuration states it; raises ModelError where none is stated."""
        config = self.model.config.get_text_config()
        for key in ("max_position_embeddings", "max_seq_len", "seq_length"):
            stated = getattr(config, key, None)
            if isinstance(stated, int) and stated > 0:
                return stated
        raise ModelError(
            f"expected the configuration of {self.id} to state a context window, got none; "
            'add "max_position_embeddings" to its config.json'
        )

    @property
    def device(self) -> torch.device:
        """Where the first weights lie."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type that the model computes in (quantised weights are stored in another one)."""
        dtype: torch.dtype = next(weight.dtype for weight in self.model.parameters() if weight.is_floating_point())
        return dtype

    @property
    def identity(self) -> BaseIdentity:
        """The identity that memories depend on beside the weights."""
        return BaseIdentity.of(self.model, str(self.dtype).removeprefix("torch."), self.tokenizer)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer can render a dialogue."""
        return bool(self.tokenizer.chat_template)

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Every token that ends an answer, sorted: of the tokenizer, the configuration and the generation settings."""
        stated = [
            self.tokenizer.eos_token_id,
            getattr(self.model.config.get_text_config(), "eos_token_id", None),
            getattr(getattr(self.model, "generation_config", None), "eos_token_id", None),
        ]
        return tuple(sorted({token for value in stated for token in _as_tokens(value)}))


def _as_tokens(value: int | Iterable[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
