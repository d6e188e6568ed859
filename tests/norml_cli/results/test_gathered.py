"""Several results folders read as one."""

from pathlib import Path

import pytest

from norml_cli.files.errors import UserError
from norml_cli.registry.resolving import Registry
from norml_cli.results.gathered import Gathered
from norml_cli.results.store import Results, write_record
from tests.helpers.made_records import made_record, made_registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return made_registry(tmp_path / "registry")


def kept(registry: Registry, folder: Path, method: str, correct: list[int], seed: int = 0) -> Path:
    record = made_record(registry, method, correct, seed=seed)
    path = Results(folder).run_path(record.spec, record.seed)
    write_record(path, record)
    return path


def test_runs_of_all_folders_are_there_each_once(registry: Registry, tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    one = kept(registry, here, "norml", [1, 2, 3, 4])
    other = kept(registry, there, "norml", [2, 2, 3, 4], seed=1)
    copy = there / one.relative_to(here)
    copy.write_bytes(one.read_bytes())
    assert [path for path, _ in Gathered([here, there, here]).runs()] == [one, other]
    assert str(Gathered([here, there])) == f"{here}, {there}"


def test_two_records_of_one_run_that_differ_are_told(registry: Registry, tmp_path: Path):
    one = kept(registry, tmp_path / "here", "norml", [1, 2, 3, 4])
    other = kept(registry, tmp_path / "there", "norml", [2, 2, 3, 4])
    gathered = Gathered([tmp_path / "here", tmp_path / "there"])
    assert gathered.scan_runs().faults == [
        f"{other}: differs from {one}, the record of the same run; leave out one of them"
    ]
    with pytest.raises(UserError, match="leave out one of them"):
        gathered.runs()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        Gathered([tmp_path, tmp_path / "nowhere"]).require_folder()
