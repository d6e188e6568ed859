"""What becomes of cells: of those that fail, are stopped, are lost or are someone else's."""

import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from norml_cli.files.locks import held
from norml_cli.sweeps import here, process, sweep
from norml_cli.sweeps.cells import SweepCell
from norml_cli.sweeps.engine import Ended
from norml_cli.sweeps.here import Here
from norml_cli.sweeps.sweep import TRY_AGAIN, Sweep
from norml_cli.terminal.output import Output

LEAVES = "open({path!r}, 'w').close()"
OBEYS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit({code})); {then}; time.sleep(60)"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    """Commands are Python code in place of what `norml` is given."""
    monkeypatch.setattr(process, "PROGRAM", (sys.executable, "-c"))


def cell(folder: Path, name: str, code: str = LEAVES, **options: object) -> SweepCell:
    """`code`: {path!r} is what the cell has to leave, {folder!r} where it is."""
    path = folder / f"{name}.json"
    return SweepCell(name, (code.format(path=str(path), folder=str(folder)),), path, path, **options)


def swept(*plan: SweepCell, seconds: float = 60, at_once: int = 1, retries: int = 0) -> tuple[int, dict[str, str]]:
    """The exit code, and what became of each cell."""
    made = Sweep("made", plan, Here(at_once), retries=retries, console=Output(as_json=True))
    code = made.run(time.monotonic() + seconds)
    return code, {each["title"]: each["state"] for each in made.states()}


@pytest.mark.usefixtures("scripts")
def test_all_that_is_there_is_told_and_no_log_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plan = cell(tmp_path, "one"), cell(tmp_path, "two")
    assert swept(*plan) == (0, {"one": "finished", "two": "finished"})
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    lines = [event["line"] for event in events if event["event"] == "line"]
    assert [line.split(" in ")[0] for line in lines] == [
        "one: started",
        "one: finished",
        "two: started",
        "two: finished",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json"]


@pytest.mark.usefixtures("scripts")
def test_as_many_as_asked_for_run_side_by_side(tmp_path: Path):
    """Each waits for the other's file, so one after the other they would never end."""
    meets = "import os, time\nopen({path!r} + '.begun', 'w').close()\nother = {folder!r} + '/OTHER.json.begun'\n"
    meets += "while not os.path.exists(other): time.sleep(0.01)\n" + LEAVES
    one, two = (cell(tmp_path, a, meets.replace("OTHER", b)) for a, b in (("one", "two"), ("two", "one")))
    assert swept(one, two, at_once=2)[0] == 0
    alone = cell(tmp_path, "three", meets.replace("OTHER", "nobody"))
    assert swept(alone, cell(tmp_path, "four"), seconds=1)[1] == {"three": "left", "four": "left"}


@pytest.mark.usefixtures("scripts")
def test_a_cell_that_fails_is_begun_again_and_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    second_time = "import os\nbegun = {path!r} + '.begun'\nif not os.path.exists(begun):\n"
    second_time += "    open(begun, 'w').close()\n    raise SystemExit(2)\n" + LEAVES
    plan = cell(tmp_path, "lost", second_time), cell(tmp_path, "never", "raise SystemExit('no luck')")
    code, states = swept(*plan, cell(tmp_path, "sound"), retries=1)
    assert (code, states) == (1, {"lost": "finished", "never": "failed", "sound": "finished"})
    *_, error, first, second = capsys.readouterr().err.splitlines()
    assert error == f"error: never: exit code 1; {tmp_path / 'never.log'} ends with:"
    assert first == second == "    no luck"  # of each attempt
    assert (tmp_path / "never.log").read_text() == "no luck\nno luck\n"


@pytest.mark.usefixtures("scripts")
def test_a_success_that_leaves_nothing_is_a_failure(tmp_path: Path):
    assert swept(cell(tmp_path, "idle", "pass")) == (1, {"idle": "failed"})


