"""Run cells on a Ray cluster: one actor a cell, which runs an ordinary `norml` process. Needs norml[ray].

Torch-free.
"""

import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from typing_extensions import override

from norml_cli.files.atomic import write_atomically
from norml_cli.files.companions import Companions
from norml_cli.files.errors import UserError, plain, reason
from norml_cli.files.locks import Busy, held
from norml_cli.sweeps.cells import Asked, SweepCell, environment
from norml_cli.sweeps.engine import MOST_ON_A_GPU, Ended, Engine, fault_of
from norml_cli.sweeps.process import CellOnWorker, Files
from norml_cli.training.stopping import STOPPED_EXIT_CODE

ANSWERS_WITHIN_S = 5.0  # chosen: time for the cluster's head to answer
SEES_WITHIN_S = 60.0  # chosen: a worker may have to start Python first
COUNT_EVERY_S = 2.0  # chosen: how often to count the cluster's nodes
STORE_BYTES = 2**28  # chosen: a local Ray moves only checkpoints, of a few megabytes each


@dataclass
class _Away:
    """A cell on the cluster: its actor, the pending answer, and the locks held for it here."""

    actor: Any
    answer: Any
    holds: ExitStack
    has_begun: bool = False


@dataclass
class _Slots:
    count: int = 0
    counted_at: float = field(default=float("-inf"))


