"""A built wheel carries everything: it runs where there is no checkout."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def norml(site: Path, *arguments: str) -> str:
    """Standard output of the wheel's `norml`, run beside it."""
    done = subprocess.run(
        [sys.executable, "-m", "norml_cli", *arguments],
        cwd=site.parent,
        env=os.environ | {"PYTHONPATH": str(site), "NORML_HOME": str(site.parent / "home"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_entry_and_nothing_else_of_the_checkout(unpacked_wheel: Path):
    entries = {path.relative_to(ROOT / "registry") for path in (ROOT / "registry").rglob("*.yaml")}
    packed = unpacked_wheel / "norml_cli" / "_registry"
    assert {path.relative_to(packed) for path in packed.rglob("*.yaml")} == entries
    assert {path.name for path in unpacked_wheel.iterdir()} - {"norml", "norml_cli"} == {
        path.name for path in unpacked_wheel.glob("*.dist-info")
    }


def test_the_wheel_lists_validates_runs_and_reports_without_the_checkout(unpacked_wheel: Path):
    assert "omniglot-20way" in norml(unpacked_wheel, "list")
    assert "valid" in norml(unpacked_wheel, "validate")
    short = ("--outer-steps", "2", "--set", "test_episodes=8", "--set", "validation_episodes=8")
    assert "norml" in norml(unpacked_wheel, "run", "norml", "--benchmark", "glyphs-5way", *short)
    assert "2 of 600" in norml(unpacked_wheel, "report", "--table", "table-glyphs")
    assert "wrote page.html" in norml(unpacked_wheel, "report", "--html", "page.html")


def test_every_dependency_is_bounded_on_both_sides(unpacked_wheel: Path):
    [metadata] = unpacked_wheel.glob("*.dist-info/METADATA")
    needed = re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(needed) <= 17, "each is one more that can break or be taken over"
    assert all(">=" in each and "<" in each for each in needed), needed
