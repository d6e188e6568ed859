"""Data sets of the field whose images are not at hand: miniatures in the forms in which they are published."""

import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from norml_cli.commands.data.prepare import prepare
from norml_cli.data.cache import Cache
from norml_cli.data.splits import SPLITS
from norml_cli.files.errors import UserError
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.terminal.output import Output
from tests.helpers.photos import Files, photo, write_files, write_zip
from tests.helpers.tiny import with_changes, write_entry

FOLDER = builtin_registry() / "datasets"
SPLIT_FILES = ("train", "val", "test")


def listed(dataset: str, name: str) -> list[str]:
    return (FOLDER / dataset / f"{name}.txt").read_text().split()


def cut_down(folder: Path, dataset: str, **changes: object) -> Path:
    """A registry with the built-in entry as `mini`, fewer images in each class."""
    values: dict[str, Any] = yaml.safe_load((FOLDER / f"{dataset}.yaml").read_text())
    if values["splits"]["kind"] == "files":
        values["splits"] |= {f"meta_{name}": str(FOLDER / dataset / f"{name}.txt") for name in SPLIT_FILES}
    write_entry(folder, "datasets", with_changes(values, {"id": "mini", **changes}))
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORML_HOME", str(tmp_path / "home"))


def prepared(registry_folder: Path, source: Path) -> tuple[str, Cache]:
    registry = read_registry([builtin_registry(), registry_folder])
    console = Output(file=io.StringIO(), width=200)
    prepare(registry, "mini", source=source, force=True, verify=False, console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), Cache.open(registry.dataset("mini"), registry.files["datasets", "mini"])


def names(cache: Cache) -> dict[str, list[str]]:
    return {name: cache.class_names(split) for name, split in zip(SPLIT_FILES, SPLITS, strict=True)}


def test_cub_is_split_by_the_rule_of_its_source():
    """Of the sorted folders i = 0..199: i % 2 == 0 trains, i % 4 == 1 validates, i % 4 == 3 tests."""
    numbers = {name: [int(label[:3]) - 1 for label in listed("cub", name)] for name in SPLIT_FILES}
    assert numbers["train"] == [i for i in range(200) if i % 2 == 0]
    assert numbers["val"] == [i for i in range(200) if i % 4 == 1]
    assert numbers["test"] == [i for i in range(200) if i % 4 == 3]


def test_cifar_fs_splits_100_classes_into_64_16_and_20():
    lists = [listed("cifar-fs", name) for name in SPLIT_FILES]
    assert [len(part) for part in lists] == [64, 16, 20]
    assert len({label for part in lists for label in part}) == 100
    assert all(part == sorted(part) for part in lists)


def cifar_fs() -> Files:
    """As bertinetto/r2d2's cifar100.zip has it; a class is called `train`, as a split is."""
    lists = {f"cifar100/splits/bertinetto/{name}.txt": "\n".join(listed("cifar-fs", name)) for name in SPLIT_FILES}
    labels = [label for name in SPLIT_FILES for label in listed("cifar-fs", name)]
    images = {
        f"cifar100/data/{label}/{n}.png": photo(f"{label}{n}", 32, kind="PNG") for label in labels for n in (1, 2)
    }
    return images | {name: text.encode() for name, text in lists.items()}


def test_cifar_fs_in_its_own_form_in_a_zip_and_split_by_folders(tmp_path: Path):
    registry = cut_down(tmp_path / "registry", "cifar-fs", examples_per_class=2)
    _, first = prepared(registry, write_files(tmp_path / "folder", cifar_fs()))
    assert names(first) == {name: listed("cifar-fs", name) for name in SPLIT_FILES}
    by_folders = {
        f"{name}/{label}/{n}.png": photo(f"{label}{n}", 32, kind="PNG")
        for name in SPLIT_FILES
        for label in listed("cifar-fs", name)
        for n in (1, 2)
    }
    zipped = write_zip(tmp_path / "cifar100.zip", cifar_fs())
    for source in (zipped, write_files(tmp_path / "split", by_folders)):
        _, found = prepared(registry, source)
        assert (found.content_hash, found.source_sha256) == (first.content_hash, first.source_sha256)
    moved = {name.replace("train/apple/", "test/apple/"): data for name, data in by_folders.items()}
    with pytest.raises(
        UserError, match="class 'apple' is in test, but 'mini' has it in train; get the data set with the same splits"
    ):
        prepared(registry, write_files(tmp_path / "moved", moved))


