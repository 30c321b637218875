"""Where llama.cpp keeps a matrix of a transformers model, and in what order of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lift.errors import ExportError
from lift.models.base_model import BaseModel
from lift.models.load import DEFAULT_MODEL
from lift.models.smollm2 import smollm2_gguf

# transformers' model types and llama.cpp's architectures, of which the second says whether it turns queries and keys by
# neighbouring rows, where transformers turns them by halves
_ARCHITECTURES = {
    "llama": ("llama", True),
    "mistral": ("llama", True),
    "smollm3": ("smollm3", True),
    "qwen2": ("qwen2", False),
    "qwen3": ("qwen3", False),
    "gemma": ("gemma", False),
    "gemma2": ("gemma2", False),
    "gemma3_text": ("gemma3", False),
    "phi3": ("phi3", False),
}


@dataclass(frozen=True)
class GgufNames:
    """llama.cpp's names for the matrices of a model with that transformers configuration."""

    architecture: str
    turns_neighbours: bool
    config: Any

    @classmethod
    def of(cls, base: BaseModel) -> GgufNames:
        """Those of a base model; raises ExportError for an architecture that is not known here."""
        config = base.model.config.get_text_config()
        if config.model_type not in _ARCHITECTURES:
            raise ExportError(
                f"expected a base model of one of {', '.join(_ARCHITECTURES)} for GGUF, got {config.model_type!r}; "
                "export to peft or merged, and convert that with llama.cpp's own scripts"
            )
        return cls(*_ARCHITECTURES[config.model_type], config)

    def name(self, path: str) -> str:
        """ "blk.0.attn_q.weight" of "model.layers.0.self_attn.q_proj"; ExportError where llama.cpp has no such one."""
        found = self._map.get_name(path)
        if found is None:
            raise ExportError(f"llama.cpp keeps no matrix for {path}; export to peft or merged instead")
        return f"{found}.weight"

    def arrange_rows(self, path: str, matrix: torch.Tensor) -> torch.Tensor:
        """The rows of W or B [out, n] of the matrix at `path` in llama.cpp's order."""
        leaf = path.rsplit(".", 1)[-1]
        if not self.turns_neighbours or leaf not in ("q_proj", "k_proj"):
            return matrix
        heads = self.config.num_attention_heads if leaf == "q_proj" else self.config.num_key_value_heads
        rows, columns = matrix.shape
        return matrix.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)

    @cached_property
    def _map(self) -> Any:
        import gguf

        kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == self.architecture)
        return gguf.get_tensor_name_map(kind, self.config.num_hidden_layers)


def base_gguf(base: BaseModel) -> Path | None:
    """The GGUF file that a base model was loaded from; None where it came from a transformers directory."""
    if base.id == DEFAULT_MODEL:
        return smollm2_gguf()
    return Path(base.id) if base.id.endswith(".gguf") and Path(base.id).is_file() else None
