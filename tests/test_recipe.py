from pathlib import Path

import pytest
from pydantic import ValidationError

from lift.errors import RecipeError
from lift.recipes.recipe import Recipe, load_recipe, recipe_names


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
