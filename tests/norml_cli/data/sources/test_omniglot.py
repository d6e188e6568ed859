"""Reading Omniglot: every form of source, every way a source can be wrong, resizing, and downloading."""

import functools
import hashlib
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from norml_cli.data.sources import omniglot
from norml_cli.data.sources.omniglot import read, resized
from norml_cli.data.splits import ImageClasses
from norml_cli.files.errors import UserError
from norml_cli.registry.reading import load_registry
from tests.helpers import synthetic
from tests.helpers.photos import write_tar
from tests.helpers.synthetic import CLASSES, DRAWERS, drawing, members, png, write_folders, write_zip, write_zips

REAL_SOURCE = os.environ.get("NORML_OMNIGLOT_SOURCE")


def read_quietly(source: Path | None, **changes: object) -> tuple[ImageClasses, str, str]:
    return read(synthetic.entry(**changes), source, lambda *_: None)


def mixed(folder: Path) -> Path:
    """One part as an archive, the other one unpacked."""
    write_folders(folder)
    shutil.rmtree(folder / "images_background")
    write_zip(folder / "images_background.zip", members("images_background"))
    return folder


# -------------------------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize(
    ("write", "text"),
    [(write_zips, "two zips"), (write_folders, "two folders"), (mixed, "a zip and a folder")],
)
def test_every_form_of_source_gives_the_same_drawings(tmp_path: Path, write: Callable[[Path], Path], text: str):
    classes, source, _ = read_quietly(write(tmp_path))
    assert source == f"omniglot, {text}"
    assert classes.images.shape == (CLASSES, DRAWERS, 28, 28)
    assert classes.images.dtype == np.uint8
    assert list(classes.names) == sorted(classes.names)
    assert classes.names[0] == "Aleph/character01"
    expected = resized(drawing("Braille/character02/3"), 28, "lanczos", invert=True)
    assert (classes.images[classes.names.index("Braille/character02"), 2] == expected).all()


def below_another_folder(folder: Path) -> Path:
    write_folders(folder / "omniglot-py")
    return folder


def without_top_folders(folder: Path) -> Path:
    for part in omniglot.PARTS:
        write_zip(folder / f"{part}.zip", {name.removeprefix(f"{part}/"): data for name, data in members(part).items()})
    return folder


