"""Read Omniglot (Lake et al. 2015) from its two archives, packed or unpacked: check it and resize it in memory.

The checksums of the archives are of no use, since repacked copies hold the same drawings. So the content is checked:
alphabets, characters, drawers, and a hash over every decoded pixel.
"""

import contextlib
import hashlib
import http.client
import io
import re
import socket
import sys
import tempfile
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from norml_cli.data.sources import archives
from norml_cli.data.sources import images as pictures
from norml_cli.data.splits import ImageClasses, OnProgress
from norml_cli.files.errors import UserError, reason
from norml_cli.files.regular import open_regular
from norml_cli.files.suggestions import suggested
from norml_cli.registry.checks import OMNIGLOT_PX
from norml_cli.registry.entries import DatasetEntry

PARTS = ("images_background", "images_evaluation")
ALPHABETS = {1623: 50}  # characters -> alphabets of the whole data set; unknown for a declared subset
MAX_IMAGE_BYTES = 100_000  # chosen: over a hundred times a real drawing's file
TIMEOUT_S = 60  # chosen: gives up on a server that is silent for this long

_DRAWINGS = "*/character*/*.[pP][nN][gG]"  # inside a part's folder
_INSIDE_PART = re.compile(r"^([^/]+/character\d\d)/\d{4}_(\d\d)\.png$", re.IGNORECASE)
_INSIDE_ARCHIVE = re.compile(r"^(?!__MACOSX/)(?:[^/]+/)*?([^/]+/character\d\d)/\d{4}_(\d\d)\.png$", re.IGNORECASE)


@dataclass(frozen=True)
class _Drawing:
    """One PNG file: its character, its drawer, its name in messages, and a function that reads its bytes."""

    character: str  # Alphabet/characterNN
    drawer: int
    where: str
    read: Callable[[], bytes]


def read(entry: DatasetEntry, source: Path | None, progress: OnProgress) -> tuple[ImageClasses, str, str]:
    """All characters, sorted by name, the kind of source in words, and its SHA-256. Downloads it if `source` is None.

    Raises UserError with one line if the source is not the complete Omniglot that `entry` declares.
    """
    if source is not None:
        return _read_folder(entry, source, progress)
    with tempfile.TemporaryDirectory(prefix="norml-omniglot-") as folder:
        _download(entry, Path(folder))
        classes, _, sha256 = _read_folder(entry, Path(folder), progress)
        return classes, f"{entry.kind}, downloaded", sha256


def _read_folder(entry: DatasetEntry, source: Path, progress: OnProgress) -> tuple[ImageClasses, str, str]:
    drawings, text = _find_drawings(entry, source)
    _check_complete(entry, source, drawings)
    classes, sha256 = _decode_all(entry, drawings, progress)
    return classes, text, sha256


# ------------------------------------------------------------------------------------------------ finding the drawings


def _find_drawings(entry: DatasetEntry, source: Path) -> tuple[dict[str, dict[int, _Drawing]], str]:
    """Drawings by character and drawer, and the kind of source in words. Raises UserError."""
    places = _places(entry, source)
    drawings: dict[str, dict[int, _Drawing]] = {}
    for path in places:
        count = 0
        for drawing in _in_folder(path) if path.is_dir() else _in_archive(path):
            drawers = drawings.setdefault(drawing.character, {})
            if drawing.drawer in drawers:
                raise UserError(f"{drawing.where}: second drawing by drawer {drawing.drawer:02d}; remove one")
            drawers[drawing.drawer] = drawing
            count += 1
        if not count:
            raise UserError(
                f"{path}: not Omniglot: no drawing <Alphabet>/characterNN/NNNN_MM.png here; unpack the archives inside "
                f"it, or see {entry.home}"
            )
    return drawings, f"{entry.kind}, {_kinds(places)}"


def _kinds(places: Sequence[Path]) -> str:
    """'two zips', 'a zip and a folder'."""
    kinds = ["folder" if path.is_dir() else "zip" if path.suffix.lower() == ".zip" else "tar" for path in places]
    if len(kinds) > 1 and len(set(kinds)) == 1:
        return f"{'two' if len(kinds) == len(PARTS) else len(kinds)} {kinds[0]}s"
    return " and ".join(f"a {kind}" for kind in sorted(set(kinds), reverse=True))


def _wanted() -> list[str]:
    return [f"{part}.zip" for part in PARTS]


def _places(entry: DatasetEntry, source: Path) -> list[Path]:
    """The archives or folders of the drawings, up to three levels down. Raises UserError.

    These are the two parts, or else folders of alphabets, or else the only archive.
    """
    if archives.is_archive(source) and archives.stem(source) not in PARTS:
        return [source]
    if not source.is_dir():
        what = "this is a file" if source.exists() else "does not exist"
        raise UserError(f"--source {source}: {what}; name the folder of {' and '.join(_wanted())}")
    below = [path for pattern in ("*", "*/*", "*/*/*") for path in sorted(source.glob(pattern))]
    folders = [path for path in (source, *below) if path.is_dir()]
    parts = {part: place for part in PARTS if (place := _place_of(part, folders)) is not None}
    if len(parts) == len(PARTS):
        return list(parts.values())
    whole = [folder for folder in folders if any(folder.glob(_DRAWINGS))]
    packed = [path for path in below if archives.is_archive(path)]
    if not parts and (whole or len(packed) == 1):
        return whole or packed
    wanted = " and ".join(f"{part}.zip (or the folder {part})" for part in PARTS if part not in parts)
    raise UserError(f"--source {source}: no {wanted} here; get it from {entry.home}")


