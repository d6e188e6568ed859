"""Survey a folder or archive of images before an entry exists: classes, sizes, channels."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from norml_cli.data.sources import images as pictures
from norml_cli.data.sources.class_index import NAMES
from norml_cli.data.sources.found_files import File, SourceFiles
from norml_cli.data.sources.image_classes import FORMATS, MAX_PHOTO_BYTES, MODES
from norml_cli.data.sources.image_folder import FORMS, found_in, index_of
from norml_cli.data.splits import SPLITS, SplitName
from norml_cli.files.errors import UserError

GREY_MODES = {"1", "L", "LA"}


@dataclass(frozen=True)
class Survey:
    """What the source holds. classes: the number of images of each class by split; None: the split is not given."""

    form: str
    classes: Mapping[SplitName | None, Mapping[str, int]]
    sides_px: Mapping[tuple[int, int], int]  # images by (width, height)
    in_colour: bool
    said: Mapping[str, str]  # the texts of Meta-Album's info.json
    remarks: list[str]

    @property
    def sizes(self) -> dict[str, int]:
        """The number of images of each class."""
        return {label: size for classes in self.classes.values() for label, size in classes.items()}

    @property
    def text(self) -> str:
        """The survey in one line."""
        widths, heights = zip(*self.sides_px, strict=True)
        least, most = min(self.sizes.values()), max(self.sizes.values())
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        sides = f"{min(widths)} x {min(heights)}"
        sides += f" to {max(widths)} x {max(heights)}" if len(self.sides_px) > 1 else ""
        channels = "some in colour" if self.in_colour else "grey"
        return f"{self.form}: {len(self.sizes):,} classes of {each} images, {sides} px, {channels}"


def look_at(source: Path) -> Survey:
    """Read the header of every image. Raises UserError with one line if no data set can be made of the source."""
    found = found_in(source, MAX_PHOTO_BYTES, FORMS, links_out=False)
    if not found.images:
        passed = "; ".join(found.remark()) or "it is empty"
        raise UserError(f"--source {source}: no jpg, png, bmp or webp images here ({passed}); name {FORMS}")
    index = index_of(None, source, found)
    index.require_disjoint(source)
    _require_classes(source, index.classes)
    sides, modes = Counter[tuple[int, int]](), Counter[str]()
    for file in (file for classes in index.classes.values() for files in classes.values() for file in files):
        size, mode = pictures.header(file.read(), file.where, FORMATS, MODES)
        sides[size] += 1
        modes[mode] += 1
    return Survey(
        form=f"{found.text} {index.kind}",
        classes={split: {label: len(files) for label, files in each.items()} for split, each in index.classes.items()},
        sides_px=sides,
        in_colour=bool(modes.keys() - GREY_MODES),
        said=_said(found),
        remarks=[*found.remark(), *index.remarks],
    )


def _require_classes(source: Path, classes: Mapping[SplitName | None, Mapping[str, list[File]]]) -> None:
    for label in sorted(label for each in classes.values() for label, files in each.items() if not files):
        raise UserError(f"--source {source}: class '{label}' has no images; add some, or remove its folder")
    missing = [NAMES[split] for split in SPLITS if split not in classes]
    if None in classes and len(classes) > 1:
        raise UserError(f"--source {source}: gives the split of some classes only; give it for all or for none")
    if missing and None not in classes:
        raise UserError(f"--source {source}: no classes in {' and in '.join(missing)}; move some there")


def _said(found: SourceFiles) -> dict[str, str]:
    try:
        said = {} if found.info is None else json.loads(found.info.read())
    except (ValueError, RecursionError):
        return {}
    texts = said.items() if isinstance(said, dict) else ()
    return {key: " ".join(value.split()) for key, value in texts if isinstance(value, str) and value.strip()}
