"""One image file, opened and decoded by Pillow, with one clear line for whatever is wrong with it."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable

from PIL import Image, ImageOps

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
    web_pages.refuse(where, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # more is printed by nobody
            with Image.open(io.BytesIO(data), formats=formats) as image:
                found = fault(image)
                if found is None:
                    image.load()
                    return ImageOps.exif_transpose(image) if upright else image
    except _DAMAGED as error:
        *others, last = formats
        kinds = f"{', '.join(others)} or {last}" if others else last
        found = f"not a complete {kinds} image ({reason(error)})"
    raise UserError(f"{where}: {found}; get the original")
