"""SIGKILL at random moments, then the same command again: the end is that of a command that nobody killed.

    python -m tests.trust.kills --kills 200 --record results/trust

Commands are forked from this process, which has loaded torch: a fresh interpreter would spend its seconds importing.
Two kills in three come from outside after a random time; every third comes from inside, at a random one of the moments
before, in and after a file's write, where random times would seldom hit. Checkpoints are written after every step.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import torch

from norml_cli.commands.data import prepare, pretrain  # noqa: F401 - loaded once, before forking
from norml_cli.commands.runs import run  # noqa: F401 - as above
from norml_cli.files import atomic
from norml_cli.training import loop
from tests.trust.places import (
    PREPARE,
    PREPARE_PHOTOS,
    PRETRAIN,
    RUN,
    contents,
    environment,
    furnish,
    norml,
)
from tests.trust.versions import versions

COMMANDS = {"prepare": PREPARE, "pretrain": PRETRAIN, "run": RUN}
WRITES = {"prepare": 1, "pretrain": 11, "run": 13}  # files that each writes when left alone
RESTART_IS_KILLED = 0.8  # how likely; so that some commands are killed many times before they end
LONGEST_S = 120.0  # a command that takes longer hangs
MOMENTS = ("before the write", "in the write", "after the write, before the move", "after the move")


@dataclass
class Count:
    """What the kills of one command came to."""

    kills: int = 0
    restarts: int = 0
    left_half_written: int = 0  # kills that left a temporary file
    left_a_checkpoint: int = 0
    left_a_finished_result: int = 0
    ends_compared: int = 0
    equal_ends: int = 0
    wrong: list[str] = field(default_factory=list)


def started(arguments: tuple[str, ...], folder: Path, moment: int | None, write: int) -> int:
    """The process id of `norml ARGUMENTS` in a fork; with `moment`, it kills itself there in write number `write`."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        log = os.open(folder / "log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        os.environ.update(environment(folder))
        loop.CHECKPOINT_EVERY_S = 0.0  # type: ignore[misc]  # more writes to hit
        if moment is not None:
            _die_in_write(moment, write)
        code = norml(*arguments)
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - whatever it is: told, and not taken back to the parent's code
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _die_in_write(moment: int, write: int) -> None:
    original, left = atomic.write_atomically, [write]

    def dying(path: Path, fill: object) -> None:
        left[0] -= 1
        if left[0] >= 0:
            return original(path, fill)  # type: ignore[arg-type]
        if moment == 0:
            _die()
        if moment == 1:
            original(path, lambda file: (file.write(b"half"), file.flush(), _die()))
        if moment == 2:
            os.fsync = lambda _: _die()  # type: ignore[assignment]
        original(path, fill)  # type: ignore[arg-type]
        return _die()

    for name, module in list(sys.modules.items()):
        if name.startswith("norml_cli") and getattr(module, "write_atomically", None) is original:
            vars(module)["write_atomically"] = dying


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ended(pid: int, kill_after_s: float | None) -> int:
    """The exit code of a process, or minus the signal that ended it; killed after `kill_after_s`."""
    begun = time.monotonic()
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() - begun > (LONGEST_S if kill_after_s is None else kill_after_s):
            os.kill(pid, signal.SIGKILL)
            kill_after_s = LONGEST_S
        time.sleep(0.001)


def campaign(command: str, folder: Path, kills: int, seed: int) -> Count:
    """`kills` kills of a command, restarted each time, and each end compared with that of a command left alone.

    Compared are all files there are; only the hidden file of a lock whose holder was killed may be left over.
    """
    arguments, count = COMMANDS[command], Count()
    draw = random.Random(f"{command}/{seed}")  # noqa: S311 - moments, not secrets
    furnished = furnish(folder / "furnished")
    if command == "pretrain":
        _finish(PREPARE_PHOTOS, furnished, count)
    whole = shutil.copytree(furnished, folder / "whole")
    begun = time.monotonic()
    _finish(arguments, whole, count)
    expected, whole_s = contents(whole), time.monotonic() - begun
    while count.kills < kills and not count.wrong:
        place = shutil.copytree(furnished, folder / "place")
        _kill_and_restart(command, place, count, draw, kills, whole_s)
        found = {name: content for name, content in contents(place).items() if not name.endswith(".lock")}
        count.ends_compared += 1
        count.equal_ends += found == expected
        if found != expected:
            names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            count.wrong.append(f"after {count.kills} kills these differ or should not be there: {', '.join(names)}")
        shutil.rmtree(place)
    return count


def _kill_and_restart(command: str, place: Path, count: Count, draw: random.Random, kills: int, whole_s: float) -> None:
    """Start, kill, start again; after each kill the next start may be killed, too."""
    arguments, wanted = COMMANDS[command], True
    while wanted and count.kills < kills:
        aimed = count.kills % 3 == 2
        write = min(draw.randrange(WRITES[command]) for _ in range(2))  # a command that goes on has fewer left
        pid = started(arguments, place, draw.randrange(len(MOMENTS)) if aimed else None, write)
        code = ended(pid, None if aimed else draw.uniform(0, whole_s))
        count.restarts += 1
        if code == -signal.SIGKILL:
            count.kills += 1
            _look(place, count)
        elif code != 0:
            count.wrong.append(f"ended with {code}: {(place / 'log').read_text()}")
            return
        wanted = draw.random() < RESTART_IS_KILLED
    _finish(arguments, place, count)
    count.restarts += 1


def _look(place: Path, count: Count) -> None:
    left = [path.name for part in ("home", "results") for path in (place / part).rglob("*")]
    count.left_half_written += any(name.endswith(".part") for name in left)
    count.left_a_checkpoint += any(name.endswith(".checkpoint") for name in left)
    count.left_a_finished_result += any(name.endswith(".json") for name in left)


def _finish(arguments: tuple[str, ...], place: Path, count: Count) -> None:
    code = ended(started(arguments, place, None, 0), None)
    if code != 0:
        count.wrong.append(f"ended with {code}: {(place / 'log').read_text()}")


def main() -> None:
    """Run the campaigns and keep what they found; exits with 1 if any end differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", choices=list(COMMANDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="keep what is found as kills-COMMAND.json here")
    options = parser.parse_args()
    torch.set_num_threads(1)  # no threads: they would not survive the fork
    wrong = False
    for command in [options.only] if options.only else COMMANDS:
        with_versions = versions()  # of what runs, not of what stands there when it ends
        with tempfile.TemporaryDirectory() as folder:
            count = campaign(command, Path(folder), options.kills, options.seed)
        line = f"python -m tests.trust.kills --only {command} --kills {options.kills} --seed {options.seed}"
        text = json.dumps({"command": line, "versions": with_versions, "count": vars(count)}, indent=2)
        print(text, flush=True)  # noqa: T201 - a script
        if options.record is not None:
            options.record.mkdir(parents=True, exist_ok=True)
            (options.record / f"kills-{command}.json").write_text(f"{text}\n", encoding="utf-8")
        wrong |= bool(count.wrong)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
