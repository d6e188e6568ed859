"""mini-ImageNet prepared by the installed command line, as a user types it, from a made copy in several forms."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import photos

NORML = shutil.which("norml", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def norml(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`norml ARGUMENTS` in a folder of its own, with the made data set in the registry."""
    registry = photos.write_registry(tmp_path / "registry")
    environment = os.environ | {"NORML_HOME": "home", "NORML_REGISTRY": str(registry), "COLUMNS": "200"}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        assert NORML is not None, "install the project first"
        return subprocess.run(
            [NORML, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return run


def test_a_user_prepares_verifies_and_mends(norml: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path):
    photos.write_tar(tmp_path / "mini.tar.xz", photos.with_images())
    done = norml("prepare", "made-mini", "--source", "mini.tar.xz")
    assert (done.returncode, done.stderr) == (0, "")
    assert "(mini-imagenet, an archive of images with csv files)" in done.stdout
    source, content = (done.stdout.split(f"{key}_sha256 ")[1].split()[0] for key in ("source", "cache"))
    verified = norml("prepare", "made-mini", "--verify").stdout
    hashes = f"made-mini: source_sha256 {source}\nmade-mini: cache_sha256 {content}\n"
    assert verified == f"made-mini: verified, all 6 checksums are right\n{hashes}"
    again = "next: norml new benchmark NAME --like mini-imagenet-5way-conv --dataset made-mini"
    assert norml("prepare", "made-mini").stdout == f"made-mini: up to date (made-mini.h5)\n{again}\n"

    cache = tmp_path / "home" / "made-mini.h5"
    before = cache.read_bytes()
    evil = photos.write_files(tmp_path / "evil", photos.pickles())
    (evil / photos.pickle_name("test")).write_bytes(pickle.dumps({"image_data": Calls(os.mkdir, "made")}))
    done = norml("prepare", "made-mini", "--source", "evil", "--force")
    assert (done.returncode, done.stdout) == (2, "")
    named = "refused without running it: it names 'posix.mkdir', which no array needs; get the original file"
    assert done.stderr == f"error: evil/{photos.pickle_name('test')}: {named}\n"
    assert not (tmp_path / "made").exists()
    assert cache.read_bytes() == before

    photos.write_files(tmp_path / "good", photos.pickles())
    assert content in norml("prepare", "made-mini", "--source", "good", "--force").stdout
    assert [path.name for path in cache.parent.iterdir()] == ["made-mini.h5"]


class Calls:
    """An object whose pickle calls `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.call