def all_alphabets_together(folder: Path) -> Path:
    for part in omniglot.PARTS:
        for name, data in members(part).items():
            path = folder / "data" / name.removeprefix(f"{part}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return folder


def everything() -> dict[str, bytes]:
    return {name: data for part in omniglot.PARTS for name, data in members(part).items()}


def three_folders_down(folder: Path) -> Path:
    write_folders(folder / "a" / "b" / "c")
    return folder


def as_train_and_test(folder: Path) -> Path:
    write_folders(folder)
    for part, name in zip(omniglot.PARTS, ("train", "test"), strict=True):
        (folder / part).rename(folder / name)
    return folder


def one_zip_of_both(folder: Path) -> Path:
    write_zip(folder / "omniglot.zip", everything())
    return folder


def the_zip_itself(folder: Path) -> Path:
    return one_zip_of_both(folder) / "omniglot.zip"


def two_tars(folder: Path) -> Path:
    for part in omniglot.PARTS:
        write_tar(folder / f"{part}.tar.gz", members(part))
    return folder


def beside_a_part_of_it(folder: Path) -> Path:
    """As in the authors' repository, whose small sets are parts of the large one."""
    write_zip(folder / "python" / "images_background_small1.zip", members("images_background"))
    return write_zips(folder / "python").parent


OTHER_PLACES = [
    below_another_folder,
    without_top_folders,
    all_alphabets_together,
    three_folders_down,
    as_train_and_test,
    one_zip_of_both,
    the_zip_itself,
    two_tars,
    beside_a_part_of_it,
]


@pytest.mark.parametrize("write", OTHER_PLACES)
def test_other_places_give_the_same_source(tmp_path: Path, write: Callable[[Path], Path]):
    expected = read_quietly(write_zips(tmp_path / "plain"))
    found = read_quietly(write(tmp_path / "other"))
    assert found[0].names == expected[0].names
    assert found[2] == expected[2]


def test_a_web_page_in_an_archive_s_place_is_told(tmp_path: Path):
    (write_zips(tmp_path) / "images_background.zip").write_bytes(b"\n<!DOCTYPE html><html></html>")
    refused(tmp_path, "images_background.zip: this is a web page, not the file")


def test_progress_ends_at_the_number_of_images(tmp_path: Path):
    seen: list[tuple[int, int]] = []
    read(synthetic.entry(), write_zips(tmp_path), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (CLASSES * DRAWERS, CLASSES * DRAWERS)
    assert seen == sorted(seen)


def test_other_files_beside_the_drawings_are_not_read(tmp_path: Path):
    files = members("images_background")
    files["__MACOSX/images_background/._0001_01.png"] = b"rubbish"
    files["images_background/Aleph/.DS_Store"] = b"rubbish"
    files["images_background/Aleph/character01/notes.txt"] = b"rubbish"
    write_zip(write_zips(tmp_path) / "images_background.zip", files)
    assert len(read_quietly(tmp_path)[0].names) == CLASSES


def test_content_hash_is_over_names_drawers_and_1_bit_pixels(tmp_path: Path):
    digest = hashlib.sha256()
    names = sorted({name.split("/", 1)[1].rsplit("/", 1)[0] for part in omniglot.PARTS for name in members(part)})
    for name in names:
        for drawer in range(1, DRAWERS + 1):
            digest.update(f"{name}/{drawer:02d}\n".encode())
            digest.update(np.packbits(np.asarray(drawing(f"{name}/{drawer}"), dtype=bool)).tobytes())
    write_zips(tmp_path)
    assert read_quietly(tmp_path)[2] == digest.hexdigest()


def test_grey_levels_of_two_values_count_as_1_bit(tmp_path: Path):
    expected = read_quietly(write_zips(tmp_path))[0].images
    files = members("images_evaluation")
    name = "images_evaluation/Zigzag/character01/0001_02.png"
    files[name] = png(drawing("Zigzag/character01/2").convert("L"))
    write_zip(tmp_path / "images_evaluation.zip", files)
    assert (read_quietly(tmp_path)[0].images == expected).all()


# ---------------------------------------------------------------------------------------------------------- bad sources


def spoil(files: dict[str, bytes], name: str, data: bytes | None) -> dict[str, bytes]:
    """`files` with one of them replaced, added, or (None) left out."""
    files = {**files, name: data or b""}
    return files if data is not None else {key: value for key, value in files.items() if key != name}


FIRST = "images_background/Aleph/character01/0001_01.png"

BAD_MEMBERS = [
    pytest.param(FIRST, None, ["Aleph/character01: drawer 01 is missing"], id="drawer missing"),
    pytest.param(
        "images_background/Aleph/character01/0001_04.png", png(drawing("x")), ["drawer 04 is unexpected"], id="extra"
    ),
    pytest.param(
        "images_background/Aleph/character01/0009_01.png",
        png(drawing("x")),
        ["0009_01.png: second drawing by drawer 01"],
        id="drawn twice",
    ),
    pytest.param(FIRST, png(drawing("x", size_px=28)), [FIRST, "28 x 28 px, expected 105 x 105"], id="wrong size"),
    pytest.param(FIRST, png(Image.new("RGB", (105, 105))), [FIRST, "black and white", "RGB"], id="colour"),
    pytest.param(FIRST, png(Image.new("L", (105, 105), 99)), [FIRST, "black and white", "mode L"], id="grey"),
    pytest.param(FIRST, png(drawing("x"))[:-40], [FIRST, "not a complete PNG"], id="truncated png"),
    pytest.param(FIRST, b"GIF89a", [FIRST, "not a complete PNG"], id="not a png"),
    pytest.param(FIRST, b"\0" * 200_000, [FIRST, "too large, 200,000 bytes"], id="huge"),
    pytest.param("../evil.png", b"x", ["'../evil.png'", "leads out of the archive"], id="dot dot"),
    pytest.param("images_background/../../evil", b"x", ["leads out of the archive"], id="dot dot inside"),
    pytest.param("/etc/evil.png", b"x", ["'/etc/evil.png'", "leads out of the archive"], id="absolute"),
]


@pytest.mark.parametrize(("name", "data", "words"), BAD_MEMBERS)
def test_a_bad_member_is_named(tmp_path: Path, name: str, data: bytes | None, words: list[str]):
    write_zips(tmp_path)
    archive = tmp_path / "images_background.zip"
    write_zip(archive, spoil(members("images_background"), name, data))
    before = sorted(tmp_path.rglob("*"))
    refused(tmp_path, str(tmp_path), *words)
    assert sorted(tmp_path.rglob("*")) == before


def refused(source: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        read_quietly(source)
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_an_empty_folder_is_refused(tmp_path: Path):
    refused(tmp_path, f"--source {tmp_path}: no images_background.zip", "images_evaluation.zip", "github.com")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    refused(tmp_path / "nowhere", "does not exist", "images_background.zip")


def test_a_file_as_source_is_refused(tmp_path: Path):
    refused(write_zips(tmp_path) / "images_background.zip", "is a file", "name the folder")


def test_one_archive_alone_is_refused(tmp_path: Path):
    (write_zips(tmp_path) / "images_evaluation.zip").unlink()
    refused(tmp_path, "no images_evaluation.zip (or the folder images_evaluation) here")


@pytest.mark.parametrize("part", [0.5, 0.99])
def test_a_truncated_archive_is_refused(tmp_path: Path, part: float):
    archive = write_zips(tmp_path) / "images_evaluation.zip"
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * part)])
    refused(tmp_path, str(archive), "not a complete zip archive", "download it again")


