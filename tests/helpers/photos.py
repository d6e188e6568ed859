"""A made mini-ImageNet: small JPEGs of random colours in every form of the real one, and its registry entry."""

import csv
import io
import pickle
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from norml_cli.registry.entries import DatasetEntry
from tests.helpers.tiny import read, with_changes, write_entry

SIZE_PX = 12
PER_CLASS = 4
CLASSES = {"train": 3, "val": 2, "test": 2}
LABELS = {
    name: [f"n{number:08d}" for number in range(100 * place, 100 * place + count)]
    for place, (name, count) in enumerate(CLASSES.items(), start=1)
}

Files = dict[str, bytes]  # by name


def photo(seed: str, size_px: int = SIZE_PX, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """An image file of a random gradient."""
    draw = random.Random(seed)  # noqa: S311 - pictures, not secrets
    corners = np.array([[[draw.randrange(256) for _ in range(3)] for _ in range(2)] for _ in range(2)], np.uint8)
    image = Image.fromarray(corners).resize((size_px, size_px), Image.Resampling.BILINEAR).convert(mode)
    target = io.BytesIO()
    image.save(target, kind)
    return target.getvalue()


def names(label: str) -> list[str]:
    return [f"{label}{number:08d}.jpg" for number in range(1, 10 * PER_CLASS, 10)]


def images(name: str) -> Files:
    """The images of a split."""
    return {file: photo(file) for label in LABELS[name] for file in names(label)}


def table(name: str) -> bytes:
    """A split's csv file."""
    target = io.StringIO()
    rows = csv.writer(target, lineterminator="\n")
    rows.writerow(["filename", "label"])
    rows.writerows((file, label) for label in LABELS[name] for file in names(label))
    return target.getvalue().encode()


def tables() -> Files:
    return {f"{name}.csv": table(name) for name in CLASSES}


def with_images(folder: str = "images/") -> Files:
    """Every image, in `folder`, and the three csv files."""
    return {**tables(), **{f"{folder}{file}": data for name in CLASSES for file, data in images(name).items()}}


def class_folders(only: str | None = None) -> Files:
    """<split>/<label>/<file> of one split or of all."""
    return {
        f"{name}/{label}/{file}": photo(file)
        for name in CLASSES
        if only in {None, name}
        for label in LABELS[name]
        for file in names(label)
    }


def write_files(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_tar(path: Path, files: Files, *more: tarfile.TarInfo) -> Path:
    """A tar archive, compressed as its name says; `more` are members without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2", ".tgz": "w:gz", ".txz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, kind) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info)
    return path


def write_zip(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def pixels(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def cache(name: str) -> dict[str, object]:
    """What a split's pickle holds."""
    return {
        "image_data": np.stack([pixels(data) for data in images(name).values()]),
        "class_dict": {
            label: list(range(place * PER_CLASS, (place + 1) * PER_CLASS)) for place, label in enumerate(LABELS[name])
        },
    }


def pickle_name(name: str) -> str:
    return f"mini-imagenet-cache-{name}.pkl"


def pickles(protocol: int = 4) -> Files:
    return {pickle_name(name): pickle.dumps(cache(name), protocol) for name in CLASSES}


def python_2_pickles() -> Files:
    """As Python 2 writes them in protocol 2: every text and every array's content is a string of bytes."""
    return {pickle_name(name): _as_python_2(cache(name)) for name in CLASSES}


def _as_python_2(content: dict[str, object]) -> bytes:
    array, places = content["image_data"], content["class_dict"]
    assert isinstance(array, np.ndarray)
    assert isinstance(places, dict)
    shape = b"(" + b"".join(b"J" + struct.pack("<i", size) for size in array.shape) + b"t"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = array.tobytes()
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    made += b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    classes = b"}("
    for label, indices in places.items():
        classes += b"U" + bytes([len(label)]) + label.encode() + b"](" + b"".join(b"K%c" % i for i in indices) + b"e"
    return b"\x80\x02}(U\x0aimage_data" + made + b"U\x0aclass_dict" + classes + b"uu."


def entry_values(**changes: object) -> dict[str, object]:
    """The built-in entry cut down, as `made-mini`; `changes` by key, `a__b` for key b under a."""
    values = read("datasets/mini-imagenet.yaml")
    values.update(id="made-mini", classes=sum(CLASSES.values()), examples_per_class=PER_CLASS)
    values["image_size_px"]["value"] = SIZE_PX
    values["splits"].update({f"meta_{name}": count for name, count in CLASSES.items()})
    return with_changes(values, changes)


def entry(**changes: object) -> DatasetEntry:
    return DatasetEntry.model_validate(entry_values(**changes))


def write_registry(folder: Path, **changes: object) -> Path:
    """A registry folder with the made data set and recipe."""
    write_entry(folder, "datasets", entry_values(**changes))
    write_entry(folder, "recipes", recipe_values())
    return folder


def benchmark_values(**changes: object) -> dict[str, object]:
    """The built-in benchmark on features cut down to runs of a second, as `made-2way`; `changes` by key."""
    small = {
        "backbone": "made-recipe",
        "n_way": 2,
        "queries_per_class": 2,
        "inner_steps": 2,
        "inner_steps_test": 3,
        "meta_batch_size": 2,
        "outer_steps": 5,
        "validate_every": 2,
        "validation_episodes": 20,
        "test_episodes": 40,
    }
    protocol = {key: {"value": value, "source": "chosen: for tests"} for key, value in (small | changes).items()}
    entry = {"id": "made-2way", "title": "Made 2-way", "like": "mini-imagenet-5way-narrow", "dataset": "made-mini"}
    return {**entry, "shots": [1, 2], "protocol": protocol}


def recipe_values(**changes: object) -> dict[str, object]:
    """The built-in narrow recipe cut down to steps of milliseconds, as `made-recipe`; `changes` by key."""
    values = read("recipes/resnet12-narrow.yaml")
    values["id"] = "made-recipe"
    small = {
        "input_size_px": 16,
        "widths": [4, 4, 4, 6],
        "drop_rate": 0.1,
        "crop_padding_px": 2,
        "colour_jitter": 0.4,
        "images_per_draw": 2,
        "batch_size": 4,
        "steps": 7,
        "learning_rate": 0.01,
        "validations": 3,
        "n_way": 2,
        "shots": [1, 2],
        "queries_per_class": 2,
        "validation_episodes": 20,
        "precision": "float32",  # not what a trial on a shared machine finds
    }
    for key, value in (small | changes).items():
        values["recipe"].setdefault(key, {"source": "chosen: made"})["value"] = value
    return values
