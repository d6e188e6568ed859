"""The tables of explanation/scaling.md: what was measured, and a cost model that extends it to more machines.

Measured numbers come from results/ (`nox -s bench -- --only scaling`, runs on an H100), sizes from the registry.
Assumed ones are constants below, each with its source.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from speed_tables import RESULTS, Kept, median_of, table

from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.registry.resolving import Registry, n_features
from norml_cli.results.records import RunRecord

VALUE_BYTES = 4  # float32
GPUS = (8, 1000)
MACHINE_GPUS = 8

# Assumptions. If you have such a machine, write its numbers here and run `nox -s docs`.
NVLINK_BYTES_S = 450e9  # one direction; NVIDIA H100 SXM data sheet: 900 GB/s in both
NETWORK_BYTES_S = 50e9  # one 400 Gb/s port a GPU; NVIDIA DGX H100 data sheet
HOP_S = 10e-6  # a small message between two GPUs, with its launch; chosen: NCCL needs a few tens of us for a sum
FILE_SERVER_REQUESTS_S = 20_000.0  # chosen: a good NFS server; measure yours with mdtest
TOLERATED = 0.1  # part of a step that messages may take


def sum_over_gpus_s(gpus: int, sent_bytes: float) -> float:
    """Seconds of one sum over GPUs, by NCCL's double tree: each byte travels once up and once down."""
    if gpus == 1:
        return 0.0
    bytes_s = NVLINK_BYTES_S if gpus <= MACHINE_GPUS else NETWORK_BYTES_S
    return 2 * math.ceil(math.log2(gpus)) * HOP_S + 2 * (gpus - 1) / gpus * sent_bytes / bytes_s


@dataclass(frozen=True)
class Model:
    """What one step of a training sends: the gradient, and small messages for batch norm. values: of the gradient."""

    name: str
    values: int
    most_gpus: int
    small_messages: int = 0

    @property
    def bytes(self) -> int:
        """Size of the gradient, which every step sums over GPUs."""
        return VALUE_BYTES * self.values

    def messages_s(self, gpus: int) -> float:
        """Seconds that one step spends on messages."""
        return sum_over_gpus_s(gpus, self.bytes) + self.small_messages * sum_over_gpus_s(gpus, 0.0)


def models() -> list[Model]:
    """Meta-learners of the tables, and the backbones."""
    entries = _registry()
    found = []
    for method in ("maml-constant-lr", "norml"):
        spec = entries.resolve(method, "omniglot-20way", 5).spec
        counts = spec.parameter_counts(n_features(entries, spec)) or {}
        found.append(Model(f"{method}, omniglot-20way, 5-shot", sum(counts.values()), spec.protocol.meta_batch_size))
    for name in ("resnet12-narrow", "rfs-2020"):
        recipe = entries.recipe(name).values
        n_norms = 16 if recipe.skip_batch_norm else 12
        whole = Model(f"{name}, whole-batch", recipe.backbone_parameters, recipe.batch_size, 4 * n_norms)
        found += [whole, Model(f"{name}, per-rank", whole.values, recipe.batch_size)]
    return found


@cache
def _registry() -> Registry:
    return read_registry([builtin_registry()])


# ----------------------------------------------------------------------------------------------------- what a run has


def measured() -> str:
    """Time of an outer step in one process and on two ranks."""
    kept = Kept.of("scaling")
    steps = [each for each in kept.section.measurements if each.labels["what"] == "outer step"]
    rows = [
        [
            str(each.labels["method"]),
            str(each.labels["layout"]),
            f"{1000 * median_of(each):.0f} ms",
            f"{each.derived['times as fast']:.2f}",
        ]
        for each in steps
    ]
    return table(["method", "layout", "an outer step", "episodes a second, times"], rows, kept.circumstances())


def gloo() -> str:
    """Measured time of a sum over two ranks."""
    kept = Kept.of("scaling")
    sums = [each for each in kept.section.measurements if each.labels["what"] == "sum over 2 ranks"]
    rows = [[f"{each.labels['bytes']:,}", f"{1e6 * median_of(each):,.0f} us"] for each in sums]
    return table(["bytes", "a sum over two ranks by gloo"], rows)


def messages() -> str:
    """What a step sends, how long that takes, and how long a step must be so that messages take 10% of it."""
    rows = []
    for model in models():
        taken = [model.messages_s(gpus) if gpus <= model.most_gpus else None for gpus in (MACHINE_GPUS, 64)]
        enough_s = (model.messages_s(MACHINE_GPUS)) * (1 - TOLERATED) / TOLERATED
        rows.append(
            [
                model.name,
                f"{model.bytes / 1e6:.1f} MB",
                str(1 + model.small_messages),
                *("not possible" if spent is None else _milliseconds(spent) for spent in taken),
                _milliseconds(enough_s),
                str(model.most_gpus),
            ]
        )
    long = "a step whose messages take 10%, 8 GPUs"
    heads = ["training", "summed a step", "messages", "8 GPUs", "64 GPUs", long, "most GPUs"]
    return table(heads, rows)


