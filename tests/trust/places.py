"""A working folder of its own for a campaign, with made data sets, and what its files hold."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from norml_cli.app.main import main
from norml_cli.training.checkpoints import read_checkpoint
from tests.helpers import photos, synthetic, tiny

NOT_FIGURES = {"digest", "cost", "created", "command", "git"}  # time, memory, date, and what follows from them

PREPARE = ("prepare", "made-omniglot", "--source", "omniglot")
PREPARE_PHOTOS = ("prepare", "made-mini", "--source", "photos")
PRETRAIN = ("pretrain", "made-mini", "--recipe", "made-recipe", "--device", "cpu")
RUN = ("run", "norml", "--benchmark", "tiny-5way", "--device", "cpu")
RUN_ON_FEATURES = ("run", "nearest-centroid", "--benchmark", "made-2way", "--device", "cpu")


def furnish(folder: Path) -> Path:
    """Sources and registry entries below `folder`; nothing is prepared."""
    registry = tiny.write_registry(folder / "registry")
    synthetic.write_registry(registry)
    photos.write_registry(registry)
    tiny.write_entry(registry, "benchmarks", photos.benchmark_values())
    synthetic.write_zips(folder / "omniglot")
    photos.write_files(folder / "photos", photos.with_images())
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Which caches and entries the commands see."""
    return {"NORML_HOME": str(folder / "home"), "NORML_REGISTRY": str(folder / "registry"), "COLUMNS": "200"}


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """This process, with `folder` as its working folder and its environment."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        with mock.patch.dict(os.environ, environment(folder)):
            yield
    finally:
        os.chdir(before)


def norml(*arguments: str) -> int:
    """The exit code of `norml ARGUMENTS`, in this process."""
    with mock.patch.object(sys, "argv", ["norml", *arguments]):
        try:
            main()
        except SystemExit as left:
            return int(left.code or 0)
    return 0


def contents(folder: Path) -> dict[str, str]:
    """Every file under home/ and results/, and a digest of what it holds."""
    return {
        str(path.relative_to(folder)): _content(path)
        for part in ("home", "results")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }


def _content(path: Path) -> str:
    """A digest of a file: of a record's figures, of the tensors of weights, of all bytes of any other."""
    if path.suffix == ".json":
        figures = {key: value for key, value in json.loads(path.read_text()).items() if key not in NOT_FIGURES}
        return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()
    if path.suffix == ".weights":
        return hashlib.sha256(repr(flat(read_checkpoint(path, {}))).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flat(value: Any) -> Any:
    """Nested values with each tensor as its type, shape and bytes, to be compared bit for bit."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return [(repr(key), flat(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [flat(item) for item in value]
    return repr(value)
