"""`norml run` from the command line: records, resuming, refusing."""

import getpass
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from norml_cli.app.main import main
from norml_cli.results.records import Parameters
from norml_cli.training import launch, loop, resources, run
from norml_cli.training.checkpoints import read_checkpoint
from norml_cli.training.trained import load_trained
from tests.helpers.command_line import Shell

METHODS = [
    "maml-constant-lr",
    "maml-global-lr",
    "maml-layerwise-lr",
    "meta-sgd",
    "norml",
    "norml-zero-hidden",
    "norml-zero-cell",
    "norml-zero-hidden-zero-cell",
]
NORML = ("run", "norml", "--benchmark", "tiny-5way")


def read(shell: Shell, method: str = "norml", shots: int = 1, seed: int = 0, results: str = "results") -> dict:
    path = shell.folder / results / "tiny-5way" / f"{shots}-shot" / method / f"seed-{seed}.json"
    return json.loads(path.read_text())


def figures(record: dict) -> dict:
    """A record without what may differ between two equal runs: time, memory and date."""
    return {key: value for key, value in record.items() if key not in {"digest", "cost", "created", "command", "git"}}


@pytest.mark.parametrize("shots", [1, 5])
def test_all_methods_run_and_are_tabulated(shell: Shell, shots: int):
    code, out, err = shell.norml("run", *METHODS, "--benchmark", "tiny-5way", "--shots", str(shots))
    assert code == 0, err
    for method in METHODS:
        record = read(shell, method, shots)
        assert record["spec"]["protocol"]["queries_per_class"] == shots
        assert [point["step"] for point in record["curve"]] == [4, 8, 9]
        assert len(record["correct"]) == 350
        assert method in out
    assert len({read(shell, method, shots)["episodes"]["test_hash"] for method in METHODS}) == 1


def test_a_record_names_no_place_and_no_person(shell: Shell):
    absolute = str(shell.folder / "elsewhere")
    code, _, err = shell.norml(*NORML, "--results", absolute)
    assert code == 0, err
    text = json.dumps(read(shell, results="elsewhere"))
    for private in (str(shell.folder), str(shell.home), str(Path.home()), socket.gethostname()):
        assert private not in text
    assert f"/{getpass.getuser()}" not in text


def test_equal_seeds_give_equal_records_and_other_seeds_do_not(shell: Shell):
    for results, seed in [("a", "0"), ("b", "0"), ("a", "1")]:
        assert shell.norml(*NORML, "--results", results, "--seed", seed)[0] == 0
    assert figures(read(shell, results="a")) == figures(read(shell, results="b"))
    assert read(shell, results="a")["correct"] != read(shell, results="a", seed=1)["correct"]


def test_a_finished_run_is_run_again_only_by_force(shell: Shell):
    assert shell.norml(*NORML)[0] == 0
    first = read(shell)
    assert "already finished" in shell.norml(*NORML)[1]
    assert read(shell) == first
    assert shell.norml(*NORML, "--force")[0] == 0
    assert read(shell)["cost"] != first["cost"]
    assert figures(read(shell)) == figures(first)


def test_a_record_of_another_protocol_is_kept_unless_forced(shell: Shell):
    assert shell.norml(*NORML)[0] == 0
    code, _, err = shell.norml(*NORML, "--set", "inner_lr=0.1")
    assert code == 2
    assert "other settings" in err
    assert "--force" in err
    assert read(shell)["spec"]["protocol"]["inner_lr"] == 0.4
    assert shell.norml(*NORML, "--set", "inner_lr=0.1", "--force")[0] == 0
    assert read(shell)["changed"] == ["inner_lr"]


