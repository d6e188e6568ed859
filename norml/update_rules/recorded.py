"""A call of an update rule that can be gone through backwards: rules are written forwards, autograd does the rest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp

from norml.update_rules import UpdateRule

Named = dict[str, Tensor]
PullBack = Callable[[Named], tuple[Named, Named]]


@dataclass(frozen=True)
class Recorded:
    """A call's outputs by name: those that are inputs handed through (with the input's name), and those it made."""

    outputs: Named
    handed_through: dict[str, str]
    pull_back_made: PullBack | None = None

    def pull_back(self, output_bars: Named) -> tuple[Named, Named]:
        """Derivatives by the inputs and by the parameters, by name, from those by the outputs.

        What got none is left out. An output handed through passes its derivative straight on.
        """
        bars: Named = {}
        parameter_bars: Named = {}
        made = {name: bar for name, bar in output_bars.items() if name not in self.handed_through}
        if made and self.pull_back_made is not None:
            bars, parameter_bars = self.pull_back_made(made)
        for name, source in self.handed_through.items():
            if name in output_bars:
                bars[source] = bars[source] + output_bars[name] if source in bars else output_bars[name]
        return bars, parameter_bars


def record(
    rule: UpdateRule,
    call: Callable[[Named], Named],
    inputs: Named,
    parameters: Mapping[str, nn.Parameter] | None,
    *,
    constants: frozenset[str],
) -> Recorded:
    """Make `call`, which uses `rule`, on its named `inputs`, of which those in `constants` get no derivatives.

    `parameters`: those of the rule that the call uses, by name; None makes the call without a way back.
    """
    if parameters is None:
        return Recorded(call(inputs), {})
    # While torch.compile traces, the functional form is the one that it can follow; outside, the tape is the faster.
    make = _by_function if torch.compiler.is_compiling() else _by_tape
    return make(rule, call, inputs, dict(parameters), constants)


def _by_tape(
    _rule: UpdateRule, call: Callable[[Named], Named], inputs: Named, parameters: Named, constants: frozenset[str]
) -> Recorded:
    leaves = {
        name: tensor if name in constants else tensor.detach().requires_grad_() for name, tensor in inputs.items()
    }
    with torch.enable_grad():
        graph = call(leaves)
    handed_through = _handed_through(graph, leaves)
    outputs = {
        name: inputs[handed_through[name]] if name in handed_through else tensor.detach()
        for name, tensor in graph.items()
    }
    variables = {name: leaf for name, leaf in leaves.items() if name not in constants}
    return Recorded(outputs, handed_through, partial(_tape_pulled_back, graph, variables, parameters))


def _tape_pulled_back(graph: Named, variables: Named, parameters: Named, bars: Named) -> tuple[Named, Named]:
    used = [name for name in bars if graph[name].requires_grad]
    if not used:
        return {}, {}
    found = torch.autograd.grad(
        [graph[name] for name in used],
        [*variables.values(), *parameters.values()],
        [bars[name] for name in used],
        allow_unused=True,
    )
    n_variables = len(variables)
    return _there(variables, found[:n_variables]), _there(parameters, found[n_variables:])


def _there(names: Named, bars: tuple[Tensor | None, ...]) -> Named:
    return {name: bar for name, bar in zip(names, bars, strict=True) if bar is not None}


def _by_function(
    rule: UpdateRule, call: Callable[[Named], Named], inputs: Named, parameters: Named, constants: frozenset[str]
) -> Recorded:
    plain = call(inputs)  # tells which outputs are made; the rest of it is dead code to the compiler
    handed_through = _handed_through(plain, inputs)
    if len(handed_through) == len(plain):
        return Recorded(plain, handed_through)
    variables = {name: tensor for name, tensor in inputs.items() if name not in constants}

    def only_made(variables: Named, parameters: Named) -> Named:
        result: Named = functional_call(rule, parameters, (partial(call, {**inputs, **variables}),))
        return {name: tensor for name, tensor in result.items() if name not in handed_through}

    made, pull_back, *_ = vjp(only_made, variables, parameters)
    outputs = {**{name: inputs[source] for name, source in handed_through.items()}, **made}
    return Recorded(outputs, handed_through, partial(_function_pulled_back, pull_back, made))


def _function_pulled_back(
    pull_back: Callable[[Named], tuple[Named, Named]], made: Named, bars: Named
) -> tuple[Named, Named]:
    # Zeros where nothing came: the functional form wants a derivative for every output.
    return pull_back({name: bars[name] if name in bars else torch.zeros_like(tensor) for name, tensor in made.items()})


def _handed_through(outputs: Named, inputs: Named) -> dict[str, str]:
    """Which outputs are inputs, by identity."""
    return {name: source for name, tensor in outputs.items() for source, given in inputs.items() if given is tensor}
