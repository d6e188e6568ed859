"""In which precision a backbone is computed: float32, or bfloat16 where this device multiplies it faster."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from norml_cli.files.errors import UserError
from norml_cli.registry.protocol import Precision

# Chosen: a trial of a few steps is not exact enough for smaller gains. On a CPU without AMX bfloat16 takes 3.4 times as
# long as float32 (mtl-2019's network, 84 pixels), far from the line.
WORTH_BFLOAT16 = 1.3
DTYPES = (torch.float32, torch.bfloat16)
TRIALS = 2  # after one that warms up


def precision_on(precision: Precision, device: torch.device, step: Callable[[], Tensor]) -> torch.dtype:
    """The precision that is declared, or for 'auto' the one in which `step` takes less time on `device`.

    step: a forward and a backward pass as the training takes them, on a few images. On a GPU 'auto' is bfloat16.
    Raises UserError where bfloat16 is asked for and `device` has no such arithmetic.
    """
    if precision == "float32":
        return torch.float32
    if device.type != "cpu":
        return torch.bfloat16
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # noqa: SLF001 - torch's own question, which has no other name
        if precision == "bfloat16":
            raise UserError("--precision bfloat16: this CPU has no bfloat16 arithmetic; take float32 or auto")
        return torch.float32
    if precision == "bfloat16":
        return torch.bfloat16
    with torch.random.fork_rng(devices=[]):  # a trial may draw what is dropped
        float32_s, bfloat16_s = (_seconds(step, computed_in(dtype, device)) for dtype in DTYPES)
    return torch.bfloat16 if float32_s > WORTH_BFLOAT16 * bfloat16_s else torch.float32


def computed_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Within it, convolutions and matrix products are computed in `dtype`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def _seconds(step: Callable[[], Tensor], arithmetic: AbstractContextManager[object]) -> float:
    """The least time of a few steps: other processes only ever lengthen one."""
    with arithmetic:
        step()
        times = []
        for _ in range(TRIALS):
            started_at = time.perf_counter()
            step()
            times.append(time.perf_counter() - started_at)
    return min(times)
