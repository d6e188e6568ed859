"""`norml sweep`: the same records as one run after the other, whatever stops it or works beside it."""

import json
import re
import signal
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from norml_cli.files.companions import LOG
from tests.helpers.command_line import Shell


def numbers(results: Path) -> dict[str, tuple[list[int], list[dict]]]:
    """What each record's test and training reached."""
    records = {path: json.loads(path.read_text()) for path in results.rglob("seed-*.json")}
    return {str(path.relative_to(results)): (each["correct"], each["curve"]) for path, each in records.items()}


def test_a_stopped_sweep_goes_on_and_ends_like_sequential_runs(shell: Shell):
    cells = ("norml", "maml-constant-lr", "--benchmark", "tiny-5way", "--outer-steps", "200")
    long = (*cells, "--set", "validate_every=200", "--set", "test_episodes=64")
    process = shell.start("sweep", *long, "--at-once", "2")
    try:
        until = time.monotonic() + 120
        while not list(shell.results.rglob("*.status")):  # of a cell that trains; the other may be done already
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert re.search(r"stopped: \d of \d finished, \d left; run the same command to continue\n$", said)
    assert not list(shell.results.rglob(".*.lock"))  # nobody is left
    code, out, err = shell.norml("sweep", *long, "--at-once", "2")
    assert (code, err) == (0, "")
    assert shell.norml("run", *long, "--device", "cpu", "--results", "apart")[0] == 0
    assert numbers(shell.results) == numbers(shell.folder / "apart")
    assert not [path for path in shell.results.rglob("*.*") if path.suffix not in {".json", ".weights"}]
    assert out.count("maml-constant-lr") >= 2  # the list of runs


def test_two_sweeps_of_one_folder_do_no_cell_twice(shell: Shell):
    """Whatever trains has a status file with its process's number."""
    sweep = ("sweep", "maml-constant-lr", "--benchmark", "tiny-5way", "--seeds", "0..2", "--at-once", "1")
    both = [shell.start(*sweep) for _ in range(2)]
    trained = defaultdict[str, set[int]](set)
    while any(process.poll() is None for process in both):
        for path in shell.results.rglob("*.status"):
            with suppress(FileNotFoundError, ValueError):  # it has just ended
                trained[str(path.relative_to(shell.results))].add(json.loads(path.read_text())["process"]["pid"])
        time.sleep(0.01)
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [len(processes) for processes in trained.values()] == [1, 1, 1]
    assert set(numbers(shell.results)) == {f"tiny-5way/1-shot/maml-constant-lr/seed-{seed}.json" for seed in range(3)}


def test_nothing_runs_where_nothing_is_missing_and_other_values_are_refused(shell: Shell):
    one = ("sweep", "no-adaptation", "--benchmark", "tiny-5way", "--device", "cpu")
    assert shell.norml(*one)[0] == 0
    (record,) = shell.results.rglob("seed-0.json")
    (log := record.with_suffix(LOG)).write_text("as a killed sweep leaves it")
    code, out, _ = shell.norml(*one)
    assert (code, out.splitlines()[0], log.exists()) == (0, "sweep: 0 to do, 1 finished already", False)
    code, out, err = shell.norml(*one, "--set", "test_episodes=20")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is a finished run with other values" in err


def test_a_grid_is_a_run_for_each_value(shell: Shell):
    grid = ("sweep", "maml-constant-lr", "--benchmark", "tiny-5way", "--grid", "inner_lr=0.1,0.4", "--device", "cpu")
    code, out, err = shell.norml(*grid, "--seeds", "0", "1", "--shots", "1", "5", "--dry-run", "--json")
    assert (code, err.count("about")) == (0, 0)
    assert sum(each["title"].startswith("maml-constant-lr, ") for each in json.loads(out)["missing"]) == 8
    assert not shell.results.exists()
    code, out, err = shell.norml(*grid, "--at-once", "2")
    assert (code, err) == (0, "")
    folder = shell.results / "tiny-5way" / "1-shot"
    names = ["inner-lr-0-1", "inner-lr-0-4"]
    records = [json.loads((folder / f"maml-constant-lr+{name}" / "seed-0.json").read_text()) for name in names]
    assert [record["spec"]["protocol"]["inner_lr"] for record in records] == [0.1, 0.4]
    assert [record["name"] for record in records] == names
    run = ("run", "maml-constant-lr", "--benchmark", "tiny-5way", "--set", "inner_lr=0.1", "--results", "apart")
    assert shell.norml(*run, "--device", "cpu")[0] == 0
    (alone,) = numbers(shell.folder / "apart").values()
    assert numbers(shell.results)["tiny-5way/1-shot/maml-constant-lr+inner-lr-0-1/seed-0.json"] == alone
    gathered = json.loads(shell.norml("report", "--results", "results", "apart", "--json")[1])["runs"]
    assert [run["method"] for run in gathered] == [*(f"maml-constant-lr+{name}" for name in names), "maml-constant-lr"]
    assert shell.norml(*grid)[1].splitlines()[0] == "sweep: 0 to do, 2 finished already"


def test_a_failed_run_is_reported_with_the_end_of_its_log_and_others_go_on(shell: Shell):
    """A damaged checkpoint is refused at each attempt."""
    checkpoint = shell.results / "tiny-5way" / "1-shot" / "norml" / "seed-0.checkpoint"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("damaged")
    sweep = ("sweep", "norml", "no-adaptation", "--benchmark", "tiny-5way", "--device", "cpu")
    code, out, err = shell.norml(*sweep, "--quiet")
    assert (code, out) == (1, "")
    first, *log = err.splitlines()
    path = "results/tiny-5way/1-shot/norml/seed-0.log"
    assert first == f"error: norml, tiny-5way, 1-shot, seed 0: exit code 2; {path} ends with:"
    assert [line.partition(str(checkpoint.relative_to(shell.folder)))[0] for line in log] == ["    error: "] * 2
    assert list(numbers(shell.results)) == ["tiny-5way/1-shot/no-adaptation/seed-0.json"]
