"""Whatever a file or an option holds: a valid value or a UserError comes out, never another exception.

The default suite draws a few hundred examples, always the same ones. `pytest -m slow tests/trust/test_fuzzing.py` draws
20,000 a target, and writes what it did to fuzzing.json in the folder that NORML_TRUST_RESULTS names.
"""

import contextlib
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from norml_cli.arguments import grid_of, items_of, overrides_of
from norml_cli.data.array_files import ArrayFile
from norml_cli.data.cache import Cache
from norml_cli.data.features import FeatureCache
from norml_cli.data.fixed_episodes import EpisodeRequest
from norml_cli.files.errors import UserError
from norml_cli.files.json_files import parse_json
from norml_cli.files.yaml_files import parse_yaml
from norml_cli.registry.reading import builtin_registry, load_registry, read_registry
from norml_cli.registry.resolving import Registry
from norml_cli.results.records import RunRecord
from norml_cli.results.store import read_record, write_record
from tests.helpers.made_records import made_record, made_registry

FEW, MANY = 60, 20_000

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
yaml_text = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="[]{}:,-?&*!|>'\"#%@`~ \n\t0123456789.eE+abn\0\x85\ufeff", max_size=60),
    st.binary(max_size=60).map(lambda data: data.decode("utf-8", "surrogateescape")),
)


def entries() -> list[tuple[str, dict[str, Any]]]:
    """One built-in entry of every kind and its folder."""
    names = ("methods/norml", "benchmarks/glyphs-5way", "datasets/glyphs", "recipes/rfs-2020", "tables/table-2")
    return [
        (name.partition("/")[0], yaml.safe_load((builtin_registry() / f"{name}.yaml").read_text())) for name in names
    ]


def paths(data: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value of nested mappings and lists lies."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [prefix, *(path for key, value in items for path in paths(value, (*prefix, key)))]


@st.composite
def changed(draw: st.DrawFn, data: Any) -> Any:
    """`data` with one to three of its values replaced, removed or joined by an unknown key."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        places = [path for path in paths(data) if path]
        if not places:
            return data
        *way, last = draw(st.sampled_from(places))
        inside = data
        for key in way:
            inside = inside[key]
        how = draw(st.sampled_from(["replace", "remove", "add"]))
        if how == "remove":
            del inside[last]
        elif how == "add" and isinstance(inside, dict):
            inside[draw(st.text(max_size=5) | st.integers())] = draw(plain_values)
        else:
            inside[last] = draw(plain_values)
    return data


# ------------------------------------------------------------------------------------------------------- the targets


def fuzz_yaml(_: Path) -> Callable[[str], None]:
    """The parser of entries and of the values of --set."""

    def target(text: str) -> None:
        with contextlib.suppress(ValueError):  # which its callers turn into a UserError
            parse_yaml(text)

    return target


def fuzz_entries(folder: Path) -> Callable[[tuple[str, Any]], None]:
    """The registry loader: a changed entry in a folder of one's own, cross-checked with the built-in ones."""

    def target(case: tuple[str, Any]) -> None:
        kind, data = case
        place = folder / kind / "mine.yaml"
        place.parent.mkdir(exist_ok=True)
        if isinstance(data, dict) and "id" in data and isinstance(data["id"], str):
            data["id"] = "mine"
        place.write_text(yaml.safe_dump(data), encoding="utf-8")
        try:
            found = read_registry([builtin_registry(), folder])
            for method in found.methods:
                if method in {"norml", "mine"}:
                    with contextlib.suppress(UserError):
                        found.resolve(method)
        except UserError:
            pass
        finally:
            place.unlink()

    return target


def fuzz_options(_: Path) -> Callable[[tuple[list[str], list[str]]], None]:
    """--set and --grid, up to the resolved runs."""
    registry = load_registry()

    def target(case: tuple[list[str], list[str]]) -> None:
        sets, grids = case
        with contextlib.suppress(UserError):
            items_of(registry, ["norml"], ["glyphs-5way"], [1], grid_of(grids), overrides_of(sets))

    return target


def options(registry: Registry) -> st.SearchStrategy[tuple[list[str], list[str]]]:
    keys = sorted(registry.resolve("norml").sources)
    item = st.builds("{}={}".format, st.sampled_from(keys) | st.text(max_size=6), yaml_text | plain_values.map(str))
    return st.tuples(st.lists(item, max_size=2), st.lists(item, max_size=2))


def fuzz_records(folder: Path) -> Callable[[bytes], None]:
    """The loader of records, of whatever bytes."""
    path = folder / "seed-0.json"

    def target(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            assert isinstance(read_record(path), RunRecord)

    return target


def a_record() -> RunRecord:
    with tempfile.TemporaryDirectory() as folder:
        return made_record(made_registry(Path(folder)), "norml", [3, 5, 7, 9], test_episodes=4)


def record_bytes() -> st.SearchStrategy[bytes]:
    """A good record with values changed, or bytes changed, or bytes of no record."""
    good = a_record().model_dump(mode="json")
    text = json.dumps(good).encode()
    spliced = st.tuples(st.integers(0, len(text)), st.integers(0, 20), st.binary(max_size=20)).map(
        lambda cut: text[: cut[0]] + cut[2] + text[cut[0] + cut[1] :]
    )
    return changed(good).map(lambda data: json.dumps(data).encode()) | spliced | st.binary(max_size=80)


def cache_files(folder: Path) -> list[ArrayFile]:
    """A cache of two classes and a feature cache, both good, as open values over their files."""
    import h5py  # noqa: PLC0415 - as numpy
    import numpy as np  # noqa: PLC0415 - only these tests need it

    from norml_cli.data.array_files import FILE_FORM, content_hash_of, put, put_text  # noqa: PLC0415

    found: list[ArrayFile] = []
    for kind, dtype in (("images", np.uint8), ("features", np.float32)):
        path = folder / f"{kind}.h5"
        with h5py.File(path, "w", libver=FILE_FORM) as file:
            for split in ("meta_train", "meta_val", "meta_test"):
                put(file, f"{kind}/{split}", np.ones((2, 3, 4), dtype))
                put(file, f"classes/{split}", np.array([b"a", b"b"]))
            put_text(file, "fingerprint", "0" * 64)
            put_text(file, "content_hash", content_hash_of(file, kind))
        values = {"path": path, "remake": "again", "fingerprint": "0" * 64, "content_hash": "0" * 64}
        found.append(Cache(**values, dataset="tiny") if kind == "images" else FeatureCache(**values))
    return found


def fuzz_array_files(folder: Path) -> Callable[[tuple[bool, list[tuple[float, bytes]], float]], None]:
    """The readers of caches and of features, on good files with bytes changed and their end cut off."""
    files = cache_files(folder)
    good = [file.path.read_bytes() for file in files]
    request = EpisodeRequest("meta_val", 2, 1, 1, rotations=False, episodes=2, seed=0)

    def target(case: tuple[bool, list[tuple[float, bytes]], float]) -> None:
        which, splices, kept = case
        file, data = files[which], bytearray(good[which])
        for at, new in splices:
            place = int(at * len(data))
            data[place : place + len(new)] = new
        file.path.write_bytes(data[: max(1, int(kept * len(data)))])
        readers: list[Callable[[], object]] = [
            file.verify,
            lambda: file.sizes("meta_val"),
            lambda: file.class_names("meta_val"),
        ]
        if isinstance(file, Cache):
            readers += [lambda: file.images("meta_val"), lambda: file.episodes(request)]
        if isinstance(file, FeatureCache):
            readers.append(lambda: file.features("meta_val"))
        for read in readers:
            with contextlib.suppress(UserError):
                read()

    return target


TARGETS: dict[str, tuple[Callable[[Path], Callable[[Any], None]], Callable[[], st.SearchStrategy[Any]]]] = {
    "yaml": (fuzz_yaml, lambda: yaml_text),
    "entries": (
        fuzz_entries,
        lambda: st.sampled_from(entries()).flatmap(lambda e: st.tuples(st.just(e[0]), changed(e[1]))),
    ),
    "options": (fuzz_options, lambda: options(load_registry())),
    "records": (fuzz_records, record_bytes),
    "array files": (
        fuzz_array_files,
        lambda: st.tuples(
            st.booleans(),
            st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=4),
            st.just(1.0) | st.floats(0, 1),
        ),
    ),
}


def fuzzed(name: str, folder: Path, examples: int) -> tuple[int, float]:
    """Run a target on that many examples; how many it saw, and the seconds they took."""
    make, strategy = TARGETS[name]
    target, seen = make(folder), 0

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy())
    def check(case: Any) -> None:
        nonlocal seen
        seen += 1
        target(case)

    started_at = time.perf_counter()
    check()
    return seen, time.perf_counter() - started_at


