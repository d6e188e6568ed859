"""Many trainings side by side on this machine, each an ordinary `norml` process. Torch-free.

Nothing is kept about a sweep: what is done is what has a record, and what is begun has its checkpoint. So the same
command goes on, and two of them on one folder share the work.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from norml_cli.data.cache import Cache, cache_path, status
from norml_cli.data.sources import loading as datasets
from norml_cli.files.companions import FEATURES, WEIGHTS, Companions
from norml_cli.files.errors import UserError, plain, reason
from norml_cli.files.locks import is_held
from norml_cli.registry.recipes import backbone_path, resolve_recipe
from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.registry.specs import RunSpec
from norml_cli.results.missing import MissingRun, missing_runs
from norml_cli.results.store import Results
from norml_cli.terminal.output import Output
from norml_cli.terminal.progress import RunDisplay, duration
from norml_cli.terminal.status_files import read_status
from norml_cli.training.stopping import STOPPED_EXIT_CODE, Stopped, StopRequest

PROGRAM = (sys.executable, "-m", "norml_cli")
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: time is up, the same command goes on
FAILED = 1
LOOK_EVERY_S = 0.1  # chosen: nothing beside the seconds that a process takes to start
LOOK_ELSEWHERE_EVERY_S = 1.0  # chosen: at what other processes hold
TIME_TO_STOP_AT_ONCE_S = 5  # chosen: nothing is saved
TIME_TO_STOP_S = 60  # chosen: a checkpoint takes a second, the step or evaluation before it a few
SHOW_EVERY_S = 0.5  # the live line is drawn as often
MEMORY_EACH = 2**30  # chosen: a run of a fully connected learner takes half of it to all of it
MOST_ON_A_GPU = 4  # chosen: large learners fit beside each other; small ones leave room for more (--at-once)
LAST_LINES = 5  # of a failed cell's log


@dataclass(frozen=True)
class Asked:
    """How the user wants cells to be run.

    at_once: processes side by side; None: as many as pay. minutes: after which to stop. retries: of each cell that
    fails. source: of raw data. run_options: of every run, such as --set.
    """

    results: Path
    seeds: Sequence[int] = (0,)
    registry: Path | None = None
    source: Path | None = None
    device: str = "auto"
    at_once: int | None = None
    minutes: float | None = None
    retries: int = 1
    dry_run: bool = False
    run_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One `norml` command, which has nothing to do once `leaves` is there.

    arguments: after `norml`. path: shares its stem with the command's lock, status file and log. needs: must be done
    before. expected_s: None: unknown.
    """

    title: str
    arguments: tuple[str, ...]
    path: Path
    leaves: Path
    needs: tuple["Cell", ...] = ()
    expected_s: float | None = None


def carry_out(registry: Registry, title: str, items: Sequence[Resolved], asked: Asked, console: Output) -> int:
    """Run every one of `items` with each of its seeds that has no record yet, and what they need first; an exit code.

    0: all are there. 1: some failed, the others are there. 75: time was up. 130: the user stopped it. Raises UserError
    before anything starts.
    """
    deadline = time.monotonic() + (float("inf") if asked.minutes is None else 60 * asked.minutes)
    results = Results(asked.results)
    missing = missing_runs(results, items, asked.seeds)
    n_at_once = _at_once(asked) if missing else 1
    cells = _Plan(registry, asked, threads=("--threads", "1") if n_at_once > 1 else ()).cells(missing)
    n_finished = len(items) * len(asked.seeds) - len(missing)
    _print_plan(title, cells, n_finished, console)
    if asked.dry_run:
        console.result({"finished_already": n_finished, "missing": [_told(cell) for cell in cells]})
        return 0
    results.require_writable()
    sweep = Sweep(title, cells, console, at_once=n_at_once, retries=asked.retries)
    code = sweep.run(deadline)
    console.result({"finished_already": n_finished, "cells": sweep.states()})
    return code


def at_once_of(text: str) -> int | None:
    """The number of `--at-once`; None for 'auto'. Raises UserError."""
    if text == "auto":
        return None
    if text.isdecimal() and 0 < len(text) <= 4 and int(text) > 0:  # noqa: PLR2004 - up to 9,999
        return int(text)
    raise UserError(f"--at-once {plain(text)}: give a number from 1 on, or auto")


