"""The cache: what goes in comes out, whatever is wrong with it is told, and nobody ever sees half of one."""

import fcntl
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from norml_cli.data import array_files
from norml_cli.data import cache as cache_module
from norml_cli.data.cache import Cache, cache_path, fingerprint, freshness, home, write_cache
from norml_cli.data.fixed_episodes import EpisodeArrays, EpisodeRequest, drawn, episode_requests
from norml_cli.data.splits import SPLITS, ImageClasses, LoadedDataset
from norml_cli.files.errors import UserError
from norml_cli.registry.entries import DatasetEntry
from norml_cli.registry.reading import load_registry
from tests.helpers import synthetic
from tests.helpers.synthetic import entry_values
from tests.helpers.tiny import write_entry

REQUEST = EpisodeRequest("meta_test", n_way=3, shots=1, queries_per_class=2, rotations=True, episodes=7, seed=0)
ENTRY = synthetic.entry()


@pytest.fixture(autouse=True)
def entry_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and the file in which `ENTRY` is declared."""
    monkeypatch.setenv("NORML_HOME", str(tmp_path / "home"))
    return write_entry(tmp_path / "registry", "datasets", entry_values())


def loaded(seed: int = 0) -> LoadedDataset:
    generator = np.random.default_rng(seed)
    sizes = dict(zip(SPLITS, (6, 3, 3), strict=True))
    return LoadedDataset(
        {
            split: ImageClasses(
                tuple(f"{split}/caractère{number}" for number in range(size)),
                generator.integers(0, 256, (size, 3, 28, 28), dtype=np.uint8),
            )
            for split, size in sizes.items()
        },
        "made",
        lambda: "5" * 64,
    )


def episodes() -> EpisodeArrays:
    return drawn(REQUEST, ["x"] * 3, [3] * 3)


def written(entry_file: Path, entry: DatasetEntry = ENTRY) -> Cache:
    return write_cache(entry, entry_file, loaded(), [REQUEST])


def files() -> list[str]:
    """What lies where the caches are."""
    return sorted(path.name for path in home().iterdir())


# ----------------------------------------------------------------------------------------------------------- round trip


def test_what_goes_in_comes_out(entry_file: Path):
    written(entry_file)
    cache = Cache.open(ENTRY, entry_file)
    for split in SPLITS:
        assert cache.images(split).dtype == np.uint8
        assert (cache.images(split) == loaded().splits[split].images).all()
        assert tuple(cache.class_names(split)) == loaded().splits[split].names
    stored = cache.episodes(REQUEST)
    for part in ("classes", "examples", "turns"):
        assert (getattr(stored, part) == getattr(episodes(), part)).all()
    assert stored.hash() == episodes().hash()
    assert freshness(ENTRY, entry_file) == "up to date"
    assert files() == ["made-omniglot.h5"]


def test_the_same_content_is_the_same_file(entry_file: Path):
    written(entry_file)
    first = cache_path(ENTRY.id).read_bytes()
    written(entry_file)
    assert cache_path(ENTRY.id).read_bytes() == first


def test_the_file_names_no_path_of_this_machine(entry_file: Path, tmp_path: Path):
    written(entry_file)
    assert str(tmp_path).encode() not in cache_path(ENTRY.id).read_bytes()


def test_content_hash_is_of_images_and_names_alone(entry_file: Path):
    first = written(entry_file)
    assert write_cache(ENTRY, entry_file, loaded(), []).content_hash == first.content_hash
    assert write_cache(ENTRY, entry_file, loaded(seed=1), []).content_hash != first.content_hash
    renamed = loaded()
    old = renamed.splits["meta_val"]
    renamed.splits["meta_val"] = ImageClasses((*old.names[:-1], "renamed"), old.images)
    assert write_cache(ENTRY, entry_file, renamed, []).content_hash != first.content_hash


def test_episodes_that_a_cache_lacks_are_drawn_and_the_file_stays_as_it_was(entry_file: Path):
    cache = written(entry_file)
    before, more = cache.path.read_bytes(), replace(REQUEST, queries_per_class=1)
    assert cache.episodes(more).hash() == drawn(more, ["x"] * 3, [3] * 3).hash()
    assert write_cache(ENTRY, entry_file, loaded(), [more]).episodes(more).hash() == cache.episodes(more).hash()
    written(entry_file)
    assert cache.path.read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
def test_a_locked_cache_is_read(entry_file: Path):
    """As another program of HDF5's holds it while it writes."""
    cache = written(entry_file)
    with cache.path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert cache.sizes("meta_val") == (3, 3, 3)


