"""Open and decode one image file with Pillow, with one clear error line for any fault."""

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
    """Decode the image in `data`, which must be in one of Pillow's `formats`.

    fault: checks the opened image; returns what is wrong, or None.
    upright: whether to apply the EXIF orientation. Raises UserError, which names `where`.
    """
    with _opened(data, where, formats, fault) as image:
        image.load()
        return ImageOps.exif_transpose(image) if upright else image


def header(data: bytes, where: str, formats: tuple[str, ...], modes: Collection[str]) -> tuple[tuple[int, int], str]:
    """The displayed width and height, and the mode, without decoding. Raises UserError where `decoded` does."""
    with _opened(data, where, formats, partial(mode_fault, modes)) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS
        return (image.height, image.width) if turned else image.size, image.mode


def mode_fault(modes: Collection[str], image: Image.Image) -> str | None:
    """What is wrong if the image's mode is not in `modes`, or None."""
    return None if image.mode in modes else f"mode {image.mode}, expected RGB or grey with 8 bits"


@contextmanager
def _opened(
    data: bytes, where: str, formats: tuple[str, ...], fault: Callable[[Image.Image], str | None]
) -> Iterator[Image.Image]:
    """Open the image and read its header. Raises UserError, also for faults while the image is in use."""
    web_pages.refuse(where, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # a warning would only be printed
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
