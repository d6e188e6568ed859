"""Images of any kind: found, assigned to classes and splits, made equal in size; what cannot be is one line."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from norml_cli.commands.data.prepare import prepare
from norml_cli.data.cache import Cache
from norml_cli.data.splits import SPLITS
from norml_cli.files.errors import UserError
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.registry.resolving import Registry
from norml_cli.terminal.output import Output
from tests.helpers.own_images import SIZES, own_images
from tests.helpers.photos import photo, write_files, write_tar
from tests.helpers.tiny import with_changes, write_entry


def sourced(value: object) -> dict[str, object]:
    return {"value": value, "source": "chosen: an example"}


def entry_values(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "id": "mine", "title": "Mine", "citation": "this project", "kind": "image-folder", "home": "https://example.org",
        "licence": "MIT", "classes": 30, "examples_per_class": {"min": 8, "max": 25}, "image_size_px": sourced(12),
        "resize": sourced("bilinear"), "crop": sourced("centre"), "channels": sourced("grey"), "invert": sourced(False),
        "rotations": sourced("none"),
        "splits": {"kind": "seeded", "seed": 0, "meta_train": 18, "meta_val": 6, "meta_test": 6, "source": "chosen: x"},
    }  # fmt: skip
    return with_changes(values, changes)


def registry_of(folder: Path, **changes: object) -> Registry:
    write_entry(folder, "datasets", entry_values(**changes))
    return read_registry([builtin_registry(), folder])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORML_HOME", str(tmp_path / "home"))


def prepared(registry: Registry, source: Path) -> tuple[str, Cache]:
    console = Output(file=io.StringIO(), width=200)
    prepare(registry, "mine", source=source, force=True, verify=False, console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), Cache.open(registry.dataset("mine"), registry.files["datasets", "mine"])


def test_folders_archives_and_csv_files_are_the_same_data_set(tmp_path: Path):
    registry = registry_of(tmp_path / "registry")
    _, first = prepared(registry, write_files(tmp_path / "plain", own_images()))
    rows = "\n".join(f"{name},{name.split('/')[0]}" for name in own_images())
    table = {"labels.csv": f"FILE_NAME, CATEGORY\n{rows}\n".encode()}
    junk = {"deep/__MACOSX/x.jpg": b"x", "deep/.DS_Store": b"x", "deep/class-00/Thumbs.db": b"x"}
    deep = {f"deep/{name}": data for name, data in own_images().items()}
    for number, made in enumerate(({**own_images(), **table}, {**deep, **junk})):
        out, found = prepared(registry, write_tar(tmp_path / str(number) / "any.tar.gz", made))
        assert found.source_sha256 == first.source_sha256
        assert found.content_hash == first.content_hash
    assert "ignored: 3 hidden or system files" in out
    assert sorted(size for split in SPLITS for size in first.sizes(split)) == sorted(SIZES.values())


def test_an_image_is_turned_cropped_resized_and_laid_on_its_background(tmp_path: Path):
    wide = Image.new("RGBA", (30, 10), (0, 0, 0, 0))
    wide.paste((200, 200, 200, 255), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned by 90 degrees clockwise
    target = io.BytesIO()
    wide.save(target, "PNG", exif=exif)
    expected = np.full((10, 10), 255)  # the centred square of white ground
    registry = registry_of(tmp_path / "registry", image_size_px__value=10, resize__value="nearest")
    name = next(iter(own_images()))
    out, cache = prepared(registry, write_files(tmp_path / "source", {**own_images(), name: target.getvalue()}))
    split = next(split for split in SPLITS if "class-00" in cache.class_names(split))
    place = sum(cache.sizes(split)[: cache.class_names(split).index("class-00")])
    assert (cache.images(split)[place] == expected).all()
    assert "transparent images, put on a white background: 1, first" in out


def test_small_classes_are_left_out_or_refused_by_name(tmp_path: Path):
    source = write_files(tmp_path / "source", {**own_images(), "tiny/1.png": photo("x", kind="PNG")})
    with pytest.raises(UserError, match="class 'tiny' has 1 images, but 'mine' declares 8 to 25"):
        prepared(registry_of(tmp_path / "a"), source)
    sizes = {"min": 8, "max": 25, "smaller": "leave-out"}
    out, _ = prepared(registry_of(tmp_path / "b", examples_per_class=sizes), source)
    assert "left out, with fewer than 8 images: tiny" in out


def test_an_image_of_one_colour_is_told(tmp_path: Path):
    plain = io.BytesIO()
    Image.new("RGB", (20, 20), (9, 9, 9)).save(plain, "PNG")
    source = write_files(tmp_path / "source", {**own_images(), "class-03/1.png": plain.getvalue()})
    out, _ = prepared(registry_of(tmp_path / "registry"), source)
    assert f"images of one colour: 1, first {source / 'class-03/1.png'}\n" in out


def test_split_files_choose_classes_of_a_larger_source(tmp_path: Path):
    parts = {"meta_train": ["class-00", "class-05"], "meta_val": ["class-07"], "meta_test": ["class-29"]}
    splits = {"kind": "files", "source": "chosen: x", **{split: f"{split}.txt" for split in parts}}
    write_files(tmp_path / "r/datasets", {f"{split}.txt": "\n".join(names).encode() for split, names in parts.items()})
    source = write_files(tmp_path / "source", own_images())
    _, cache = prepared(registry_of(tmp_path / "r", splits=splits, classes=4), source)
    assert {split: cache.class_names(split) for split in SPLITS} == parts
    (source / "class-29").rename(source / "class-30")
    with pytest.raises(UserError, match=r"meta_test\.txt:1: 'mine' has no class 'class-29', did you mean 'class-2"):
        prepared(registry_of(tmp_path / "r", splits=splits, classes=4), source)


def outside(folder: Path) -> None:
    (folder.parent / "secret.png").write_bytes(photo("x", kind="PNG"))
    (folder / "class-00" / "link.png").symlink_to(folder.parent / "secret.png")


BAD: list[tuple[Callable[[Path], object], str]] = [
    (outside, r"link\.png: a link to a place outside"),
    (lambda folder: (folder / "class-00/0.jpg").write_bytes(b"x"), r"0\.jpg: not a complete JPEG, PNG, BMP or WEBP"),
    (lambda folder: os.mkfifo(folder / "class-00/pipe.png"), r"pipe\.png: cannot be read \(.*it is a named pipe"),
    (lambda folder: (folder / "empty").mkdir(), "class 'empty' has 0 images"),
    (
        lambda folder: (folder / "x.csv").write_text("filename,label\n/a/0.jpg,a\n"),
        r"x\.csv:2: .* an absolute path",
    ),
    (lambda folder: (folder / "x.csv").write_text("filename,label\n0.jpg,a\n"), r"found twice, also as"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_a_bad_source_is_one_line(tmp_path: Path, spoil: Callable[[Path], object], message: str):
    source = write_files(tmp_path / "source", own_images())
    spoil(source)
    with pytest.raises(UserError, match=message) as error:
        prepared(registry_of(tmp_path / "registry"), source)
    assert "\n" not in str(error.value)
