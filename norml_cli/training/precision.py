"""Choose a backbone's precision: float32, or bfloat16 if it is faster on this device."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from norml_cli.files.errors import UserError
from norml_cli.registry.protocol import Precision

# Chosen: a trial of a few steps cannot measure smaller gains. The limit is not critical: a CPU without AMX takes 3.4
# times as long in bfloat16 as in float32 (mtl-2019's network, 84 px).
WORTH_BFLOAT16 = 1.3
DTYPES = (torch.float32, torch.bfloat16)
TRIALS = 2  # timed steps, after one to warm up


def precision_on(precision: Precision, device: torch.device, step: Callable[[], Tensor]) -> torch.dtype:
    """The declared precision; for 'auto', bfloat16 on a GPU and the faster one on a CPU.

    step: a forward and a backward pass on a few images, as in training, for timing.
    Raises UserError for bfloat16 on a CPU without bfloat16 arithmetic.
    """
    if precision == "float32":
        return torch.float32
    if device.type != "cpu":
        return torch.bfloat16
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # noqa: SLF001 - torch has no public name for it
        if precision == "bfloat16":
            raise UserError("--precision bfloat16: this CPU has no bfloat16 arithmetic; use float32 or auto")
        return torch.float32
    if precision == "bfloat16":
        return torch.bfloat16
    with torch.random.fork_rng(devices=[]):  # the trial may draw dropout masks
        float32_s, bfloat16_s = (_seconds(step, computed_in(dtype, device)) for dtype in DTYPES)
    return torch.bfloat16 if float32_s > WORTH_BFLOAT16 * bfloat16_s else torch.float32


def computed_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """A context in which convolutions and matrix products are computed in `dtype`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def _seconds(step: Callable[[], Tensor], arithmetic: AbstractContextManager[object]) -> float:
    """The shortest time of a few steps, because other processes can only make a step longer."""
    with arithmetic:
        step()
        times = []
        for _ in range(TRIALS):
            started_at = time.perf_counter()
            step()
            times.append(time.perf_counter() - started_at)
    return min(times)
