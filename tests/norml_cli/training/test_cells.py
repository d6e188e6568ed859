"""Cells side by side: which there are, and what becomes of those that fail, are stopped or are someone else's."""

import json
import threading
import time
from pathlib import Path

import pytest

from norml_cli.files.errors import UserError
from norml_cli.files.locks import held
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.results.missing import missing_runs, runs_of
from norml_cli.results.store import Results
from norml_cli.terminal.output import Output
from norml_cli.training import cells
from norml_cli.training.cells import Asked, Cell, Sweep, at_once_of

LEAVES = "open({path!r}, 'w').close()"
OBEYS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit({code})); {then}; time.sleep(60)"

# ------------------------------------------------------------------------------------------------------ what to do


def planned(table: str, monkeypatch: pytest.MonkeyPatch, home: Path, source: Path | None = None) -> list[Cell]:
    monkeypatch.setenv("NORML_HOME", str(home))
    registry = read_registry([builtin_registry()])
    asked = Asked(home / "out", (0, 1), source=source, device="cpu")
    missing = missing_runs(Results(asked.results), runs_of(registry, registry.table(table)), asked.seeds)
    return cells._Plan(registry, asked, threads=()).cells(missing)


def test_table_1_needs_images_three_backbones_and_their_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    options = f"--device cpu --results {tmp_path / 'out'}"
    plan = planned("table-1", monkeypatch, tmp_path, Path("raw"))
    texts = [" ".join(cell.arguments) for cell in plan]
    (prepare, *others) = plan
    assert texts[0] == "prepare mini-imagenet --source raw"
    recipes = {cell.arguments[3]: cell for cell in others if cell.arguments[0] == "pretrain"}
    assert list(recipes) == ["mtl-2019", "rfs-2020", "resnet12-narrow"]
    assert all(cell.needs == (prepare,) for cell in recipes.values())
    assert texts[1] == f"pretrain mini-imagenet --recipe mtl-2019 --seed 0 {options}"
    runs = [cell for cell in others if cell.arguments[0] == "run"]
    assert texts[4:6] == [
        f"run norml --benchmark mini-imagenet-5way --shots 1 --seed 0 {options}",
        f"run maml-constant-lr --benchmark mini-imagenet-5way --shots 1 --seed 0 {options}",
    ]
    assert runs[0].needs == (prepare, recipes["mtl-2019"])
    table = read_registry([builtin_registry()]).table("table-1")
    shown = {
        (row.method, row.benchmark or column.benchmark, column.shots)
        for row in table.rows
        for column in table.columns
        if row.method is not None
    }
    assert len(runs) == len(set(runs)) == 2 * len(shown)  # seeds


def test_table_2_needs_its_data_set_and_all_seven_methods_first_with_one_seed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    prepare, *runs = planned("table-2", monkeypatch, tmp_path)
    assert prepare.arguments == ("prepare", "omniglot")
    assert len(runs) == len(set(runs)) == 2 * 2 * 7
    assert ["seed 0" in run.title for run in runs] == [True] * 14 + [False] * 14


def test_images_that_nobody_may_download_are_asked_for_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with pytest.raises(UserError, match=r"'mini-imagenet' is not prepared; .*--source PATH"):
        planned("table-1", monkeypatch, tmp_path)


@pytest.mark.parametrize(("text", "number"), [("auto", None), ("1", 1), ("14", 14)])
def test_at_once_is_a_number_or_auto(text: str, number: int | None):
    assert at_once_of(text) == number


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "²", "99999"])
def test_other_numbers_at_once_are_refused(text: str):
    with pytest.raises(UserError, match="--at-once"):
        at_once_of(text)


# -------------------------------------------------------------------------------------------------------- doing it


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    """Commands are Python code in place of what `norml` is given."""
    monkeypatch.setattr(cells, "PROGRAM", (cells.sys.executable, "-c"))


def cell(folder: Path, name: str, code: str = LEAVES, **options: object) -> Cell:
    """`code`: {path!r} is what the cell has to leave, {folder!r} where it is."""
    path = folder / f"{name}.json"
    return Cell(name, (code.format(path=str(path), folder=str(folder)),), path, path, **options)


def swept(*plan: Cell, seconds: float = 60, at_once: int = 1, retries: int = 0) -> tuple[int, dict[str, str]]:
    """The exit code, and what became of each cell."""
    sweep = Sweep("made", plan, Output(as_json=True), at_once=at_once, retries=retries)
    code = sweep.run(time.monotonic() + seconds)
    return code, {each["title"]: each["state"] for each in sweep.states()}


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
def test_when_time_is_up_cells_are_stopped_and_left_for_the_next_start(tmp_path: Path):
    obeys = cell(tmp_path, "obeys", OBEYS.format(code=130, then="open({path!r} + '.begun', 'w').close()"))
    assert swept(obeys, seconds=3) == (cells.TRY_AGAIN, {"obeys": "left"})
    assert (tmp_path / "obeys.json.begun").exists()
    assert swept(cell(tmp_path, "none"), seconds=-1) == (cells.TRY_AGAIN, {"none": "left"})  # not even begun
    fails = cell(tmp_path, "fails", OBEYS.format(code=2, then="pass"))
    assert swept(obeys, fails, seconds=3, at_once=2) == (1, {"obeys": "left", "fails": "failed"})


@pytest.mark.usefixtures("scripts")
def test_ctrl_c_of_a_terminal_reaches_no_cell_by_itself(tmp_path: Path):
    """It is sent to a group of processes; a second signal would cut off what a cell still writes."""
    assert swept(cell(tmp_path, "apart", "import os; assert os.getpgrp() == os.getpid(); " + LEAVES))[0] == 0


@pytest.mark.usefixtures("scripts")
def test_a_cell_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cells, "TIME_TO_STOP_S", 1)
    monkeypatch.setattr(cells, "TIME_TO_STOP_AT_ONCE_S", 1)
    ignores = "[signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)]"
    deaf = cell(tmp_path, "deaf", f"import signal, time; {ignores}; time.sleep(60)")
    before = time.monotonic()
    assert swept(deaf, seconds=3) == (cells.TRY_AGAIN, {"deaf": "left"})
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
