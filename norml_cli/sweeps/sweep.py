"""Run many trainings, each an ordinary `norml` process; follow them, and start failed ones again. Torch-free.

A sweep keeps no state of its own. A finished cell has a record, and a started one has a checkpoint. So the same command
continues a stopped sweep, and two sweeps of one folder share the work.
"""

import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from norml_cli.files.companions import Companions
from norml_cli.files.errors import UserError, reason
from norml_cli.files.locks import is_held
from norml_cli.registry.resolving import Registry
from norml_cli.results.missing import Plan
from norml_cli.results.store import Results
from norml_cli.sweeps.cells import Asked, SweepCell, cells_of, told
from norml_cli.sweeps.engine import TO_STOP, TO_STOP_AT_ONCE, Ended, Engine
from norml_cli.sweeps.here import Here, as_many_as_pay, gpus_for
from norml_cli.terminal.output import Output, print_line
from norml_cli.terminal.progress import RunDisplay, duration
from norml_cli.terminal.status_files import read_status
from norml_cli.training.stopping import STOPPED_EXIT_CODE, Stopped, StopRequest

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: time is up, the same command continues
FAILED = 1
LOOK_ELSEWHERE_EVERY_S = 1.0  # chosen: how often to check the locks of other processes
TIME_TO_STOP_AT_ONCE_S = 5  # chosen: nothing has to be saved
TIME_TO_STOP_S = 60  # chosen: a checkpoint takes a second, the step before it a few
MOST_STARTS_WITHOUT_BEGINNING = 3  # chosen: a cluster may send cells to a lost node until it notices
SHOW_EVERY_S = 0.5  # as often as the live line is drawn
LAST_LINES = 5  # of a failed cell's log


@dataclass(frozen=True)
class Swept:
    """An exit code, and the state of each cell as JSON.

    0: all records exist. 1: some cells failed. 75: time was up. 130: the user stopped it.
    """

    code: int
    result: dict[str, Any]


def carry_out(registry: Registry, title: str, plan: Plan, asked: Asked, console: Output) -> Swept:
    """Run what is missing, after what it needs. Raises UserError before anything starts."""
    deadline = time.monotonic() + (float("inf") if asked.minutes is None else 60 * asked.minutes)
    if asked.source is not None and not asked.source.exists():
        raise UserError(f"--source {asked.source}: no such file or folder; name where the raw data lies")
    at_once = as_many_as_pay(asked) if plan.missing and asked.is_here else 1
    if asked.threads is None and (at_once > 1 or not asked.is_here):
        asked = replace(asked, threads=1)
    cells = cells_of(registry, plan.missing, asked)
    _print_plan(title, cells, len(plan.finished), at_once, console)
    if asked.dry_run:
        return Swept(0, {"finished_already": len(plan.finished), "missing": [told(cell) for cell in cells]})
    Results(asked.results).require_writable()
    for path in plan.finished:
        _drop_log(path)  # of a sweep that was killed before it could
    with _engine(asked, at_once) if cells else nullcontext() as engine:
        sweep = Sweep(title, cells, engine or Here(1), retries=asked.retries, console=console)
        code = sweep.run(deadline)
    return Swept(code, {"finished_already": len(plan.finished), "cells": sweep.states()})


def _engine(asked: Asked, at_once: int) -> Engine:
    if asked.where.on == "ray":
        from norml_cli.sweeps.on_ray import OnRay  # noqa: PLC0415 - only who asks for it loads it

        return OnRay(asked)
    if asked.where.on == "slurm":
        from norml_cli.sweeps.on_slurm import OnSlurm  # noqa: PLC0415 - as above

        return OnSlurm(asked)
    return Here(at_once, gpus_for(asked.device))


def _print_plan(title: str, cells: Sequence[SweepCell], n_finished: int, at_once: int, console: Output) -> None:
    known = [cell.expected_s for cell in cells if cell.expected_s is not None]
    about = f", about {duration(sum(known))} one after the other" if known else ""
    if known and at_once > 1:
        about += f", {duration(max(sum(known) / at_once, *known))} with {at_once} at once"
    if len(known) < len(cells) and known:
        about += f" (not counting {len(cells) - len(known)} without a finished run to go by)"
    lines = [f"{title}: {len(cells)} to do, {n_finished} finished already{about}"]
    for cell in cells:
        takes = "" if cell.expected_s is None else f": about {duration(cell.expected_s)}"
        lines.append(f"  {cell.title}{takes}")
    for line in lines:
        print_line(line, console)


