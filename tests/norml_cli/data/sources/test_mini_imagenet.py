"""Reading mini-ImageNet: every form gives the same cache, every way a source can be wrong is one line."""

import io
import os
import pickle
import pickletools
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from norml_cli.commands.data.prepare import prepare
from norml_cli.data.cache import Cache, cache_path, home
from norml_cli.data.sources import found_files, mini_imagenet
from norml_cli.data.splits import SPLITS
from norml_cli.files.errors import UserError
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.registry.resolving import Registry
from norml_cli.terminal.output import Output
from tests.helpers import photos
from tests.helpers.photos import (
    CLASSES,
    LABELS,
    PER_CLASS,
    SIZE_PX,
    class_folders,
    names,
    photo,
    pickle_name,
    pickles,
    python_2_pickles,
    tables,
    with_images,
    write_files,
    write_tar,
    write_zip,
)

REAL_SOURCE = os.environ.get("NORML_MINI_IMAGENET_SOURCE")
IMAGES = int(np.prod([PER_CLASS, sum(CLASSES.values())]))


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("NORML_HOME", str(tmp_path / "home"))
    return read_registry([builtin_registry(), photos.write_registry(tmp_path / "registry")])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    return made


def prepared(registry: Registry, source: Path | None, *, dataset: str = "made-mini", force: bool = True) -> str:
    """What the command prints."""
    console = Output(file=io.StringIO(), width=200)
    prepare(registry, dataset, source=source, force=force, verify=False, console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def opened(registry: Registry, dataset: str = "made-mini") -> Cache:
    return Cache.open(registry.dataset(dataset), registry.files["datasets", dataset])


# ---------------------------------------------------------------------------------------------------------------- forms


def flat(folder: Path) -> Path:
    return write_files(folder, with_images(""))


def in_images(folder: Path) -> Path:
    return write_files(folder, with_images())


def in_class_folders(folder: Path) -> Path:
    return write_files(folder, class_folders())


def in_class_folders_with_csv(folder: Path) -> Path:
    return write_files(folder, {**class_folders(), **tables()})


def in_parts(folder: Path) -> Path:
    """As the data set is often kept: csv files beside, the images of train in two parts."""
    write_files(folder, tables())
    train = {f"images/{name}": data for name, data in photos.images("train").items()}
    first = dict(list(train.items())[:5])
    write_tar(folder / "images-train-1of2.tar.xz", first)
    write_tar(folder / "images-train-2of2.tar.gz", {name: train[name] for name in train.keys() - first.keys()})
    write_tar(folder / "images-val.tar", {f"./images/{name}": data for name, data in photos.images("val").items()})
    write_zip(folder / "images-test.zip", {f"images/{name}": data for name, data in photos.images("test").items()})
    return folder


def one_zip(folder: Path) -> Path:
    return write_zip(folder / "mini-imagenet.zip", {f"mini/{name}": data for name, data in with_images().items()})


def one_tar_and_csv_beside(folder: Path) -> Path:
    write_files(folder, tables())
    return write_tar(folder / "all.tgz", {name: data for name, data in with_images().items() if "csv" not in name})


def archived_class_folders(folder: Path) -> Path:
    return write_tar(folder / "mini.tar.bz2", class_folders())


def an_archive_a_split(folder: Path) -> Path:
    for name in CLASSES:
        inside = {path.removeprefix(f"{name}/"): data for path, data in class_folders(name).items()}
        write_tar(folder / f"{name}.tar", inside)
    return folder


def with_rubbish(folder: Path) -> Path:
    """Files beside the images that are not read."""
    rubbish = {
        "__MACOSX/images/._x.jpg": b"x",
        "images/._x.jpg": b"x",
        "notes.txt": b"x" * 10_000_000,
        "SUMS.csv": b"x",
        "x\ny.jpg": b"x",
    }
    write_zip(folder / "mini.zip", {**with_images(), **rubbish})
    return write_files(folder, {"README.md": b"x", "other.pkl": b"x"})


def in_pickles(folder: Path) -> Path:
    return write_files(folder, {**pickles(), **tables()})  # csv files beside them change nothing


def in_python_2_pickles(folder: Path) -> Path:
    return write_files(folder, python_2_pickles())


FORMS: list[tuple[Callable[[Path], Path], str]] = [
    (flat, "a folder of images with csv files"),
    (in_images, "a folder of images with csv files"),
    (in_class_folders, "a folder of class folders"),
    (in_class_folders_with_csv, "a folder of images with csv files"),
    (in_parts, "4 archives of images with csv files"),
    (one_zip, "an archive of images with csv files"),
    (one_tar_and_csv_beside, "an archive of images with csv files"),
    (archived_class_folders, "an archive of class folders"),
    (an_archive_a_split, "3 archives of class folders"),
    (with_rubbish, "an archive of images with csv files"),
    (in_pickles, "pickles"),
    (in_python_2_pickles, "pickles"),
]


@pytest.mark.parametrize(("write", "text"), FORMS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_form_gives_the_same_classes_and_images(
    registry: Registry, folder: Path, write: Callable[[Path], Path], text: str
):
    out = prepared(registry, write(folder))
    assert f"(mini-imagenet, {text})" in out
    assert "3 meta-train, 2 meta-val, 2 meta-test classes" in out
    cache = opened(registry)
    assert cache.content_hash in out
    for split, name in zip(SPLITS, CLASSES, strict=True):
        assert cache.class_names(split) == LABELS[name]
        expected = [[photos.pixels(photo(file)) for file in names(label)] for label in LABELS[name]]
        assert (cache.images(split) == np.array(expected)).all()
    assert cache.verify() == 2 * len(SPLITS)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("core", ["core", "_core"])
def test_every_pickle_protocol_of_either_numpy_is_read(registry: Registry, folder: Path, protocol: int, core: str):
    """numpy 2 writes numpy._core where numpy 1 wrote numpy.core."""
    other = {"core": "_core", "_core": "core"}[core]
    files = {}
    for name, data in pickles(protocol).items():
        for part in ("multiarray", "numeric"):
            old, new = f"numpy.{other}.{part}".encode(), f"numpy.{core}.{part}".encode()
            data = data.replace(bytes([len(old)]) + old, bytes([len(new)]) + new)  # noqa: PLW2901 - framed: protocol 4
            data = data.replace(b"c" + old + b"\n", b"c" + new + b"\n")  # noqa: PLW2901
        files[name] = data if protocol < 4 else unframed(data)
    prepared(registry, write_files(folder, files))
    first = opened(registry).content_hash
    prepared(registry, in_images(folder.parent / "images"))
    assert opened(registry).content_hash == first


def unframed(data: bytes) -> bytes:
    """Without the lengths of protocol 4's frames, which a name of another length would belie; frames are optional."""
    frames = [place for opcode, _, place in pickletools.genops(data) if opcode.name == "FRAME"]
    for place in reversed(frames):
        data = data[:place] + data[place + 9 :]
    return data


def test_classes_and_images_come_in_the_order_of_their_names(registry: Registry, folder: Path):
    """Whatever the order of the csv file, the archive or the folder."""
    files = with_images()
    for name in CLASSES:
        head, *rows = files[f"{name}.csv"].decode().splitlines()
        files[f"{name}.csv"] = "\r\n".join([head, *reversed(rows), ""]).encode("utf-8-sig")
    write_tar(folder / "all.tar", dict(reversed(files.items())))
    prepared(registry, folder)
    assert opened(registry).class_names("meta_train") == LABELS["train"]
    assert (opened(registry).images("meta_val")[1, 2] == photos.pixels(photo(names(LABELS["val"][1])[2]))).all()


@pytest.mark.parametrize(("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("L", "PNG")])
def test_grey_and_cmyk_images_are_taken_as_rgb(registry: Registry, folder: Path, mode: str, kind: str):
    name = names(LABELS["train"][0])[0]
    data = photo("other", mode=mode, kind=kind)
    prepared(registry, write_files(folder, {**with_images(), f"images/{name}": data}))
    assert (opened(registry).images("meta_train")[0, 0] == photos.pixels(data)).all()


def test_pairs_of_the_same_pixels_are_counted(registry: Registry, folder: Path):
    assert "pairs of images with the same pixels: none" in prepared(registry, in_images(folder))
    train, val = names(LABELS["train"][0]), names(LABELS["val"][0])
    same = photo("same")
    write_files(folder / "images", dict.fromkeys([train[0], train[2], names(LABELS["train"][1])[3], val[1]], same))
    out = prepared(registry, folder)
    assert "pairs of images with the same pixels: 3 between meta-train and meta-val, 3 within meta-train" in out


def test_progress_ends_at_the_number_of_images(folder: Path):
    seen: list[tuple[int, int]] = []
    loaded = mini_imagenet.read(
        photos.entry(), folder, in_images(folder), lambda done, total: seen.append((done, total))
    )
    assert seen == []  # images are decoded when their classes are asked for
    for split in SPLITS:
        assert len(list(loaded.splits[split])) == len(loaded.splits[split].sizes)
    assert seen[0] == (PER_CLASS, IMAGES)
    assert seen[-1] == (IMAGES, IMAGES)


def test_a_declared_content_is_checked(registry: Registry, folder: Path, tmp_path: Path):
    prepared(registry, in_images(folder))
    before, content = cache_path("made-mini").read_bytes(), opened(registry).source_sha256
    for declared, good in ((content, True), ("0" * 64, False)):
        path = photos.write_registry(tmp_path / declared[:8], source_sha256=declared)
        other = read_registry([builtin_registry(), path])
        if good:
            prepared(other, folder)
            before = cache_path("made-mini").read_bytes()
        else:
            with pytest.raises(UserError, match=f"source_sha256: the source has other pixels .*{content}"):
                prepared(other, folder)
            assert cache_path("made-mini").read_bytes() == before


# ---------------------------------------------------------------------------------------------------------- bad sources


def refused(registry: Registry, source: Path | None, *words: str) -> None:
    """One line with these words; what was there before, a cache included, stays, and nothing else."""
    home().mkdir(exist_ok=True)
    cache_path("made-mini").write_bytes(b"the old cache")
    before = sorted(source.rglob("*")) if source else []
    with pytest.raises(UserError) as error:
        prepared(registry, source)
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    assert [path.name for path in home().iterdir()] == ["made-mini.h5"]
    assert cache_path("made-mini").read_bytes() == b"the old cache"
    assert (sorted(source.rglob("*")) if source else []) == before


FIRST = names(LABELS["train"][0])[0]
IMAGE = f"images/{FIRST}"
LABEL = LABELS["train"][0]


def csv_with(old: str, new: str) -> bytes:
    text = photos.table("train").decode()
    assert old in text
    return text.replace(old, new, 1).encode()


BAD_FILES = [
    pytest.param(IMAGE, None, ["train.csv:2", FIRST, "which is not in the source"], id="file missing"),
    pytest.param("val.csv", None, ["holds images, but no val.csv", "github.com"], id="csv missing"),
    pytest.param(IMAGE, photo(FIRST)[:-60], [FIRST, "not a complete JPEG, PNG, BMP or WEBP image"], id="truncated jpg"),
    pytest.param(IMAGE, b"", [FIRST, "not a complete JPEG, PNG, BMP or WEBP image"], id="empty jpg"),
    pytest.param(IMAGE, b"GIF89a", [FIRST, "not a complete JPEG, PNG, BMP or WEBP image"], id="not an image"),
    pytest.param(IMAGE, photo("x", 32), [FIRST, f"32 x 32 px, expected {SIZE_PX} x {SIZE_PX}"], id="wrong size"),
    pytest.param(IMAGE, b"<html>", [FIRST, "is a web page, not the file"], id="web page"),
    pytest.param(IMAGE, bytes(200_001), [FIRST, "too large"], id="huge"),
    pytest.param(
        "train.csv",
        csv_with(f"{FIRST},{LABEL}\n", ""),
        [f"class '{LABEL}' in train has 3 images, but 'made-mini' declares 4"],
        id="one image too few",
    ),
    pytest.param(
        "train.csv",
        csv_with(f"{FIRST},{LABEL}", f"{FIRST},{LABELS['train'][1]}"),
        ["train.csv:2", f"labelled '{LABELS['train'][1]}', but its name says '{LABEL}'"],
        id="label contradicts",
    ),
    pytest.param(
        "train.csv",
        csv_with(f"{FIRST},{LABEL}\n", f"{FIRST},{LABEL}\n" * 2),
        ["train.csv:3", FIRST, "again, after"],
        id="named twice",
    ),
    pytest.param("train.csv", b"file,class\nx,y\n", ["train.csv:1", "filename,label"], id="other columns"),
    pytest.param("train.csv", b"", ["train.csv:1", "filename,label"], id="empty csv"),
    pytest.param("train.csv", b"filename,label\nx.jpg\n", ["train.csv:2", "no file name or no label"], id="short row"),
    pytest.param("train.csv", b'filename,label\n"x\ny.jpg",x\n', ["train.csv:3", "is not printable"], id="two lines"),
    pytest.param("train.csv", b"filename,label\n\xff,x\n", ["train.csv", "not readable as csv"], id="not utf-8"),
    pytest.param("train.csv", b'filename,label\n"x', ["train.csv", "not readable as csv"], id="open quote"),
    pytest.param("val.csv", photos.table("train"), ["val.csv:2", "again, after"], id="same csv twice"),
]


@pytest.mark.parametrize(("name", "data", "words"), BAD_FILES)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_a_bad_file_is_named(
    registry: Registry, folder: Path, name: str, data: bytes | None, words: list[str], packed: bool
):
    files = with_images()
    if data is None:
        del files[name]
    else:
        files[name] = data
    if packed:
        write_tar(folder / "mini.tar.gz", files)
    else:
        write_files(folder, files)
    refused(registry, folder, *words)


def test_without_a_source_the_message_says_where_to_get_it_and_which_forms_are_read(registry: Registry):
    refused(
        registry, None, "image-net.org", "meta-learning-lstm", "--source PATH", "train.csv", "zip", "cache-{train,val"
    )


@pytest.mark.parametrize("dataset", ["made-mini", "mini-imagenet"])
def test_an_unprepared_set_says_what_to_do(registry: Registry, dataset: str):
    with pytest.raises(UserError, match=f"run `norml prepare {dataset}`, with --source PATH"):
        opened(registry, dataset)


def test_a_source_of_nothing_is_refused(registry: Registry, folder: Path):
    refused(
        registry, folder, f"--source {folder}: no images of 'made-mini' here", "mini-imagenet-cache", "image-net.org"
    )
    refused(registry, folder / "nowhere", "nowhere: does not exist")
    (folder / "x.pkl").write_bytes(b"x")
    refused(registry, folder / "x.pkl", "x.pkl: not a folder or an archive")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (pickles(), ["pickles (mini-imagenet-cache-test.pkl)", "images (images/n"]),
        ({"x.zip": b"x"}, ["archives (x.zip)", "images (images/n"]),
    ],
    ids=["pickles", "archives"],
)
def test_two_forms_at_once_are_refused(registry: Registry, folder: Path, files: dict[str, bytes], words: list[str]):
    refused(registry, write_files(in_images(folder), files), "keep one form", *words)


def test_two_images_of_one_name_are_refused(registry: Registry, folder: Path):
    write_files(folder, {**with_images(), FIRST: photo(FIRST)})
    refused(registry, folder, "found twice, also as", FIRST)
    doubled = folder.parent / "doubled"
    for number in range(2):
        write_tar(doubled / f"{number}.tar", class_folders())
    refused(registry, doubled, "found twice, also as", "1.tar", "0.tar")


def test_two_different_csv_files_are_refused(registry: Registry, folder: Path):
    one_zip(folder)
    refused(
        registry,
        write_files(folder, {"train.csv": photos.table("val")}),
        "train.csv: differs from",
        "mini-imagenet.zip",
    )


def test_a_csv_file_that_contradicts_the_folders_is_refused(registry: Registry, folder: Path):
    in_class_folders_with_csv(folder)
    path = folder / "train" / LABEL / FIRST
    path.rename(folder / "val" / LABELS["val"][0] / FIRST)
    refused(registry, folder, "train.csv:2", f"has class '{LABEL}', but is at", f"val/{LABELS['val'][0]}")


def test_class_folders_that_contradict_themselves_are_refused(registry: Registry, folder: Path):
    in_class_folders(folder)
    path = folder / "train" / LABEL / FIRST
    path.rename(folder / "train" / LABELS["train"][1] / FIRST)
    refused(registry, folder, f"labelled '{LABELS['train'][1]}', but its name says '{LABEL}'")


def test_an_image_outside_the_class_folders_is_refused(registry: Registry, folder: Path):
    write_files(in_class_folders(folder), {"stray.jpg": photo("x")})
    refused(registry, folder, "stray.jpg: not in a folder train/<label>")


def test_a_class_folder_too_many_and_a_split_missing_are_counted(registry: Registry, folder: Path):
    files = {f"val/n9/{number}.jpg": photo(str(number)) for number in range(PER_CLASS)}
    refused(registry, write_files(in_class_folders(folder), files), "3 classes in val, but 'made-mini' declares 2")
    archive = write_zip(folder.parent / "no-test.zip", {**class_folders("train"), **class_folders("val")})
    refused(registry, archive, "0 classes in test, but 'made-mini' declares 2")


def test_a_class_in_two_splits_is_refused(registry: Registry, folder: Path):
    files = {name: data for name, data in class_folders().items() if LABELS["val"][0] not in name}
    files |= {f"val/{LABEL}/{LABEL}-{number}.jpg": photo(str(number)) for number in range(PER_CLASS)}
    refused(registry, write_files(folder, files), f"class '{LABEL}' is in train and in val")


def test_pillow_s_bomb_warning_is_part_of_the_one_line(registry: Registry, folder: Path):
    """Pillow warns of an image of over 89 million pixels on standard error, beside the error's line."""
    target = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(target, "PNG")
    refused(registry, write_files(folder, {**with_images(), IMAGE: target.getvalue()}), FIRST, "decompression bomb")


# ------------------------------------------------------------------------------------------------------- wrong archives


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_name_that_leads_out_of_an_archive_condemns_it(registry: Registry, folder: Path):
    for number, name in enumerate(("../evil.jpg", "images/../../evil.jpg", "/etc/evil.jpg", "..\\evil.jpg")):
        for write in (write_tar, write_zip):
            suffix = {write_tar: "tar.gz", write_zip: "zip"}[write]
            archive = write(folder / f"{number}.{suffix}", {**with_images(), name: b"x"})
            refused(registry, archive, "leads out of the archive; do not trust this file", archive.name)
    assert not list(folder.parent.rglob("evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_archives_are_passed_over(registry: Registry, folder: Path, kind: bytes):
    files = with_images()
    write_tar(folder / "a.tar", files, link("images/x.jpg", "/etc/passwd", kind))
    prepared(registry, folder)
    del files[IMAGE]
    write_tar(folder / "a.tar", files, link(IMAGE, "/etc/passwd", kind))
    refused(registry, folder, "train.csv:2", "which is not in the source")


@pytest.mark.parametrize("form", ["tar", "tar.gz", "tar.xz", "zip"])
@pytest.mark.parametrize("part", [0, 0.334, 0.9])
def test_a_truncated_archive_is_refused(registry: Registry, folder: Path, form: str, part: float):
    files = {**with_images(), "images/big.png": np.random.default_rng(0).bytes(100_000)}
    archive = (write_zip if form == "zip" else write_tar)(folder / f"mini.{form}", files)
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * part)])
    refused(registry, folder, f"mini.{form}: not a complete", "download it again")


def test_archives_of_more_than_memory_should_hold_are_refused(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(found_files, "MAX_HELD_BYTES", 5_000)
    refused(registry, one_zip(folder), "take more than 5,000 bytes; unpack it")


# -------------------------------------------------------------------------------------------------------- wrong pickles


def spoilt(**changes: object) -> bytes:
    return pickle.dumps({**photos.cache("train"), **changes})


def places(**changes: object) -> dict[str, object]:
    found = photos.cache("train")["class_dict"]
    assert isinstance(found, dict)
    return {**found, **changes}


IMAGES_OF_TRAIN = photos.cache("train")["image_data"]
assert isinstance(IMAGES_OF_TRAIN, np.ndarray)

BAD_PICKLES = [
    pytest.param(b"", ["refused", "it ends too early"], id="empty"),
    pytest.param(pickles()[pickle_name("train")][:-200], ["refused"], id="truncated"),
    pytest.param(pickle.dumps([1]), ["no 'image_data' in this pickle"], id="no mapping"),
    pytest.param(pickle.dumps({"image_data": 1}), ["no 'class_dict' in this pickle"], id="no classes"),
    pytest.param(spoilt(image_data=[1]), ["image_data: not an array"], id="no array"),
    pytest.param(spoilt(image_data=IMAGES_OF_TRAIN.astype(np.int64)), ["int64", "expected uint8"], id="wide"),
    pytest.param(spoilt(image_data=IMAGES_OF_TRAIN / 255), ["array of type 'f8'", "only integers"], id="floats"),
    pytest.param(spoilt(image_data=np.array([{}])), ["array of type 'O8'", "only integers"], id="objects"),
    pytest.param(spoilt(image_data=IMAGES_OF_TRAIN[:, :8]), [f"[12, 8, {SIZE_PX}, 3], expected"], id="wrong size"),
    pytest.param(spoilt(image_data=IMAGES_OF_TRAIN[1:]), ["does not list each of the 11 images once"], id="lacks one"),
    pytest.param(spoilt(class_dict=[1]), ["class_dict: not a mapping"], id="classes no mapping"),
    pytest.param(spoilt(class_dict=places(n1=[1])), ["class 'n1' in train has 1 images"], id="another class"),
    pytest.param(spoilt(class_dict=places(**{LABEL: [0, 1, 2]})), ["has 3 images, but"], id="one index too few"),
    pytest.param(spoilt(class_dict=places(**{LABEL: [0, 1, 2, 4]})), ["once"], id="index twice"),
    pytest.param(spoilt(class_dict=places(**{LABEL: [0, 1, 2, -1]})), ["once"], id="index outside"),
    pytest.param(spoilt(class_dict=places(**{"a\nb": [1]})), ["'a\\nb' is not printable"], id="label of two lines"),
    pytest.param(spoilt(class_dict=places(**{LABEL: "0123"})), ["is not a list of indices"], id="text for indices"),
    pytest.param(spoilt(class_dict=places(**{LABEL: 7})), ["is not a list of indices"], id="number for indices"),
    pytest.param(bytes(30_000_000), ["too large, more than"], id="huge"),
]


@pytest.mark.parametrize(("data", "words"), BAD_PICKLES)
def test_a_bad_pickle_is_named(registry: Registry, folder: Path, data: bytes, words: list[str]):
    refused(registry, write_files(folder, {**pickles(), pickle_name("train"): data}), pickle_name("train"), *words)


def test_a_missing_pickle_is_named(registry: Registry, folder: Path):
    (in_pickles(folder) / pickle_name("val")).unlink()
    refused(registry, folder, "holds pickles, but no mini-imagenet-cache-val.pkl")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (f"{os.environ['NORML_HOME']}/evil",)


def test_a_pickle_that_would_run_code_is_refused_and_nothing_is_run(registry: Registry, folder: Path):
    write_files(folder, {**pickles(), pickle_name("val"): pickle.dumps({"image_data": Evil()})})
    refused(registry, folder, "cache-val.pkl: refused without running it: it names 'posix.mkdir'")


# ----------------------------------------------------------------------------------------------- the real mini-ImageNet


@pytest.mark.skipif(REAL_SOURCE is None, reason="NORML_MINI_IMAGENET_SOURCE names nothing of the real data set")
def test_the_real_mini_imagenet_is_what_the_entry_declares(registry: Registry):
    out = prepared(registry, Path(str(REAL_SOURCE)), dataset="mini-imagenet")
    assert "64 meta-train, 16 meta-val, 20 meta-test classes" in out
    assert "with the same pixels: 6 between meta-train and meta-val, 2 within meta-train\n" in out
    cache = opened(registry, "mini-imagenet")
    assert [cache.sizes(split) for split in SPLITS] == [(600,) * n for n in (64, 16, 20)]
    assert cache.class_names("meta_train")[0] == "n01532829"
    assert cache.verify() == 2 * len(SPLITS)