def test_cub_as_its_archive_unpacks_with_all_that_lies_beside_the_images(tmp_path: Path):
    labels = sorted(label for name in SPLIT_FILES for label in listed("cub", name))
    images = {
        f"CUB_200_2011/images/{label}/{n}.jpg": photo(f"{label}{n}", 12, mode="L" if n == 1 and index == 0 else "RGB")
        for index, label in enumerate(labels)
        for n in range(1, 3 + index % 2)
    }
    beside = [
        "CUB_200_2011/classes.txt",
        "CUB_200_2011/train_test_split.txt",
        "CUB_200_2011/attributes/certainties.txt",
    ]
    source = write_files(tmp_path / "cub", images | dict.fromkeys([*beside, "attributes.txt"], b"1 x\n"))
    out, cache = prepared(
        cut_down(tmp_path / "registry", "cub", examples_per_class={"min": 2, "max": 3}, image_size_px__value=8), source
    )
    assert names(cache) == {name: listed("cub", name) for name in SPLIT_FILES}
    assert "ignored: 4 .txt files" in out
    assert sum(size for split in SPLITS for size in cache.sizes(split)) == 500


WNIDS = {"train": ["n01530575", "n02099601"], "val": ["n01770081"], "test": ["n02110341"]}
TIERED = {
    "classes": 4, "examples_per_class": {"min": 2, "max": 2}, "image_size_px__value": 8,
    "splits__meta_train": 2, "splits__meta_val": 1, "splits__meta_test": 1,
}  # fmt: skip


def of_wnid(label: str) -> Files:
    return {f"{label}/{label}_{n}.JPEG": photo(f"{label}{n}") for n in (1, 2)}


def test_tiered_imagenet_in_split_folders_and_as_imagenet_with_ren_s_lists(tmp_path: Path):
    registry = cut_down(tmp_path / "registry", "tiered-imagenet", **TIERED)
    split = {
        f"{name}/{file}": data for name, ids in WNIDS.items() for id_ in ids for file, data in of_wnid(id_).items()
    }
    _, first = prepared(registry, write_files(tmp_path / "split", split))
    assert names(first) == WNIDS
    lists = {f"{name}.csv": "".join(f"{id_},n00000001\n" for id_ in ids).encode() for name, ids in WNIDS.items()}
    imagenet = {
        f"ILSVRC/{file}": data
        for id_ in [*itertools.chain(*WNIDS.values()), "n99999999"]
        for file, data in of_wnid(id_).items()
    }
    out, found = prepared(registry, write_files(tmp_path / "imagenet", imagenet | lists))
    assert (found.content_hash, found.source_sha256) == (first.content_hash, first.source_sha256)
    assert "skipped, not listed: 1 folder, first 'n99999999'" in out
    missing = {name: data for name, data in imagenet.items() if "n01770081" not in name}
    with pytest.raises(UserError, match=r"val\.csv: lists class 'n01770081', which has no folder"):
        prepared(registry, write_files(tmp_path / "missing", missing | lists))


@pytest.mark.parametrize(
    ("columns", "folder", "delimiter"),
    [(("FILE_NAME", "CATEGORY"), "images/", ","), (("picture", "kind"), "", "\t")],
    ids=["usual", "named in info.json"],
)
def test_meta_album_s_form(tmp_path: Path, columns: tuple[str, str], folder: str, delimiter: str):
    """images, labels.csv and info.json, which says how the columns are called."""
    info = {"dataset_name": "Mini insects", "image_column_name": columns[0], "category_column_name": columns[1]}
    places = {f"{label}{n}.jpg": label for label in "abcdef" for n in range(1, 4)}
    rows = [
        delimiter.join([*columns, "SUPER_CATEGORY"]),
        *(delimiter.join([file, label, "x"]) for file, label in places.items()),
    ]
    files: Files = {f"{folder}{file}": photo(file, 20) for file in places}
    files |= {"labels.csv": "\n".join(rows).encode(), "info.json": json.dumps(info).encode()}
    source = write_files(tmp_path / "album", files)
    values = yaml.safe_load((FOLDER / "cub.yaml").read_text())
    counts = {"kind": "seeded", "seed": 0, "meta_train": 2, "meta_val": 2, "meta_test": 2, "source": "chosen: x"}
    write_entry(
        tmp_path / "r", "datasets", values | {"id": "mini", "classes": 6, "examples_per_class": 3, "splits": counts}
    )
    _, cache = prepared(tmp_path / "r", source)
    assert sorted(itertools.chain(*names(cache).values())) == list("abcdef")