class OnRay(Engine):
    """Runs cells as actors of an existing cluster, or of one that starts here and ends with this process."""

    def __init__(self, asked: Asked) -> None:
        self._asked, self._where = asked, asked.where
        self._threads, self._gpus = asked.threads or 1, 0.0
        self._away: dict[SweepCell, _Away] = {}
        self._dropped: list[Ended] = []
        self._slots = _Slots()

    @override
    def __enter__(self) -> Self:
        self._ray = _ray()
        _connect(self._ray, self._where.address or os.environ.get("RAY_ADDRESS"))
        try:
            self._gpus = self._gpus_of_a_cell()
            self._require_size()
            if not self._where.fetch:
                self._require_shared()
        except BaseException:
            self._ray.shutdown()
            raise
        self._actor = self._ray.remote(CellOnWorker).options(
            num_cpus=self._threads, num_gpus=self._gpus, max_restarts=0
        )
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._ray.shutdown()

    # -------------------------------------------------------------------------------------------------- the cluster

    def _nodes(self) -> list[Mapping[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _gpus_of_a_cell(self) -> float:
        if self._where.gpus is not None:
            return self._where.gpus
        has_gpus = any(node["Resources"].get("GPU") for node in self._nodes())
        return 1 / MOST_ON_A_GPU if has_gpus and self._asked.device != "cpu" else 0.0

    def _slots_of(self, node: Mapping[str, Any]) -> int:
        """The number of cells that fit on a node."""
        resources = node["Resources"]
        by_cpus = int(resources.get("CPU", 0) // self._threads)
        return min(by_cpus, int(resources.get("GPU", 0) / self._gpus + 1e-9)) if self._gpus else by_cpus

    def _require_size(self) -> None:
        nodes = self._nodes()
        if not any(map(self._slots_of, nodes)):
            most = {kind: max(node["Resources"].get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
            wants = f"--threads {self._threads}" + (f" and --gpus {self._gpus:g}" if self._gpus else "")
            raise UserError(
                f"{wants}: no node of the Ray cluster has that many; the largest have {most['CPU']:g} CPUs and "
                f"{most['GPU']:g} GPUs"
            )

    def _require_shared(self) -> None:
        """Raises UserError if a worker cannot see the results folder."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On  # noqa: PLC0415 - optional

        sees = self._ray.remote(os.path.exists)
        folder = self._asked.results
        with tempfile.NamedTemporaryFile(prefix=".seen-", dir=folder) as file:
            place = str(Path(file.name).absolute())
            asked = {
                node["NodeManagerAddress"]: sees.options(num_cpus=0, scheduling_strategy=On(node["NodeID"], soft=False))
                for node in self._nodes()
                if self._slots_of(node)
            }
            try:
                answers = self._ray.get([task.remote(place) for task in asked.values()], timeout=SEES_WITHIN_S)
            except self._ray.exceptions.RayError as error:
                raise UserError(f"--on ray: a worker does not answer ({_last_line(error)}); see `ray status`") from None
        blind = [address for address, saw in zip(asked, answers, strict=True) if not saw]
        if blind:
            raise UserError(
                f"--results {folder}: the worker on {blind[0]} does not see it; put it on a shared file system, or let "
                f"--fetch bring results here"
            )

    # ---------------------------------------------------------------------------------------------------- the cells

    @override
    def room(self) -> int:
        now = time.monotonic()
        if now - self._slots.counted_at > COUNT_EVERY_S:
            self._slots = _Slots(sum(map(self._slots_of, self._nodes())), now)
        return (self._where.at_once or self._slots.count) - len(self._away)

    @override
    def start(self, cells: Sequence[SweepCell]) -> None:
        for cell in cells:
            holds = ExitStack()
            try:
                if self._where.fetch:
                    holds.enter_context(held(cell.path))
            except Busy as error:
                self._dropped.append(Ended(cell, None, str(error)))
            else:
                actor = self._actor.remote(cell.arguments, self._log(cell), self._environment(), self._brought(cell))
                self._away[cell] = _Away(actor, actor.look.remote(), holds)

    def _log(self, cell: SweepCell) -> str:
        log = Companions(cell.path).log
        return str(log.relative_to(self._asked.results) if self._where.fetch else log.absolute())

    def _environment(self) -> dict[str, str]:
        return environment() | ({} if self._gpus else {"CUDA_VISIBLE_DEVICES": ""})

    def _brought(self, cell: SweepCell) -> Files | None:
        if not self._where.fetch:
            return None
        return {path.name: path.read_bytes() for path in Companions(cell.path).existing()}

    @override
    def ended(self) -> list[Ended]:
        ended, self._dropped = self._dropped, []
        cells = {each.answer: cell for cell, each in self._away.items()}
        answers = self._ray.wait(list(cells), num_returns=len(cells), timeout=0)[0] if cells else []
        for answer in answers:
            cell, each = cells[answer], self._away[cells[answer]]
            try:
                code, files = self._ray.get(answer)
            except self._ray.exceptions.RayError as error:
                ended.append(self._gone(cell, None, f"its worker was lost: {_last_line(error)}"))
                continue
            _keep(cell, files)
            each.has_begun = True
            if code is None:
                each.answer = each.actor.look.remote()
            else:
                ended.append(self._gone(cell, code, fault_of(code)))
        return ended

    def _gone(self, cell: SweepCell, code: int | None, fault: str) -> Ended:
        each = self._away.pop(cell)
        self._ray.kill(each.actor)
        each.holds.close()
        return Ended(cell, code, fault, began=each.has_begun)

    @override
    def signal(self, number: signal.Signals) -> None:
        for cell, each in list(self._away.items()):
            if each.has_begun:
                each.actor.send.remote(int(number))
            else:
                self._dropped.append(self._gone(cell, STOPPED_EXIT_CODE, "not begun"))

    @override
    def kill(self) -> None:
        self._dropped += [self._gone(cell, None, "killed") for cell in list(self._away)]

    @override
    def queued(self) -> Collection[SweepCell]:
        return {cell for cell, each in self._away.items() if not each.has_begun}


def _ray() -> Any:
    try:
        import ray  # noqa: PLC0415 - optional, and seconds
    except ImportError:
        raise UserError("--on ray: Ray is not installed; install it with: pip install 'norml[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Join the cluster at `address`, or start a local one. Raises UserError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    how = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, object_store_memory=STORE_BYTES, **how)
        else:
            _require_answer(address)
            ray.init(address=address, **how)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - Ray raises plain ones, too
        where = "Ray" if address is None else f"--address {plain(address)}: Ray"
        raise UserError(f"{where} cannot be reached ({_last_line(error)}); see `ray status`") from None


def _require_answer(address: str) -> None:
    """Check that the head's port is open: Ray alone would try for a minute. Raises UserError."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal():
        raise UserError(f"--address {plain(address)}: expected HOST:PORT of a cluster's head, or ray://HOST:PORT")
    try:
        with suppress(OverflowError):
            socket.create_connection((host, int(port)), ANSWERS_WITHIN_S).close()
            return
    except OSError as error:
        raise UserError(
            f"--address {plain(address)}: does not answer ({reason(error)}); see that the head runs: `ray start --head`"
        ) from None
    raise UserError(f"--address {plain(address)}: there is no port {port}")


def _keep(cell: SweepCell, files: Files) -> None:
    """Write the fetched files beside the cell's record; the record itself comes last."""
    for name in sorted(files, key=lambda each: each == cell.leaves.name):
        write_atomically(cell.path.with_name(name), lambda file, name=name: file.write(files[name]))  # type: ignore[misc]
    if cell.leaves.name in files:
        Companions(cell.path).tidy()


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return plain(lines[-1].strip() if lines else type(error).__name__)
