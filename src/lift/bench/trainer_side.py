"""The other side: transformers.Trainer and PEFT, as anyone would write it, and with the options that make it quicker.

What of Trainer's options makes it quicker on this kind of data was looked up in transformers 5.23: batches of like
length (train_sampling_strategy="group_by_length"), and padding-free batches (DataCollatorWithFlattening), which stay
apart without flash attention too, since masks are made from restarting positions where the cache is off, as Trainer
sets it. There is no option for logits at labels alone: the fused loss of use_liger_kernel needs a GPU kernel package.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lift.adapters.lora_config import new_config
from lift.bench.fixed_batches import TokenCounts
from lift.bench.race import Race
from lift.errors import UsageError
from lift.models.base_model import BaseModel
from lift.models.quiet import quiet_transformers
from lift.packing.prompts import IGNORED
from lift.recipes.recipe import AdapterSettings, Recipe

Layout = Literal["padded", "by-length", "packed"]


@dataclass(frozen=True)
class TrainerOptions:
    """How Trainer is set: examples a step, peak learning rate, and how a batch is laid out.

    "padded": random batches, padded. "by-length": batches of like length, padded. "packed": one row, no padding.
    """

    layout: Layout
    batch: int
    rate: float


def lora_config(model: Any, settings: AdapterSettings) -> Any:
    """PEFT's configuration of the adapter that a recipe trains: the same rank, alpha and matrices.

    Raises UsageError for an adapter that is not LoRA.
    """
    if settings.kind != "lora":
        raise UsageError(
            f"expected a recipe with adapter.kind=lora, which both sides can train, got {settings.kind}; "
            "use --set adapter.kind=lora"
        )
    return new_config(model, settings)


def train_with_trainer(
    base: BaseModel, rows: list[dict[str, list[int]]], recipe: Recipe, options: TrainerOptions, race: Race
) -> TokenCounts:
    """Train the same adapter shape on `rows` until the race is over or as many epochs as the recipe has.

    AdamW, a rate that falls linearly to zero, clipping at 1, full logits: Trainer's defaults. The adapter is left on
    the model of `base`.
    """
    from peft import get_peft_model
    from transformers import PrinterCallback, Trainer, TrainingArguments

    training = recipe.training
    torch.manual_seed(training.seed)
    model = get_peft_model(base.model, lora_config(base.model, recipe.adapter))
    counted = _Counted()
    handle = model.register_forward_pre_hook(counted.count, with_kwargs=True)
    with tempfile.TemporaryDirectory(prefix="lift-bench-") as directory, quiet_transformers():
        arguments = TrainingArguments(
            output_dir=directory,
            per_device_train_batch_size=options.batch,
            num_train_epochs=training.segment_epochs + training.epochs,
            learning_rate=options.rate,
            train_sampling_strategy="group_by_length" if options.layout == "by-length" else "random",
            seed=training.seed,
            use_cpu=base.device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=collator(base.tokenizer, options.layout),
            callbacks=[_following(race)],
        )
        trainer.remove_callback(PrinterCallback)
        race.start()
        trainer.train()
        race.finish()
    handle.remove()
    computed = counted.computed
    return TokenCounts(computed, counted.real, counted.labelled, head=computed, below=computed)


def collator(tokenizer: Any, layout: Layout) -> Any:
    """The collator that makes a batch of rows: transformers' own padding, or its own padding-free one."""
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening

    if layout == "packed":
        flattening: Any = DataCollatorWithFlattening
        return flattening()
    return DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)


def _following(race: Race) -> Any:
    from transformers import TrainerCallback

    class Following(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            control.should_training_stop = race.step_done() or control.should_training_stop

    return Following()


class _Counted:
    """The tokens that Trainer's model has been given in training."""

    def __init__(self) -> None:
        self.computed = self.real = self.labelled = 0

    def count(self, model: Any, _args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        if model.training:
            mask = inputs.get("attention_mask")
            positions = inputs["input_ids"].numel()
            self.computed += positions
            self.real += positions if mask is None else int(mask.sum())
            self.labelled += int((inputs["labels"] != IGNORED).sum())
