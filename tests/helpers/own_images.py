"""A folder as people have one: 30 classes of 8 to 25 images of mixed formats, sizes and modes."""

from tests.helpers.photos import Files, photo

SIZES = {f"class-{number:02d}": 8 + 17 * number // 29 for number in range(30)}
KINDS = [("JPEG", "jpg"), ("PNG", "png"), ("BMP", "bmp"), ("WEBP", "webp")]
MODES = ["RGB", "L"]


def own_images() -> Files:
    """Every image by its place, `<class>/<number>.<suffix>`."""
    return {
        f"{name}/{number}.{KINDS[number % 4][1]}": photo(
            f"{name}/{number}", 10 + number, mode=MODES[number // 4 % 2], kind=KINDS[number % 4][0]
        )
        for name, size in SIZES.items()
        for number in range(size)
    }
