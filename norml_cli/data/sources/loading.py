"""Load a data set into checked images by class and split: Omniglot, mini-ImageNet, own images, or glyphs."""

from pathlib import Path

from norml_cli.data.splits import LoadedDataset, OnProgress, cut
from norml_cli.files.errors import UserError
from norml_cli.registry.entries import DatasetEntry


def needs_source(entry: DatasetEntry) -> bool:
    """Whether the raw data comes from --source or from a download."""
    return entry.kind != "glyphs"


def is_downloaded(entry: DatasetEntry) -> bool:
    """Whether the data set needs no --source."""
    return entry.kind in {"omniglot", "glyphs"}


def load(entry: DatasetEntry, entry_file: Path, source: Path | None, progress: OnProgress) -> LoadedDataset:
    """Read or draw the data set that `entry` (in the file `entry_file`) declares.

    source: folder or archive of the raw data; None: download it. progress: called with (done, total) images.
    Raises UserError with one line if the source is missing, damaged, or not what the entry declares. Large data sets
    raise it while their classes are read.
    """
    if not needs_source(entry):
        if source is not None:
            raise UserError(f"--source: '{entry.id}' is built in and reads no files; leave --source out")
        from norml_cli.data.sources import glyphs  # noqa: PLC0415 - loads only this kind's code

        drawn = glyphs.draw(entry, progress)
        return LoadedDataset(cut(entry, entry_file, drawn), "embedded", lambda: glyphs.source_sha256(drawn))
    if entry.kind == "mini-imagenet":
        from norml_cli.data.sources import mini_imagenet  # noqa: PLC0415 - as above; Pillow is slow to load

        return mini_imagenet.read(entry, entry_file, source, progress)
    if entry.kind == "image-folder":
        from norml_cli.data.sources import image_folder  # noqa: PLC0415 - as above

        return image_folder.read(entry, entry_file, source, progress)
    from norml_cli.data.sources import omniglot  # noqa: PLC0415 - as above

    drawn, text, sha256 = omniglot.read(entry, source, progress)
    return LoadedDataset(cut(entry, entry_file, drawn), text, lambda: sha256)