def _at_once(asked: Asked) -> int:
    """As many as asked for, or as pay. Raises UserError for a device or a source that is not there."""
    if asked.source is not None and not asked.source.exists():
        raise UserError(f"--source {asked.source}: no such file or folder; name where the raw data lies")
    decides = asked.device == "auto" and asked.at_once is None and not asked.dry_run
    on_gpu = (decides or asked.device not in {"auto", "cpu"}) and _is_gpu(asked.device)
    return asked.at_once or _as_many_as_pay(MOST_ON_A_GPU if on_gpu else None)


def _is_gpu(device: str) -> bool:
    from norml_cli.training.launch import device_of  # noqa: PLC0415 - brings torch, which alone knows the devices

    return device_of(device).type == "cuda"


def _as_many_as_pay(most: int | None) -> int:
    """By cores and memory, and at most so many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, psutil.virtual_memory().available // MEMORY_EACH, most or cores))


# ------------------------------------------------------------------------------------------------------ what to do


class _Plan:
    """Cells for missing runs, and once for each data set and backbone that these need and do not have."""

    def __init__(self, registry: Registry, asked: Asked, threads: tuple[str, ...]) -> None:
        self._registry, self._asked = registry, asked
        self._entries = ("--registry", str(asked.registry)) if asked.registry is not None else ()
        self._options = ("--device", asked.device, *threads, "--results", str(asked.results), *self._entries)
        self._needed: dict[Path, Cell] = {}  # by what it leaves

    def cells(self, missing: Sequence[MissingRun]) -> list[Cell]:
        """What is needed first, then the runs in their order. Raises UserError for data that cannot be prepared."""
        runs = [self._run(each) for each in missing]
        return [*self._needed.values(), *runs]

    def _run(self, run: MissingRun) -> Cell:
        spec = run.item.spec
        needs = self._data(spec) + self._backbone(spec)
        place = ("--benchmark", spec.benchmark, "--shots", str(spec.shots), "--seed", str(run.seed))
        arguments = ("run", spec.method, *place, *self._asked.run_options, *self._options)
        return Cell(spec.title(run.item.changed, run.seed), arguments, run.path, run.path, needs, run.expected_s)

    def _data(self, spec: RunSpec) -> tuple[Cell, ...]:
        path = cache_path(spec.dataset)
        if path not in self._needed:
            entry, entry_file = self._registry.dataset(spec.dataset), self._registry.files["datasets", spec.dataset]
            state, source = status(entry, entry_file), self._asked.source
            if state == "up to date":
                return ()
            if state == "stale" or (source is None and not datasets.is_downloaded(entry)):
                Cache.open(entry, entry_file)  # says what is wrong with it
            named = ("--source", str(source)) if source is not None and datasets.needs_source(entry) else ()
            arguments = ("prepare", entry.id, *named, *self._entries)
            self._needed[path] = Cell(f"prepare {entry.id}", arguments, path, path)
        return (self._needed[path],)

    def _backbone(self, spec: RunSpec) -> tuple[Cell, ...]:
        protocol, seed = spec.protocol, spec.protocol.backbone_seed
        if protocol.backbone is None:
            return ()
        entry, dataset = self._registry.recipe(protocol.backbone), self._registry.dataset(spec.dataset)
        recipe = resolve_recipe(entry, dataset, epochs=protocol.backbone_epochs, width=protocol.backbone_width)
        weights, features = (backbone_path(recipe.spec, seed, suffix) for suffix in (WEIGHTS, FEATURES))
        if features not in self._needed:
            if features.exists():
                return ()
            options = ("--seed", str(seed), *recipe.options.split(), *self._options)
            arguments = ("pretrain", dataset.id, "--recipe", entry.id, *options)
            title = f"pretrain {entry.id} on {dataset.id}, seed {seed}"
            self._needed[features] = Cell(title, arguments, weights, features, self._data(spec))
        return (self._needed[features],)


def _print_plan(title: str, cells: Sequence[Cell], n_finished: int, console: Output) -> None:
    known = [cell.expected_s for cell in cells if cell.expected_s is not None]
    about = f", about {duration(sum(known))} one after the other" if known else ""
    if len(known) < len(cells) and known:
        about += f" (not counting {len(cells) - len(known)} without a finished run to go by)"
    lines = [f"{title}: {len(cells)} to do, {n_finished} finished already{about}"]
    for cell in cells:
        takes = "" if cell.expected_s is None else f": about {duration(cell.expected_s)}"
        lines.append(f"  {cell.title}{takes}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _told(cell: Cell) -> dict[str, Any]:
    return {"title": cell.title, "leaves": str(cell.leaves), "expected_s": cell.expected_s}


# -------------------------------------------------------------------------------------------------------- doing it


@dataclass(frozen=True)
class _Running:
    cell: Cell
    process: "subprocess.Popen[bytes]"
    started_at: float = field(default_factory=time.monotonic)


class Sweep:
    """Cells in their order, `at_once` processes side by side; each that fails is begun again `retries` times.

    A cell that a process of someone else holds is left to that; it is done when what it leaves is there.
    """

    def __init__(self, title: str, cells: Sequence[Cell], console: Output, *, at_once: int, retries: int) -> None:
        self._title, self._console, self._at_once, self._retries = title, console, at_once, retries
        self._cells, self._waiting = list(cells), list(cells)
        self._running: list[_Running] = []
        self._done: set[Cell] = set()
        self._failed: dict[Cell, str] = {}  # and why
        self._failures: Counter[Cell] = Counter()
        self._elsewhere: dict[Cell, float] = {}  # and when it was looked for
        self._took: list[float] = []  # seconds
        self._stop = StopRequest(lambda _: self._display.say("stopping; each cell finishes its step and saves it"))
        self._shown_at, self._ending = 0.0, False

    def run(self, deadline: float) -> int:
        """Until all is done, `deadline` (of time.monotonic) or a stop request; an exit code, as of `carry_out`."""
        with RunDisplay(self._console, self._title) as self._display:
            with self._stop.listening():
                try:
                    self._work(deadline)
                finally:
                    self._end()
            left = len(self._cells) - len(self._done) - len(self._failed)
            if left or self._stop.made:
                why = "stopped" if self._stop.made else "time is up"
                far = f"{len(self._done)} of {len(self._cells)} finished, {left} left"
                self._display.say(f"{why}: {far}; the same command goes on from here")
        self._tell_failed()
        if self._stop.made:
            return STOPPED_EXIT_CODE
        return FAILED if self._failed else TRY_AGAIN if left else 0

    def states(self) -> list[dict[str, Any]]:
        """Every cell with what became of it."""
        return [
            {
                **_told(cell),
                "state": "finished" if cell in self._done else "failed" if cell in self._failed else "left",
                "fault": self._failed.get(cell),
            }
            for cell in self._cells
        ]

    def _work(self, deadline: float) -> None:
        while (self._waiting or self._running) and not self._stop.made and time.monotonic() < deadline:
            for cell in list(self._waiting):
                if len(self._running) < self._at_once:
                    self._consider(cell)
            self._show()
            time.sleep(LOOK_EVERY_S)
            self._collect()

    # ------------------------------------------------------------------------------------------------- a cell begins

    def _consider(self, cell: Cell) -> None:
        """Begin it, unless it is done, cannot be done, or is not to be done yet."""
        lost = [need.title for need in cell.needs if need in self._failed]
        if lost:
            self._waiting.remove(cell)
            self._failed[cell] = f"needs what failed: {lost[0]}"
        elif self._done.issuperset(cell.needs) and not self._is_elsewhere(cell):
            self._waiting.remove(cell)
            if cell.leaves.exists():
                self._finished(cell, "finished by another process")
            else:
                self._begin(cell)

    def _is_elsewhere(self, cell: Cell) -> bool:
        """Whether another process is at work on it, as of a second ago."""
        now = time.monotonic()
        if now - self._elsewhere.get(cell, 0.0) < LOOK_ELSEWHERE_EVERY_S:
            return True
        if not is_held(cell.path):
            return False
        if cell not in self._elsewhere:
            self._display.say(f"{cell.title}: another process is at work on it; it is left to that")
        self._elsewhere[cell] = now
        return True

    def _begin(self, cell: Cell) -> None:
        log = Companions(cell.path).log
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab" if self._failures[cell] else "wb") as file:
                command = [*PROGRAM, *cell.arguments]
                process = subprocess.Popen(  # noqa: S603 - our own
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    process_group=0,  # a terminal's Ctrl-C reaches this process alone, which asks them to stop
                )
        except OSError as error:
            raise UserError(f"{log}: cannot be written ({reason(error)}); choose another folder") from error
        self._running.append(_Running(cell, process))
        self._display.say(f"{cell.title}: started")

    # --------------------------------------------------------------------------------------------------- a cell ends

    def _collect(self) -> None:
        for each in list(self._running):
            code = each.process.poll()
            if code is not None:
                self._running.remove(each)
                self._ended(each, code)

    def _ended(self, each: _Running, code: int) -> None:
        cell, took = each.cell, time.monotonic() - each.started_at
        if cell.leaves.exists():
            self._took.append(took)
            self._finished(cell, f"finished in {duration(took)}")
        elif self._is_ending and (code < 0 or code == STOPPED_EXIT_CODE):
            self._waiting.append(cell)  # as it was asked to
            _drop_log(cell)
        elif is_held(cell.path):
            self._waiting.append(cell)  # another process was the first to begin it
        else:
            self._failed_once(cell, f"ended by signal {-code}" if code < 0 else f"exit code {code}")

    @property
    def _is_ending(self) -> bool:
        return self._ending or self._stop.made

    def _finished(self, cell: Cell, how: str) -> None:
        self._done.add(cell)
        _drop_log(cell)
        self._display.say(f"{cell.title}: {how} ({len(self._done)}/{len(self._cells)})")

    def _failed_once(self, cell: Cell, how: str) -> None:
        self._failures[cell] += 1
        if self._failures[cell] <= self._retries and not self._is_ending:
            self._waiting.append(cell)  # after the others, which it may have stood in the way of
            self._display.say(f"{cell.title}: failed ({how}); it is begun again later")
        else:
            self._failed[cell] = how
            self._display.say(f"{cell.title}: failed ({how})")

    def _tell_failed(self) -> None:
        """On standard error, whatever is left out elsewhere."""
        for cell, how in self._failed.items():
            lines, log = [f"error: {cell.title}: {how}"], Companions(cell.path).log
            if self._failures[cell]:
                lines = [f"{lines[0]}; {log} ends with:", *(f"    {line}" for line in _last_lines(log))]
            sys.stderr.write("\n".join([*lines, ""]))

    def _end(self) -> None:
        """Ask those that run to stop, wait until they have saved their step; at a second Ctrl-C wait no longer."""
        self._ending = True
        with suppress(Stopped):
            self._signal(signal.SIGTERM, TIME_TO_STOP_S)
        self._signal(signal.SIGINT, TIME_TO_STOP_AT_ONCE_S)
        for each in self._running:
            each.process.kill()  # its last checkpoint is at most half a minute old
            each.process.wait()
        self._collect()

    def _signal(self, number: signal.Signals, wait_s: float) -> None:
        """Once, for a second one would stop them at once; and wait until they have ended, at most so long."""
        for each in self._running:
            each.process.send_signal(number)
        too_late = time.monotonic() + wait_s
        while self._running and time.monotonic() < too_late:
            time.sleep(LOOK_EVERY_S)
            self._collect()

    # ------------------------------------------------------------------------------------------------------ how far

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown_at >= SHOW_EVERY_S:
            self._shown_at = now
            far = [_fraction(each.cell) for each in self._running]
            self._display.cells(len(self._done), len(self._cells), far, self._seconds_left(now))

    def _seconds_left(self, now: float) -> float | None:
        """By what finished runs took; None where there is none to go by."""
        mean_s = sum(self._took) / len(self._took) if self._took else None
        spent = dict.fromkeys(self._waiting, 0.0) | {each.cell: now - each.started_at for each in self._running}
        left = 0.0
        for cell, spent_s in spent.items():
            expected_s = mean_s if cell.expected_s is None else cell.expected_s
            if expected_s is None:
                return None
            left += max(0.0, expected_s - spent_s)
        return left / min(self._at_once, len(spent)) if spent else 0.0


def _fraction(cell: Cell) -> float:
    """How much of its phase a cell has done, by its status file."""
    with suppress(UserError):  # damaged: the cell's own to say
        found = read_status(Companions(cell.path).status)
        if found is not None and found.status.total:
            return found.status.done / found.status.total
    return 0.0


def _drop_log(cell: Cell) -> None:
    with suppress(OSError):  # Windows, where another process still writes it
        Companions(cell.path).log.unlink(missing_ok=True)


def _last_lines(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    except OSError as error:
        return [f"(cannot be read: {reason(error)})"]