def test_classes_of_unequal_size_come_back_one_after_the_other(entry_file: Path):
    parts = loaded()
    images = [np.full((size, 28, 28), size, np.uint8) for size in (3, 5, 4)]

    class Stream:
        sizes, example_shape = (3, 5, 4), (28, 28)

        def __iter__(self) -> Iterator[tuple[str, Any]]:
            return zip("abc", images, strict=True)

    equal = write_cache(ENTRY, entry_file, parts, []).content_hash
    cache = write_cache(ENTRY, entry_file, replace(parts, splits={**parts.splits, "meta_val": Stream()}), [])
    assert cache.sizes("meta_val") == (3, 5, 4)
    assert cache.sizes("meta_test") == (3, 3, 3)
    assert (cache.images("meta_val") == np.concatenate(images)).all()
    assert cache.verify() == 2 * len(SPLITS) + 1
    assert cache.content_hash != equal
    with pytest.raises(UserError, match=r"meta_val: class 'a' has 3 examples, but shots \+ queries_per_class = 4"):
        cache.episodes(replace(REQUEST, split="meta_val", queries_per_class=3))


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert cache_path("x") == tmp_path / "home" / "x.h5"
    monkeypatch.delenv("NORML_HOME")
    assert home().name == "norml"


# ------------------------------------------------------------------------------------------------------ class by class