@pytest.mark.usefixtures("scripts")
def test_what_needs_a_failed_cell_fails_and_what_does_not_goes_on(tmp_path: Path):
    data = cell(tmp_path, "data", "raise SystemExit(2)")
    plan = data, cell(tmp_path, "run", needs=(data,)), cell(tmp_path, "other")
    assert swept(*plan) == (1, {"data": "failed", "run": "failed", "other": "finished"})
    assert not (tmp_path / "run.json").exists()


@pytest.mark.usefixtures("scripts")
def test_what_is_needed_comes_first(tmp_path: Path):
    data = cell(tmp_path, "data", "import time; time.sleep(1); " + LEAVES)
    run = cell(tmp_path, "run", "assert open({folder!r} + '/data.json'); " + LEAVES, needs=(data,))
    assert swept(data, run, at_once=2)[0] == 0


@pytest.mark.usefixtures("scripts")
def test_a_cell_that_never_began_costs_no_retry_but_is_not_begun_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ended, started = Here.ended, Here.start
    starts: list[SweepCell] = []

    def starts_counted(self: Here, cells: list[SweepCell]) -> None:
        starts.extend(cells)
        started(self, cells)

    def as_if_lost(self: Here) -> list[Ended]:
        return [replace(each, code=None, began=len(starts) > lost) for each in ended(self)]

    monkeypatch.setattr(Here, "start", starts_counted)
    monkeypatch.setattr(Here, "ended", as_if_lost)
    for lost, second_time, outcome in ((2, LEAVES, "finished"), (99, "pass", "failed")):
        starts.clear()
        code = f"import os\nbegun = {{path!r}} + str({lost})\nopen(begun, 'a').write('.')\n"
        code += f"if os.path.getsize(begun) > 2: {second_time}"
        assert swept(cell(tmp_path, f"cell-{lost}", code))[1] == {f"cell-{lost}": outcome}
        assert len(starts) == (3 if outcome == "finished" else 1 + sweep.MOST_STARTS_WITHOUT_BEGINNING)


@pytest.mark.usefixtures("scripts")
def test_the_longest_run_of_a_seed_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sleeps = "import time; time.sleep(0.5); " + LEAVES
    seed_0 = [cell(tmp_path, "a0", seed=0, kind="a"), cell(tmp_path, "b0", sleeps, seed=0, kind="b")]
    seed_1 = [cell(tmp_path, f"{kind}1", seed=1, kind=kind) for kind in "ab"]
    long = cell(tmp_path, "c1", seed=1, kind="c", expected_s=100.0)
    assert swept(*seed_0, *seed_1, long)[0] == 0
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    begun = [event["line"].split(":")[0] for event in events if event.get("line", "").endswith(": started")]
    assert begun == ["a0", "b0", "c1", "b1", "a1"]


@pytest.mark.usefixtures("scripts")
def test_when_time_is_up_cells_are_stopped_and_left_for_the_next_start(tmp_path: Path):
    obeys = cell(tmp_path, "obeys", OBEYS.format(code=130, then="open({path!r} + '.begun', 'w').close()"))
    assert swept(obeys, seconds=3) == (TRY_AGAIN, {"obeys": "left"})
    assert (tmp_path / "obeys.json.begun").exists()
    assert swept(cell(tmp_path, "none"), seconds=-1) == (TRY_AGAIN, {"none": "left"})  # not even begun
    fails = cell(tmp_path, "fails", OBEYS.format(code=2, then="pass"))
    assert swept(obeys, fails, seconds=3, at_once=2) == (1, {"obeys": "left", "fails": "failed"})


@pytest.mark.usefixtures("scripts")
def test_ctrl_c_of_a_terminal_reaches_no_cell_by_itself(tmp_path: Path):
    """It is sent to a group of processes; a second signal would cut off what a cell still writes."""
    assert swept(cell(tmp_path, "apart", "import os; assert os.getpgrp() == os.getpid(); " + LEAVES))[0] == 0