def one_run() -> str:
    """The fastest measured run on one H100, and estimates for more: at worst no work is shared, at best all of it."""
    record = max(gpu_records(), key=lambda each: each.cost.steps_per_s)
    step_s = 1 / record.cost.steps_per_s
    model = models()[0]
    rows = []
    for gpus in (1, 2, 4, 8, 16):
        best, worst = step_s / gpus + model.messages_s(gpus), step_s + model.messages_s(gpus)
        rows.append([str(gpus), _milliseconds(best), _milliseconds(worst), f"{step_s / best:.1f}"])
    spec = record.spec
    note = f"From {spec.method}, {spec.benchmark}, {spec.shots}-shot: {_milliseconds(step_s)} a step on one H100."
    return table(["GPUs", "a step, at best", "a step, at worst", "times as fast, at best"], rows, note)


# --------------------------------------------------------------------------------------------------- what a sweep has


@cache
def gpu_records() -> list[RunRecord]:
    """Records of the runs that shared one H100 at the same time."""
    runs = RESULTS.scan_runs({"omniglot-20way"}, intervals=False).sound()
    return [record for _, record in runs if record.device == "NVIDIA H100 80GB HBM3"]


def cells_an_hour() -> float:
    """Cells per hour on one H100: their number, over the time from the first start to the last end."""
    ends = [datetime.fromisoformat(each.created).timestamp() for each in gpu_records()]
    starts = [end - each.cost.wall_s for end, each in zip(ends, gpu_records(), strict=True)]
    return 3600 * len(ends) / (max(ends) - min(starts))


def requests() -> dict[str, float]:
    """Requests to the file system, by their purpose."""
    found = Kept.of("scaling").section.measurements
    return {str(each.labels["part"]): median_of(each) for each in found if each.unit == "requests"}


def asked() -> str:
    """Requests of a run to the file system."""
    return table(["what", "requests"], [[part, f"{count:,.0f}"] for part, count in requests().items()])


def sweep() -> str:
    """Sweeps on 1, 8 and 1,000 GPUs: cells finished, and requests to a shared file system."""
    settings = Kept.of("scaling").section.settings
    each, an_hour = requests(), cells_an_hour()
    wall_s = sum(record.cost.wall_s for record in gpu_records()) / len(gpu_records())
    at_once = an_hour * wall_s / 3600  # cells at the same time on one GPU, by Little's law
    start = next(count for part, count in each.items() if part.startswith("start"))
    while_running = each["one status file"] / settings["status file every s"]
    while_running += each["one checkpoint"] / settings["checkpoint every s"]
    per_cell = while_running + (each["record, weights and lock"] + each["caches"]) / wall_s
    checkpoint_bytes = 4 * models()[0].bytes  # weights, Adam's two moments, the best weights
    rows = []
    for gpus in (1, *GPUS):
        cells = gpus * at_once
        written = cells * checkpoint_bytes / settings["checkpoint every s"]
        rows.append(
            [
                f"{gpus:,}",
                f"{gpus * an_hour:,.0f}",
                f"{cells * per_cell:,.0f}",
                f"{cells * start / wall_s:,.0f}",
                _seconds(cells * start / FILE_SERVER_REQUESTS_S),
                f"{written / 1e6:,.1f} MB/s",
            ]
        )
    heads = ["GPUs", "cells an hour", "requests a second: running", "starting", "all start at once", "checkpoints"]
    note = (
        f"{at_once:.1f} cells side by side on each GPU, {wall_s:.0f} s a cell ({len(gpu_records())} runs). "
        "Starting processes alone keep the server busy from "
        f"{FILE_SERVER_REQUESTS_S * wall_s / (at_once * start):,.0f} GPUs, "
        f"running ones alone from {FILE_SERVER_REQUESTS_S / (at_once * per_cell):,.0f}."
    )
    return table(heads, rows, note)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"  # noqa: PLR2004 - digits


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"  # noqa: PLR2004 - digits


BLOCKS: dict[str, Callable[[], str]] = {
    "scaling-measured": measured,
    "scaling-gloo": gloo,
    "scaling-messages": messages,
    "scaling-one-run": one_run,
    "scaling-requests": asked,
    "scaling-sweep": sweep,
}
