"""Two commands on one thing: one waits or is told who is at work, and neither harms the other."""

import io
import platform
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import pytest

from norml_cli.commands.data.prepare import prepare
from norml_cli.data.cache import Cache
from norml_cli.data.sources import omniglot
from norml_cli.files.companions import lock_path
from norml_cli.files.locks import held
from norml_cli.registry.reading import load_registry
from norml_cli.terminal.output import Output
from tests.helpers.command_line import Shell
from tests.trust.places import PREPARE, PREPARE_PHOTOS, PRETRAIN, RUN, contents

Holding = Callable[[Path], AbstractContextManager["Popen[str]"]]

SINCE = r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
RECORD = Path("results/tiny-5way/1-shot/norml/seed-0.json")


def refusal(shell: Shell, *arguments: str) -> str:
    code, _, err = shell.norml(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    return err


def test_a_run_of_a_cell_that_another_process_runs_is_told_who_does(shell: Shell, another_process: Holding):
    with another_process(shell.folder / RECORD) as other:
        err = refusal(shell, *RUN)
        who = f"process {other.pid} on {re.escape(platform.node())}, {SINCE}"
        expected = rf"error: {RECORD}: in use by {who}; wait until it ends or stop it, then run this again\n"
        assert re.fullmatch(expected, err)
        assert shell.norml(*RUN, "--seed", "1")[0] == 0  # another cell
        assert not RECORD.exists()
        assert "process" in refusal(shell, *RUN, "--force")


def test_the_lock_of_a_killed_process_stops_nobody_and_goes_with_the_next(shell: Shell, another_process: Holding):
    leftover = shell.folder / RECORD.with_name(".seed-0.checkpoint.x.part")
    with another_process(shell.folder / RECORD) as other:
        leftover.write_bytes(b"half")
        other.kill()
        other.wait()
        assert lock_path(RECORD).exists()
        assert shell.norml(*RUN)[0] == 0
    assert sorted(path.name for path in RECORD.parent.iterdir()) == ["seed-0.json", "seed-0.weights"]


def test_a_second_pretraining_of_a_recipe_names_the_process_that_holds_it(shell: Shell, another_process: Holding):
    assert shell.norml(*PREPARE_PHOTOS)[0] == 0
    assert shell.norml(*PRETRAIN)[0] == 0
    before = contents(shell.folder)
    (weights,) = shell.home.rglob("*.weights")
    with another_process(weights) as other:
        err = refusal(shell, *PRETRAIN, "--force")
        assert f"{weights}: in use by process {other.pid} on " in err
    assert shell.norml(*PRETRAIN, "--force")[0] == 0
    assert contents(shell.folder) == before


def test_a_second_preparing_waits_and_says_for_whom(shell: Shell, another_process: Holding):
    with another_process(shell.home / "made-omniglot.h5") as other, shell.start(*PREPARE) as second:
        assert second.stdout is not None
        first_line = second.stdout.readline()
        still_waits = second.poll() is None
        other.kill()
        rest, _ = second.communicate(timeout=60)
    assert re.fullmatch(
        rf"waiting for process {other.pid} on .*, {SINCE}, which is writing made-omniglot\.h5\n", first_line
    )
    assert still_waits
    assert second.returncode == 0, rest
    assert [path.name for path in shell.home.iterdir()] == ["made-omniglot.h5"]


@pytest.mark.usefixtures("shell")
def test_two_preparings_of_one_data_set_make_it_once(monkeypatch: pytest.MonkeyPatch):
    registry, reads = load_registry(None), []
    read, both, looked = omniglot.read, threading.Barrier(2, timeout=60), threading.local()
    freshness = prepare.__globals__["freshness"]

    def counted(*arguments: object) -> object:
        reads.append(arguments)
        return read(*arguments)

    def first_look(*arguments: object) -> object:
        found = freshness(*arguments)
        if not hasattr(looked, "once"):
            looked.once = True
            both.wait()  # both have seen that there is no cache
        return found

    def prepared(_: int) -> str:
        console = Output(file=io.StringIO(), width=200)
        prepare(registry, "made-omniglot", source=Path("omniglot"), force=False, verify=False, console=console)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    monkeypatch.setattr(omniglot, "read", counted)
    monkeypatch.setitem(prepare.__globals__, "freshness", first_look)
    with ThreadPoolExecutor() as threads:
        texts = sorted(threads.map(prepared, range(2)))
    assert len(reads) == 1
    assert sum("cache_sha256" in text for text in texts) == 1
    assert sum("up to date" in text for text in texts) == 1
    entry, file = registry.datasets["made-omniglot"], registry.files["datasets", "made-omniglot"]
    assert Cache.open(entry, file).verify() == 12


def test_a_lock_is_one_per_file_and_told_where_it_cannot_be_made(tmp_path: Path):
    with held(tmp_path / "seed-1.json"), held(tmp_path / "seed-10.json"):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".seed-1.lock", ".seed-10.lock"]
    assert not list(tmp_path.iterdir())


def test_leftovers_of_others_are_left_alone(tmp_path: Path):
    ours, theirs = (tmp_path / name for name in (".seed-1.json.x.part", ".seed-10.json.x.part"))
    for path in (ours, theirs):
        path.write_bytes(b"half")
    with held(tmp_path / "seed-1.json"):
        assert not ours.exists()
        assert theirs.exists()