def test_parameters_are_counted_without_batch_norm(shell: Shell):
    assert shell.norml(*NORML)[0] == 0
    assert read(shell)["parameters"]["learner"] == (28 * 28 * 12 + 12) + (12 * 8 + 8) + (8 * 5 + 5)
    assert "without batch norm" in str(Parameters.model_fields["learner"].description)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the run may tidy up."""


def dying(monkeypatch: pytest.MonkeyPatch, name: str, calls: int) -> None:
    """The method `name` of a run dies before its call number `calls` + 1."""
    original = getattr(run.Run, name)
    left = [calls]

    def dies(self: run.Run, *arguments: object) -> object:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return original(self, *arguments)

    monkeypatch.setattr(run.Run, name, dies)


@pytest.fixture(scope="module")
def whole() -> dict:
    """The figures of an uninterrupted run, filled by the first test that needs them."""
    return {}


@pytest.mark.parametrize(
    ("where", "calls", "saves_every_step"),
    [("_take_step", n, True) for n in range(9)]
    + [("_validate", n, True) for n in range(3)]
    + [("_evaluate", n, True) for n in range(4)]
    + [("_take_step", 5, False), ("_evaluate", 3, False)],
)
def test_a_killed_run_ends_like_an_uninterrupted_one(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, whole: dict, where: str, calls: int, saves_every_step: bool
):
    if not whole:
        assert shell.norml(*NORML, "--results", "whole")[0] == 0
        whole.update(figures(read(shell, results="whole")))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0 if saves_every_step else 3600.0)
        dying(patch, where, calls)
        patch.setattr("sys.argv", ["norml", *NORML])
        with pytest.raises(Killed):
            main()
    assert not (shell.results / "tiny-5way/1-shot/norml/seed-0.json").exists()
    assert shell.norml(*NORML)[0] == 0
    assert figures(read(shell)) == whole
    assert not list(shell.results.rglob("*.checkpoint"))
    assert not list(shell.results.rglob(".*"))


LONG = (*NORML, "--set", "validate_every=400", "--set", "test_episodes=64", "--outer-steps", "400")


def test_a_process_that_is_signalled_again_and_again_goes_on_where_it_was(shell: Shell):
    assert shell.norml(*LONG, "--results", "whole")[0] == 0
    checkpoint, steps = shell.results / "tiny-5way/1-shot/norml/seed-0.checkpoint", 0
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGKILL"):
        process = shell.start(*LONG)
        assert process.stdout is not None
        started = process.stdout.readline()  # said when the model is built and training begins
        assert f"continues from {steps} of 400" in started if steps else "begins 400 outer steps" in started
        time.sleep(0.1)
        process.send_signal(getattr(signal, name))
        out, _ = process.communicate(timeout=60)
        if name != "SIGKILL":
            assert process.returncode == 130, out
            assert "run the same command to continue" in out
            steps = read_checkpoint(checkpoint, {})["state"]["step"]
    code, out, err = shell.norml(*LONG)
    assert (code, f"continues from {steps} of 400" in out) == (0, True), err
    assert figures(read(shell)) == figures(read(shell, results="whole"))


def signalled_in_step(monkeypatch: pytest.MonkeyPatch, step: int, *signals: signal.Signals) -> None:
    """The signals arrive within that outer step, after its episodes were drawn and before the optimiser's step."""
    original = run.outer_step
    taken = []

    def signalled(*arguments: object, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
        taken.append(None)
        if len(taken) == step:
            for number in signals:
                signal.raise_signal(number)
        return original(*arguments, **settings)

    monkeypatch.setattr(run, "outer_step", signalled)


def test_ctrl_c_within_a_step_says_what_it_does_and_a_second_one_stops_at_once(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
):
    assert shell.norml(*NORML, "--results", "whole")[0] == 0
    for signals, said, step in (
        ([signal.SIGINT], "stopped after outer step 6; run the same command to continue", 6),
        ([signal.SIGINT, signal.SIGINT], "stopped at once; run the same command to continue from outer step 6", 6),
        ([signal.SIGTERM, signal.SIGHUP], "stopped after outer step 7; run the same command to continue", 7),
    ):
        with monkeypatch.context() as patch:
            signalled_in_step(patch, 6 if said.startswith("stopped after outer step 6") else 1, *signals)
            code, out, _ = shell.norml(*NORML)
        assert code == 130
        assert "stopping after this step; press Ctrl-C again to stop at once" in out
        assert said in out
        (checkpoint,) = shell.results.rglob("*.checkpoint")
        assert read_checkpoint(checkpoint, {})["state"]["step"] == step
    assert shell.norml(*NORML)[0] == 0
    assert figures(read(shell)) == figures(read(shell, results="whole"))


def test_a_stop_while_one_method_finishes_begins_no_other(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    keep = run.Run.keep_weights

    def signalled(run: run.Run) -> None:
        signal.raise_signal(signal.SIGTERM)
        keep(run)

    monkeypatch.setattr(run.Run, "keep_weights", signalled)
    assert shell.norml("run", "norml", "maml-constant-lr", "--benchmark", "tiny-5way")[0] == 130
    assert [path.parent.name for path in shell.results.rglob("*.json")] == ["norml"]
    assert not list(shell.results.rglob("*.checkpoint"))


def test_a_moving_average_of_what_is_learned_is_kept_and_survives_a_stop(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    share, seen = 0.75, []
    step = run.outer_step

    def watched(model: torch.nn.Module, *rest: object, **options: object) -> object:
        done = step(model, *rest, **options)
        seen.append({name: value.detach().clone() for name, value in model.named_parameters()})
        return done

    averaged = (*NORML, "--set", f"weight_average={share}", "--set", "validate_every=9")
    with monkeypatch.context() as patch:
        patch.setattr(run, "outer_step", watched)
        assert shell.norml(*averaged, "--results", "whole")[0] == 0
    assert len(seen) == 9
    average = seen[0]
    for values in seen[1:]:
        average = {name: share * old + (1 - share) * values[name] for name, old in average.items()}
    kept = load_trained(shell.folder / "whole/tiny-5way/1-shot/norml/seed-0.json").meta_learner.state_dict()
    for name, expected in average.items():
        assert torch.allclose(kept[name], expected, rtol=1e-5, atol=1e-6), name
        assert not torch.equal(kept[name], seen[-1][name])
    with monkeypatch.context() as patch:
        signalled_in_step(patch, 5, signal.SIGTERM)
        assert shell.norml(*averaged)[0] == 130
    assert shell.norml(*averaged)[0] == 0
    assert figures(read(shell)) == figures(read(shell, results="whole"))


def test_images_that_are_moved_and_classes_that_are_turned_are_trained_on(shell: Shell):
    """Each key alone changes what is learned, and nothing of how it is validated."""
    assert shell.norml(*NORML)[0] == 0
    usual = read(shell)
    settings = ("training_turns=as-classes", "training_shift_px=2", "training_tilt_degrees=10")
    for setting in (*settings, "training_classes=meta-train-and-meta-val"):
        assert shell.norml(*NORML, "--set", setting, "--results", setting)[0] == 0
        other = read(shell, results=setting)
        assert other["curve"][-1]["loss"] != usual["curve"][-1]["loss"]
        assert other["episodes"] == usual["episodes"]


@pytest.fixture
def two_threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("two_threads")
def test_a_run_takes_the_threads_it_is_given_and_keeps_them(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        signalled_in_step(patch, 5, signal.SIGTERM)
        assert shell.norml(*NORML, "--threads", "2")[0] == 130
    torch.set_num_threads(1)
    assert shell.norml(*NORML)[0] == 0
    assert torch.get_num_threads() == 2
    assert read(shell)["device"].startswith("cpu (2 threads, ")
    assert shell.norml(*NORML, "--results", "default")[0] == 0
    assert read(shell, results="default")["device"].startswith("cpu (1 thread, ")


@pytest.mark.usefixtures("two_threads")
def test_a_run_that_goes_on_with_other_threads_says_so(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        signalled_in_step(patch, 5, signal.SIGTERM)
        assert shell.norml(*NORML)[0] == 130
    assert shell.norml(*NORML, "--threads", "2")[0] == 0
    assert ", then cpu (2 threads, " in read(shell)["device"]
    assert read(shell)["repeatability"].startswith("Not bit-reproducible")


@pytest.mark.parametrize(
    ("error", "settings", "remedies"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), (), "--set recompute=true"),
        (torch.OutOfMemoryError("CUDA out of memory."), (), "meta_batch_size (--set meta_batch_size=1)"),
        (
            MemoryError(),
            ("--set", "recompute=true", "--set", "meta_batch_size=1"),
            "to need less, use a smaller learner",
        ),
    ],
)
def test_out_of_memory_is_one_line_with_remedies(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, error: Exception, settings: tuple[str, ...], remedies: str
):
    def exhausted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(run, "outer_step", exhausted)
    code, _, err = shell.norml(*NORML, *settings)
    assert code == 2
    assert err.startswith("error: norml, 1-shot, seed 0: out of memory; ")
    assert remedies in err
    assert err.count("\n") == 1


def test_show_warns_of_what_does_not_fit(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    show = ("show", "norml", "--benchmark", "tiny-5way", "--json")

    def warnings(*settings: str) -> list[dict[str, str]]:
        values = json.loads(shell.norml(*show, *settings)[1])["values"]
        return [row for row in values if row["key"] == "memory"]

    monkeypatch.setattr(resources, "machine_memory_bytes", lambda: 10**9)
    assert warnings() == []
    (row,) = warnings("--set", "hidden_sizes=[65536,65536]")
    assert row["value"] == "at least 70 GB"
    assert row["source"].startswith("warning: this machine has 1 GB; --set recompute=true")
    (row,) = warnings("--set", "meta_batch_size=4096", "--set", "inner_steps=200")
    assert row["value"] == "at least 27 GB"  # 4096 * 5 examples, 200 steps, 2 * (784 + 2 * 12 + 2 * 8 + 5) floats


def test_a_run_under_other_values_does_not_take_up_a_checkpoint(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
        dying(patch, "_take_step", 5)
        patch.setattr("sys.argv", ["norml", *NORML])
        with pytest.raises(Killed):
            main()
    code, _, err = shell.norml(*NORML, "--set", "inner_lr=0.1")
    assert code == 2
    assert "belongs to another run" in err
    checkpoint = next(shell.results.rglob("*.checkpoint"))
    for damaged in (checkpoint.read_bytes()[:100], b"no checkpoint at all", b""):
        checkpoint.write_bytes(damaged)
        code, _, err = shell.norml(*NORML)
        assert code == 2
        assert "start over with --force" in err
    assert shell.norml(*NORML, "--force")[0] == 0


def test_a_loss_that_is_no_number_stops_the_run_with_advice(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    steps_taken = []
    original = run.outer_step

    def diverges(*arguments: object, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
        loss, accuracy = original(*arguments, **settings)
        steps_taken.append(loss)
        return (loss * float("nan") if len(steps_taken) == 3 else loss), accuracy

    monkeypatch.setattr(run, "outer_step", diverges)
    code, _, err = shell.norml(*NORML)
    assert code == 2
    assert "the loss is nan by outer step 3" in err
    assert "inner_lr" in err
    assert not list(shell.results.rglob("*.json"))


def test_steps_that_are_not_looked_at_one_by_one_give_the_same_record(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    """What a GPU run does: several outer steps between two looks at the loss, never past a meta-validation."""
    assert shell.norml(*NORML)[0] == 0
    expected = read(shell)
    taken = []

    def three_or_what_is_left(run: run.Run) -> int:
        until_validation = 4 - run.state.step % 4
        taken.append(min(3, until_validation, 9 - run.state.step))
        return taken[-1]

    monkeypatch.setattr(run.Run, "_steps_until_a_look", three_or_what_is_left)
    assert shell.norml(*NORML, "--force")[0] == 0
    assert taken == [3, 1, 3, 1, 1]
    found = read(shell)
    assert found["correct"] == expected["correct"]
    for point, other in zip(found["curve"], expected["curve"], strict=True):
        assert point == pytest.approx(other, rel=1e-12)


def test_a_gpu_run_looks_at_its_loss_now_and_then_and_before_every_validation():
    step, ahead = 0, []
    while step < 130:
        ahead.append(loop.steps_ahead(step, lambda steps: steps == 130 or steps % 60 == 0))
        step += ahead[-1]
    assert ahead == [25, 25, 10, 25, 25, 10, 10]


@pytest.mark.parametrize("key", ["recompute=true", "weight_form=factored", "weight_form=materialised"])
def test_how_the_inner_loop_is_computed_changes_no_answer(shell: Shell, key: str):
    assert shell.norml(*NORML, "--results", "plain")[0] == 0
    code, _, err = shell.norml(*NORML, "--results", "other", "--set", key)
    assert code == 0, err
    plain, other = read(shell, results="plain"), read(shell, results="other")
    assert other["correct"] == plain["correct"]
    assert other["changed"] == [key.partition("=")[0]]


def test_matmul_precision_holds_during_the_run_only(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    seen = set()
    original = run.outer_step

    def watched(*arguments: object, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
        seen.add(torch.backends.mkldnn.matmul.fp32_precision)
        return original(*arguments, **settings)

    monkeypatch.setattr(run, "outer_step", watched)
    assert shell.norml(*NORML, "--set", "matmul_precision=tf32")[0] == 0
    assert (seen, torch.backends.mkldnn.matmul.fp32_precision) == ({"tf32"}, "none")


def test_a_compiled_run_says_so_in_its_record(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    """Compiling itself is proved on the engine; here its place is taken by what it would give."""
    assert shell.norml(*NORML, "--results", "plain")[0] == 0
    monkeypatch.setattr(run, "compiled_meta_gradient", lambda _device, gradient: gradient)
    code, out, err = shell.norml(*NORML, "--compile", "--results", "compiled")
    assert code == 0, err
    assert "compiling the outer step" in out
    plain, compiled = read(shell, results="plain"), read(shell, results="compiled")
    assert compiled["correct"] == plain["correct"]
    assert plain["cost"]["compile_s"] is None
    assert compiled["cost"]["compile_s"] >= 0


def test_what_cannot_be_compiled_is_told_in_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    def fails(*_: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler\nwith details")

    monkeypatch.setattr(run, "compiled_meta_gradient", lambda *_: fails)
    code, _, err = shell.norml(*NORML, "--compile")
    assert code == 2
    assert err == (
        "error: norml: the outer step cannot be compiled here (InvalidCxxCompiler: no working C++ compiler); "
        "run it with --no-compile\n"
    )


def test_a_long_run_goes_on_where_compiling_fails(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    """Nobody asked for it to be compiled, so that it cannot be is no error."""

    def fails(*_: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler\nwith details")

    assert shell.norml(*NORML, "--results", "plain")[0] == 0
    monkeypatch.setattr(launch, "_compile_pays", lambda *_: True)
    monkeypatch.setattr(run, "compiled_meta_gradient", lambda *_: fails)
    code, out, err = shell.norml(*NORML, "--results", "tried")
    assert code == 0, err
    assert "cannot be compiled here (InvalidCxxCompiler: no working C++ compiler); running uncompiled" in out
    tried = read(shell, results="tried")
    assert tried["correct"] == read(shell, results="plain")["correct"]
    assert tried["cost"]["compile_s"] is None


@pytest.mark.parametrize("wrapped", [False, True], ids=["as it is", "as torch wraps it"])
def test_a_run_that_is_stopped_while_compiling_stops_at_once(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, *, wrapped: bool
):
    """And does not say that the step cannot be compiled: Ctrl-C reaches the C++ compiler, too, which then fails."""

    def stopped(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except Exception as error:
            if wrapped:
                raise RuntimeError("CppCompileError: C++ compile error") from error
            raise
        pytest.fail("went on")

    with monkeypatch.context() as patched:
        patched.setattr(run, "compiled_meta_gradient", lambda *_: stopped)
        code, out, _ = shell.norml(*NORML, "--compile", "--results", "stopped")
    assert (code, "cannot be compiled" in out) == (130, False)
    assert "stopped after outer step 0; run the same command to continue" in out
    assert shell.norml(*NORML, "--results", "stopped")[0] == 0


def test_compiling_pays_for_long_runs_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch):
    def spec(outer_steps: int, inner_steps: int = 5, *, recompute: bool = False) -> SimpleNamespace:
        values = SimpleNamespace(outer_steps=outer_steps, recompute=recompute)
        return SimpleNamespace(protocol=values, steps_of_an_episode=inner_steps)

    monkeypatch.setattr(launch, "cpp_compiler", lambda: "c++")
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert launch._compile_pays(spec(60_000), cpu)
    assert not launch._compile_pays(spec(600), cpu)
    assert not launch._compile_pays(spec(60_000, inner_steps=200), cpu)
    assert not launch._compile_pays(spec(60_000, recompute=True), cpu)
    assert launch._compile_pays(spec(60_000), gpu)
    assert launch._compile_pays(spec(10_000), cpu)
    assert not launch._compile_pays(spec(10_000), gpu)  # whose uncompiled step is one launch, too
    monkeypatch.setattr(launch, "cpp_compiler", lambda: None)
    assert not launch._compile_pays(spec(60_000), cpu)
