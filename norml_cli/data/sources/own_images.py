"""Read the user's own images for `norml classify`: labelled images in class folders, and images to classify.

They get the channels, size, filter, crop and inversion of the learner's data set. The EXIF orientation is always
applied.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image

from norml_cli.data.sources.class_index import by_class_folders
from norml_cli.data.sources.found_files import File, SourceFiles, content, in_folder, kind_of
from norml_cli.data.sources.image_classes import MAX_PHOTO_BYTES, Pixels, Watch, decoded, fitted
from norml_cli.files.errors import UserError, counted
from norml_cli.registry.entries import DatasetEntry

THUMBNAIL_PX = 96


@dataclass(frozen=True)
class OwnImage:
    """An image: its path in its folder, its pixels in the form of the learner's data set, and a small PNG."""

    name: str
    pixels: Pixels
    thumbnail: bytes = b""


class OwnImages:
    """Reads image files in the form that `entry` declares."""

    def __init__(self, entry: DatasetEntry, *, thumbnails: bool) -> None:
        self._watch, self._thumbnails = Watch(entry, 0, lambda _done, _total: None), thumbnails

    def read(self, files: Sequence[File]) -> list[OwnImage]:
        """The images of `files`. Raises UserError for an image that is unreadable, or not as `entry` declares."""
        return [self._read(file) for file in files]

    def _read(self, file: File) -> OwnImage:
        image = decoded(self._watch, file, upright=True)
        pixels = fitted(self._watch.entry, image)
        if pixels.min() == pixels.max():
            self._watch.note("images of one colour", file.where)
        return OwnImage(str(file.place), pixels, _thumbnail(image) if self._thumbnails else b"")

    @property
    def remarks(self) -> list[str]:
        """Lines on odd images among those read, such as images of one colour."""
        return self._watch.notes()


def _thumbnail(image: Image.Image) -> bytes:
    small, target = image.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    small.save(target, "PNG", optimize=True)
    return target.getvalue()


def support_files(folder: Path) -> dict[str, list[File]]:
    """The files of each class in a folder of class folders, sorted by class name.

    Raises UserError, also if the classes differ in size.
    """
    found = _found(folder, "--support")
    if not found.images:
        raise UserError(
            f"--support {folder}: no images here; name a folder with one subfolder of images for each class"
        )
    classes = by_class_folders(found.images, found.empty_folders).classes.get(None, {})
    _require_equal(folder, classes)
    return dict(sorted(classes.items()))


def _require_equal(folder: Path, classes: Mapping[str, Sequence[File]]) -> None:
    sizes = {label: len(files) for label, files in sorted(classes.items())}
    least, most = (of(sizes, key=sizes.__getitem__) for of in (min, max))
    if not sizes[least]:
        raise UserError(f"--support {folder}: class '{least}' has no images; add some, or remove its folder")
    if len(sizes) == 1:
        raise UserError(f"--support {folder}: only one class, '{least}'; name a folder of two or more class folders")
    if sizes[least] != sizes[most]:
        raise UserError(
            f"--support {folder}: class '{least}' has {counted(sizes[least], 'image')}, but '{most}' has "
            f"{sizes[most]:,}; give every class the same number"
        )


def query_files(source: Path) -> list[File]:
    """The image files anywhere in the folder `source`, or the image file `source`. Raises UserError."""
    if source.is_file():
        if kind_of(source.name) != "image":
            raise UserError(f"--query {source}: not an image; name a folder, or a jpg, png, bmp or webp file")
        return [File(PurePosixPath(source.name), str(source), partial(content, source, MAX_PHOTO_BYTES))]
    found = _found(source, "--query")
    if not found.images:
        raise UserError(f"--query {source}: no images here; name the folder of the images to classify")
    return found.images


def _found(folder: Path, option: str) -> SourceFiles:
    if not folder.is_dir():
        raise UserError(f"{option} {folder}: {'not a folder' if folder.exists() else 'does not exist'}; name a folder")
    return in_folder(folder, MAX_PHOTO_BYTES, links_out=False)[0]
