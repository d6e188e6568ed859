"""What a command says on its way: to a person, to nobody, to programs, to TensorBoard, to another terminal."""

import io
import json
import re
import signal
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from norml_cli.commands.results.status import status
from norml_cli.registry.reading import builtin_registry
from norml_cli.terminal import progress, status_files
from norml_cli.terminal.output import Output
from norml_cli.terminal.progress import Progress, RunDisplay
from norml_cli.terminal.status_files import Process, StatusFile, find_unfinished
from tests.helpers.command_line import Shell

RUN = ("run", "norml", "--benchmark", "tiny-5way")
LONG = (*RUN, "--set", "validate_every=100000", "--set", "test_episodes=64", "--outer-steps", "100000", "--no-compile")


@pytest.fixture
def says_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "JSON_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    monkeypatch.setattr("norml_cli.training.loop.SHOW_EVERY_S", 0.0)


@pytest.mark.parametrize("command", [("prepare", "tiny-glyphs", "--force"), RUN, ("study", "trial", *RUN[1:])])
def test_quiet_says_nothing_and_does_its_work(shell: Shell, command: tuple[str, ...]):
    code, out, err = shell.norml(*command, "--quiet")
    assert (code, out, err) == (0, "", "")
    if command[0] != "prepare":
        assert list(shell.results.rglob("*seed-0.json"))


def test_quiet_still_tells_errors(shell: Shell):
    code, out, err = shell.norml("run", "nrml", "--quiet")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown method 'nrml'")


@pytest.mark.usefixtures("says_everything")
def test_json_goes_to_standard_output_and_progress_to_standard_error(shell: Shell):
    code, out, err = shell.norml(*RUN, "--json")
    assert code == 0, err
    (run,) = json.loads(out)["runs"]
    assert run["method"] == "norml"
    events = [json.loads(line) for line in err.splitlines()]
    assert {event["event"] for event in events} == {"line", "progress"}
    progressed = [event for event in events if event["event"] == "progress"]
    assert {event["phase"] for event in progressed} >= {"meta-training", "meta-validation", "meta-test"}
    last = [event for event in progressed if event["phase"] == "meta-training"][-1]
    assert (last["title"], last["done"], last["total"]) == ("norml, 1-shot, seed 0", 9, 9)
    assert last["seconds_left"] == 0
    assert last["loss"] > 0
    assert [event["line"] for event in events if event["event"] == "line"][-1] == "finished"


def test_json_of_other_commands(shell: Shell):
    made, again, verified = (
        json.loads(shell.norml("prepare", "tiny-glyphs", *options, "--json")[1])
        for options in (("--force",), (), ("--verify",))
    )
    assert [result["state"] for result in (made, again, verified)] == ["made", "up to date", "verified"]
    assert made["cache_sha256"] == again["cache_sha256"] == verified["cache_sha256"]
    grid = ("--grid", "inner_lr=0.1,0.2", "--at-once", "1")
    code, out, err = shell.norml("study", "trial", *RUN[1:], *grid, "--json", "--quiet")
    assert (code, err) == (0, "")
    assert {trial["values"]["inner_lr"] for trial in json.loads(out)["trials"]} == {0.1, 0.2}


@pytest.mark.usefixtures("says_everything")
def test_plain_lines_say_what_how_far_how_fast_and_how_long(shell: Shell):
    out = shell.norml(*RUN)[1]
    assert "norml, 1-shot, seed 0: meta-training 2/9, " in out
    line = next(line for line in out.splitlines() if "meta-training 6/9" in line)
    for part in ("steps/s", "loss ", "meta-val ", "0:00:0", " left"):
        assert part in line
    assert "meta-test 320/350, " in out
    assert "episodes/s" in out
    assert "\x1b" not in out


def test_signs_become_ascii_where_the_output_holds_no_more():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    Output(file=file, width=80).print("62.50 ± 15.23%, résultats", highlight=False)
    assert file.buffer.getvalue() == b"62.50 +- 15.23%, r?sultats\n"


def test_reading_a_data_set_shows_how_fast_and_how_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    console = Output(file=io.StringIO(), width=200)
    with RunDisplay(console, "made") as shown:
        shown.reading(0, 1000)
        time.sleep(0.01)
        shown.reading(500, 1000)
    line = console.file.getvalue().splitlines()[-1]
    assert line.startswith("made: reading images 500/1,000, ")
    assert line.endswith("images/s, 0:00:00 left")


