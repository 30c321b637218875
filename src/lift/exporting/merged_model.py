"""The base model with an adapter merged into its weights, as a transformers directory of its own."""

from __future__ import annotations

from pathlib import Path

from lift.models.base_model import BaseModel
from lift.models.quiet import quiet_transformers
from lift.models.turns import loading


def write_merged_model(directory: Path, base: BaseModel, adapter: Path) -> None:
    """Write base and the PEFT adapter in `adapter` as one model, tokenizer and chat template with it.

    It is added up in float32 and stored in the type of the base model's own files.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    source = base.model.name_or_path
    with loading(), quiet_transformers():
        stored = AutoConfig.from_pretrained(source, local_files_only=True).dtype or torch.float32
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True).to(stored)
        merged.save_pretrained(directory)
        base.tokenizer.save_pretrained(directory)
