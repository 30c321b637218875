"""Gigabytes and hours of a recipe: parameters as the adapters have them, tokens as the batch sampler makes them."""

from __future__ import annotations

import json

import pytest

from lift.adapters.attach import create_adapter
from lift.bench import limits_bench
from lift.bench.limits_bench import DEVICES, shape_of
from lift.bench.recipe_limits import Workload, adapter_parameters, limit_of_recipe, load_recipes, weights_bytes
from lift.cli import run
from lift.documents.document import Document
from lift.documents.sentences import split_sentences
from lift.errors import UsageError
from lift.models.base_model import BaseModel
from lift.packing.prompts import recitation_tokens
from lift.recipes.recipe import AdapterSettings, load_recipe
from lift.training.batch_sampler import BatchSampler

TINY = {
    "vocab_size": 259,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
WORK = Workload(20_000)


@pytest.mark.parametrize(
    "settings",
    [
        AdapterSettings(kind="lora", rank=4),
        AdapterSettings(kind="lora", rank=4, targets="attention"),
        AdapterSettings(kind="lora", rank=4, targets="mlp", upper_share=0.5),
        AdapterSettings(kind="dora", rank=2),
        AdapterSettings(kind="pissa", rank=3, targets="attention"),
        AdapterSettings(kind="gated-memory"),
        AdapterSettings(kind="gated-memory", width=4.0),
    ],
    ids=lambda settings: f"{settings.kind}-{settings.targets}-{settings.width:g}",
)
def test_parameters_are_those_that_the_adapter_trains(
    settings: AdapterSettings, tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(limits_bench.SHAPES, "tiny", TINY)
    adapter = create_adapter(tiny_model.model, settings, 0)
    trained = sum(parameter.numel() for parameter in adapter.parameters())
    counted = adapter_parameters(shape_of("tiny"), settings)
    # the size of a memory's gate (kappa) is one number a head and layer, which no table shows
    assert abs(counted - trained) <= 2 * 4


@pytest.mark.parametrize("overrides", [[], ["context.segment_tokens=0"], ["tasks.weight=0"]], ids=" ".join)
def test_tokens_of_a_training_are_those_that_the_sampler_makes(
    overrides: list[str], tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one token a byte there, so that the instruction is longer than in any model's own tokens
    monkeypatch.setattr("lift.bench.recipe_limits._RECITE_TOKENS", recitation_tokens(tiny_model.tokenizer))
    small = ["segments.length_tokens=64", "segments.step_tokens=24", "segments.titled=false", "generator.kind=rules"]
    small += ["context.segment_tokens=128", "context.window_tokens=512"]
    recipe = load_recipe("lift-v3", [*small, "tasks.weight=0", *overrides])
    text = " ".join(f"The boat number {number} lies at the pier of the old town." for number in range(60))
    document = Document("Boats", text, "boats.txt")
    sampler = BatchSampler(tiny_model.tokenizer, 1024, document, split_sentences(text), (), recipe)
    made = sum(len(example.ids) for group in sampler.groups(0) for example in group)
    shape, device = shape_of("llama-8b"), DEVICES[0]
    row = limit_of_recipe(shape, device, recipe, Workload(len(text)))
    assert row.trained_tokens / 8 == pytest.approx(made, rel=0.02)


def test_a_quantised_base_is_smaller_and_what_fits_is_said() -> None:
    shape = shape_of("llama-8b")
    sizes = {name: weights_bytes(shape, name) for name in ("none", "int8", "nf4")}
    assert sizes["none"] == 2 * shape.parameters
    # 7.0e9 weights of the body at 0.516 bytes, 1.05e9 of embeddings and head at 2
    assert sizes["nf4"] == pytest.approx(5.7e9, rel=0.02)
    assert sizes["nf4"] < sizes["int8"] < sizes["none"]
    recipe = load_recipe("lift-v3")
    plain, kept = (
        limit_of_recipe(shape, DEVICES[0], recipe, WORK, checkpointing=checkpointing) for checkpointing in (False, True)
    )
    assert not plain.fits and kept.fits
    assert kept.train_s > plain.train_s
    with pytest.raises(UsageError, match="nf4"):
        limit_of_recipe(shape, DEVICES[0], recipe, WORK, "fp4")


def test_every_published_recipe_that_trains_here_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "limits", "--recipe", "all", "--lengths", "8k", "--quantization", "nf4"]) == 0
    shown = capsys.readouterr().out
    for recipe in load_recipes("all"):
        assert f"| {recipe.name} |" in shown
    for name in ("default", "fast", "portable", "openai-finetune"):  # Lift's own, and one that trains elsewhere
        assert f"| {name} |" not in shown
    assert run(["bench", "limits", "--recipe", "lift-v3", "--adapter", "pissa", "--lengths", "8k", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["adapter"] for row in rows} == {"pissa"}
    assert run(["bench", "limits", "--adapter", "pissa"]) == 2
    assert "add --recipe" in capsys.readouterr().err
    assert run(["bench", "limits", "--recipe", "lift-v3", "--quantization", "fp4"]) == 2
