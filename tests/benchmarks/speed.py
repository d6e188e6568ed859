"""Speed and memory of norml, beside the same MAML in other libraries: `nox -s bench`, or this script.

Prints a table a section and keeps every repeat in <results>/speed/<device>-<section>.json as soon as that is done. Exit
codes: 0 done, 1 engines disagree, 2 the call cannot be done, 130 interrupted.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch
from rich.console import Console
from typing_extensions import override

from norml_cli.files.errors import UserError
from norml_cli.results.speed import SpeedSection
from tests.benchmarks.agreement import DisagreementError
from tests.benchmarks.bench import Bench
from tests.benchmarks.commands import commands
from tests.benchmarks.convolutions import convolutions
from tests.benchmarks.cost import growth, methods, products
from tests.benchmarks.display import show
from tests.benchmarks.episodes_cost import evaluation, sampling
from tests.benchmarks.load import ALLOWED_CORES, Others
from tests.benchmarks.memory import memory
from tests.benchmarks.peers import peers
from tests.benchmarks.record import ROOT, speed_record, write_speed_record
from tests.benchmarks.scaling import scaling

SECTIONS: dict[str, Callable[[Bench], SpeedSection]] = {
    section.__name__: section
    for section in (peers, methods, products, growth, convolutions, memory, sampling, evaluation, commands, scaling)
}

LOOK_S = 1.0


class _Parser(argparse.ArgumentParser):
    """Bad options are one line."""

    @override
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the options")


def main() -> None:
    try:
        _bench(sys.argv[1:])
    except (UserError, DisagreementError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        print("\nstopped; the sections above are kept", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def _bench(arguments: list[str]) -> None:
    options = _options(arguments)
    bench = Bench(
        device=_device(options.device),
        quick=options.quick,
        compiled=not (options.quick or options.no_compile),
        memory_limit_bytes=int(options.memory_limit * 2**30),
    )
    console = Console(width=None if sys.stdout.isatty() else 160)
    others = Others()
    busy_cores = _busy_before(others, bench, insist=options.busy)
    about = {
        "device": bench.device,
        "others_busy_cores": busy_cores,
        "settings": {"quick": options.quick, "compiled": bench.compiled, "device": options.device},
        "arguments": arguments,
    }
    with tempfile.TemporaryDirectory() as compiled:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled  # compile times are those of a first time
        for name in [name for name in SECTIONS if not options.only or name in options.only]:
            section = SECTIONS[name](bench).model_copy(update={"others_busy_cores": others.busy_cores()})
            bench.progress.clear()
            show(console, section)
            file_name = "-".join([bench.device.type, *(["quick"] if options.quick else []), name])
            path = write_speed_record(options.results, file_name, speed_record([section], **about))
            console.print(f"kept every repeat in {path}\n", highlight=False, markup=False, soft_wrap=True)


def _busy_before(others: Others, bench: Bench, *, insist: bool) -> float | None:
    """Cores that other processes keep busy now. Raises UserError if that would spoil times that are to be kept."""
    bench.progress.at("looking at what other processes do")
    time.sleep(LOOK_S)
    cores = others.busy_cores()
    if cores is not None and cores > ALLOWED_CORES and not (insist or bench.quick):
        raise UserError(
            f"other processes keep {cores:.1f} cores busy, which would be in the times; stop them (top shows them), "
            "or add --busy, and the record says so"
        )
    return cores


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="speed.py", description="Speed and memory of norml, beside the same MAML in other libraries.")
    parser.add_argument("--quick", action="store_true", help="takes seconds: small sizes, one repeat, nothing compiled")
    parser.add_argument("--busy", action="store_true", help="measure beside other processes that keep cores busy")
    parser.add_argument("--only", action="append", choices=SECTIONS, metavar="NAME", help=", ".join(SECTIONS))
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument("--memory-limit", type=_positive, default=12.0, metavar="GIB", help="of the memory section")
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR", help="default: results")
    return parser.parse_args(arguments)


def _device(name: str) -> torch.device:
    """The device of that name. Raises UserError if there is none."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda"}:
        raise UserError(f"--device {name}: unknown; take cpu or cuda")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise UserError(f"--device {name}: torch sees no such CUDA device here; take cpu")
    return device if device.type == "cpu" else torch.device("cuda", device.index or 0)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


if __name__ == "__main__":
    main()