class Made:
    """Classes made when they are asked for: 48 of 1 MB each, or until `fails_at`."""

    sizes, example_shape = (10,) * 48, (187, 187, 3)

    def __init__(self, fails_at: int = 48) -> None:
        self.fails_at = fails_at

    def __iter__(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        for number in range(len(self.sizes)):
            if number == self.fails_at:
                raise UserError("class cannot be read")
            yield f"class{number}", np.full((10, *self.example_shape), number, np.uint8)


CLASS_BYTES = int(10 * np.prod(Made.example_shape))


@contextmanager
def peak_bytes_below(limit: int) -> Iterator[None]:
    """What numpy and Python hold at most inside."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit


def test_colour_images_are_written_and_verified_class_by_class(entry_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(array_files, "SLAB_BYTES", 2 * CLASS_BYTES)
    with peak_bytes_below(4 * CLASS_BYTES):  # of 144: a class, the next one, and what else there is
        cache = write_cache(ENTRY, entry_file, LoadedDataset(dict.fromkeys(SPLITS, Made()), "made", str), [])
    with peak_bytes_below(6 * CLASS_BYTES):  # two slabs of two classes
        assert cache.verify() == 2 * len(SPLITS)
    images = cache.images("meta_val")
    assert images.shape == (48, 10, *Made.example_shape)
    assert (images == np.arange(48)[:, None, None, None, None]).all()
    assert cache.class_names("meta_val")[-1] == "class47"
    assert cache.sizes("meta_val") == (10,) * 48


@pytest.mark.parametrize("slab_bytes", [1, 28 * 28 * 3, 10_000, 1 << 24])
def test_slabs_give_the_hash_of_the_whole(entry_file: Path, monkeypatch: pytest.MonkeyPatch, slab_bytes: int):
    monkeypatch.setattr(array_files, "SLAB_BYTES", slab_bytes)
    cache = written(entry_file)
    assert cache.verify() == 2 * len(SPLITS) + 3
    with h5py.File(cache.path) as file:
        stored = bytes(file["images/meta_val"].attrs["sha256"]).decode()
    assert stored == array_files.array_hash(loaded().splits["meta_val"].images)


def test_a_class_that_cannot_be_read_leaves_the_old_cache(entry_file: Path):
    before = written(entry_file).path.read_bytes()
    broken = LoadedDataset({**loaded().splits, "meta_test": Made(fails_at=20)}, "made", str)
    with pytest.raises(UserError, match="class cannot be read"):
        write_cache(ENTRY, entry_file, broken, [])
    assert cache_path(ENTRY.id).read_bytes() == before
    assert files() == ["made-omniglot.h5"]


def test_another_source_than_the_declared_is_refused(entry_file: Path):
    declared = synthetic.entry(source_sha256="5" * 64)
    assert write_cache(declared, entry_file, loaded(), []).source_sha256 == "5" * 64
    with pytest.raises(UserError, match=f"source_sha256: the source has other pixels or names .{'5' * 64}"):
        write_cache(synthetic.entry(source_sha256="0" * 64), entry_file, loaded(), [])


# ------------------------------------------------------------------------------------------------------------- requests


def test_every_field_of_a_request_names_it_and_seeds_its_draw():
    changed = [
        replace(REQUEST, **change)
        for change in (
            {"split": "meta_val"},
            {"n_way": 4},
            {"shots": 2},
            {"queries_per_class": 3},
            {"rotations": False},
            {"episodes": 8},
            {"seed": 1},
        )
    ]
    for names in ([r.key for r in [REQUEST, *changed]], [r.generator_seed for r in [REQUEST, *changed]]):
        assert len(set(names)) == len(changed) + 1
    assert all(0 <= request.generator_seed < 2**63 for request in changed)


def test_the_seed_of_a_request_never_changes():
    """SHA-256 of the key, as `printf meta_test-3way-... | sha256sum` gives it: other seeds would be other episodes."""
    assert REQUEST.key == "meta_test-3way-1shot-2query-turned-7episodes-seed0"
    assert REQUEST.generator_seed == 0x7BD64F26A08ABEA3 >> 1


def test_many_meta_validation_episodes_begin_with_the_usual_500():
    names, sizes = ["a", "b", "c", "d"], [4, 4, 4, 4]
    usual = replace(REQUEST, split="meta_val", episodes=500)
    first, many = (drawn(each, names, sizes) for each in (usual, replace(usual, episodes=2000)))
    assert many.classes.shape == (2000, 3)
    for part in ("classes", "examples", "turns"):
        assert np.array_equal(getattr(many, part)[:500], getattr(first, part))
        assert not np.array_equal(getattr(many, part)[500:1000], getattr(first, part))
    # Records exist of these: they are drawn as ever.
    assert replace(usual, episodes=1000).first is replace(REQUEST, episodes=2000).first is None


def test_a_run_s_requests_come_from_its_protocol():
    validation, test = episode_requests(load_registry().resolve("norml", "omniglot-20way", 5).spec)
    assert validation == EpisodeRequest("meta_val", 20, 5, 5, rotations=True, episodes=500, seed=0)
    assert test == EpisodeRequest("meta_test", 20, 5, 5, rotations=True, episodes=10000, seed=0)
    spec = load_registry().resolve("norml", "omniglot-20way", 5, {"rotations": "meta-train"}).spec
    assert not any(request.rotations for request in episode_requests(spec))


def test_episode_hash_is_of_numbers_and_shapes_not_of_integer_types():
    first = episodes()
    narrow = EpisodeArrays(*(getattr(first, part).astype(np.uint8) for part in ("classes", "examples", "turns")))
    assert narrow.hash() == first.hash()
    assert replace(first, classes=first.classes.T).hash() != first.hash()
    assert replace(first, turns=(first.turns + 1) % 4).hash() != first.hash()


# --------------------------------------------------------------------------------------------------------- declarations


@pytest.mark.parametrize(
    "change",
    [
        {"image_size_px__value": 32},
        {"resize__value": "nearest"},
        {"invert__value": False},
        {"splits__seed": 1},
        {"splits__meta_train": 5},
        {"classes": 13},
        {"examples_per_class": 4},
        {"source_sha256": "0" * 64},
        {"generator_seed": 1},
    ],
    ids=str,
)
def test_whatever_decides_the_content_changes_the_fingerprint(entry_file: Path, change: dict[str, object]):
    written(entry_file)
    other = synthetic.entry(**change)
    assert fingerprint(other, entry_file) != fingerprint(ENTRY, entry_file)
    assert freshness(other, entry_file) == "stale"
    with pytest.raises(
        UserError,
        match=r"does not match the current entry 'made-omniglot'; .*norml prepare made-omniglot --force",
    ):
        Cache.open(other, entry_file)


def test_wording_changes_no_fingerprint(entry_file: Path):
    other = synthetic.entry(title="Other", licence="other", home="elsewhere", splits__source="chosen: other words")
    assert fingerprint(other, entry_file) == fingerprint(ENTRY, entry_file)


def test_the_content_of_split_files_is_part_of_the_fingerprint(tmp_path: Path):
    splits = {"kind": "files", "source": "made"} | {split: f"{split}.txt" for split in SPLITS}
    path = write_entry(tmp_path, "datasets", entry_values(splits=splits))
    entry = DatasetEntry.model_validate(yaml.safe_load(path.read_text()))
    for split in SPLITS:
        (path.parent / f"{split}.txt").write_text(f"Aleph/{split}\n")
    first = fingerprint(entry, path)
    (path.parent / "meta_val.txt").write_bytes(b"Aleph/meta_val\r\n\r\n")  # the same lines
    assert fingerprint(entry, path) == first
    (path.parent / "meta_val.txt").write_text("Aleph/meta_val\nAleph/another\n")
    assert fingerprint(entry, path) != first
    (path.parent / "meta_val.txt").unlink()
    with pytest.raises(UserError, match=r"meta_val\.txt: cannot be read as a split file \(No such file"):
        fingerprint(entry, path)


def test_another_schema_is_told(entry_file: Path, monkeypatch: pytest.MonkeyPatch):
    written(entry_file)
    monkeypatch.setattr(cache_module, "SCHEMA_VERSION", 2)
    assert freshness(ENTRY, entry_file) == "stale"
    with pytest.raises(UserError, match=r"has schema version 1, but this norml reads 2; .* --force"):
        Cache.open(ENTRY, entry_file)


# --------------------------------------------------------------------------------------------------------------- damage


def test_a_missing_cache_names_the_command(entry_file: Path):
    assert freshness(ENTRY, entry_file) == "missing"
    with pytest.raises(
        UserError, match=r"'made-omniglot' is not prepared; run `norml prepare made-omniglot`.*--source"
    ):
        Cache.open(ENTRY, entry_file)


@pytest.mark.parametrize("part", ["images/meta_train", "images/meta_test", "classes/meta_val", "turns"])
def test_a_flipped_byte_is_found_and_its_place_named(entry_file: Path, part: str):
    cache = written(entry_file)
    name = part if "/" in part else f"episodes/{REQUEST.key}/{part}"
    with h5py.File(cache.path) as file:
        place = file[name].id.get_offset()
    flip(cache.path, place + 5)
    with pytest.raises(UserError, match=f"{name} is damaged; make it again: norml prepare made-omniglot --force"):
        cache.verify()
    with pytest.raises(UserError, match=f"{name} is damaged"):
        read_all(cache)


def read_all(cache: Cache) -> None:
    for split in SPLITS:
        cache.images(split)
        cache.class_names(split)
    cache.episodes(REQUEST)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(bytes(data))


def test_a_flipped_bit_anywhere_is_told_and_never_hangs(entry_file: Path):
    """Also in HDF5's own structures, for which it has checksums in the form chosen."""
    cache = written(entry_file)
    data = cache.path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(data), 300).tolist():
        flip(cache.path, place)
        freshness(ENTRY, entry_file)
        try:
            Cache.open(ENTRY, entry_file).verify()
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 - some flips hit bytes that nothing uses
        cache.path.write_bytes(data)


