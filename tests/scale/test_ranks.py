"""One training on several ranks: the numbers of one, written by one of them, whatever ends a rank.

Ranks are real processes that talk by gloo. Two of them start in the default tests, the others in `nox -s scale`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch.distributed as dist

from norml_cli.files.machine import usable_cores
from norml_cli.training.ranks import launching
from norml_cli.training.ranks.joining import store_of_this_start
from norml_cli.training.ranks.sharing import Ranks
from tests.helpers import photos
from tests.helpers.command_line import Shell
from tests.helpers.tiny import write_entry

ROOT = Path(__file__).parents[2]
RUN = ("run", "norml", "--benchmark", "tiny-5way", "--shots", "1", "--device", "cpu")
UNEVEN = ("--set", "meta_batch_size=3")  # two episodes for one of two ranks, one for the other
LONG = ("--outer-steps", "2000", "--set", "validate_every=2000", "--no-compile")
ROUNDING = 1e-5  # of a loss after nine outer steps, relative; found: at most 2e-6


def torchrun(
    shell: Shell, ranks: int, *arguments: str, module: str = "norml_cli", restarts: int = 0
) -> tuple[int, str]:
    """Exit code and output of `torchrun -m MODULE ARGUMENTS` on so many ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["--max-restarts", str(restarts), "-m", module, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        cwd=shell.folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=400,
        check=False,
    )
    return done.returncode, done.stdout


def record(shell: Shell, results: str = "results", method: str = "norml") -> dict[str, Any]:
    path = shell.folder / results / "tiny-5way/1-shot" / method / "seed-0.json"
    return json.loads(path.read_text(encoding="utf-8"))