@pytest.fixture(autouse=True)
def built_in_entries_are_read_once(monkeypatch: pytest.MonkeyPatch):
    """They are no part of what is fuzzed, and reading them is most of a registry's time."""
    from norml_cli.registry import reading  # noqa: PLC0415

    read_mapping, read = reading.read_mapping, dict[Path, Any]()

    def once(path: Path) -> Any:
        if builtin_registry() not in path.parents:
            return read_mapping(path)
        if path not in read:
            read[path] = read_mapping(path)
        return read[path]

    monkeypatch.setattr(reading, "read_mapping", once)


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_examples(name: str, tmp_path: Path):
    seen, _ = fuzzed(name, tmp_path, FEW)
    assert seen >= FEW // 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TARGETS)
def test_many_examples(name: str, tmp_path: Path):
    examples = int(os.environ.get("NORML_TRUST_EXAMPLES", MANY))
    seen, seconds = fuzzed(name, tmp_path, examples)
    assert seen >= min(examples, 1000) // 2
    results = os.environ.get("NORML_TRUST_RESULTS")
    if results:
        path = Path(results) / "fuzzing.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        found[name] = {"examples": seen, "seconds": round(seconds, 1), "escaped_exceptions": 0}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + "\n")


def test_an_escape_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The fuzzing can fail: a parser that lets a KeyError out is caught."""

    def broken(_: Path) -> Callable[[str], None]:
        def target(text: str) -> None:
            if ":" in text:
                raise KeyError(text)

        return target

    monkeypatch.setitem(TARGETS, "yaml", (broken, TARGETS["yaml"][1]))
    with pytest.raises(KeyError):
        fuzzed("yaml", tmp_path, 500)


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', "NaN", "[Infinity]", "9" * 21, "[" * 100_000, '{"a": ', "", "\xff"]
)
def test_json_that_is_not_plain_is_refused(text: str):
    with pytest.raises(ValueError):  # noqa: PT011 - any line will do
        parse_json(text.encode("latin-1"))


def test_a_record_that_is_written_is_read(tmp_path: Path):
    write_record(tmp_path / "seed-0.json", a_record())
    assert read_record(tmp_path / "seed-0.json") == a_record()