@pytest.mark.parametrize("size", [0, 100, 5_000, -1])
def test_a_truncated_cache_is_told(entry_file: Path, size: int):
    path = written(entry_file).path
    path.write_bytes(path.read_bytes()[:size])
    assert freshness(ENTRY, entry_file) == "stale"
    with pytest.raises(UserError, match=r"made-omniglot\.h5: not a readable cache .*--force"):
        Cache.open(ENTRY, entry_file)


def test_another_hdf5_file_is_told(entry_file: Path):
    home().mkdir()
    with h5py.File(cache_path(ENTRY.id), "w") as file:
        file["x"] = 1
    assert freshness(ENTRY, entry_file) == "stale"
    with pytest.raises(UserError, match="--force"):
        Cache.open(ENTRY, entry_file)


def test_exchanged_parts_are_found(entry_file: Path):
    """Each part is whole, but they are not those that the cache was made with."""
    cache = written(entry_file)
    with h5py.File(cache.path, "r+") as file:
        file.move("images/meta_val", "images/x")
        file.move("images/meta_test", "images/meta_val")
        file.move("images/x", "images/meta_test")
    with pytest.raises(UserError, match="arrays do not match its content hash"):
        cache.verify()


# -------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, PermissionError(13, "Permission denied")])
def test_an_interrupted_writer_leaves_the_old_cache_and_nothing_else(
    entry_file: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException | type[BaseException]
):
    cache = written(entry_file)
    before = cache.path.read_bytes()

    def stopped(*_: object) -> None:
        raise interruption

    monkeypatch.setattr(Path, "replace", stopped)
    expected = UserError if isinstance(interruption, PermissionError) else interruption
    assert isinstance(expected, type)
    with pytest.raises(expected):
        write_cache(ENTRY, entry_file, loaded(seed=1), [])
    assert cache.path.read_bytes() == before
    assert files() == ["made-omniglot.h5"]


