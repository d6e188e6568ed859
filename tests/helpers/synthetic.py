"""A made Omniglot: the real layout with few characters, each drawing a picture of its own, and its registry entries."""

import random
import zipfile
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from norml_cli.data.sources.omniglot import PARTS
from norml_cli.registry.checks import OMNIGLOT_PX as RAW_SIZE_PX
from norml_cli.registry.entries import DatasetEntry
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.registry.resolving import Registry
from tests.helpers.tiny import read, with_changes, write_entry

CHARACTERS = {"images_background": ["Aleph", "Braille"], "images_evaluation": ["Zigzag"]}  # alphabets of each part
PER_ALPHABET = 4
DRAWERS = 3
CLASSES = 3 * PER_ALPHABET


def drawing(seed: str, *, size_px: int = RAW_SIZE_PX, mode: str = "1") -> Image.Image:
    """Black strokes on white, as Omniglot's files are."""
    points = random.Random(seed)  # noqa: S311 - pictures, not secrets
    image = Image.new(mode, (size_px, size_px), 1 if mode == "1" else 255)
    stroke = [(points.randrange(10, size_px - 10), points.randrange(10, size_px - 10)) for _ in range(5)]
    ImageDraw.Draw(image).line(stroke, fill=0, width=3)
    return image


def png(image: Image.Image) -> bytes:
    target = BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def members(part: str) -> dict[str, bytes]:
    """The files of a part by name, `<part>/<Alphabet>/characterNN/NNNN_MM.png`."""
    files = {}
    for alphabet in CHARACTERS[part]:
        for character in range(1, PER_ALPHABET + 1):
            for drawer in range(1, DRAWERS + 1):
                name = f"{alphabet}/character{character:02d}"
                files[f"{part}/{name}/{character:04d}_{drawer:02d}.png"] = png(drawing(f"{name}/{drawer}"))
    return files


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_zips(folder: Path) -> Path:
    """The source as two archives."""
    for part in PARTS:
        write_zip(folder / f"{part}.zip", members(part))
    return folder


def write_folders(folder: Path) -> Path:
    """The source as two unpacked archives."""
    for part in PARTS:
        for name, data in members(part).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return folder


def entry_values(**changes: object) -> dict[str, object]:
    """The built-in Omniglot entry cut down, as `made-omniglot`; `changes` by key, `a__b` for key b under a."""
    values = read("datasets/omniglot.yaml")
    values.update(id="made-omniglot", classes=CLASSES, examples_per_class=DRAWERS, source_sha256=None)
    values["splits"].update(meta_train=6, meta_val=3, meta_test=3)
    return with_changes(values, changes)


def entry(**changes: object) -> DatasetEntry:
    return DatasetEntry.model_validate(entry_values(**changes))


def write_registry(folder: Path, **changes: object) -> Registry:
    """The built-in registry with the made data set and a 3-way 1-shot benchmark on it."""
    benchmark = read("benchmarks/glyphs-5way.yaml")
    benchmark.update(id="made-3way", dataset="made-omniglot", shots=[1])
    for key, value in {"n_way": 3, "validation_episodes": 20, "test_episodes": 30}.items():
        benchmark["protocol"][key]["value"] = value
    del benchmark["protocol_by_shots"][5]
    write_entry(folder, "datasets", entry_values(**changes))
    write_entry(folder, "benchmarks", benchmark)
    return read_registry([builtin_registry(), folder])