def test_a_flipped_byte_in_an_archive_is_refused(tmp_path: Path):
    archive = write_zips(tmp_path) / "images_background.zip"
    data = bytearray(archive.read_bytes())
    data[len(FIRST) + 30 + 60] ^= 0xFF  # in the first member's data: behind its name and the 30 bytes before that
    archive.write_bytes(bytes(data))
    refused(tmp_path, FIRST)


def test_archives_of_something_else_are_refused(tmp_path: Path):
    write_zip(write_zips(tmp_path) / "images_evaluation.zip", {"photos/cat.png": png(drawing("cat"))})
    refused(tmp_path, "images_evaluation.zip: not Omniglot", "<Alphabet>/characterNN/NNNN_MM.png")


def test_folders_of_something_else_are_refused(tmp_path: Path):
    shutil.rmtree(write_folders(tmp_path) / "images_evaluation")
    (tmp_path / "images_evaluation").mkdir()
    (tmp_path / "images_evaluation" / "cat.png").write_bytes(png(drawing("cat")))
    refused(tmp_path, "images_evaluation: not Omniglot")


def test_a_character_missing_altogether_is_counted(tmp_path: Path):
    shutil.rmtree(write_folders(tmp_path) / "images_background" / "Aleph" / "character02")
    refused(tmp_path, f"{CLASSES - 1} characters of 3 alphabets, but 'made-omniglot' declares {CLASSES}")


def test_the_whole_of_omniglot_has_50_alphabets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert omniglot.ALPHABETS == {1623: 50}
    monkeypatch.setattr(omniglot, "ALPHABETS", {CLASSES: 4})
    refused(write_zips(tmp_path), f"{CLASSES} characters of 3 alphabets, but 'made-omniglot' declares {CLASSES} of 4")


def test_the_same_character_in_both_archives_is_refused(tmp_path: Path):
    files = {name.replace("background", "evaluation"): data for name, data in members("images_background").items()}
    write_zip(write_zips(tmp_path) / "images_evaluation.zip", files)
    refused(tmp_path, "second drawing by drawer 01")


# ------------------------------------------------------------------------------------------------------------- resizing


def test_nearest_keeps_two_levels_and_lanczos_makes_grey_ones():
    raw = drawing("grey")
    assert set(np.unique(resized(raw, 28, "nearest", invert=True))) == {0, 255}
    assert len(np.unique(resized(raw, 28, "lanczos", invert=True))) > 50


def test_resizing_is_pillow_s_on_grey_levels_or_on_1_bit():
    raw = drawing("exact")
    grey = raw.convert("L").resize((28, 28), Image.Resampling.LANCZOS)
    assert (resized(raw, 28, "lanczos", invert=False) == np.asarray(grey)).all()
    nearest = np.asarray(raw.resize((28, 28), Image.Resampling.NEAREST), dtype=np.uint8) * 255
    assert (resized(raw, 28, "nearest", invert=False) == nearest).all()
    assert (resized(raw, 105, "none", invert=False) == np.asarray(raw, dtype=np.uint8) * 255).all()


