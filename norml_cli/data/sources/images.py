"""One image file, opened and decoded by Pillow, with one clear line for whatever is wrong with it."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial

from PIL import ExifTags, Image, ImageOps

from norml_cli.data.sources import web_pages
from norml_cli.files.errors import UserError, reason

_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

SIDEWAYS = {5, 6, 7, 8}  # EXIF orientations that swap width and height


def decoded(
    data: bytes,
    where: str,
    formats: tuple[str, ...],
    fault: Callable[[Image.Image], str | None],
    *,
    upright: bool = False,
) -> Image.Image:
    """The image in `data`, if it is of one of Pillow's `formats` and `fault` finds none in its header.

    upright: turned as its EXIF orientation says. Raises UserError that names `where`.
    """
    with _opened(data, where, formats, fault) as image:
        image.load()
        return ImageOps.exif_transpose(image) if upright else image


def header(data: bytes, where: str, formats: tuple[str, ...], modes: Collection[str]) -> tuple[tuple[int, int], str]:
    """Width and height as the image is seen, and its mode, undecoded. Raises UserError as `decoded`."""
    with _opened(data, where, formats, partial(mode_fault, modes)) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS
        return (image.height, image.width) if turned else image.size, image.mode


def mode_fault(modes: Collection[str], image: Image.Image) -> str | None:
    """What is wrong with an image of another mode."""
    return None if image.mode in modes else f"of mode {image.mode}, expected RGB or grey of 8 bits"


@contextmanager
def _opened(
    data: bytes, where: str, formats: tuple[str, ...], fault: Callable[[Image.Image], str | None]
) -> Iterator[Image.Image]:
    """The image, its header read. Raises UserError, also for what goes wrong while it is used."""
    web_pages.refuse(where, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # more is printed by nobody
            with Image.open(io.BytesIO(data), formats=formats) as image:
                found = fault(image)
                if found is None:
                    yield image
                    return
    except _DAMAGED as error:
        *others, last = formats
        kinds = f"{', '.join(others)} or {last}" if others else last
        found = f"not a complete {kinds} image ({reason(error)})"
    raise UserError(f"{where}: {found}; get the original")
