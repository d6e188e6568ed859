"""Turn a survey of images into a data set entry, with a reason for each choice."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from norml_cli.data.sources.survey import Survey
from norml_cli.data.splits import SPLITS
from norml_cli.files.errors import UserError, counted
from norml_cli.registry.drafts import sourced, title_of

SIZE_PX = {"rgb": 84, "grey": 28}  # image sizes of mini-ImageNet and Omniglot in the literature
LEAST_CLASSES = 2  # in a split: an episode has at least two classes
LEAST_IMAGES = 2  # in a class: one to learn from and one to test on


def declared(id_: str, source: Path, survey: Survey, min_images: int | None) -> dict[str, Any]:
    """The entry as a mapping. min_images: leave out classes with fewer images; None: keep all.

    Raises UserError if there are too few classes, or too few images in one, for an episode.
    """
    sizes = _kept(survey, source, min_images)
    channels = "rgb" if survey.in_colour else "grey"
    seen = f"chosen: {'some' if survey.in_colour else 'no'} image of the source is in colour"
    return {
        "id": id_,
        "title": survey.said.get("dataset_name", title_of(id_)),
        "citation": survey.said.get("citation", "this project"),
        "kind": "image-folder",
        "home": survey.said.get("source_url", "your own images"),
        "licence": survey.said.get("license", "not stated; fill it in before you publish"),
        "classes": len(sizes),
        "examples_per_class": _per_class(sizes, min_images),
        **_shape(survey, channels),
        "channels": sourced(channels, seen),
        "invert": sourced(value=False, source="chosen: pixels as they are"),
        "rotations": sourced("none", "chosen: images are never turned"),
        "splits": _splits(survey, sizes, source),
    }


def _per_class(sizes: Mapping[str, int], min_images: int | None) -> int | dict[str, Any]:
    least, most = min(sizes.values()), max(sizes.values())
    if min_images is not None:
        return {"min": max(min_images, LEAST_IMAGES), "max": most, "smaller": "leave-out"}
    return least if least == most else {"min": least, "max": most}


def _kept(survey: Survey, source: Path, min_images: int | None) -> dict[str, int]:
    """The number of images of each class that is kept. Raises UserError."""
    least = LEAST_IMAGES if min_images is None else max(min_images, LEAST_IMAGES)
    small = sorted((size, label) for label, size in survey.sizes.items() if size < least)
    if small and min_images is None:
        size, label = small[0]
        raise UserError(
            f"--source {source}: class '{label}' has {counted(size, 'image')}, but needs {least}: one to learn from "
            f"and one to test on; add images, or leave out such classes with --min-images {least}"
        )
    kept = {label: size for label, size in survey.sizes.items() if size >= least}
    if not kept:
        raise UserError(f"--source {source}: no class has {counted(least, 'image')}; lower --min-images")
    return kept


def _shape(survey: Survey, channels: str) -> dict[str, Any]:
    """Size, filter and crop: unchanged if all images are squares of one small size, else as the literature does."""
    (width, height), *others = survey.sides_px
    if not others and width == height <= SIZE_PX["rgb"]:
        seen = "chosen: every image of the source has this size"
        return {"image_size_px": sourced(width, seen), "resize": sourced("none", seen)}
    shorter = [min(sides) for sides, count in survey.sides_px.items() for _ in range(count)]
    size = max(4, min(SIZE_PX[channels], int(median(shorter))))
    where = "mini-ImageNet" if channels == "rgb" else "Omniglot"
    shape = {
        "image_size_px": sourced(size, f"chosen: at most the size of {where}'s images, and of the source's"),
        "resize": sourced("lanczos", "chosen: keeps detail where images get smaller"),
    }
    if any(width != height for width, height in survey.sides_px):
        shape["crop"] = sourced("centre", "chosen: keeps shapes undistorted; none stretches the whole image")
    return shape


def _splits(survey: Survey, sizes: Mapping[str, int], source: Path) -> dict[str, Any]:
    """The source's own splits; else a seeded shuffle with about three fifths of the classes for training."""
    kind: dict[str, Any]
    if None in survey.classes:
        held_out = max(round(len(sizes) / 5), min(5, len(sizes) // 3))
        counts = [len(sizes) - 2 * held_out, held_out, held_out]
        kind = {"kind": "seeded", "seed": 0}
        said = "chosen: a seeded shuffle, about three fifths of the classes for training"
    else:
        counts = [len(survey.classes[split].keys() & sizes.keys()) for split in SPLITS]
        kind, said = {"kind": "from-source"}, "chosen: as the source splits its classes"
    if min(counts) < LEAST_CLASSES:
        raise UserError(
            f"--source {source}: has {', '.join(map(str, counts))} classes for training, validation and test; each "
            f"needs at least {LEAST_CLASSES}; add classes, or name the folder of all classes"
        )
    return kind | dict(zip(SPLITS, counts, strict=True)) | {"source": said}
