"""`norml doctor`: check installation, caches, results and leftover files, and say what to do. Torch-free."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from norml_cli.data import cache
from norml_cli.files.atomic import home
from norml_cli.files.companions import DIVERGED, LOCK, PART
from norml_cli.files.errors import UserError
from norml_cli.files.locks import is_locked
from norml_cli.files.machine import cpp_compiler
from norml_cli.files.suggestions import suggested
from norml_cli.registry.reading import load_registry
from norml_cli.registry.resolving import Registry
from norml_cli.results.store import Results
from norml_cli.terminal.output import print_line
from norml_cli.terminal.status_files import find_unfinished

LEAST_FREE_BYTES = 5_000_000_000  # chosen: mini-ImageNet's cache and features take 2 GB, and making them 2 GB more
PYTHON = (3, 11)

Severity = Literal["fine", "note", "must"]  # `must`: the user must do something, and the exit code is 1


@dataclass(frozen=True)
class Finding:
    """The result of one check. remedy: what to do; empty: nothing."""

    what: str
    severity: Severity
    found: str
    remedy: str = ""


def doctor(registry_folder: Path | None, results: Path, console: Console, *, as_json: bool) -> int:
    """Print every finding. Returns the exit code: 1 if the user must do something, else 0."""
    findings = list(_findings(registry_folder, results))
    must = any(finding.severity == "must" for finding in findings)
    if as_json:
        console.print_json(data={"fine": not must, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            line = f"{finding.severity:4}  {finding.what}: {finding.found}"
            line += f"; {finding.remedy}" if finding.remedy else ""
            print_line(line, console)
    return 1 if must else 0


def _findings(registry_folder: Path | None, results: Path) -> Iterator[Finding]:
    yield from _installation()
    for what, folder in (("caches", home()), ("results", results)):
        yield from _folder(what, folder)
    try:
        registry = load_registry(registry_folder)
    except UserError as error:
        for line in str(error).splitlines():
            yield Finding("registry", "must", line, "fix the entry, then check it with `norml validate`")
    else:
        entries = len(registry.methods) + len(registry.benchmarks) + len(registry.datasets)
        yield Finding("registry", "fine", f"{entries} methods, benchmarks and data sets")
        yield from _caches(registry)
    yield from _records(results)
    for folder in (home(), results):
        yield from _leftovers(folder)


def _installation() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info < PYTHON
    yield Finding("Python", "must" if old else "fine", version, "install 3.11 or newer" if old else "")
    for name in ("torch", "torchvision", "h5py", "numpy"):
        try:
            yield Finding(name, "fine", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "must", "not installed", f"pip install {name}")
    yield _cuda()
    compiler = cpp_compiler()
    remedy = "" if compiler else "install g++ or clang++; without it, long runs are not compiled and slower"
    yield Finding("C++ compiler", "fine" if compiler else "note", compiler or "none", remedy)


def _cuda() -> Finding:
    """Test CUDA in a process of its own: a broken driver may crash it, and only that process loads torch."""
    program = (  # runs one kernel: torch may find a GPU that is too old for its build
        "import torch; there = torch.cuda.is_available(); print(torch.cuda.get_device_name() if there else ''); "
        "there and torch.ones(2, device='cuda').sum().item()"
    )
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)  # noqa: S603 - fixed words
    except subprocess.TimeoutExpired:
        return Finding("CUDA", "must", "torch does not answer", "check the driver with nvidia-smi, or use --device cpu")
    if done.returncode:
        fault = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if done.stdout.strip():
            remedy = "install a torch built for it, or use --device cpu"
            return Finding("CUDA", "must", f"{done.stdout.strip()} cannot compute ({fault})", remedy)
        return Finding("CUDA", "must", f"torch cannot be loaded ({fault})", "install torch again")
    return Finding("CUDA", "fine" if done.stdout.strip() else "note", done.stdout.strip() or "none; runs use the CPU")


def _folder(what: str, folder: Path) -> Iterator[Finding]:
    """Check that `folder` is writable and has free space. It need not exist yet."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if folder == home() and place.is_dir() and not os.access(place, os.W_OK) and any(folder.glob("*.h5")):
        remedy = "to prepare more data, set NORML_HOME to another folder"
        yield Finding(what, "note", f"{folder} is read-only", remedy)
        return
    if not place.is_dir() or not os.access(place, os.W_OK):
        yield Finding(what, "must", f"{folder} cannot be written", "choose another with NORML_HOME or --results")
        return
    free = shutil.disk_usage(place).free
    short = free < LEAST_FREE_BYTES
    found = f"{folder}, {free / 1e9:.1f} GB free"
    yield Finding(what, "must" if short else "fine", found, "free some space" if short else "")


def _caches(registry: Registry) -> Iterator[Finding]:
    for id_, entry in registry.datasets.items():
        prepare = suggested(f"norml prepare {id_}")
        try:
            state = cache.freshness(entry, registry.files["datasets", id_])
            if state == "missing":
                yield Finding(f"cache of {id_}", "note", "not prepared", f"run {prepare} before you use it")
                continue
            opened = cache.Cache.open(entry, registry.files["datasets", id_])
            for split in ("meta_train", "meta_val", "meta_test"):
                opened.class_names(split)  # a quick check; norml prepare --verify checks every image
            yield Finding(f"cache of {id_}", "fine", f"opens; {prepare} --verify checks every image")
        except UserError as error:
            yield Finding(f"cache of {id_}", "must", str(error))


def _records(results: Path) -> Iterator[Finding]:
    if not results.is_dir():
        yield Finding("records", "note", f"no folder {results}", "`norml run` creates it, or name another folder")
        return
    scan = Results(results).scan_all()
    for fault in scan.faults:
        yield Finding("record", "must", fault.splitlines()[0])
    yield Finding("records", "fine", f"{len(scan.records):,} valid in {results}")


def _leftovers(folder: Path) -> Iterator[Finding]:
    """Files left by killed, stopped or diverged processes."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == PART:
            remedy = "the next command that writes there removes it"
            yield Finding("leftover", "note", f"{path}, from a process that was killed or is still writing", remedy)
        elif path.suffix == DIVERGED:
            yield Finding("diverged run", "note", str(path), "run it with other settings, or again with --force")
        elif path.suffix == LOCK and is_locked(path):
            yield Finding("lock", "note", f"{path} is held", "another norml process is running; wait for it")
    unfinished, damaged = find_unfinished(folder)
    for found in unfinished:
        remedy = "the same command resumes it" if found.state == "paused" else ""
        yield Finding(f"{found.state} training", "note", str(found.path), remedy)
    for line in damaged:
        yield Finding("status", "must", line)