def require_same_course(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same learning curve to float rounding; an accuracy may move by the few answers that were undecided."""
    assert [point["step"] for point in found["curve"]] == [point["step"] for point in expected["curve"]]
    for point, other in zip(found["curve"], expected["curve"], strict=True):
        assert point["loss"] == pytest.approx(other["loss"], rel=ROUNDING)
        assert point["validation_accuracy"] == pytest.approx(other["validation_accuracy"], abs=1e-3)
    assert found["accuracy"]["mean"] == pytest.approx(expected["accuracy"]["mean"], abs=1e-3)


# ---------------------------------------------------------------------------------------------- two ranks, by default


@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
def test_two_devices_learn_what_one_does_and_one_rank_writes(shell: Shell):
    assert shell.norml(*RUN, *UNEVEN, "--results", "alone")[0] == 0
    process = shell.start(*RUN, *UNEVEN, "--devices", "2")
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert said.count("begins 9 outer steps") == said.count(": finished") == 1
    found, alone = record(shell), record(shell, "alone")
    require_same_course(found, alone)
    assert found["ranks"] == 2
    assert alone["ranks"] is None
    assert found["device"] == f"2 x {alone['device']}"
    assert "These bits are those of 2 ranks; another number of them rounds differently." in found["repeatability"]
    assert found["command"].endswith("--devices 2")
    left = {path.name for path in (shell.results / "tiny-5way/1-shot/norml").iterdir()}
    assert left == {"seed-0.json", "seed-0.weights"}
    assert shell.norml("verify", str(shell.results / "tiny-5way/1-shot/norml/seed-0.json"))[0] == 0


# --------------------------------------------------------------------------------------------------- what is refused


def test_more_devices_than_there_are_are_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launching, "usable_cores", lambda: 2)
    for command in (RUN, ("pretrain", "made-mini", "--recipe", "resnet12-narrow", "--device", "cpu")):
        code, out, err = shell.norml(*command, "--devices", "3")
        assert (code, out) == (2, "")
        assert err == "error: --devices 3: this machine has 2 CPU cores; use at most 2\n"


def test_another_number_of_devices_than_torchruns_is_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "made")
    monkeypatch.setenv("WORLD_SIZE", "1")
    code, _, err = shell.norml(*RUN, "--devices", "2")
    assert (code, err) == (2, "error: --devices 2: torchrun started 1 rank; leave --devices out\n")
    assert shell.norml(*RUN)[0] == 0  # a rank alone is an ordinary run
    assert record(shell)["ranks"] is None


def test_one_device_is_an_ordinary_run(shell: Shell):
    assert shell.norml(*RUN, "--devices", "1")[0] == 0
    assert record(shell)["ranks"] is None


@pytest.mark.parametrize(
    ("codes", "code", "said"),
    [
        ({0: 2, 1: -signal.SIGTERM}, 2, ""),  # refused by one, the other ended by the agent
        ({0: 130, 1: 130}, 130, ""),
        ({0: 130, 1: 2}, 2, ""),
        (
            {0: 1, 1: -signal.SIGKILL},
            1,
            "error: rank 1 was ended by SIGKILL; run the same command to continue from the last",
        ),
        ({0: -signal.SIGTERM}, 1, ""),
    ],
)
def test_the_exit_code_is_that_of_the_rank_at_fault(codes, code, said, capsys: pytest.CaptureFixture[str]):
    assert launching._exit_code(codes) == code
    assert capsys.readouterr().err.startswith(said)


# ------------------------------------------------------------------------------------------------------- nox -s scale


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    ["norml", "maml-layerwise-lr", "maml-plus-plus", "alfa", "reptile", "prototypical-network", "matching-network"],
)
def test_one_two_and_four_ranks_learn_the_same(shell: Shell, method: str):
    run = ("run", method, *RUN[2:], "--set", "meta_batch_size=5")
    assert shell.norml(*run, "--results", "1")[0] == 0
    for ranks in (2, 4):
        code, said = torchrun(shell, ranks, *run, "--results", str(ranks))
        assert code == 0, said
        require_same_course(record(shell, str(ranks), method), record(shell, "1", method))
        assert record(shell, str(ranks), method)["ranks"] == ranks


@pytest.mark.slow
def test_the_same_weights_give_the_same_counts_on_any_number_of_ranks(shell: Shell):
    run = (*RUN, "--outer-steps", "0")
    assert shell.norml(*run, "--results", "1")[0] == 0
    assert torchrun(shell, 3, *run, "--results", "3")[0] == 0
    assert record(shell, "3")["correct"] == record(shell, "1")["correct"]
    assert record(shell, "3")["by_class"] == record(shell, "1")["by_class"]


@pytest.mark.slow
def test_compiled_steps_are_shared_too(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(shell.folder / "compiled"))  # no other process writes there
    assert shell.norml(*RUN, *UNEVEN, "--results", "1")[0] == 0
    code, said = torchrun(shell, 2, *RUN, *UNEVEN, "--compile")
    assert code == 0, said
    assert record(shell)["cost"]["compile_s"] > 0
    require_same_course(record(shell), record(shell, "1"))


@pytest.mark.slow
def test_the_bits_are_those_of_the_number_of_ranks(shell: Shell):
    for results in ("first", "again"):
        assert torchrun(shell, 3, *RUN, "--set", "meta_batch_size=4", "--results", results)[0] == 0
    first, again = record(shell, "first"), record(shell, "again")
    assert (first["curve"], first["correct"]) == (again["curve"], again["correct"])


@pytest.mark.slow
def test_a_rank_without_an_episode_is_refused_in_one_line(shell: Shell):
    code, said = torchrun(shell, 4, *RUN, "--set", "meta_batch_size=3")
    assert code != 0
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert errors == ["error: meta_batch_size 3: is less than the 4 devices; use at most 3 devices"]
    assert not list(shell.results.rglob("*.json"))


@pytest.mark.slow
def test_bad_input_is_one_line_and_exit_code_2_on_two_devices(shell: Shell):
    process = shell.start("run", "nosuch", "--devices", "2", "--device", "cpu")
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 2
    [line] = said.splitlines()
    assert line.startswith("error: ")
    assert "nosuch" in line


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_brings_a_run_with_a_killed_rank_back(shell: Shell, rank: int):
    assert torchrun(shell, 2, *RUN, "--results", "whole")[0] == 0
    killed = (str(rank), "5")
    code, said = torchrun(shell, 2, *killed, *RUN, module="tests.scale.dying", restarts=1)
    assert code == 0, said
    assert "norml, 1-shot, seed 0: continues from 5 of 9 outer steps" in said
    found, whole = record(shell), record(shell, "whole")
    assert (found["curve"], found["correct"]) == (whole["curve"], whole["correct"])
    assert {path.suffix for path in shell.results.rglob("seed-0.*")} == {".json", ".weights"}


def started(shell: Shell, *arguments: str) -> "subprocess.Popen[str]":
    """A long run on two devices, in its meta-training."""
    process = shell.start(*RUN, *LONG, "--devices", "2", *arguments)
    status = shell.results / "tiny-5way/1-shot/norml/seed-0.status"
    until = time.monotonic() + 120
    while not status.exists():
        if time.monotonic() > until or process.poll() is not None:
            process.kill()
            raise AssertionError(f"it does not begin: {process.communicate()[0]}")
        time.sleep(0.1)
    time.sleep(0.5)  # some steps
    return process


def ranks_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes of the ranks, in their order."""
    return sorted(psutil.Process(process.pid).children(), key=lambda child: int(child.environ()["RANK"]))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_every_rank_with_a_checkpoint(shell: Shell, number: signal.Signals):
    process = started(shell)
    ranks = ranks_of(process)
    process.send_signal(number)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert not [rank for rank in ranks if rank.is_running()]
    assert said.count("run the same command to continue") == 1
    assert (shell.results / "tiny-5way/1-shot/norml/seed-0.checkpoint").exists()


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks_and_says_so(shell: Shell):
    process = started(shell)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode == 130
    code, out, err = shell.norml(*RUN, *LONG)
    assert code == 0, err
    assert "continues from" in out
    found = record(shell)
    first, last = found["device"].split(", then ")
    assert first == f"2 x {last}"
    assert found["ranks"] is None
    assert found["repeatability"].startswith("Not bit-reproducible: resumed")


@pytest.mark.slow
def test_a_stop_that_one_rank_hears_stops_all(shell: Shell):
    process = started(shell)
    ranks_of(process)[1].send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert (shell.results / "tiny-5way/1-shot/norml/seed-0.checkpoint").exists()


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_and_is_named(shell: Shell):
    process = started(shell)
    others = ranks_of(process)
    others[1].kill()
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "error: rank 1 was ended by SIGKILL; run the same command to continue from the last checkpoint" in said
    assert "Traceback" not in said
    assert not [rank for rank in others if rank.is_running()]
    assert not list(shell.results.rglob("*.json"))


# -------------------------------------------------------------------------------------------------------- pretraining


def pretraining(shell: Shell, **changes: object) -> tuple[str, ...]:
    """Write the recipe, prepare its images; the command that pretrains."""
    photos.write_registry(shell.registry)
    write_entry(shell.registry, "recipes", photos.recipe_values(**changes))
    photos.write_files(shell.folder / "photos", photos.with_images())
    assert shell.norml("prepare", "made-mini", "--source", "photos", "--quiet")[0] == 0
    return ("pretrain", "made-mini", "--recipe", "made-recipe", "--device", "cpu", "--force")


def pretrained(shell: Shell, results: str) -> dict[str, Any]:
    [path] = (shell.folder / results).rglob("*seed-0.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("drop_block_size", [None, 1])
def test_a_pretraining_is_that_of_one_rank(shell: Shell, drop_block_size: int | None):
    """Three ranks share four images: one has two, and a draw of augmentation is shared by two ranks."""
    command = pretraining(shell, drop_block_size=drop_block_size)
    assert shell.norml(*command, "--results", "1")[0] == 0
    for ranks in (2, 3):
        code, said = torchrun(shell, ranks, *command, "--results", str(ranks))
        assert code == 0, said
        found, alone = pretrained(shell, str(ranks)), pretrained(shell, "1")
        assert found["ranks"] == ranks
        for point, other in zip(found["curve"], alone["curve"], strict=True):
            assert point["loss"] == pytest.approx(other["loss"], rel=1e-4)
            assert point["train_accuracy"] == other["train_accuracy"]
            assert point["nearest_centroid"] == pytest.approx(other["nearest_centroid"], abs=0.03)
        assert said.count("features of every image") == 1


@pytest.mark.slow
def test_a_pretraining_with_statistics_of_each_rank_says_so_and_differs(shell: Shell):
    command = pretraining(shell)
    assert shell.norml(*command, "--results", "1")[0] == 0
    command = pretraining(shell, batch_statistics="per-rank")
    code, said = torchrun(shell, 2, *command, "--results", "2")
    assert code == 0, said
    found, alone = pretrained(shell, "2"), pretrained(shell, "1")
    assert found["spec"]["values"]["batch_statistics"] == "per-rank"
    assert abs(found["curve"][0]["loss"] - alone["curve"][0]["loss"]) > 1e-3
    assert (found["curve"], found["weights_sha256"]) == _again(shell, command)


def _again(shell: Shell, command: tuple[str, ...]) -> tuple[list[dict[str, Any]], str]:
    assert torchrun(shell, 2, *command, "--results", "again")[0] == 0
    found = pretrained(shell, "again")
    return found["curve"], found["weights_sha256"]


@pytest.mark.slow
def test_a_batch_smaller_than_the_ranks_is_refused(shell: Shell):
    code, said = torchrun(shell, 3, *pretraining(shell, batch_size=2))
    assert code != 0
    assert said.count("error: batch_size 2: is less than the 3 devices; use at most 2 devices") == 1


# ------------------------------------------------------------------------------------------------- a process alone


@pytest.mark.parametrize(("count", "size"), [(16, 3), (5, 4), (3, 3), (7, 1)])
def test_shares_are_all_there_is_and_differ_by_one_at_most(count: int, size: int, rank_of: Callable[[int, int], Ranks]):
    parts = [range(count)[rank_of(rank, size).share(count)] for rank in range(size)]
    assert [thing for part in parts for thing in part] == list(range(count))
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_restarted_ranks_read_nothing_that_an_earlier_start_left_in_the_store():
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=20))

    def start() -> list[dist.Store]:
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(store_of_this_start, store, 0, 3)
            time.sleep(0.1)  # the first rank meanwhile answers the dead ones
            others = [pool.submit(store_of_this_start, store, rank, 3) for rank in (1, 2)]
            return [rank.result(timeout=20) for rank in (first, *others)]

    for said in ("of the first start", "of the second start"):
        ranks = start()
        assert not ranks[2].check(["address"])
        ranks[0].set("address", said)
        assert [rank.get("address").decode() for rank in ranks] == [said] * 3


@pytest.fixture
def rank_of() -> Callable[[int, int], Ranks]:
    def made(rank: int, size: int) -> Ranks:
        ranks = Ranks()
        ranks.rank, ranks.size = rank, size
        return ranks

    return made
