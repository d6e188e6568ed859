"""In which precision matrices are multiplied, and on the CPU by whom.

torch has MKL multiply float32 matrices, which leaves half of the arithmetic of an AMD processor with AVX-512 unused.
oneDNN, which torch carries, too, uses it, but takes longer to begin each product: outer steps become up to 1.6 times as
fast where they are large, and slower where they are small (README, Speed). torch hands it products when float32 ones
are allowed to be rounded to bfloat16, which oneDNN only does on processors whose matrix unit (AMX) has no float32;
anywhere else they stay float32, which is looked at, not assumed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import torch

MatmulPrecision = Literal["float32", "tf32", "bfloat16"]

_OF_DEVICE = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}
_OF_ONEDNN = {"float32": "none", "tf32": "tf32", "bfloat16": "bf16"}
_FROM_EXAMPLES = 256  # chosen: measured, 160 and fewer lose by oneDNN, 320 and more gain
_PROBED = 256  # rows and columns: chosen, large enough for any unit to be worth its while


@contextmanager
def multiplying(precision: MatmulPrecision, device: torch.device, *, examples: int) -> Iterator[None]:
    """Within it, float32 matrices are multiplied in `precision`, as fast as `device` can.

    `examples`: E * S, support examples of an outer step. torch knows one setting for the whole process, which is put
    back at the end.
    """
    if device.type == "cpu":
        with _onednn(_OF_ONEDNN["bfloat16" if precision == "float32" and onednn_multiplies(examples) else precision]):
            yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(_OF_DEVICE[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def onednn_multiplies(examples: int) -> bool:
    """Whether outer steps on so many support examples have oneDNN multiply on this CPU."""
    return examples >= _FROM_EXAMPLES and onednn_is_exact_and_faster()


@cache
def onednn_is_exact_and_faster() -> bool:
    """Whether this CPU is AMD's, has AVX-512, and oneDNN's float32 products keep their last bit on it."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or "AuthenticAMD" not in _cpu_information():
        return False
    exact = torch.full((_PROBED, _PROBED), 1 + torch.finfo(torch.float32).eps)
    with _onednn(_OF_ONEDNN["bfloat16"]):
        return torch.equal(exact @ torch.eye(_PROBED), exact)


@contextmanager
def _onednn(precision: str) -> Iterator[None]:
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # made at run time
    before = setting.fp32_precision
    setting.fp32_precision = precision
    try:
        yield
    finally:
        setting.fp32_precision = before


def _cpu_information() -> str:
    """What Linux says of the CPU; nothing elsewhere, where torch's own choice stands."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
