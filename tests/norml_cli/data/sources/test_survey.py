"""Images looked at before there is an entry: what is seen, what is declared of it, what can be no data set."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from norml_cli.data.declaring import declared
from norml_cli.data.sources.survey import look_at
from norml_cli.files.errors import UserError
from norml_cli.registry.entries import DatasetEntry
from tests.helpers.photos import Files, photo, write_files, write_tar, write_zip

PNG = photo("x", 8, kind="PNG")


def images(labels: str, n: int = 3, folder: str = "", size_px: int = 8, mode: str = "RGB") -> Files:
    """`n` images in a folder for each letter of `labels`."""
    return {
        f"{folder}{label}/{number}.png": photo(f"{label}{number}", size_px, mode=mode, kind="PNG")
        for label in labels
        for number in range(n)
    }


def split(train: str = "ab", val: str = "cd", test: str = "ef") -> Files:
    return {**images(train, folder="train/"), **images(val, folder="val/"), **images(test, folder="test/")}


def written(source: Path, min_images: int | None = None) -> dict[str, Any]:
    """What is declared of a source; it must be an entry."""
    entry = declared("my-birds", source, look_at(source), min_images)
    DatasetEntry.model_validate(entry)
    return entry


def test_class_folders_get_a_seeded_split_about_three_fifths_for_training(tmp_path: Path):
    for n_classes, counts in ((6, (2, 2, 2)), (15, (5, 5, 5)), (20, (10, 5, 5)), (26, (16, 5, 5))):
        source = write_files(tmp_path / str(n_classes), images("abcdefghijklmnopqrstuvwxyz"[:n_classes], n=2))
        splits = written(source)["splits"]
        assert (splits["kind"], splits["seed"]) == ("seeded", 0)
        assert (splits["meta_train"], splits["meta_val"], splits["meta_test"]) == counts


CSV = "filename,label,split\n" + "\n".join(
    f"{label}/{n}.png,{label},{name}"
    for name, labels in (("train", "ab"), ("valid", "cd"), ("test", "ef"))
    for label in labels
    for n in range(3)
)
OTHER_WORDS = {"train/": "Data/Training/", "val/": "Data/Validation/", "test/": "Data/TEST/"}
LISTS: Files = {"splits/train.csv": b"a,x\nb,x\n", "splits/val.csv": b"c,x\nd,x\n", "splits/test.csv": b"e,x\nf,x\n"}


def renamed(files: Files) -> Files:
    for old, new in OTHER_WORDS.items():
        files = {name.replace(old, new): data for name, data in files.items()}
    return files


@pytest.mark.parametrize(
    "files",
    [
        split(),
        renamed(split()),
        {**images("abcdef"), "labels.csv": CSV.encode()},
        {**images("abcdef"), "labels.csv": CSV.replace(",", ";").encode("utf-8-sig")},
        {**images("abcdefg"), "train.txt": b"a\nb\n", "val.txt": b"c\r\nd\r\n", "test.txt": b"e\nf"},
        {**images("abcdef", folder="jpg/"), **LISTS},
    ],
    ids=["folders", "other words", "csv", "csv of a spreadsheet", "lists", "lists with a second column"],
)
@pytest.mark.parametrize("packed", ["folder", "tar", "zip"])
def test_a_split_of_the_source_is_declared_as_it_is(tmp_path: Path, files: Files, packed: str):
    writers = {"folder": write_files, "tar": write_tar, "zip": write_zip}
    place = {"folder": "birds", "tar": "birds.tar.gz", "zip": "birds.zip"}[packed]
    survey = look_at(writers[packed](tmp_path / place, files))
    labels = {split: sorted(classes) for split, classes in survey.classes.items()}
    assert labels == {"meta_train": ["a", "b"], "meta_val": ["c", "d"], "meta_test": ["e", "f"]}
    splits = declared("x", tmp_path, survey, None)["splits"]
    assert [splits[key] for key in ("kind", "meta_train", "meta_val", "meta_test")] == ["from-source", 2, 2, 2]


def test_small_squares_of_one_size_stay_as_they_are(tmp_path: Path):
    entry = written(write_files(tmp_path / "s", images("abcdef", size_px=28, mode="L")))
    assert [entry[key]["value"] for key in ("image_size_px", "resize", "channels")] == [28, "none", "grey"]
    assert "crop" not in entry
    assert entry["examples_per_class"] == 3


def test_photographs_become_as_large_as_the_field_has_them(tmp_path: Path):
    def sized(width: int, height: int, mode: str) -> bytes:
        target = io.BytesIO()
        Image.new(mode, (width, height)).save(target, "PNG")
        return target.getvalue()

    for mode, size in (("RGB", 84), ("L", 28)):
        files = {**images("abcdef", size_px=100, mode=mode), "a/wide.png": sized(200, 120, mode)}
        entry = written(write_files(tmp_path / mode, files))
        shape = [entry[key]["value"] for key in ("image_size_px", "resize", "crop", "channels")]
        assert shape == [size, "lanczos", "centre", "rgb" if mode == "RGB" else "grey"]
        assert entry["examples_per_class"] == {"min": 3, "max": 4}


def test_sides_are_those_that_a_person_sees(tmp_path: Path):
    exif = Image.Exif()
    exif[0x112] = 6
    target = io.BytesIO()
    Image.new("RGB", (30, 10)).save(target, "JPEG", exif=exif)
    survey = look_at(write_files(tmp_path / "s", {**images("abcdef"), "a/turned.jpg": target.getvalue()}))
    assert set(survey.sides_px) == {(8, 8), (10, 30)}


def test_classes_are_left_out_as_asked(tmp_path: Path):
    source = write_files(tmp_path / "s", {**images("abcdef", n=5), **images("gh", n=2)})
    entry = written(source, min_images=4)
    assert entry["classes"] == 6
    assert entry["examples_per_class"] == {"min": 4, "max": 5, "smaller": "leave-out"}


def test_accents_are_compared_as_they_look(tmp_path: Path):
    """macOS writes an accent apart from its letter; a csv file of another program does not."""
    files = {f"caf\u00e9/{n}.png": PNG for n in range(2)} | {
        f"{label}/{n}.png": PNG for label in "abcde" for n in range(2)
    }
    apart = {name.replace("\u00e9", "e\u0301"): data for name, data in files.items()}
    rows = "filename,label\n" + "\n".join(f"{name},{name.split('/')[0]}" for name in files)
    survey = look_at(write_files(tmp_path / "s", apart | {"labels.csv": rows.encode()}))
    assert survey.sizes["caf\u00e9"] == 2


def test_what_is_passed_over_is_counted(tmp_path: Path):
    rubbish = dict.fromkeys(
        ["a/Thumbs.db", ".git/x.png", "__MACOSX/a/0.png", "a/notes.txt", "b/x.heic", "other.csv"], b"x"
    )
    survey = look_at(write_files(tmp_path / "s", {**images("abcdef"), **rubbish}))
    ignored, not_read = survey.remarks
    assert ignored == "ignored: 1 .heic files, 1 .txt files, 3 hidden or system files"
    assert not_read == f"not used, no columns filename,label: {tmp_path / 's/other.csv'}"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no jpg, png, bmp or webp images here (it is empty)"),
        ({"a/1.heic": b"x", "a/2.heic": b"x"}, "images here (ignored: 2 .heic files)"),
        ({"1.png": PNG}, "1.png: not in a class folder; move it into the folder of its class"),
        (images("abcde"), "has 3, 1, 1 classes for training, validation and test; each needs at least 2"),
        (split(test="e"), "has 2, 2, 1 classes for training, validation and test"),
        ({**images("ab", folder="train/"), **images("cd", folder="test/")}, "no classes in val; move some there"),
        (split(val="bc"), "class 'b' is in train and in val, but few-shot learning splits classes, not images"),
        ({**images("abcdef"), "g/0.png": PNG}, "class 'g' has 1 image, but needs 2: one to learn from"),
        ({**images("abcdef"), "a/bad.png": b"x"}, "a/bad.png: not a complete JPEG, PNG, BMP or WEBP image"),
        ({**images("abcdef"), "a/page.jpg": b"<!DOCTYPE html>"}, "a/page.jpg: this is a web page, not the file"),
        ({"1.png": PNG, "list.csv": b"image,class\n1.png,a\n"}, "list.csv:1: no columns filename,label; rename"),
        (
            {**images("a"), "list.csv": b"filename,label\n/photos/a/0.png,a\n"},
            "2: names '/photos/a/0.png', an absolute path",
        ),
        ({**images("a"), "list.csv": b"filename,label\nC:\\a\\0.png,a\n"}, "an absolute path"),
        ({**images("ab"), "list.csv": b"filename,label\n0.png,a\n"}, "found twice, also as"),
        ({**images("a"), "list.csv": b"filename,label\na/9.png,a\n"}, "names 'a/9.png', which is not in the source"),
        ({**images("a"), "list.csv": b"filename,label\na/0.png,\n"}, "list.csv:2: no file name or no label"),
        ({**images("a"), "list.csv": b"filename,label,split\na/0.png,a,dev7\n"}, "unknown split 'dev7'; write train,"),
        (
            {**images("a"), "list.csv": "filename,label\na/0.png,caf\u00e9\n".encode("latin-1")},
            "list.csv: not readable as",
        ),
    ],
)
def test_what_no_data_set_can_be_made_of_is_one_line(tmp_path: Path, files: Files, said: str):
    source = tmp_path / "s"
    source.mkdir()
    with pytest.raises(UserError) as error:
        written(write_files(source, files))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_class_and_a_link_out_of_the_folder_are_refused(tmp_path: Path):
    source = write_files(tmp_path / "s", images("abcdef"))
    (source / "g").mkdir()
    with pytest.raises(UserError, match="class 'g' has no images; add some, or remove its folder"):
        look_at(source)
    (source / "g").rmdir()
    (tmp_path / "secret.png").write_bytes(PNG)
    (source / "a/link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match=r"link\.png: a link to a place outside"):
        look_at(source)
