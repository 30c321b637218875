"""An export in transformers with PEFT, loaded from its files as anybody would, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from lift.exporting.export import Export
from lift.exporting.replay import log_probability
from lift.models.quiet import quiet_transformers
from lift.models.turns import loading


class PeftConsumer:
    """As consumers.Consumer; a merged model is loaded without PEFT."""

    def __init__(self, export: Export) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True, "use_safetensors": True}
        source = str(export.directory / export.model) if export.model else export.base_files
        with loading(), quiet_transformers():
            self._model: Any = AutoModelForCausalLM.from_pretrained(source, **options)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=True)
            self.name, packages = "transformers", ["transformers"]
            if not export.model:
                from peft import PeftModel

                first, *others = export.adapters
                self._model = PeftModel.from_pretrained(
                    self._model, export.directory / first.path, adapter_name=first.role
                )
                for each in others:
                    self._model.load_adapter(str(export.directory / each.path), adapter_name=each.role)
                self.name, packages = "peft", ["peft", "transformers"]
        self.version = ", ".join(f"{package} {version(package)}" for package in packages)
        self._ends = list(export.prompt.end_token_ids)
        self._model.eval()

    def generate(self, adapter: str, prompt_ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """See Consumer."""
        self._choose(adapter)
        read = torch.tensor([list(prompt_ids)])
        with torch.inference_mode(), quiet_transformers():
            said: list[int] = self._model.generate(
                input_ids=read,
                attention_mask=torch.ones_like(read),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                repetition_penalty=1.0,
                eos_token_id=self._ends,
                pad_token_id=self._ends[0],
            )[0, len(prompt_ids) :].tolist()
        return said

    def logits(self, adapter: str, prompt_ids: Sequence[int], target_ids: Sequence[int]) -> torch.Tensor:
        """See Consumer."""
        self._choose(adapter)
        ids = torch.tensor([[*prompt_ids, *target_ids]])
        with torch.inference_mode():
            logits: torch.Tensor = self._model(input_ids=ids).logits[0]
        return logits[len(prompt_ids) - 1 : -1].float()

    def judge(self, adapter: str, prompt_ids: Sequence[int], target_ids: Sequence[int]) -> float:
        """See Consumer."""
        return log_probability(self.logits(adapter, prompt_ids, target_ids), target_ids)

    def tokenize(self, text: str) -> list[int]:
        """See Consumer."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _choose(self, adapter: str) -> None:
        if hasattr(self._model, "set_adapter") and self.name == "peft":
            self._model.set_adapter(adapter)
