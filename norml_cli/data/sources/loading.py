"""Raw sources -> images by class, checked and split: Omniglot, mini-ImageNet, any images, and glyphs from a seed."""

from pathlib import Path

from norml_cli.data.splits import LoadedDataset, OnProgress, cut
from norml_cli.files.errors import UserError
from norml_cli.registry.entries import DatasetEntry


def needs_source(entry: DatasetEntry) -> bool:
    """Whether the raw data comes from outside: named by --source, or a download."""
    return entry.kind != "glyphs"


def is_downloaded(entry: DatasetEntry) -> bool:
    """Whether its raw data can be had without --source."""
    return entry.kind in {"omniglot", "glyphs"}


def load(entry: DatasetEntry, entry_file: Path, source: Path | None, progress: OnProgress) -> LoadedDataset:
    """Read or make the data set that `entry` (declared in `entry_file`) describes.

    source: where the raw data lies, or None to download it. `progress` is called with (done, total) images.
    Raises UserError with one line for a source that is missing, damaged or not what the entry declares; while its
    classes are read, where that is done class by class.
    """
    if not needs_source(entry):
        if source is not None:
            raise UserError(f"--source: '{entry.id}' is embedded and reads no files; leave --source out")
        from norml_cli.data.sources import glyphs  # noqa: PLC0415 - only the code of this kind is loaded

        drawn = glyphs.draw(entry, progress)
        return LoadedDataset(cut(entry, entry_file, drawn), "embedded", lambda: glyphs.source_sha256(drawn))
    if entry.kind == "mini-imagenet":
        from norml_cli.data.sources import mini_imagenet  # noqa: PLC0415 - as above: Pillow takes its time

        return mini_imagenet.read(entry, entry_file, source, progress)
    if entry.kind == "image-folder":
        from norml_cli.data.sources import image_folder  # noqa: PLC0415 - as above

        return image_folder.read(entry, entry_file, source, progress)
    from norml_cli.data.sources import omniglot  # noqa: PLC0415 - as above

    drawn, text, sha256 = omniglot.read(entry, source, progress)
    return LoadedDataset(cut(entry, entry_file, drawn), text, lambda: sha256)