@pytest.mark.parametrize("resize", ["nearest", "lanczos"])
def test_inverted_ink_is_255(resize: str):
    raw = Image.new("1", (105, 105), 1)
    raw.paste(0, (30, 30, 75, 75))  # ink in the middle
    pixels = resized(raw, 28, resize, invert=True)
    assert pixels[14, 14] == 255
    assert pixels[0, 0] == 0
    assert (resized(raw, 28, resize, invert=False) == 255 - pixels).all()


def test_without_resizing_images_keep_the_raw_size(tmp_path: Path):
    unresized = {"value": "none", "source": "chosen: as they are"}
    raw_size = {"value": 105, "source": "chosen: as they are"}
    found = read_quietly(write_zips(tmp_path), resize=unresized, image_size_px=raw_size)
    assert found[0].images.shape[2:] == (105, 105)


# ---------------------------------------------------------------------------------------------------------- downloading


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served on this machine."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


def point_torchvision_at(monkeypatch: pytest.MonkeyPatch, address: str, folder: Path) -> None:
    from torchvision.datasets import Omniglot  # noqa: PLC0415 - imports torch's second half, for a few tests alone

    md5 = {
        part: hashlib.md5((folder / f"{part}.zip").read_bytes(), usedforsecurity=False).hexdigest()
        for part in omniglot.PARTS
        if (folder / f"{part}.zip").exists()
    }
    monkeypatch.setattr(Omniglot, "download_url_prefix", address)
    monkeypatch.setattr(Omniglot, "zips_md5", dict.fromkeys(omniglot.PARTS, "0" * 32) | md5)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_download_gives_the_same_and_leaves_nothing(
    server: tuple[Path, str], scratch: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, address = server
    write_zips(folder)
    point_torchvision_at(monkeypatch, address, folder)
    classes, source, _ = read_quietly(None)
    assert source == "omniglot, downloaded"
    assert (classes.images == read_quietly(folder)[0].images).all()
    assert list(scratch.glob("norml-*")) == []


def test_a_refused_connection_names_the_way_out(scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    point_torchvision_at(monkeypatch, "http://127.0.0.1:9", tmp_path)  # the discard port: nothing listens
    refused_download(scratch, "Connection refused", "--source FOLDER", "https://github.com/brendenlake/omniglot")


def test_a_missing_file_on_the_server_is_told(server: tuple[Path, str], scratch: Path, monkeypatch: pytest.MonkeyPatch):
    folder, address = server
    point_torchvision_at(monkeypatch, address, folder)
    refused_download(scratch, f"cannot download {address}/images_background.zip", "File not found")


def test_a_file_of_other_content_is_told(server: tuple[Path, str], scratch: Path, monkeypatch: pytest.MonkeyPatch):
    folder, address = server
    write_zips(folder)
    point_torchvision_at(monkeypatch, address, folder)
    (folder / "images_evaluation.zip").write_bytes(b"<html>not today</html>")
    refused_download(scratch, "images_evaluation.zip", "corrupted", "--source")


def refused_download(scratch: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        read_quietly(None)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    assert list(scratch.glob("norml-*")) == []


# ---------------------------------------------------------------------------------------------------- the real Omniglot


@pytest.mark.skipif(REAL_SOURCE is None, reason="NORML_OMNIGLOT_SOURCE names no folder with the real archives")
def test_the_real_omniglot_is_what_the_entry_declares():
    entry = load_registry().dataset("omniglot")
    classes, _, sha256 = read(entry, Path(str(REAL_SOURCE)), lambda *_: None)
    assert sha256 == entry.source_sha256
    assert classes.images.shape == (1623, 20, 28, 28)
    assert len({name.split("/")[0] for name in classes.names}) == 50
    braille = classes.images[classes.names.index("Braille/character01")]
    assert (braille[2] == braille[18]).all()  # drawers 03 and 19 handed in one and the same drawing
    assert not (braille[2] == braille[3]).all()
