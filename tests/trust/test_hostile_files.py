"""Attack files: none runs code, reads another file or takes more memory than declared; each gives one clear line.

Archives and pickles have tables of attacks of their own: tests/norml_cli/test_archives.py, test_restricted_pickle.py.
"""

import ast
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import norml
import norml_cli
from norml_cli.data.cache import Cache
from norml_cli.data.sources import images as pictures
from norml_cli.files.errors import UserError
from norml_cli.files.yaml_files import MAX_DEPTH, parse_yaml
from norml_cli.training.checkpoints import read_checkpoint


class Attack:
    """Creates a file when it is unpickled by what executes its program."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


def one_line(caught: "pytest.ExceptionInfo[UserError]", path: Path) -> None:
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the attack itself, where it is shown to work
@pytest.mark.parametrize("how", ["zip", "legacy", "plain pickle", "inside a state"])
def test_a_checkpoint_runs_nothing(tmp_path: Path, how: str):
    mark, path = tmp_path / "mark", tmp_path / "seed-0.checkpoint"
    attack = {"state": Attack(mark)} if how == "inside a state" else Attack(mark)
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(attack, protocol=2))
    else:
        torch.save(attack, path, _use_new_zipfile_serialization=how != "legacy")
    with pytest.raises(UserError) as caught:
        read_checkpoint(path, {})
    one_line(caught, path)
    assert not mark.exists()
    torch.load(path, weights_only=False) if how != "plain pickle" else pickle.loads(path.read_bytes())  # noqa: S301
    assert mark.exists(), "the file is no attack, so it proves nothing"


def hostile_cache(path: Path, kind: str, secret: Path) -> Cache:
    """A file whose /images/meta_val is not its own."""
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones((2, 3, 4), np.uint8)
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.create_group("images")
        if kind == "external link":
            file["images/meta_val"] = h5py.ExternalLink(str(secret), "/x")
        elif kind == "soft link":
            file["images/meta_val"] = h5py.SoftLink("/images/meta_test")
        elif kind == "linked group":
            del file["images"]
            file["images"] = h5py.ExternalLink(str(secret), "/")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((2, 3, 4), np.uint8)
            layout[:] = h5py.VirtualSource(str(secret), "x", (2, 3, 4))
            file.create_virtual_dataset("images/meta_val", layout)
        elif kind == "external storage":
            file.create_dataset("images/meta_val", (2, 3, 4), np.uint8, external=[(str(secret), 0, 24)])
        elif kind == "bomb":
            file.create_dataset("images/meta_val", (1 << 20, 1 << 20), np.uint8, chunks=(1 << 10, 1 << 10))
        elif kind == "compressed bomb":
            zeros = np.zeros((1 << 12, 1 << 12), np.uint8)
            file.create_dataset("images/meta_val", data=zeros, compression="gzip")
        else:
            file.create_group("images/meta_val")
    return Cache(path=path, remake="again", fingerprint="", content_hash="", dataset="tiny")


@pytest.mark.parametrize(
    "kind",
    ["external link", "soft link", "linked group", "virtual", "external storage", "bomb", "compressed bomb", "group"],
)
def test_an_array_file_is_read_from_itself_alone(tmp_path: Path, kind: str):
    cache = hostile_cache(tmp_path / "tiny.h5", kind, tmp_path / "secret.h5")
    for read in (cache.images, cache.sizes):
        with pytest.raises(UserError) as caught:
            read("meta_val")
        one_line(caught, cache.path)


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [10_000, 60_000, 2**31 - 1])
def test_an_image_larger_than_memory_is_refused(tmp_path: Path, size: int):
    where = tmp_path / "bomb.png"
    with pytest.raises(UserError) as caught:
        pictures.decoded(png_header(size, size), str(where), ("PNG",), lambda _: None)
    one_line(caught, where)


def test_an_image_of_another_format_is_not_decoded(tmp_path: Path):
    with pytest.raises(UserError, match="not a complete PNG image"):
        pictures.decoded(b"%!PS-Adobe-3.0 EPSF-3.0\n", str(tmp_path / "x.png"), ("PNG",), lambda _: None)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [exit]",
        "a: !!python/name:os.system",
        "a: &a [*a]",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "a: " + "[" * 50_000,
        "\n".join("  " * n + "a:" for n in range(2_000)),
        "- " * 50_000,
        "a: " + "{b: " * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1),
    ],
)
def test_yaml_is_plain_and_shallow(text: str):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_yaml(text)
    assert len(str(caught.value).splitlines()) == 1


def test_yaml_within_its_limits_is_read():
    text = "{b: " * (MAX_DEPTH - 2) + "1" + "}" * (MAX_DEPTH - 2)
    assert parse_yaml(text) is not None


NETWORK = {"socket", "urllib", "http", "requests", "ftplib", "ssl", "smtplib", "aiohttp", "httpx"}
OPENING = {
    "norml_cli/data/sources/omniglot.py",  # the declared download
    "norml_cli/sweeps/on_ray.py",  # a cluster's --address, as the user names it
}


def opens_network(source: str) -> bool:
    """Whether a module imports what opens connections, at its top or inside a function."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.split(".")[0] in NETWORK or name == "torchvision.datasets.utils" for name in names):
            return True
    return False


def test_only_the_declared_download_and_a_named_cluster_open_the_network():
    found = set()
    for package in (norml, norml_cli):
        root = Path(package.__file__).parent
        for path in root.rglob("*.py"):
            if opens_network(path.read_text(encoding="utf-8")):
                found.add(path.relative_to(root.parent).as_posix())
    assert found == OPENING
    assert opens_network("def f():\n    import urllib.request\n")  # the check can fail


def test_the_download_is_by_tls_and_checked():
    from torchvision.datasets import Omniglot  # noqa: PLC0415 - imports torch

    assert Omniglot.download_url_prefix.startswith("https://")
    assert set(Omniglot.zips_md5) == {"images_background", "images_evaluation"}
