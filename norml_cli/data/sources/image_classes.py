"""Decode image files class by class into the form that an entry declares, and note what is found on the way.

One thread decodes. A small image takes 0.1 ms, most of it in the interpreter: a second thread gained nothing when
measured.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from norml_cli.data.sources import images as pictures
from norml_cli.data.sources.class_index import NAMES
from norml_cli.data.sources.found_files import File
from norml_cli.data.splits import SPLITS, OnProgress, SplitName
from norml_cli.files.errors import UserError
from norml_cli.registry.entries import DatasetEntry, SourceSplit

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
MODES = {"RGB", "L", "CMYK", "P", "1", "LA", "RGBA", "PA"}  # of 8 bits a channel or fewer
MAX_IMAGE_BYTES = 200_000  # for images that are not resized. Chosen: nearly ten times the pixels of an 84 x 84 image
MAX_PHOTO_BYTES = 50_000_000  # for images that are resized. Chosen: over twice a camera's largest JPEG

Pixels = NDArray[np.uint8]


def max_image_bytes(entry: DatasetEntry) -> int:
    """The most bytes that an image file of the data set may have."""
    return MAX_IMAGE_BYTES if entry.kind == "mini-imagenet" and entry.resize.value == "none" else MAX_PHOTO_BYTES


@dataclass
class Watch:
    """Observes classes as they are read: counts images, hashes the source, finds duplicates and odd images."""

    entry: DatasetEntry
    total: int
    progress: OnProgress
    done: int = 0
    split_of: dict[str, SplitName] = field(default_factory=dict)  # by label
    seen: dict[bytes, Counter[SplitName]] = field(default_factory=dict)  # pixel hash -> number of images by split
    raw: dict[str, "hashlib._Hash"] = field(default_factory=dict)  # by class, over its images before resizing
    noted: dict[str, list[str]] = field(default_factory=dict)  # what was noted -> the files

    def add_raw(self, split: SplitName, label: str, image: Image.Image, where: str) -> None:
        """Add an image of the source, before resizing."""
        name = f"{split}/{label}" if isinstance(self.entry.splits, SourceSplit) else label
        digest = self.raw.setdefault(name, hashlib.sha256())
        digest.update(f"{image.mode} {image.width} x {image.height}\n".encode())
        digest.update(image.tobytes())
        darkest, brightest = np.atleast_2d(image.getextrema()).T  # per channel
        if (darkest == brightest).all():
            self.note("images of one colour", where)

    def note(self, what: str, where: str) -> None:
        """Note something to report about the file `where`."""
        self.noted.setdefault(what, []).append(where)

    def add(self, split: SplitName, label: str, images: Pixels) -> None:
        """Add a class in the form that the cache stores. Raises UserError if the class is in two splits."""
        if self.split_of.setdefault(label, split) != split:
            raise UserError(
                f"class '{label}' is in {NAMES[self.split_of[label]]} and in {NAMES[split]}; get files whose splits "
                "share no class"
            )
        for image in images:
            self.seen.setdefault(blake2b(image, digest_size=16).digest(), Counter())[split] += 1
        self.done += len(images)
        self.progress(self.done, self.total)

    def source_sha256(self) -> str:
        """SHA-256 (hex) over names and decoded pixels of all classes, before resizing."""
        lines = [f"{name}\n{digest.hexdigest()}\n" for name, digest in sorted(self.raw.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def remarks(self) -> list[str]:
        """Lines to print: the notes, and one on duplicates."""
        return [*self.notes(), self._duplicates()]

    def notes(self) -> list[str]:
        """A line for each kind of note."""
        return [f"{what}: {len(places):,}, first {places[0]}" for what, places in sorted(self.noted.items())]

    def _duplicates(self) -> str:
        """A line with the number of pairs of images with the same pixels, within and between splits."""
        pairs: Counter[str] = Counter()
        for places in self.seen.values():
            for first, second in combinations_with_replacement(sorted(places, key=SPLITS.index), 2):
                n, m = places[first], places[second]
                where = (
                    f"within {_split_words(first)}"
                    if first == second
                    else f"between {_split_words(first)} and {_split_words(second)}"
                )
                pairs[where] += n * (n - 1) // 2 if first == second else n * m
        found = [f"{count} {where}" for where, count in sorted(pairs.items()) if count]
        return f"pairs of images with the same pixels: {', '.join(found) or 'none'}"


def _split_words(split: SplitName) -> str:
    return split.replace("_", "-")


@dataclass(frozen=True)
class ImageStream:
    """The classes of a split. Iterating decodes the images."""

    watch: Watch
    split: SplitName
    sizes: tuple[int, ...]
    raw_classes: Callable[[], Iterator[tuple[str, Iterator[tuple[Image.Image, str]], int]]]

    @property
    def example_shape(self) -> tuple[int, ...]:
        """[height, width] or [height, width, 3]."""
        entry = self.watch.entry
        return (entry.image_size_px.value,) * 2 + ((3,) if entry.in_colour else ())

    def __iter__(self) -> Iterator[tuple[str, Pixels]]:
        """Yield each class's name and its images. Raises UserError."""
        for label, raw_images, n_images in self.raw_classes():
            images = np.empty((n_images, *self.example_shape), np.uint8)
            for index, (raw, where) in enumerate(raw_images):
                self.watch.add_raw(self.split, label, raw, where)
                images[index] = fitted(self.watch.entry, raw)
            self.watch.add(self.split, label, images)
            yield label, images


def stream_of_files(watch: Watch, split: SplitName, classes: dict[str, list[File]]) -> ImageStream:
    """A stream of classes whose images are files."""

    def raw_classes() -> Iterator[tuple[str, Iterator[tuple[Image.Image, str]], int]]:
        for label in sorted(classes):
            files = classes[label]
            yield label, ((decoded(watch, file), file.where) for file in files), len(files)

    return ImageStream(watch, split, tuple(len(classes[label]) for label in sorted(classes)), raw_classes)


def decoded(watch: Watch, file: File, *, upright: bool | None = None) -> Image.Image:
    """Decode a file, in the declared channels and its own size. Raises UserError.

    upright: whether to apply the EXIF orientation; None: only for data sets of kind image-folder.
    """
    entry = watch.entry
    if upright is None:
        upright = entry.kind == "image-folder"  # mini-ImageNet stays as every paper has read it
    image = pictures.decoded(file.read(), file.where, FORMATS, partial(_fault, entry), upright=upright)
    if image.has_transparency_data:
        background = "white" if entry.background is None else entry.background.value
        watch.note(f"transparent images, put on a {background} background", file.where)
        ground = Image.new("RGBA", image.size, background)
        ground.alpha_composite(image.convert("RGBA"))
        image = ground
    mode = "RGB" if entry.in_colour else "L"
    return image if image.mode == mode else image.convert(mode)


def _fault(entry: DatasetEntry, image: Image.Image) -> str | None:
    size = entry.image_size_px.value
    if entry.resize.value == "none" and image.size != (size, size):
        return f"{image.width} x {image.height} px, expected {size} x {size}; declare resize to resize it"
    return pictures.mode_fault(MODES, image)


def fitted(entry: DatasetEntry, image: Image.Image) -> Pixels:
    """Crop, resize and invert as declared. Returns uint8 [height, width] or [height, width, 3]."""
    size, crop = entry.image_size_px.value, entry.crop is not None and entry.crop.value == "centre"
    if entry.resize.value != "none":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side) if crop else None
        image = image.resize((size, size), Image.Resampling[entry.resize.value.upper()], box=box)
    pixels = np.asarray(image, dtype=np.uint8)
    return 255 - pixels if entry.invert.value else pixels