def test_a_first_writer_that_fails_leaves_nothing(entry_file: Path, monkeypatch: pytest.MonkeyPatch):
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(h5py.Group, "create_dataset", stopped)
    with pytest.raises(KeyboardInterrupt):
        written(entry_file)
    assert files() == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on file sizes to stand in for a full disk")
def test_a_full_disk_is_told_and_the_old_cache_stays(entry_file: Path):
    """In a process of its own, whose files may not grow beyond what a full disk would hold."""
    before = written(entry_file).path.read_bytes()
    program = (
        "import resource, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from tests.helpers import synthetic\n"
        "from norml_cli.data.cache import write_cache\n"
        "from norml_cli.data.splits import SPLITS, ImageClasses, LoadedDataset as Loaded\n"
        "from norml_cli.files.errors import UserError\n"
        "images = ImageClasses(('a',), np.zeros((1, 500, 28, 28), np.uint8))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    write_cache(synthetic.entry(), Path(sys.argv[2]), Loaded(dict.fromkeys(SPLITS, images), '', str), [])\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    tests = Path(synthetic.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tests), str(entry_file)], capture_output=True, text=True, check=True
    )
    assert "cannot be written (File too large)" in done.stdout
    assert done.stderr == ""
    assert cache_path(ENTRY.id).read_bytes() == before
    assert files() == ["made-omniglot.h5"]


def test_a_place_that_is_no_folder_is_told(entry_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NORML_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(UserError, match=r"made-omniglot\.h5: cannot be written \(Not a directory\)"):
        written(entry_file)


def test_a_cache_made_anew_under_an_open_one_is_not_mixed_with_it(entry_file: Path):
    cache = written(entry_file)
    write_cache(ENTRY, entry_file, loaded(), [])  # the same content: nothing to tell
    assert (cache.images("meta_val") == loaded().splits["meta_val"].images).all()
    write_cache(ENTRY, entry_file, loaded(seed=1), [])
    message = r"made-omniglot\.h5: changed while this command ran; start the command again"
    for read in (
        lambda: cache.images("meta_test"),
        lambda: cache.class_names("meta_val"),
        lambda: cache.episodes(REQUEST),
    ):
        with pytest.raises(UserError, match=message):
            read()
