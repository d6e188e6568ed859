"""`norml prepare`: from every source to one cache with the fixed episodes of every benchmark, once."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from norml_cli.commands.data.prepare import prepare
from norml_cli.data.cache import Cache, cache_path, home
from norml_cli.data.fixed_episodes import EpisodeRequest, episode_requests
from norml_cli.data.preparing import ensure_ready
from norml_cli.data.sources import omniglot
from norml_cli.data.splits import SPLITS
from norml_cli.files.errors import UserError
from norml_cli.registry.reading import read_registry
from norml_cli.registry.resolving import Registry
from norml_cli.terminal.output import Output
from tests.helpers import synthetic, tiny
from tests.helpers.synthetic import CLASSES, write_registry, write_zips

REAL_SOURCE = os.environ.get("NORML_OMNIGLOT_SOURCE")


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("NORML_HOME", str(tmp_path / "home"))
    return write_registry(tmp_path / "registry")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_zips(tmp_path / "source")


def prepared(
    registry: Registry,
    source: Path | None,
    *,
    dataset: str = "made-omniglot",
    force: bool = False,
    verify: bool = False,
    terminal: bool = False,
) -> str:
    """What the command prints."""
    console = Output(file=io.StringIO(), force_terminal=terminal, width=200)
    prepare(registry, dataset, source=source, force=force, verify=verify, console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def opened(registry: Registry, dataset: str = "made-omniglot") -> Cache:
    return Cache.open(registry.dataset(dataset), registry.files["datasets", dataset])


def requests(registry: Registry) -> tuple[EpisodeRequest, EpisodeRequest]:
    return episode_requests(registry.resolve("norml", "made-3way", 1).spec)


# ------------------------------------------------------------------------------------------------------------ preparing


def test_a_cache_holds_every_class_once_and_the_benchmark_s_episodes(registry: Registry, source: Path):
    out = prepared(registry, source)
    assert "6 meta-train, 3 meta-val, 3 meta-test classes, 2 sets of fixed episodes" in out
    assert "(omniglot, two zips)" in out
    assert str(source) not in out
    cache = opened(registry)
    assert len({name for split in SPLITS for name in cache.class_names(split)}) == CLASSES
    for request in requests(registry):
        episodes = cache.episodes(request)
        assert episodes.classes.shape == (request.episodes, 3)
        assert episodes.examples.shape == (request.episodes, 3, 2)
        assert all(len(set(row)) == 3 for row in episodes.classes.tolist())
        assert all(len(set(row)) == 2 for rows in episodes.examples.tolist() for row in rows)
        assert episodes.examples.max() < synthetic.DRAWERS
        assert set(np.unique(episodes.turns)) == {0, 1, 2, 3}
    assert [path.name for path in home().iterdir()] == ["made-omniglot.h5"]


def test_a_terminal_sees_a_bar(registry: Registry, source: Path):
    assert "made-omniglot: reading images" in prepared(registry, source, terminal=True)


def test_the_same_source_gives_the_same_cache(registry: Registry, source: Path):
    prepared(registry, source)
    first = cache_path("made-omniglot").read_bytes()
    prepared(registry, source, force=True)
    assert cache_path("made-omniglot").read_bytes() == first


def test_the_same_request_is_the_same_episodes_on_any_cache(registry: Registry, source: Path):
    prepared(registry, source)
    request = requests(registry)[1]
    first = opened(registry).episodes(request)
    cache_path("made-omniglot").unlink()
    prepared(registry, synthetic.write_folders(source.parent / "folders"))
    assert opened(registry).episodes(request).hash() == first.hash()


def test_sets_of_different_size_or_split_share_no_draw(registry: Registry, source: Path):
    prepared(registry, source)
    request = requests(registry)[1]
    others = [replace(request, episodes=31), replace(request, split="meta_val"), replace(request, seed=1)]
    cache = ensure_ready(registry, "made-omniglot", [request, *others], Output(file=io.StringIO()))
    first = cache.episodes(request)
    for other in others:
        assert not (cache.episodes(other).examples[:20] == first.examples[:20]).all()


def test_upright_episodes_have_no_turns(registry: Registry, source: Path):
    prepared(registry, source)
    upright = replace(requests(registry)[1], rotations=False)
    cache = ensure_ready(registry, "made-omniglot", [upright], Output(file=io.StringIO()))
    assert not cache.episodes(upright).turns.any()


def test_split_files_of_rotated_classes_are_prepared(tmp_path: Path, source: Path):
    """The Vinyals form: every character four times, each rotation a class of its own."""
    characters = [f"{alphabet}/character{n:02d}" for alphabet in ("Aleph", "Braille", "Zigzag") for n in range(1, 5)]
    values = {
        "splits": {"kind": "files", "source": "made"} | {split: f"{split}.txt" for split in SPLITS},
        "rotations": {"value": "as-classes", "source": "made"},
    }
    folder = tmp_path / "rotated"
    for split, part in zip(SPLITS, (characters[:6], characters[6:9], characters[9:]), strict=True):
        (folder / "datasets").mkdir(parents=True, exist_ok=True)
        lines = [f"{name}/rot{degrees}" for name in part for degrees in ("000", "090", "180", "270")]
        (folder / "datasets" / f"{split}.txt").write_text("\n".join(lines))
    registry = rotated_registry(folder, values)
    assert "24 meta-train, 12 meta-val, 12 meta-test classes" in prepared(registry, source)
    images = opened(registry).images("meta_val")
    assert (images[1] == np.rot90(images[0], 1, axes=(1, 2))).all()
    too_many = replace(requests(registry)[0], n_way=13)
    with pytest.raises(UserError, match="meta_val: n_way is 13, but there are 12 classes"):
        opened(registry).episodes(too_many)


def rotated_registry(folder: Path, values: dict[str, object]) -> Registry:
    """As `write_registry`, whose benchmark may not turn classes that are turned already."""
    synthetic.write_entry(folder, "datasets", synthetic.entry_values(**values))
    benchmark = yaml.safe_load((folder.parent / "registry/benchmarks/made-3way.yaml").read_text())
    benchmark["protocol"]["rotations"]["value"] = "none"
    synthetic.write_entry(folder, "benchmarks", benchmark)
    return read_registry([synthetic.builtin_registry(), folder])


# ------------------------------------------------------------------------------------------------------ preparing twice


def test_a_second_time_does_nothing(registry: Registry, source: Path, monkeypatch: pytest.MonkeyPatch):
    prepared(registry, source)
    before = cache_path("made-omniglot").stat()
    monkeypatch.setattr(omniglot, "read", None)
    assert prepared(registry, None) == "made-omniglot: up to date (made-omniglot.h5)\n"
    assert cache_path("made-omniglot").stat().st_mtime_ns == before.st_mtime_ns


def test_up_to_date_is_found_in_under_a_second_without_torch(registry: Registry, source: Path, tmp_path: Path):
    prepared(registry, source)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from norml_cli.terminal.output import Output\n"
        "from norml_cli.commands.data.prepare import prepare\n"
        "from norml_cli.registry.reading import load_registry\n"
        "registry = load_registry(Path(sys.argv[1]))\n"
        "prepare(registry, 'made-omniglot', source=None, force=False, verify=False, console=Output())\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\n"
        "assert 'PIL' not in sys.modules, 'Pillow was loaded'\n"
    )
    cpu_before_s = os.times().children_user
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "registry")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stdout
    assert os.times().children_user - cpu_before_s < 2  # the CPU's time and twice the claim, as machines are shared


def test_a_source_beside_a_cache_is_said_not_to_be_read(registry: Registry, source: Path):
    prepared(registry, source)
    assert "up to date (made-omniglot.h5); --source was not read, use --force to read it" in prepared(registry, source)


def test_another_declaration_needs_force_and_keeps_the_old_cache_until_then(
    registry: Registry, source: Path, tmp_path: Path
):
    prepared(registry, source)
    before = cache_path("made-omniglot").read_bytes()
    other = write_registry(tmp_path / "other", resize__value="nearest")
    with pytest.raises(
        UserError, match=r"does not match the current entry 'made-omniglot'; .* norml prepare made-omniglot --force"
    ):
        prepared(other, source)
    with pytest.raises(UserError, match=r"no images_background\.zip"):
        prepared(other, tmp_path / "other", force=True)
    assert cache_path("made-omniglot").read_bytes() == before
    prepared(other, source, force=True)
    assert set(np.unique(opened(other).images("meta_train"))) == {0, 255}


def test_a_bad_source_leaves_nothing(registry: Registry, source: Path):
    (source / "images_evaluation.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="not a complete zip archive"):
        prepared(registry, source)
    assert not list(home().iterdir())


def test_interrupted_reading_leaves_the_old_cache(registry: Registry, source: Path, monkeypatch: pytest.MonkeyPatch):
    prepared(registry, source)
    before = cache_path("made-omniglot").read_bytes()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(omniglot, "resized", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepared(registry, source, force=True)
    assert cache_path("made-omniglot").read_bytes() == before
    assert [path.name for path in home().iterdir()] == ["made-omniglot.h5"]


def test_a_home_that_cannot_be_written_is_told(registry: Registry, source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NORML_HOME", str(source / "images_background.zip" / "home"))
    with pytest.raises(UserError, match="cannot be written"):
        prepared(registry, source)


# ------------------------------------------------------------------------------------------------------------ verifying


def test_verify_finds_a_whole_cache_whole_and_a_damaged_one_damaged(registry: Registry, source: Path):
    prepared(registry, source)
    assert "verified, all 12 checksums" in prepared(registry, None, verify=True)
    cache = opened(registry)
    data = bytearray(cache.path.read_bytes())
    data[bytes(data).index(cache.images("meta_val").tobytes()) + 99] ^= 1
    cache.path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"images/meta_val is damaged; .*norml prepare made-omniglot --force"):
        prepared(registry, None, verify=True)
    prepared(registry, source, force=True)
    assert "verified" in prepared(registry, None, verify=True)


def test_verify_needs_a_cache(registry: Registry):
    with pytest.raises(UserError, match="not prepared; run `norml prepare made-omniglot`"):
        prepared(registry, None, verify=True)


def test_force_makes_anew_what_is_no_cache_at_all(registry: Registry, source: Path):
    home().mkdir()
    cache_path("made-omniglot").write_bytes(b"not HDF5")
    with pytest.raises(UserError, match=r"not a readable cache .*--force"):
        prepared(registry, source)
    prepared(registry, source, force=True)
    assert "verified" in prepared(registry, None, verify=True)


# ------------------------------------------------------------------------------------------------------ ready for a run


def test_a_shared_read_only_cache_serves_any_benchmark(registry: Registry, source: Path):
    prepared(registry, source)
    home().chmod(0o555)
    before = cache_path("made-omniglot").read_bytes()
    wanted = replace(requests(registry)[0], queries_per_class=2)
    cache = ensure_ready(registry, "made-omniglot", [wanted], Output(file=io.StringIO()))
    assert cache.episodes(wanted).examples.shape == (20, 3, 3)
    assert cache_path("made-omniglot").read_bytes() == before
    assert [path.name for path in home().iterdir()] == ["made-omniglot.h5"]
    home().chmod(0o755)


def test_a_run_on_what_must_be_downloaded_names_the_command(registry: Registry):
    with pytest.raises(UserError, match="'made-omniglot' is not prepared; run `norml prepare made-omniglot`"):
        ensure_ready(registry, "made-omniglot", requests(registry), Output(file=io.StringIO()))


def test_an_embedded_data_set_is_prepared_by_the_run(tmp_path: Path):
    registry = read_registry([synthetic.builtin_registry(), tiny.write_registry(tmp_path / "tiny")])
    wanted = episode_requests(registry.resolve("norml", "tiny-5way", 1).spec)
    console = Output(file=io.StringIO(), width=200)
    cache = ensure_ready(registry, "tiny-glyphs", wanted, console)
    assert isinstance(console.file, io.StringIO)
    assert "(embedded)" in console.file.getvalue()
    assert all(len(cache.episodes(request).classes) == request.episodes for request in wanted)
    with pytest.raises(UserError, match="--source: 'tiny-glyphs' is built in and reads no files"):
        prepared(registry, tmp_path, dataset="tiny-glyphs")


# ---------------------------------------------------------------------------------------------------- the real Omniglot


@pytest.mark.skipif(REAL_SOURCE is None, reason="NORML_OMNIGLOT_SOURCE names no folder with the real archives")
def test_the_real_omniglot_is_prepared_and_split(registry: Registry):
    out = prepared(registry, Path(str(REAL_SOURCE)), dataset="omniglot")
    assert "1,100 meta-train, 100 meta-val, 423 meta-test classes" in out
    cache = opened(registry, "omniglot")
    assert [cache.images(split).shape for split in SPLITS] == [(n, 20, 28, 28) for n in (1100, 100, 423)]
    assert len({name for split in SPLITS for name in cache.class_names(split)}) == 1623