@pytest.mark.parametrize("no_color", [False, True])
def test_no_color_is_respected_in_a_terminal(no_color: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    console = Output(file=io.StringIO(), force_terminal=True, width=120)
    with RunDisplay(console, "run") as shown:
        shown.training(3, 10, 1.5, 0.25)
    printed = console.file.getvalue()
    assert "meta-training" in printed
    assert "meta-val 25.0%" in printed
    # rich remembers a style's codes from its first use in the process, so they may be those of a simpler terminal.
    assert bool(re.search(r"\x1b\[(\d+;)*[39]\d", printed)) is not no_color


PROGRESS = Progress("meta-training", 1_234, 200_000, 45.0, "45.0 steps/s", {"loss": 0.646, "validation": 0.815})
LONG_TITLE = "norml-zero-hidden-zero-cell, 1-shot, seed 0: meta-training"


@pytest.mark.parametrize("title", ["norml, 1-shot, seed 0: meta-training", LONG_TITLE])
def test_count_and_time_left_stay_at_any_width(title: str):
    for width in range(30, 161):
        shown, bar, rest = progress.fitted(title, PROGRESS, width)
        assert len(shown) + 1 + bar + bool(bar) + len(rest) <= width
        assert rest.startswith("1,234/200,000 ")
        assert rest.endswith(" 1:13:37")
        assert shown == title or (shown.endswith("...") and not bar and rest == "1,234/200,000 1:13:37")
        assert not bar or "steps/s" in rest  # the bar goes first


def test_what_stays_at_80_columns():
    loss = "loss 0.646, meta-val 81.5%"
    assert progress.fitted("norml, 1-shot, seed 0: meta-training", PROGRESS, 120)[1:] == (
        20,
        f"1,234/200,000 45.0 steps/s, {loss} 1:13:37",
    )
    assert progress.fitted("norml: meta-training", PROGRESS, 80)[1:] == (0, f"1,234/200,000 {loss} 1:13:37")
    assert progress.fitted(LONG_TITLE, PROGRESS, 80) == (LONG_TITLE, 0, "1,234/200,000 1:13:37")


@pytest.mark.parametrize("term", ["xterm", "dumb"])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_progress_stays_after_the_end(term: str, width: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", term)
    console = Output(file=io.StringIO(), force_terminal=True, width=width)
    with RunDisplay(console, "run") as shown:
        shown.training(3, 10, 1.5, 0.25)
        shown.evaluating("meta_val", 100, 100)
        shown.training(4, 10, 1.5, 0.25)
        shown.evaluating("meta_test", 1_920, 2_000)
        shown.say("finished")
    printed = console.file.getvalue()
    assert " 0/10 " not in printed
    after = printed.rpartition("meta-test")[2]
    if term == "dumb":
        assert "meta-test" not in printed
    else:
        assert after.rstrip("\n").endswith("\x1b[2K")  # the line is erased


# ------------------------------------------------------------------------------------------------------------- status


def listed(shell: Shell) -> dict:
    code, out, err = shell.norml("status", "--json")
    assert code == 0, err
    return json.loads(out)


def test_status_says_when_there_is_nothing(shell: Shell):
    assert "no trainings yet" in shell.norml("status")[1]
    assert listed(shell) == {"unfinished": [], "finished": []}


def test_status_follows_a_run_from_its_start_to_a_kill_to_its_end(shell: Shell):
    process = shell.start(*LONG)
    try:
        deadline = time.monotonic() + 60
        while not ((found := listed(shell)["unfinished"]) and found[0]["done"] > 0):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        (running,) = found
        title = "norml, tiny-5way, 1-shot, seed 0, validate_every 100000, test_episodes 64, outer_steps 100000"
        assert (running["state"], running["title"]) == ("running", title)
        assert (running["phase"], running["total"]) == ("meta-training", 100_000)
        assert running["seconds_left"] > 0
        assert "running" in shell.norml("status")[1]
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    (paused,) = listed(shell)["unfinished"]
    assert (paused["state"], paused["done"]) == ("paused", running["done"])
    out = shell.norml("status")[1]
    assert "paused" in out
    assert "to resume: norml run norml --benchmark tiny-5way" in out
    assert shell.norml(*RUN, "--force")[0] == 0
    after = listed(shell)
    assert after["unfinished"] == []
    (run,) = after["finished"]
    assert run["title"] == "norml, tiny-5way, 1-shot, seed 0"
    assert run["reached"].startswith("meta-test ")
    assert run["title"] in shell.norml("status")[1]
    assert not list(shell.results.rglob("*.status"))


def test_a_stopped_run_is_paused_at_its_last_step(tmp_path: Path):
    file = StatusFile(tmp_path / "seed-0.status", "a run")
    file.begin("meta-training", 3, 10)
    for step in (5, 7):
        file.progressed(Progress("meta-training", step, 10, 2.0, "2 steps/s", {"loss": 0.5, "validation": 0.75}))
    file.close()
    (found,), _ = find_unfinished(tmp_path)
    assert found.state == "running"  # the process that wrote it is this one
    assert (found.status.done, found.status.seconds_left, found.status.loss) == (7, 1.5, 0.5)


@pytest.mark.parametrize(
    "change", [{"pid": 2**22 + 1}, {"started": 0.0}, {"started": None}, {"machine": "another"}], ids=str
)
def test_another_process_or_machine_is_not_taken_for_the_running_one(change: dict):
    own = Process.own()
    assert own.is_alive()
    assert not own.model_copy(update=change).is_alive()


def test_a_damaged_status_is_told(shell: Shell):
    shell.results.mkdir()
    for content in (b"{", b"{}", b"[]"):
        (shell.results / "seed-0.status").write_bytes(content)
        StatusFile(shell.results / "seed-1.status", "another run").begin("meta-training", 3, 10)
        code, out, err = shell.norml("status")
        assert (code, "another run" in out) == (0, True)
        assert err.startswith("left out: results/seed-0.status: ")
        assert err.endswith("delete it\n")


def test_lines_wrap_between_words_in_a_terminal_and_stay_whole_in_a_pipe(shell: Shell):
    assert shell.norml(*RUN)[0] == 0
    texts = []
    for is_terminal in (True, False):
        console = Output(file=io.StringIO(), force_terminal=is_terminal, width=40)
        status(results=shell.results, console=console, as_json=False)
        texts.append(console.file.getvalue())
    assert max(map(len, texts[0].splitlines())) <= 40
    assert texts[0].split() == texts[1].split()
    assert len(texts[1].splitlines()) == 1


def test_the_status_is_not_written_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = StatusFile(tmp_path / "seed-0.status", "a run")
    file.begin("meta-training", 0, 100)
    written = []
    monkeypatch.setattr(status_files, "write_atomically", lambda path, _write: written.append(path))
    for step in range(100):
        file.progressed(Progress("meta-training", step, 100, 2.0, ""))
    assert written == []


def test_a_status_that_cannot_be_written_does_not_end_the_training(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    file = StatusFile(tmp_path / "file" / "seed-0.status", "a run")
    file.begin("meta-training", 0, 100)
    file.progressed(Progress("meta-training", 1, 100, 2.0, ""))
    file.close()


def test_a_run_that_is_refused_leaves_no_status(shell: Shell):
    checkpoint = shell.results / "tiny-5way/1-shot/norml/seed-0.checkpoint"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"no checkpoint")
    assert shell.norml(*RUN)[0] == 2
    assert not list(shell.results.rglob("*.status"))


# -------------------------------------------------------------------------------------------------------- tensorboard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415 - seconds

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore")  # of tensorboard's dependencies
@pytest.mark.usefixtures("says_everything")
def test_event_files_hold_the_learning_curve_of_the_record(shell: Shell):
    code, _, err = shell.norml(*RUN, "--tensorboard", "events")
    assert code == 0, err
    record = json.loads((shell.results / "tiny-5way/1-shot/norml/seed-0.json").read_text())
    found = scalars(shell.folder / "events/tiny-5way/1-shot/norml/seed-0")
    for tag, key in {
        "accuracy/meta-validation": "validation_accuracy",
        "accuracy/meta-training": "train_accuracy",
        "loss/query, mean since the last meta-validation": "loss",
        "outer learning rate": "outer_lr",
    }.items():
        expected = [(point["step"], pytest.approx(point[key], rel=1e-6)) for point in record["curve"]]
        assert found[tag] == expected, tag
    assert found["accuracy/meta-test"] == [(record["best_step"], pytest.approx(record["accuracy"]["mean"], rel=1e-6))]
    assert [step for step, _ in found["loss/query, last look"]] == list(range(1, 10))


def test_tensorboard_that_is_not_installed_is_one_clear_line(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, _, err = shell.norml(*RUN, "--tensorboard", "events")
    assert code == 2
    assert err == ("error: --tensorboard: the package tensorboard is not installed; pip install 'norml[tensorboard]'\n")


# --------------------------------------------------------------------------------------------------------- completion


def completed(shell: Shell, words: str) -> list[str]:
    """What bash is offered for the last of `words`."""
    with shell.monkeypatch.context() as patch:
        patch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # by which the program's name is found
        patch.setenv("_NORML_COMPLETE", "complete_bash")
        patch.setenv("COMP_WORDS", words)
        patch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        return shell.norml()[1].split()


def ids(kind: str) -> list[str]:
    return sorted(path.stem for path in (builtin_registry() / kind).glob("*.yaml"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("norml ru", ["run"]),
        ("norml run norml norml-zero-h", ["norml-zero-hidden", "norml-zero-hidden-zero-cell"]),
        ("norml report --table table-", ids("tables")),
        ("norml run norml --benchmark tiny", ["tiny-5way"]),  # of the user's own entries
        ("norml run norml --set inner_l", ["inner_lr="]),
        ("norml study rates norml --grid cell_", ["cell_size="]),
        ("norml report --format l", ["latex"]),
        ("norml run norml --device c", ["cpu", "cuda"]),
        ("norml evaluate seed-0.json --split meta-", ["meta-val", "meta-test"]),
        ("norml pretrain mini-imagenet --precision b", ["bfloat16"]),
    ],
)
def test_the_shell_completes_commands_ids_keys_and_values(shell: Shell, words: str, expected: list[str]):
    assert completed(shell, words) == expected


def test_completion_can_be_shown_and_installed(shell: Shell):
    assert {"--install-completion", "--show-completion"} <= set(shell.norml("--help")[1].split())
