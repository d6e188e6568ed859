"""A call of an update rule that can be gone through backwards once: rules are written forwards, autograd does the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]


@dataclass
class Recorded:
    """The named outputs of a call, cut off from what came before, and how they depend on the call's inputs."""

    inputs: dict[str, Tensor]
    parameters: Sequence[nn.Parameter]
    outputs: dict[str, Tensor] = field(default_factory=dict)
    _graph: dict[str, Tensor] = field(default_factory=dict)

    def pull_back(self, output_bars: Tensors) -> tuple[dict[str, Tensor], list[tuple[nn.Parameter, Tensor]]]:
        """Derivatives by the inputs and the parameters from those by the outputs; what got none is left out.

        An output that is an input handed through passes its derivative straight on.
        """
        bars: dict[str, Tensor] = {}
        handed_through = {id(tensor): name for name, tensor in self.inputs.items()}
        made: list[tuple[Tensor, Tensor]] = []
        for name, bar in output_bars.items():
            tensor = self._graph[name]
            source = handed_through.get(id(tensor))
            if source is not None:
                bars[source] = bars[source] + bar if source in bars else bar
            elif tensor.requires_grad:
                made.append((tensor, bar))
        if not made:
            return bars, []
        names = [name for name, tensor in self.inputs.items() if tensor.requires_grad]
        found = torch.autograd.grad(
            [tensor for tensor, _ in made],
            [*(self.inputs[name] for name in names), *self.parameters],
            [bar for _, bar in made],
            allow_unused=True,
        )
        for name, bar in zip(names, found[: len(names)], strict=True):
            if bar is not None:
                bars[name] = bars[name] + bar if name in bars else bar
        parameter_bars = zip(self.parameters, found[len(names) :], strict=True)
        return bars, [(parameter, bar) for parameter, bar in parameter_bars if bar is not None]


def record(
    call: Callable[[dict[str, Tensor]], Tensors],
    inputs: Tensors,
    parameters: Sequence[nn.Parameter] | None,
    *,
    constants: frozenset[str] = frozenset(),
) -> Recorded:
    """Make `call` on its named `inputs`, of which those in `constants` get no derivatives.

    `parameters`: those that the call uses; None makes the call without a way back.
    """
    if parameters is None:
        return Recorded(dict(inputs), (), dict(call(dict(inputs))))
    leaves = {
        name: tensor if name in constants else tensor.detach().requires_grad_() for name, tensor in inputs.items()
    }
    recorded = Recorded(leaves, parameters)
    with torch.enable_grad():
        recorded._graph = dict(call(leaves))  # noqa: SLF001 - its own maker
    originals = {id(leaf): inputs[name] for name, leaf in leaves.items()}
    recorded.outputs = {
        name: originals[id(tensor)] if id(tensor) in originals else tensor.detach()
        for name, tensor in recorded._graph.items()  # noqa: SLF001 - as above
    }
    return recorded
