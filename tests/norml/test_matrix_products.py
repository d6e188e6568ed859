from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from norml import matrix_products
from norml.matrix_products import multiplying, onednn_is_exact_and_faster, onednn_multiplies

CPU = torch.device("cpu")
AMD = "vendor_id\t: AuthenticAMD\n"


def setting() -> str:
    return str(torch.backends.mkldnn.matmul.fp32_precision)


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    onednn_is_exact_and_faster.cache_clear()
    yield
    onednn_is_exact_and_faster.cache_clear()


class Rounding(TorchFunctionMode):
    """A processor that rounds the operands of a product to bfloat16."""

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.matmul or func is torch.Tensor.__matmul__:
            args = tuple(operand.bfloat16().float() for operand in args)
        return func(*args, **(kwargs or {}))


@contextmanager
def rounded(_precision: str) -> Iterator[None]:
    with Rounding():
        yield


@pytest.mark.parametrize("shape", [(1600, 64, 256), (100, 784, 256), (20, 64, 64), (5, 640, 5)])
def test_float32_products_stay_float32(shape: tuple[int, int, int]):
    m, k, n = shape
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, m, k, generator=generator, dtype=torch.float64)
    b = torch.randn(3, k, n, generator=generator, dtype=torch.float64)
    error = 4 * torch.finfo(torch.float32).eps * k**0.5  # bfloat16's unit is 65,536 times as large
    with multiplying("float32", CPU, examples=320):
        for left, right in ((a, b), (a[0], b[0])):
            product = left.float() @ right.float()
            assert (product.double() - left @ right).abs().max() < error * a.abs().max() * b.abs().max()


def test_the_setting_is_put_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(matrix_products, "onednn_is_exact_and_faster", lambda: True)
    before = setting()
    with multiplying("float32", CPU, examples=320):
        assert setting() == "bf16"
    assert setting() == before
    with pytest.raises(ZeroDivisionError), multiplying("float32", CPU, examples=320):
        raise ZeroDivisionError
    assert setting() == before
    with multiplying("tf32", CPU, examples=0):
        assert setting() == "tf32"
    assert setting() == before


@pytest.mark.parametrize("rounds", [False, True])
def test_onednn_multiplies_where_it_keeps_float32(rounds: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(matrix_products, "_cpu_information", lambda: AMD)
    monkeypatch.setattr(matrix_products, "_onednn", rounded if rounds else nullcontext)
    assert onednn_is_exact_and_faster() is not rounds
    assert onednn_multiplies(examples=320) is not rounds
    assert not onednn_multiplies(examples=160)


@pytest.mark.parametrize(("capability", "information"), [("AVX2", AMD), ("AVX512", "vendor_id\t: GenuineIntel\n")])
def test_elsewhere_torch_chooses(capability: str, information: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(matrix_products, "_cpu_information", lambda: information)
    assert not onednn_multiplies(examples=320)
    before = setting()
    with multiplying("float32", CPU, examples=320):
        assert setting() in {before, "none"}
