"""Precision of matrix products, and the library that computes them on a CPU.

torch multiplies float32 matrices with MKL, which uses only half of the arithmetic of AMD processors with AVX-512.
oneDNN, which is also part of torch, uses all of it but starts each product more slowly: large outer steps become up to
1.6 times as fast, small ones slower (docs/explanation/speed.md). torch uses oneDNN if it may round float32 products to
bfloat16. oneDNN rounds them only on processors with AMX, whose matrix unit has no float32. On others the products stay
float32, and a test product verifies that.
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
_FROM_EXAMPLES = 256  # chosen: measured, oneDNN is slower with 160 and faster with 320 examples
_PROBED = 256  # rows and columns of the test product; chosen: large enough for every library to use its fast kernels


@contextmanager
def multiplying(precision: MatmulPrecision, device: torch.device, *, examples: int) -> Iterator[None]:
    """A context in which float32 matrices are multiplied in `precision`, as fast as `device` can.

    examples: E * S, support examples of an outer step. torch's setting is for the whole process; leaving the context
    restores it.
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
    """Whether outer steps with `examples` support examples use oneDNN on this CPU."""
    return examples >= _FROM_EXAMPLES and onednn_is_exact_and_faster()


@cache
def onednn_is_exact_and_faster() -> bool:
    """Whether this is an AMD CPU with AVX-512 on which oneDNN's float32 products are exact to the last bit."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or "AuthenticAMD" not in _cpu_information():
        return False
    exact = torch.full((_PROBED, _PROBED), 1 + torch.finfo(torch.float32).eps)
    with _onednn(_OF_ONEDNN["bfloat16"]):
        return torch.equal(exact @ torch.eye(_PROBED), exact)


@contextmanager
def _onednn(precision: str) -> Iterator[None]:
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # created at run time
    before = setting.fp32_precision
    setting.fp32_precision = precision
    try:
        yield
    finally:
        setting.fp32_precision = before


def _cpu_information() -> str:
    """Linux's description of the CPU; '' on other systems, which keep torch's choice."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
