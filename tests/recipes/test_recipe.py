import tomllib
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lift.errors import RecipeError
from lift.recipes.recipe import AdapterSettings, Recipe, load_recipe, recipe_names


def test_every_recipe_that_comes_with_lift_is_valid() -> None:
    assert "default" in recipe_names()
    for name in recipe_names():
        assert load_recipe(name).name == name


def test_an_override_is_applied_with_its_type() -> None:
    recipe = load_recipe("default", ["training.epochs=3", "adapter.kind=dora", "training.learning_rate=1e-4"])
    assert (recipe.training.epochs, recipe.adapter.kind, recipe.training.learning_rate) == (3, "dora", 1e-4)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epoch=3", "'training.epochs'|nearest known one is 'epochs'"),
        ("trainin.epochs=3", "nearest known one is 'training'"),
        ("training.epochs=0", "training.epochs"),
        ("training.epochs=many", "training.epochs"),
        ("adapter.kind=lore", "adapter.kind"),
        ("epochs=3", "section.key=value"),
        ("training.epochs", "section.key=value"),
        ("segments.step_tokens=4000", "step_tokens"),
        ("tasks.weight=0", "nothing to train"),
        ("generator.form=paragraph", "rules write no summaries"),
    ],
)
def test_a_wrong_override_is_refused_in_one_sentence(override: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected) as caught:
        load_recipe("default", [override])
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="nearest known one is 'default'"):
        load_recipe("defualt")


def test_a_recipe_can_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[training]\nepochs = 2\n")
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.training.epochs) == ("mine", 2)
    path.write_text("training = [")
    with pytest.raises(RecipeError, match="not a valid TOML file"):
        load_recipe(str(path))


def test_a_recipe_cannot_be_changed_and_its_digest_follows_its_settings() -> None:
    recipe = load_recipe("default")
    with pytest.raises(ValidationError):
        recipe.training.epochs = 9  # type: ignore[misc]
    assert recipe.digest() == load_recipe(recipe).digest()
    assert recipe.digest() != load_recipe(recipe, ["training.seed=1"]).digest()
    renamed = Recipe.model_validate({**recipe.model_dump(), "name": "other", "description": "x"})
    assert renamed.digest() == recipe.digest()


def test_summaries_of_paragraphs_are_as_many_as_the_recipe_says() -> None:
    written = ["generator.form=paragraph", "generator.kind=self"]
    with pytest.raises(RecipeError, match="per_document above 0") as caught:
        load_recipe("default", written)
    assert "\n" not in str(caught.value)
    assert load_recipe("default", [*written, "tasks.per_document=60"]).generator.form == "paragraph"


