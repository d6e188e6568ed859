"""Resolve a recipe, a data set and the command line's changes to the spec of one pretraining. Torch-free."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from norml_cli.files.atomic import home
from norml_cli.files.errors import UserError
from norml_cli.registry.entries import DatasetEntry, FileSplit, RecipeEntry
from norml_cli.registry.faults import fault_lines
from norml_cli.registry.protocol import Precision, Recipe, held_out_of
from norml_cli.registry.specs import PretrainSpec


@dataclass(frozen=True)
class ResolvedRecipe:
    """A pretraining's spec, the keys that the command line changed, and --epochs and --width if given."""

    spec: PretrainSpec
    changed: tuple[str, ...]
    epochs: int | None = None
    width: int | None = None

    @property
    def options(self) -> str:
        """Options of `norml pretrain`: ' --epochs 1 --width 4'."""
        given = {"--epochs": self.epochs, "--width": self.width}
        return "".join(f" {option} {value}" for option, value in given.items() if value is not None)

    @property
    def settings(self) -> str:
        """Options of runs on its features: ' --set backbone_epochs=1 --set backbone_width=4'."""
        given = {"backbone_epochs": self.epochs, "backbone_width": self.width}
        return "".join(f" --set {key}={value}" for key, value in given.items() if value is not None)


def resolve_recipe(
    entry: RecipeEntry,
    dataset: DatasetEntry,
    *,
    epochs: int | None = None,
    width: int | None = None,
    precision: Precision | None = None,
) -> ResolvedRecipe:
    """The pretraining of `entry` on `dataset`.

    epochs: passes over the training images; replaces the recipe's steps and scales its schedule and its number of
    meta-validations.
    width: channels of the first block; the other blocks keep their ratio to it. precision: replaces the recipe's.
    Raises UserError.
    """
    recipe = entry.values
    per_epoch = training_images(dataset) // recipe.batch_size
    if per_epoch == 0:
        raise UserError(
            f"{entry.id}: batch_size {recipe.batch_size} is more than the {training_images(dataset):,} training images "
            f"of '{dataset.id}'; use another recipe"
        )
    values = recipe.model_dump()
    if epochs is not None:
        values["steps"] = epochs * per_epoch
        values["validations"] = max(1, round(recipe.validations * values["steps"] / recipe.steps))
    if width is not None:
        values["widths"] = widths_of(recipe, width)
    if precision is not None:
        values["precision"] = precision
    try:
        changed_recipe = Recipe(**values)
    except ValidationError as error:
        raise UserError(f"--epochs, --width: {fault_lines(error, values)[0]}") from None
    changed = tuple(key for key in values if values[key] != getattr(recipe, key))
    spec = PretrainSpec(dataset=dataset.id, recipe=entry.id, values=changed_recipe)
    return ResolvedRecipe(spec, changed, epochs, width)


def widths_of(recipe: Recipe, width: int | None) -> list[int]:
    """Channels of the four blocks if the first has `width`; None: the recipe's."""
    if width is None:
        return recipe.widths
    return [max(1, round(n * width / recipe.widths[0])) for n in recipe.widths]


def training_images(dataset: DatasetEntry) -> int:
    """Images of the training classes that are not held out; a lower bound if classes differ in size.

    Raises UserError for grey images, and for split files, because the entry does not say how many classes they list.
    """
    if not dataset.in_colour:
        raise UserError(f"data set '{dataset.id}': has grey images; recipes need colour images, such as mini-imagenet")
    if isinstance(dataset.splits, FileSplit):
        raise UserError(f"data set '{dataset.id}': has split files; recipes need splits of kind seeded or from-source")
    per_class = dataset.class_sizes.min
    return dataset.splits.meta_train * (per_class - held_out_of(per_class))


def backbones_folder() -> Path:
    """The folder of all backbones, next to the caches."""
    return home() / "backbones"


def backbone_path(spec: PretrainSpec, seed: int, suffix: str) -> Path:
    """The path of a backbone's file. suffix: the kind of file, one of `files.companions`."""
    return backbones_folder() / spec.dataset / spec.recipe / f"{spec.hash()[:12]}-seed-{seed}{suffix}"
