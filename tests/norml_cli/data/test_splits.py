"""Splits: the same classes whatever order they come in; split files are believed only where they make sense."""

from pathlib import Path

import numpy as np
import pytest
import torch

from norml_cli.data.splits import SPLITS, ImageClasses, cut, seeded_order
from norml_cli.files.errors import UserError
from norml_cli.registry.entries import DatasetEntry
from tests.helpers import synthetic

NAMES = tuple(f"Alphabet{index % 3}/character{index // 3 + 1:02d}" for index in range(12))
CLASSES = ImageClasses(NAMES, np.random.default_rng(0).integers(0, 256, (12, 3, 28, 28), dtype=np.uint8))
AS_CLASSES = {"value": "as-classes", "source": "made"}


def shuffled(classes: ImageClasses) -> ImageClasses:
    order = np.random.default_rng(1).permutation(len(classes.names))
    return ImageClasses(tuple(classes.names[index] for index in order), classes.images[order])


# -------------------------------------------------------------------------------------------------------- seeded splits


def test_a_seeded_split_does_not_depend_on_the_order_of_files():
    first, second = (cut(synthetic.entry(), Path("x.yaml"), classes) for classes in (CLASSES, shuffled(CLASSES)))
    for split in SPLITS:
        assert first[split].names == second[split].names
        assert (first[split].images == second[split].images).all()


def test_a_seeded_split_has_the_declared_sizes_and_no_class_twice():
    parts = cut(synthetic.entry(), Path("x.yaml"), CLASSES)
    assert [len(parts[split].names) for split in SPLITS] == [6, 3, 3]
    assert sorted(name for part in parts.values() for name in part.names) == sorted(NAMES)
    for part in parts.values():
        for name, images in zip(part.names, part.images, strict=True):
            assert (images == CLASSES.images[NAMES.index(name)]).all()


def test_the_order_is_that_of_sha256_of_seed_and_name():
    """`printf 0/a | sha256sum` and so on begin with d3, 7d and 28; with seed 1, bf, da and df."""
    assert seeded_order(("a", "b", "c"), 0) == ["c", "b", "a"]
    assert seeded_order(("a", "b", "c"), 1) == ["a", "b", "c"]


def test_too_few_classes_are_told():
    with pytest.raises(UserError, match=r"x\.yaml: splits: declares 12 classes in all, but there are 11"):
        cut(synthetic.entry(), Path("x.yaml"), ImageClasses(NAMES[:11], CLASSES.images[:11]))


# ---------------------------------------------------------------------------------------------------------- split files


def cut_by(folder: Path, meta_train: str, meta_val: str, meta_test: str, **changes: object) -> dict[str, ImageClasses]:
    for split, lines in zip(SPLITS, (meta_train, meta_val, meta_test), strict=True):
        (folder / f"{split}.txt").write_text(lines, encoding="utf-8")
    return cut(file_entry(**changes), folder / "x.yaml", CLASSES)


def file_entry(**changes: object) -> DatasetEntry:
    splits = {"kind": "files", "source": "made"} | {split: f"{split}.txt" for split in SPLITS}
    return synthetic.entry(splits=splits, **changes)


def test_split_files_list_classes_in_their_order(tmp_path: Path):
    parts = cut_by(
        tmp_path, f"{NAMES[5]}\n{NAMES[2]}\n\n", f"{NAMES[0]}\r\n", f"{NAMES[1]}"
    )  # a blank line, another end of line, none at the end
    assert [part.names for part in parts.values()] == [(NAMES[5], NAMES[2]), (NAMES[0],), (NAMES[1],)]
    assert (parts["meta_train"].images == CLASSES.images[[5, 2]]).all()


def test_rotated_classes_turn_as_episodes_do(tmp_path: Path):
    lines = "\n".join(f"{NAMES[4]}/rot{degrees}" for degrees in ("000", "090", "180", "270"))
    parts = cut_by(tmp_path, lines, f"{NAMES[0]}/rot090", f"{NAMES[1]}/rot000", rotations=AS_CLASSES)
    assert parts["meta_train"].names[1] == f"{NAMES[4]}/rot090"
    original = torch.from_numpy(CLASSES.images[4])
    for turn in range(4):
        expected = torch.rot90(original, turn, dims=(1, 2))
        assert (torch.from_numpy(parts["meta_train"].images[turn]) == expected).all()


@pytest.mark.parametrize(
    ("meta_train", "meta_val", "message"),
    [
        (
            f"{NAMES[1]}\nAlphabet0/caracter01\n",
            NAMES[2],
            "meta_train.txt:2: 'made-omniglot' has no class 'Alphabet0/cara",
        ),
        (f"{NAMES[1]}\n{NAMES[1]}\n", NAMES[2], f"meta_train.txt:2: '{NAMES[1]}' is listed twice"),
        (NAMES[1], f"{NAMES[2]}\n\n{NAMES[1]}", f"meta_val.txt:3: '{NAMES[1]}' is already in meta_train"),
        (f"{NAMES[1]}/rot090", NAMES[2], "meta_train.txt:1: .* declare rotations: as-classes, or leave out /rot090"),
        (NAMES[1], "", "meta_val.txt: lists no classes"),
    ],
)
def test_a_bad_line_is_told_with_file_and_number(tmp_path: Path, meta_train: str, meta_val: str, message: str):
    with pytest.raises(UserError, match=message):
        cut_by(tmp_path, meta_train, meta_val, NAMES[0])


@pytest.mark.parametrize("line", [NAMES[1], f"{NAMES[1]}/rot45", f"{NAMES[1]}/rot90", f"{NAMES[1]}/rot360"])
def test_rotated_classes_need_one_of_four_rotations(tmp_path: Path, line: str):
    with pytest.raises(UserError, match=r"meta_train.txt:1: .* must end in /rot000, /rot090, /rot180 or /rot270"):
        cut_by(tmp_path, line, f"{NAMES[2]}/rot000", f"{NAMES[3]}/rot000", rotations=AS_CLASSES)


def test_a_character_may_not_be_in_two_splits_by_its_rotations(tmp_path: Path):
    with pytest.raises(UserError, match=f"meta_val.txt:1: '{NAMES[1]}' is already in meta_train; keep it in one split"):
        cut_by(tmp_path, f"{NAMES[1]}/rot000", f"{NAMES[1]}/rot090", f"{NAMES[3]}/rot000", rotations=AS_CLASSES)


def test_the_nearest_class_is_suggested(tmp_path: Path):
    with pytest.raises(UserError, match="did you mean 'Alphabet0/character01'"):
        cut_by(tmp_path, "Alphabet0/caracter01", NAMES[2], NAMES[0])


def test_unreadable_split_files_are_told(tmp_path: Path):
    with pytest.raises(UserError, match=r"meta_train\.txt: cannot be read as a split file \(No such file"):
        cut(file_entry(), tmp_path / "x.yaml", CLASSES)
    (tmp_path / "meta_train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        cut(file_entry(), tmp_path / "x.yaml", CLASSES)