# What was published, by the sections of the method's digest: 1.1 segments, 1.2 tasks, 1.3 contextualised training,
# 1.4 schedule, 1.5 window, 2.2 Gated Memory, 3.1-3.4 LIFT v4/v5 and its baseline, 4.1 GPT-3.5.
WINDOWS = {"segments.unit": "window", "segments.length_tokens": 2048, "segments.step_tokens": 768}  # 1.1
CONTEXT = {"context.segment_tokens": 4096, "context.share": 0.0, "context.window_tokens": 7800}  # 1.3, 1.5
V3 = CONTEXT | {
    "segments.weight": 1.0,  # 1.2: gamma 1
    "tasks.held_out_per_sentence": 0,
    "objective.mean_over": "tokens",  # 1.4: over all tokens of an update
    "objective.cross_entropy": 1.0,
    "objective.distillation": 0.0,
    "objective.gate_penalty": 0.0,  # 2.2: no supervision of the gate
    "attention.epochs": 0,
    "training.full_batch": True,  # 1.4: one update an epoch
    "training.schedule": "constant",
    "training.beta1": 0.9,
    "training.beta2": 0.98,
    "training.weight_decay": 1e-4,
    "training.clip": 1.0,
}
ASKED = {
    "tasks.weight": 1.0,
    "generator.kind": "self",  # 1.2: Llama-3-8B-Instruct itself
    "generator.form": "questions",
    "generator.window_sentences": 16,
    "context.tasks": "truncated",  # 1.3: c_q
}
GATED = {
    "adapter.kind": "gated-memory",
    "adapter.layers": (),
    "adapter.width": 2.0,
    "adapter.gate": "query",
    "adapter.start": "published",
}  # 2.2
LOOGLE = {
    "segments.titled": True,
    "tasks.prompt": "loogle-v3",
    "tasks.per_document": 10,
    "generator.retries": 4,
    "generator.temperature": 0.0,
}  # 1.2: 5 tries
ARTICLE = {"segments.titled": False, "tasks.prompt": "article-v3"}  # LongBench has no titles
SAMPLED = {"generator.retries": 2, "generator.temperature": 0.6}  # 1.2: 3 tries on LongBench, sampling on
WARM = {
    "training.segment_epochs": 3,
    "training.epochs": 5,
    "training.learning_rate": 2e-3,
    "training.warmup_share": 4 / 8,
}  # 1.4: 4 warm-up steps of 8
SEGMENTS_ALONE = {
    "segments.titled": False,
    "tasks.weight": 0.0,
    "training.segment_epochs": 8,
    "training.epochs": 0,
    "training.learning_rate": 1e-3,
    "training.warmup_share": 0.0,
}  # 1.4, GovReport and QMSum
V5 = {
    "segments.weight": 0.0,  # 3.1: no language modelling of raw text
    "tasks.weight": 1.0,
    "tasks.per_document": 0,
    "tasks.per_sentence": 10,
    "tasks.held_out_per_sentence": 0,
    "tasks.prompt": "loogle-v5",  # 3.1: the question with the title
    "objective.mean_over": "tokens",
    "training.batch_examples": 4,  # 3.3: a GPU
    "generator.kind": "openai",
    "generator.form": "questions",
    "generator.model": "Qwen/Qwen2.5-72B-Instruct",  # 3.2
    "generator.preceding_chars": 2048,
    "generator.concurrency": 64,
    "generator.retries": 4,
    "generator.max_output_tokens": 8000,
    "generator.stream": True,
    "context.tasks": "none",
    "context.share": 0.0,
    "adapter.kind": "lora",  # 3.3: adapter/lora_128
    "adapter.rank": 128,
    "adapter.alpha": 256.0,
    "adapter.targets": "all-linear",
    "training.segment_epochs": 0,
    "training.full_batch": False,
    "training.schedule": "constant",
    "training.warmup_share": 0.0,
    "training.weight_decay": 0.0,
    "training.beta1": 0.9,
    "training.beta2": 0.999,
    "training.clip": 1.0,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "lift-v3": V3 | WINDOWS | ASKED | GATED | LOOGLE | WARM
    | {"training.learning_rate": 1e-3, "training.warmup_share": 0.0},
    "lift-v3-pissa": V3 | WINDOWS | ASKED | LOOGLE | {
        "adapter.kind": "pissa",
        "adapter.rank": 128,
        "adapter.targets": "attention",
        "training.segment_epochs": 1,
        "training.epochs": 3,
        "training.learning_rate": 3e-5,
        "training.warmup_share": 0.0,
    },  # 1.4: Gemma-2-9b-it
    "lift-v3-govreport": V3 | WINDOWS | GATED | SEGMENTS_ALONE,
    "lift-v3-qmsum": V3 | WINDOWS | GATED | SEGMENTS_ALONE,
    "lift-v3-musique": V3 | WINDOWS | ASKED | ARTICLE | GATED | SAMPLED | WARM | {"tasks.per_document": 10},
    "lift-v3-narrativeqa": V3 | WINDOWS | ASKED | ARTICLE | GATED | SAMPLED | WARM | {"tasks.per_document": 30},
    "lift-v3-passage-retrieval": V3 | GATED | SAMPLED | WARM | {
        "segments.unit": "paragraph",
        "segments.titled": False,
        "context.segment_tokens": 0,  # bare paragraphs
        "tasks.prompt": "passage-retrieval-v3",
        "tasks.weight": 1.0,
        "tasks.per_document": 60,
        "generator.kind": "self",
        "generator.form": "paragraph",
        "context.tasks": "truncated",
    },  # 1.2: PassageRetrieval
    "lift-v5": V5 | {"training.epochs": 5, "training.learning_rate": 5e-5},  # 3.3: lift_lora
    "lift-v5-fast": V5 | {"training.epochs": 1, "training.learning_rate": 3e-4},  # 3.3: lift_lora_fast
    "finetune-raw": {
        "segments.weight": 1.0,
        "segments.unit": "sentence",
        "segments.titled": False,
        "segments.length_tokens": 1024,  # 3.4: a sentence each, at most 1024 tokens
        "objective.mean_over": "tokens",
        "training.segment_epochs": 5,
        "training.epochs": 0,
        "training.learning_rate": 5e-5,
        "training.batch_examples": 4,
        "tasks.weight": 0.0,
        "context.segment_tokens": 0,
        "adapter.kind": "lora",
        "adapter.rank": 128,
        "adapter.alpha": 256.0,
        "training.schedule": "cosine",
        "training.weight_decay": 0.0,
        "training.beta2": 0.999,
    },
    "lift-v0-sft": {
        "segments.weight": 1.0,
        "segments.unit": "window",
        "segments.length_tokens": 2048,
        "segments.step_tokens": 768,
        "tasks.weight": 1.0,
        "context.segment_tokens": 0,  # 1.4: v0 has no contexts
        "context.tasks": "none",
        "adapter.kind": "lora",
        "adapter.rank": 8,
        "training.segment_epochs": 0,
        "training.epochs": 3,
        "training.learning_rate": 2e-5,
    },  # 1.4: pre-LIFT SFT
    "openai-finetune": {
        "remote.only": True,
        "segments.weight": 1.0,
        "segments.unit": "window",
        "segments.length_tokens": 2048,  # 4.1
        "segments.step_tokens": 1024,
        "context.segment_tokens": 0,
        "remote.epochs": 3,
        "remote.batch_size": "all",
        "remote.learning_rate_multiplier": 0.5,
        "remote.window_tokens": 16385,
    },
}  # fmt: skip