class Sweep:
    """Runs cells as the engine has room, and begins each that fails or is lost again, `retries` times.

    One seed of every training comes before a second. Within a seed the longest comes first, so that no long cell is
    left to run alone at the end (longest processing time first; Graham 1969). A cell that another process holds is
    left to that process; it is done when what it leaves is there.
    """

    def __init__(
        self, title: str, cells: Sequence[SweepCell], engine: Engine, *, retries: int, console: Output
    ) -> None:
        self._title, self._console, self._engine, self._retries = title, console, engine, retries
        self._cells, self._waiting = list(cells), list(cells)
        self._running: dict[SweepCell, float] = {}  # when each began
        self._done: set[SweepCell] = set()
        self._failed: dict[SweepCell, str] = {}  # why each failed
        self._failures: Counter[SweepCell] = Counter()
        self._not_begun: Counter[SweepCell] = Counter()
        self._elsewhere: dict[SweepCell, float] = {}  # when each lock was last checked
        self._begun: Counter[SweepCell] = Counter()
        self._turn = {seed: turn for turn, seed in enumerate(dict.fromkeys(cell.seed for cell in cells))}
        self._took: dict[str | None, list[float]] = {}  # seconds, by kind
        self._stop = StopRequest(lambda _: self._display.say("stopping; each cell finishes its step and saves it"))
        self._shown_at, self._is_ending = 0.0, False

    def run(self, deadline: float) -> int:
        """Run until all is done, `deadline` (of time.monotonic) or a stop. Returns an exit code as in `Swept`."""
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
                self._display.say(f"{why}: {far}; run the same command to continue")
        self._tell_failed()
        if self._stop.made:
            return STOPPED_EXIT_CODE
        failed = [cell for cell in self._failed if not (cell.is_trial and _has_diverged(cell))]
        return FAILED if failed else TRY_AGAIN if left else 0

    def states(self) -> list[dict[str, Any]]:
        """Every cell with its state."""
        return [
            {
                **told(cell),
                "state": "finished" if cell in self._done else "failed" if cell in self._failed else "left",
                "fault": self._failed.get(cell),
            }
            for cell in self._cells
        ]

    def _work(self, deadline: float) -> None:
        while (self._waiting or self._running) and not self._stop.made and time.monotonic() < deadline:
            self._begin(self._next())
            self._show()
            time.sleep(self._engine.look_every_s)
            self._collect()

    # ------------------------------------------------------------------------------------------------- cells begin

    def _next(self) -> list[SweepCell]:
        """The cells to begin now, as many as there is room for."""
        room, chosen = self._engine.room(), list[SweepCell]()
        for cell in sorted(self._waiting, key=self._place):
            if len(chosen) < room and self._may_begin(cell):
                chosen.append(cell)
        return chosen

    def _place(self, cell: SweepCell) -> tuple[int, int, float]:
        """Its place in the queue. Restarted cells come last, since they may have blocked the others."""
        expected_s = self._expected_s(cell)
        return self._begun[cell], self._turn[cell.seed], -(float("inf") if expected_s is None else expected_s)

    def _expected_s(self, cell: SweepCell) -> float | None:
        """From the plan, else from its other seeds in this sweep; None if neither tells."""
        took = self._took.get(cell.kind, ())
        return fmean(took) if cell.expected_s is None and took else cell.expected_s

    def _may_begin(self, cell: SweepCell) -> bool:
        """Whether it should start now: it is not done, not held by another process, and its needs are done."""
        lost = [need.title for need in cell.needs if need in self._failed]
        if lost:
            self._waiting.remove(cell)
            self._failed[cell] = f"needs what failed: {lost[0]}"
        elif self._done.issuperset(cell.needs) and not self._is_elsewhere(cell):
            self._waiting.remove(cell)
            if not cell.leaves.exists():
                return True
            self._finished(cell, "finished by another process")
        return False

    def _is_elsewhere(self, cell: SweepCell) -> bool:
        """Whether another process works on it (checked once a second)."""
        now = time.monotonic()
        if now - self._elsewhere.get(cell, 0.0) < LOOK_ELSEWHERE_EVERY_S:
            return True
        if not is_held(cell.path):
            return False
        if cell not in self._elsewhere:
            self._display.say(f"{cell.title}: another process is at work on it; it is left to that")
        self._elsewhere[cell] = now
        return True

    def _begin(self, cells: Sequence[SweepCell]) -> None:
        for cell in cells:
            if not self._failures[cell]:
                _drop_log(cell.path)  # from an earlier sweep
        if cells:
            self._engine.start(cells)
        for cell in cells:
            self._begun[cell] += 1
            self._running[cell] = time.monotonic()
            self._display.say(f"{cell.title}: started")

    # --------------------------------------------------------------------------------------------------- cells end

    def _collect(self) -> None:
        now = time.monotonic()
        for each in self._engine.ended():
            self._ended(each, now - self._running.pop(each.cell, now))

    def _ended(self, each: Ended, took: float) -> None:
        cell = each.cell
        if cell.leaves.exists():
            self._took.setdefault(cell.kind, []).append(took)
            self._finished(cell, f"finished in {duration(took)}")
        elif self._asks_to_stop and (each.code is None or each.code < 0 or each.code == STOPPED_EXIT_CODE):
            self._waiting.append(cell)  # as requested
            _drop_log(cell.path)
        elif each.code == STOPPED_EXIT_CODE:
            self._waiting.append(cell)
            self._display.say(f"{cell.title}: was stopped, by a time limit or a person; it goes on later")
        elif is_held(cell.path):
            self._waiting.append(cell)  # another process began it first
        elif _has_diverged(cell):
            self._fails(cell, "its numbers diverged")  # and would again
        elif not each.began and self._not_begun[cell] < MOST_STARTS_WITHOUT_BEGINNING:
            self._not_begun[cell] += 1
            self._waiting.append(cell)
            self._display.say(f"{cell.title}: not begun ({each.fault}); it is begun again later")
        else:
            self._failed_once(cell, each.fault)

    @property
    def _asks_to_stop(self) -> bool:
        return self._is_ending or self._stop.made

    def _finished(self, cell: SweepCell, how: str) -> None:
        self._done.add(cell)
        _drop_log(cell.path)
        self._display.say(f"{cell.title}: {how} ({len(self._done)}/{len(self._cells)})")

    def _failed_once(self, cell: SweepCell, how: str) -> None:
        if self._failures[cell] < self._retries and not self._asks_to_stop:
            self._failures[cell] += 1
            self._waiting.append(cell)
            self._display.say(f"{cell.title}: failed ({how}); it is begun again later")
        else:
            self._fails(cell, how)

    def _fails(self, cell: SweepCell, how: str) -> None:
        self._failures[cell] += 1
        self._failed[cell] = how
        self._display.say(f"{cell.title}: failed ({how})")

    def _tell_failed(self) -> None:
        """Print every failure on standard error, even with --quiet."""
        for cell, how in self._failed.items():
            lines, log = [f"error: {cell.title}: {how}"], Companions(cell.path).log
            if self._failures[cell]:
                lines = [
                    f"{lines[0]}; {log} ends with:",
                    *(f"    {line}" for line in _text(log).splitlines()[-LAST_LINES:]),
                ]
            sys.stderr.write("\n".join([*lines, ""]))

    def _end(self) -> None:
        """Ask running cells to stop and wait until they have saved; a second Ctrl-C stops the waiting."""
        self._is_ending = True
        with suppress(Stopped):
            self._signal(TO_STOP, TIME_TO_STOP_S)
        self._signal(TO_STOP_AT_ONCE, TIME_TO_STOP_AT_ONCE_S)
        self._engine.kill()
        self._collect()

    def _signal(self, number: signal.Signals, wait_s: float) -> None:
        """Send it once (a second one would stop them at once), and wait for their end, at most `wait_s`."""
        if self._running:
            self._engine.signal(number)
        too_late = time.monotonic() + wait_s
        while self._running and time.monotonic() < too_late:
            time.sleep(self._engine.look_every_s)
            self._collect()

    # ------------------------------------------------------------------------------------------------------ how far

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown_at < SHOW_EVERY_S:
            return
        self._shown_at = now
        queued = self._engine.queued()
        self._running.update(dict.fromkeys(queued, now))
        far = [_fraction(cell) for cell in self._running if cell not in queued]
        self._display.cells(len(self._done), len(self._cells), far, len(queued), self._seconds_left(now, len(far)))

    def _seconds_left(self, now: float, n_running: int) -> float | None:
        """An estimate from finished runs; None if there are none."""
        took = [seconds for each in self._took.values() for seconds in each]
        mean_s = fmean(took) if took else None
        spent = dict.fromkeys(self._waiting, 0.0) | {cell: now - begun for cell, begun in self._running.items()}
        left = 0.0
        for cell, spent_s in spent.items():
            known_s = self._expected_s(cell)
            expected_s = mean_s if known_s is None else known_s
            if expected_s is None:
                return None
            left += max(0.0, expected_s - spent_s)
        return left / max(1, n_running)


def _fraction(cell: SweepCell) -> float:
    """How much of its phase a cell has done, from its status file."""
    with suppress(UserError):  # damaged: the cell itself reports it
        found = read_status(Companions(cell.path).status)
        if found is not None and found.status.total:
            return found.status.done / found.status.total
    return 0.0


def _has_diverged(cell: SweepCell) -> bool:
    return Companions(cell.path).diverged.exists()


def _drop_log(path: Path) -> None:
    with suppress(OSError):  # Windows, where another process still writes it
        Companions(path).log.unlink(missing_ok=True)


def _text(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"(cannot be read: {reason(error)})"
