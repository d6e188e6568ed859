"""The schedules of a pretraining, by hand."""

import pytest

from norml_cli.files.errors import UserError
from norml_cli.registry.entries import RecipeEntry
from norml_cli.registry.protocol import Recipe
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.registry.recipes import resolve_recipe
from norml_cli.training.pretraining import learning_rate_at, validation_steps
from tests.helpers import photos


def recipe(**changes: object) -> Recipe:
    return RecipeEntry.model_validate(photos.recipe_values(**changes)).values


def test_the_rate_drops_where_the_recipe_says():
    values = recipe(learning_rate=0.1, schedule="drops", steps=10, lr_drops=[0.6, 0.8], lr_factor=0.1)
    rates = [learning_rate_at(values, step) for step in range(10)]
    assert rates == pytest.approx([0.1] * 6 + [0.01] * 2 + [0.001] * 2)


def test_the_cosine_starts_at_the_rate_and_nears_nothing():
    values = recipe(learning_rate=0.1, schedule="cosine", steps=10)
    assert [learning_rate_at(values, step) for step in (0, 5)] == pytest.approx([0.1, 0.05])
    assert 0 < learning_rate_at(values, 9) < 0.003


@pytest.mark.parametrize(("steps", "validations", "expected"), [(7, 3, {2, 5, 7}), (6, 1, {6}), (2, 5, {1, 2})])
def test_meta_validations_are_evenly_spaced_and_end_with_the_training(steps, validations, expected):
    assert validation_steps(recipe(steps=steps, validations=validations)) == expected


def test_the_declared_recipes_on_the_declared_data_set():
    registry = read_registry([builtin_registry()])
    dataset = registry.dataset("mini-imagenet")
    narrow = resolve_recipe(registry.recipe("resnet12-narrow"), dataset)
    assert narrow.changed == ()
    assert narrow.spec.values.steps == 15 * (64 * 540 // 64)  # fifteen epochs of what is not held out
    short = resolve_recipe(registry.recipe("rfs-2020"), dataset, epochs=10, width=16)
    assert short.spec.values.steps == 5400
    assert short.spec.values.widths == [16, 40, 80, 160]
    assert short.spec.values.validations == 4  # of 50 over 60,000 steps
    assert short.changed == ("widths", "steps", "validations")
    assert short.spec.hash() != resolve_recipe(registry.recipe("rfs-2020"), dataset).spec.hash()


def test_grey_images_are_refused():
    registry = read_registry([builtin_registry()])
    with pytest.raises(UserError, match="has grey images"):
        resolve_recipe(registry.recipe("rfs-2020"), registry.dataset("omniglot"))