@pytest.mark.usefixtures("scripts")
def test_a_cell_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sweep, "TIME_TO_STOP_S", 1)
    monkeypatch.setattr(sweep, "TIME_TO_STOP_AT_ONCE_S", 1)
    ignores = "[signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)]"
    deaf = cell(tmp_path, "deaf", f"import signal, time; {ignores}; time.sleep(60)")
    before = time.monotonic()
    assert swept(deaf, seconds=3) == (TRY_AGAIN, {"deaf": "left"})
    assert time.monotonic() - before < 30


@pytest.mark.usefixtures("scripts")
def test_a_cell_of_another_process_is_left_to_it(tmp_path: Path):
    """`theirs` would fail here; `dropped` is let go of unfinished, and taken over."""
    theirs, dropped = cell(tmp_path, "theirs", "raise SystemExit(2)"), cell(tmp_path, "dropped")
    begun = threading.Event()

    def another() -> None:
        with held(dropped.path):
            with held(theirs.path):
                begun.set()
                time.sleep(2)
                theirs.leaves.write_text("theirs")
            time.sleep(1)

    thread = threading.Thread(target=another)
    thread.start()
    begun.wait()
    code, states = swept(theirs, dropped, cell(tmp_path, "ours"), at_once=2)
    thread.join()
    assert (code, set(states.values())) == (0, {"finished"})
    assert theirs.leaves.read_text() == "theirs"


@pytest.mark.usefixtures("scripts")
def test_a_cell_that_something_else_stops_goes_on_and_counts_as_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """As a time limit of a cluster does; exit code 130 says that the checkpoint is there."""
    third_time = "from pathlib import Path\nbegun = Path({path!r} + '.begun')\ntimes = len(begun.read_text()) "
    third_time += "if begun.exists() else 0\nbegun.write_text('x' * (times + 1))\n"
    third_time += "if times < 2: raise SystemExit(130)\n" + LEAVES
    assert swept(cell(tmp_path, "long", third_time), retries=0) == (0, {"long": "finished"})
    assert capsys.readouterr().err.count("was stopped, by a time limit or a person; it goes on later") == 2


@pytest.mark.usefixtures("scripts")
def test_numbers_that_diverge_are_no_second_try_and_a_finding_of_a_study(tmp_path: Path):
    """A note is there when the process ends; what it says would be said again."""
    notes = "from pathlib import Path\nbegun = Path({path!r} + '.begun')\nassert not begun.exists()\n"
    notes += "begun.touch()\nPath({path!r}).with_suffix('.diverged').touch()\nraise SystemExit(2)"
    assert swept(cell(tmp_path, "run", notes), retries=3) == (1, {"run": "failed"})
    assert swept(cell(tmp_path, "trial", notes, is_trial=True), retries=3) == (0, {"trial": "failed"})


@pytest.mark.usefixtures("scripts")
def test_a_log_keeps_every_attempt_of_this_sweep_and_none_of_an_earlier_one(tmp_path: Path):
    never = cell(tmp_path, "never", "raise SystemExit('no luck')")
    for _ in range(2):
        assert swept(never, retries=1) == (1, {"never": "failed"})
        assert (tmp_path / "never.log").read_text() == "no luck\nno luck\n"


@pytest.mark.usefixtures("scripts")
def test_each_cell_sees_the_gpu_with_the_fewest_cells(tmp_path: Path):
    says = "import os, time\nopen({path!r} + '.gpu', 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    plan = [cell(tmp_path, name, says + "time.sleep(0.5)\n" + LEAVES) for name in "abcd"]
    made = Sweep("made", plan, Here(4, ["2", "5"]), retries=0, console=Output(as_json=True))
    assert made.run(time.monotonic() + 60) == 0
    assert sorted(path.read_text() for path in tmp_path.glob("*.gpu")) == ["2", "2", "5", "5"]


def test_gpus_are_shared_where_none_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert here.gpus_for("auto") == here.gpus_for("cuda") == ["3", "1"]
    assert here.gpus_for("cuda:1") == here.gpus_for("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert here.gpus_for("auto") == []
