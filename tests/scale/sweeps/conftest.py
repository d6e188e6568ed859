"""Twelve small cells, and what they give one after the other."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

METHODS, SHOTS, SEEDS = ("norml", "maml-constant-lr", "meta-sgd"), ("1", "5"), ("0", "1")
SMALL = ("--outer-steps", "150", "--set", "validate_every=50", "--set", "test_episodes=300", "--device", "cpu")
SWEEP = ("sweep", *METHODS, "--benchmark", "glyphs-5way", "--shots", *SHOTS, "--seeds", *SEEDS, *SMALL)
OF_THE_RUN = {"digest", "created", "command", "cost", "git"}  # all else follows from spec and seed

Numbers = dict[str, dict[str, Any]]


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "norml_cli", *arguments]


def numbers(results: Path) -> Numbers:
    """Of every record, by its place: what spec and seed decide."""
    found = {path: json.loads(path.read_text()) for path in results.rglob("seed-*.json")}
    return {
        str(path.relative_to(results)): {key: value for key, value in record.items() if key not in OF_THE_RUN}
        for path, record in found.items()
    }


def leftovers(results: Path) -> Sequence[str]:
    """Files of unfinished work; the hidden file of a lock whose holder was killed may stay."""
    kept = {".json", ".weights", ".lock"}
    return [path.name for path in results.rglob("*") if path.is_file() and path.suffix not in kept]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the caches, with glyphs in it."""
    folder = tmp_path_factory.mktemp("home")
    environment = os.environ | {"NORML_HOME": str(folder)}
    subprocess.run(program("prepare", "glyphs"), env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture(autouse=True)
def _one_thread_in_the_shared_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORML_HOME", str(home))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def one_after_the_other(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    """The records of `norml run`."""
    results = tmp_path_factory.mktemp("apart")
    environment = os.environ | {"NORML_HOME": str(home), "OMP_NUM_THREADS": "1"}
    for shots in SHOTS:
        place = ("--benchmark", "glyphs-5way", "--shots", shots, "--seeds", ",".join(SEEDS), "--results", str(results))
        run = program("run", *METHODS, *place, *SMALL, "--threads", "1")
        subprocess.run(run, env=environment, check=True, capture_output=True)
    return numbers(results)