def _place_of(part: str, folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        packed = next((path for suffix in archives.SUFFIXES if (path := folder / f"{part}{suffix}").is_file()), None)
        if packed is not None or (folder / part).is_dir():
            return packed or folder / part
    return None


def _in_folder(folder: Path) -> Iterator[_Drawing]:
    for path in sorted(folder.glob(_DRAWINGS)):
        match = _INSIDE_PART.match(path.relative_to(folder).as_posix())
        if match:
            yield _Drawing(match[1], int(match[2]), str(path), lambda path=path: _limited(path))  # type: ignore[misc]


def _limited(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(MAX_IMAGE_BYTES)


def _in_archive(path: Path) -> Iterator[_Drawing]:
    """The drawings in an archive, in any folder."""
    for name, data in archives.read_files(path, lambda name: MAX_IMAGE_BYTES if _INSIDE_ARCHIVE.match(name) else None):
        match = _INSIDE_ARCHIVE.match(name)
        assert match is not None  # noqa: S101 - the limit skips all other files
        yield _Drawing(match[1], int(match[2]), f"{path}: {name}", lambda data=data: data)  # type: ignore[misc]


def _check_complete(entry: DatasetEntry, source: Path, drawings: dict[str, dict[int, _Drawing]]) -> None:
    """Raises UserError unless these are the declared characters, each drawn by each of the drawers 1..P."""
    expected = set(range(1, entry.class_sizes.max + 1))
    for character, drawers in sorted(drawings.items()):
        wrong = sorted(expected.symmetric_difference(drawers))
        if wrong:
            state = "missing" if wrong[0] in expected else "unexpected"
            raise UserError(
                f"{source}: {character}: drawer {wrong[0]:02d} is {state}; get the originals from {entry.home}"
            )
    alphabets = {character.split("/")[0] for character in drawings}
    known = ALPHABETS.get(entry.classes, len(alphabets))
    if len(drawings) != entry.classes or len(alphabets) != known:
        raise UserError(
            f"{source}: {len(drawings):,} characters of {len(alphabets)} alphabets, but '{entry.id}' declares "
            f"{entry.classes:,} of {known}; get the originals from {entry.home}"
        )


# ------------------------------------------------------------------------------------------------- decoding, resizing


def _decode_all(
    entry: DatasetEntry, drawings: dict[str, dict[int, _Drawing]], progress: OnProgress
) -> tuple[ImageClasses, str]:
    """The resized images, and the SHA-256 (hex) over names and 1-bit pixels of the originals, in sorted order."""
    digest = hashlib.sha256()
    size, names = entry.image_size_px.value, tuple(sorted(drawings))
    images = np.empty((len(names), entry.class_sizes.max, size, size), np.uint8)
    total = len(names) * entry.class_sizes.max
    for index, name in enumerate(names):
        for drawer, drawing in sorted(drawings[name].items()):
            raw = _decode(drawing)
            digest.update(f"{name}/{drawer:02d}\n".encode())
            digest.update(np.packbits(np.asarray(raw)).tobytes())  # row by row; a set bit is paper
            images[index, drawer - 1] = resized(raw, size, entry.resize.value, invert=entry.invert.value)
        progress((index + 1) * entry.class_sizes.max, total)
    return ImageClasses(names, images), digest.hexdigest()


def _decode(drawing: _Drawing) -> Image.Image:
    """The drawing as a 1-bit image, ink = 0."""
    try:
        data = drawing.read()
    except OSError as error:
        raise UserError(f"{drawing.where}: cannot be read ({reason(error)}); download it again") from None
    return pictures.decoded(data, drawing.where, ("PNG",), _fault).convert("1", dither=Image.Dither.NONE)


def _fault(image: Image.Image) -> str | None:
    if image.size != (OMNIGLOT_PX, OMNIGLOT_PX):
        return f"{image.width} x {image.height} px, expected {OMNIGLOT_PX} x {OMNIGLOT_PX}"
    if image.mode not in {"1", "L"} or (image.mode == "L" and set(np.unique(np.asarray(image))) - {0, 255}):
        return f"not a black and white drawing (mode {image.mode})"
    return None


def resized(raw: Image.Image, size_px: int, resize: str, *, invert: bool) -> NDArray[np.uint8]:
    """Resize a 1-bit drawing to uint8 [size_px, size_px]. invert: ink = 255.

    `lanczos` converts to grey levels first: for 1-bit images, Pillow silently uses NEAREST instead of any filter.
    """
    if resize == "nearest":
        raw = raw.resize((size_px, size_px), Image.Resampling.NEAREST)
    grey = raw.convert("L")
    if resize == "lanczos":
        grey = grey.resize((size_px, size_px), Image.Resampling.LANCZOS)
    pixels = np.asarray(grey, dtype=np.uint8)
    return 255 - pixels if invert else pixels


# --------------------------------------------------------------------------------------------------------- downloading


def _download(entry: DatasetEntry, folder: Path) -> None:
    """Download both archives into `folder` with torchvision, which has their addresses and MD5. Raises UserError."""
    from torchvision.datasets import Omniglot  # noqa: PLC0415 - loads torch, needed for downloads only
    from torchvision.datasets.utils import download_url  # noqa: PLC0415 - as above

    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # torchvision sets none, and would wait for a silent server forever
    try:
        for part in PARTS:
            url = f"{Omniglot.download_url_prefix}/{part}.zip"
            with _bar_only_on_a_terminal():
                download_url(url, str(folder), md5=Omniglot.zips_md5[part])
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # its response keeps the connection open
        raise UserError(
            f"cannot download {url} ({reason(error)}); get {' and '.join(_wanted())} from {entry.home}, then run "
            f"{suggested(f'norml prepare {entry.id} --source FOLDER')}"
        ) from None
    finally:
        socket.setdefaulttimeout(patience)


def _bar_only_on_a_terminal() -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
