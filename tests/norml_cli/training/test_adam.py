"""Adam that starts without torch.compile."""

import subprocess
import sys

import torch
from torch import Tensor, nn

from norml_cli.training.adam import Adam


def parameters_after(kind: type[torch.optim.Adam], *, stops_after: int | None = None) -> list[Tensor]:
    """The parameters after 5 steps, which a state from `state_dict` continues after `stops_after` of them."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,))]
    optimizer = kind(parameters, lr=0.1, fused=True)
    for step in range(5):
        if step == stops_after:
            state = optimizer.state_dict()
            optimizer = kind(parameters, lr=0.3, fused=True)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def test_its_steps_and_its_state_are_torchs():
    expected = parameters_after(torch.optim.Adam)
    for stops_after in (None, 2):
        torch.testing.assert_close(parameters_after(Adam, stops_after=stops_after), expected, rtol=0, atol=0)
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Adam([parameter])
    optimizer.zero_grad()
    assert optimizer.state_dict() == torch.optim.Adam([parameter]).state_dict()


def test_neither_it_nor_the_module_of_runs_loads_torch_compile():
    """Its import takes a second."""
    script = """
import sys, torch
from norml_cli.training import run
optimizer = run.Adam([parameter := torch.nn.Parameter(torch.ones(2))], lr=0.1, fused=True)
parameter.grad = torch.ones(2)
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