def value(recipe: Recipe, path: str) -> Any:
    section, key = path.split(".")
    return getattr(getattr(recipe, section), key)


def test_every_recipe_but_lifts_own_is_held_against_the_paper() -> None:
    assert set(PUBLISHED) == set(recipe_names()) - {"default", "fast", "portable"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_has_the_published_values(name: str) -> None:
    recipe = load_recipe(name)
    found = {path: value(recipe, path) for path in PUBLISHED[name]}
    assert found == PUBLISHED[name]
    assert "arXiv" in recipe.description


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_sets_nothing_that_its_own_settings_leave_unread(name: str) -> None:
    values = tomllib.loads(resources.files("lift.recipes").joinpath(f"{name}.toml").read_text("utf-8"))
    recipe = load_recipe(name)
    unread = {
        "segments": {"unit", "length_tokens", "step_tokens"} if not recipe.segments.weight else set(),
        "tasks": {"per_document"} if not recipe.tasks.weight else set(),
        "generator": set(values.get("generator", ())) if not recipe.tasks.weight else set(),
        "context": {"tasks"} if not recipe.tasks.weight else set(),
        "adapter": {"rank", "alpha", "targets"}
        if recipe.adapter.kind == "gated-memory"
        else {"width", "gate", "start"},
    }
    if recipe.segments.unit in ("paragraph", "sentence"):
        unread["segments"] |= {"step_tokens"}
    if recipe.generator.form == "paragraph":
        unread["generator"] |= {"window_sentences", "preceding_chars"}
    assert {section: set(values.get(section, ())) & keys for section, keys in unread.items()} == {
        section: set() for section in unread
    }


# 4.3, Tables 4-6 of v3; what else is one setting away.
ABLATIONS = [
    ["context.segment_tokens=0"],
    ["tasks.weight=0"],
    ["tasks.per_document=0", "tasks.weight=0"],
    ["tasks.per_document=30"],
    ["adapter.kind=pissa"],
    ["adapter.kind=lora"],
    ["adapter.kind=dora"],
    ["adapter.gate=exact"],
    ["adapter.start=identity"],
    ["generator.kind=rules"],
    ["objective.mean_over=examples"],
    ["objective.gate_penalty=0.1"],
    ["attention.epochs=100"],
]


@pytest.mark.parametrize("overrides", ABLATIONS, ids=" ".join)
def test_an_ablation_is_one_setting_away(overrides: list[str]) -> None:
    changed, whole = load_recipe("lift-v3", overrides), load_recipe("lift-v3")
    assert changed.digest() != whole.digest()
    different = {
        f"{section}.{key}"
        for section, settings in whole.model_dump().items()
        if isinstance(settings, dict)
        for key, before in settings.items()
        if before != value(changed, f"{section}.{key}")
    }
    assert different == {override.partition("=")[0] for override in overrides}


def test_every_command_on_the_page_about_recipes_has_settings_that_load() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "guide" / "recipes.md").read_text("utf-8")
    commands = [line.split("#")[0].split() for line in text.splitlines() if line.startswith("$ lift absorb ")]
    assert len(commands) >= len(ABLATIONS)
    for words in commands:
        given = dict(pairwise(words))
        settings = [after for before, after in pairwise(words) if before == "--set"]
        assert load_recipe(given["--recipe"], settings).name == given["--recipe"]


@pytest.mark.parametrize(
    ("values", "layers"),
    [
        ({}, ()),
        ({"upper_share": 0.5}, (4, 5, 6, 7)),
        ({"upper_share": 0.01}, (7,)),
        ({"upper_share": 0.5, "layers": (2, 3)}, (2, 3)),
    ],
)
def test_the_upper_share_of_the_layers_is_that_of_the_model(values: dict[str, Any], layers: tuple[int, ...]) -> None:
    assert AdapterSettings(**values).layers_of(8) == layers
