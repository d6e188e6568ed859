"""Read images in class folders or with csv files, in a folder or in archives. Also used for mini-ImageNet.

    class folders    {train,val,test}/<label>/*; or <label>/*, if the entry assigns classes to splits or if train.txt,
                     val.txt and test.txt list each split's classes, one per line
    csv files        train.csv, val.csv, test.csv with columns filename,label; or one file with filename,label[,split]
    archives         tar or zip archives of either, with the csv files inside or beside

All may be inside further folders. In every form, classes are sorted by label and the images of a class by file name, so
that equal images make equal caches. Classes are decoded one by one while the cache is written.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path

from norml_cli.data.sources import archives, class_index
from norml_cli.data.sources.class_index import NAMES, Classes, Index, by_place
from norml_cli.data.sources.csv_tables import column_names, is_index, split_tables
from norml_cli.data.sources.found_files import File, SourceFiles, in_archives, in_folder, tables_beside
from norml_cli.data.sources.image_classes import ImageStream, Watch, max_image_bytes, stream_of_files
from norml_cli.data.splits import SPLITS, LoadedDataset, OnProgress, SplitName, assigned
from norml_cli.files.errors import UserError
from norml_cli.files.suggestions import suggested
from norml_cli.registry.entries import DatasetEntry, FileSplit, SeededSplit, SourceSplit, Splits

FORMS = (
    "a folder with images and csv files (filename,label); class folders, in train/, val/, test/ or not; tar or zip "
    "archives of these"
)


def read(entry: DatasetEntry, entry_file: Path, source: Path | None, progress: OnProgress) -> LoadedDataset:
    """The data set in `source`, a folder or an archive. Reading the classes decodes the images.

    Raises UserError with one line, now or while the classes are read, if the source is not the data set that `entry`
    declares.
    """
    if source is None:
        raise UserError(
            f"'{entry.id}' cannot be downloaded automatically ({entry.licence}); get it from {entry.home}, then run "
            f"{suggested(f'norml prepare {entry.id} --source PATH')} with {FORMS}"
        )
    found = found_in(source, max_image_bytes(entry), FORMS, links_out=False)
    return read_images(entry, entry_file, source, found, progress)


def found_in(source: Path, limit: int, forms: str, *, links_out: bool) -> SourceFiles:
    """The files in `source`: images of at most `limit` bytes, in a folder or in archives, or pickles.

    links_out: whether symbolic links may lead out of it. Raises UserError if it has more than one of these forms.
    """
    if archives.is_archive(source):
        found = in_archives([source], limit)
    elif source.is_dir():
        found, packed = in_folder(source, limit, links_out=links_out)
        _require_one_form(source, found, packed)
        if packed:
            found = in_archives(packed, limit)
    else:
        what = "not a folder or an archive" if source.exists() else "does not exist"
        raise UserError(f"--source {source}: {what}; name {forms}")
    if found.text != "a folder":
        found.tables += tables_beside(source)
    return found


def _require_one_form(source: Path, found: SourceFiles, packed: list[Path]) -> None:
    forms = {
        "pickles": [path for path in found.pickles if "cache" in path.name or "category_split" in path.name],
        "archives": packed,
        "images": [source / file.place for file in found.images],
    }
    held = [f"{form} ({paths[0].relative_to(source)})" for form, paths in forms.items() if paths]
    if len(held) > 1:
        raise UserError(f"--source {source}: holds {' and '.join(held)}, which may differ; keep one form only")


def read_images(
    entry: DatasetEntry, entry_file: Path, source: Path, found: SourceFiles, progress: OnProgress
) -> LoadedDataset:
    """The data set with the images in `found`. Raises UserError."""
    if not found.images:
        raise UserError(
            f"--source {source}: no images of '{entry.id}' here{found.seen()}; name {FORMS}; see {entry.home}"
        )
    index = (
        _mini_index(entry, source, found) if entry.kind == "mini-imagenet" else index_of(entry.splits, source, found)
    )
    splits, left_out = _splits(entry, entry_file, source, index)
    watch = Watch(entry, sum(len(files) for classes in splits.values() for files in classes.values()), progress)
    streams: Mapping[SplitName, ImageStream] = {split: stream_of_files(watch, split, splits[split]) for split in SPLITS}
    notes = [f"left out, with fewer than {entry.class_sizes.min:,} images: {', '.join(left_out)}"] if left_out else []
    remarks = lambda: [*found.remark(), *index.remarks, *notes, *watch.remarks()]  # noqa: E731 - one of two fields of one object
    return LoadedDataset(streams, f"{entry.kind}, {found.text} {index.kind}", watch.source_sha256, remarks)


# ----------------------------------------------------------------------------------------- which class an image is of


def index_of(splits: Splits | None, source: Path, found: SourceFiles) -> Index:
    """The files of each class: from csv files, or from folders if there are none.

    splits: the declared splits; None: not declared yet. Raises UserError.
    """
    names = column_names(found.info)
    usable = [table for table in found.tables if is_index(table, names)]
    by_split = split_tables(usable)
    if by_split and not isinstance(splits, SeededSplit | FileSplit):
        _require_all(source, by_split, "add it")
        return class_index.by_tables(by_split, found.images, names)
    if len(usable) > 1:
        where = " and ".join(table.where for table in usable[:2])
        raise UserError(f"--source {source}: holds {where}, both with filename,label; keep one of them")
    if usable:
        return class_index.by_tables({None: usable[0]}, found.images, names)
    if found.tables and all(len(file.place.parts) == 1 or file.place.parent.name == "images" for file in found.images):
        raise UserError(f"{found.tables[0].where}:1: no columns filename,label; rename the columns")
    if not isinstance(splits, SeededSplit | FileSplit) and not _split_by_folders(found):
        lists = split_tables([*found.tables, *found.lists])
        if len(lists) == len(SPLITS) and class_index.lists_classes(lists, found.images):
            return class_index.by_lists(lists, found.images, found.empty_folders)
    of_folders = class_index.by_split_folders if _split_by_folders(found) else class_index.by_class_folders
    index = of_folders(found.images, found.empty_folders)
    index.remarks += [f"not used, no columns filename,label: {table.where}" for table in found.tables]
    return index


def _split_by_folders(found: SourceFiles) -> bool:
    return any(by_place(file.place) for file in found.images)


def _mini_index(entry: DatasetEntry, source: Path, found: SourceFiles) -> Index:
    by_split = split_tables(found.tables)
    if not by_split and _split_by_folders(found):
        return class_index.by_split_folders(found.images, found.empty_folders)
    _require_all(source, by_split, f"get it from {entry.home}")
    return class_index.by_tables(by_split, found.images, column_names(found.info))


def _require_all(source: Path, by_split: Mapping[SplitName | None, File], advice: str) -> None:
    missing = [f"{NAMES[split]}.csv" for split in SPLITS if split not in by_split]
    if missing:
        raise UserError(f"--source {source}: holds images, but no {' and no '.join(missing)}; {advice}")


# ------------------------------------------------------------------------------------------- which split a class is in


def _splits(
    entry: DatasetEntry, entry_file: Path, source: Path, index: Index
) -> tuple[dict[SplitName, Classes], list[str]]:
    """The classes of each split, and the names of classes left out. Raises UserError."""
    index.require_disjoint(source)
    kept = {
        split: {label: files for label, files in classes.items() if not _left_out(entry, len(files))}
        for split, classes in index.classes.items()
    }
    left_out = [label for split, classes in index.classes.items() for label in sorted(classes.keys() - kept[split])]
    return (_split_there if isinstance(entry.splits, SourceSplit) else _split_here)(
        entry, entry_file, source, kept
    ), left_out


def _split_there(
    entry: DatasetEntry, _: Path, source: Path, kept: Mapping[SplitName | None, Classes]
) -> dict[SplitName, Classes]:
    """The splits that the source gives. Raises UserError."""
    if None in kept:
        raise UserError(
            f"--source {source}: does not say which split a class is in; add folders train/, val/, test/ or a column "
            "'split', or declare splits of kind seeded or files"
        )
    splits = {split: kept.get(split, {}) for split in SPLITS}
    for split in SPLITS:
        check_classes(entry, str(source), split, {label: len(files) for label, files in splits[split].items()})
    return splits


def _split_here(
    entry: DatasetEntry, entry_file: Path, source: Path, kept: Mapping[SplitName | None, Classes]
) -> dict[SplitName, Classes]:
    """The splits that the entry gives, by a seed or by files. Raises UserError if the source contradicts them."""
    if set(kept) != {None} and not isinstance(entry.splits, FileSplit):
        raise UserError(f"--source {source}: has splits of its own; declare splits: kind: from-source")
    classes = {label: files for part in kept.values() for label, files in part.items()}
    if isinstance(entry.splits, FileSplit) and len(classes) > entry.classes:  # the source is a larger data set
        listed = {name for part in assigned(entry, entry_file, sorted(classes)).values() for name in part}
        classes = {label: files for label, files in classes.items() if label in listed}
    check_sizes(entry, str(source), "", {label: len(files) for label, files in classes.items()})
    if len(classes) != entry.classes:
        raise UserError(
            f"--source {source}: {len(classes):,} classes, but '{entry.id}' declares {entry.classes:,}; get the "
            "complete data set, or change classes"
        )
    members = assigned(entry, entry_file, sorted(classes))
    for said, split in itertools.product(kept, SPLITS):
        for label in sorted(kept[said].keys() & members[split]) if said not in {None, split} else ():
            raise UserError(
                f"--source {source}: class '{label}' is in {NAMES[said]}, but '{entry.id}' has it in {NAMES[split]}; "  # type: ignore[index]
                "get the data set with the same splits"
            )
    return {split: {name: classes[name] for name in members[split]} for split in SPLITS}


def _left_out(entry: DatasetEntry, size: int) -> bool:
    return entry.class_sizes.smaller == "leave-out" and size < entry.class_sizes.min


def check_classes(entry: DatasetEntry, where: str, split: SplitName, sizes: Mapping[str, int]) -> None:
    """Raises UserError unless the split has the declared number of classes, with the declared number of images each."""
    declared = int(getattr(entry.splits, split))
    check_sizes(entry, where, f" in {NAMES[split]}", sizes)
    if len(sizes) != declared:
        raise UserError(
            f"{where}: {len(sizes)} classes in {NAMES[split]}, but '{entry.id}' declares {declared}; get the complete "
            "split"
        )


def check_sizes(entry: DatasetEntry, where: str, within: str, sizes: Mapping[str, int]) -> None:
    """Raises UserError unless each class has the declared number of images."""
    least, most = entry.class_sizes.min, entry.class_sizes.max
    declared = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    for label, size in sorted(sizes.items()):
        if not least <= size <= most:
            raise UserError(
                f"{where}: class '{label}'{within} has {size:,} images, but '{entry.id}' declares {declared}; get the "
                "complete data set, or declare examples_per_class: {min, max}"
            )
