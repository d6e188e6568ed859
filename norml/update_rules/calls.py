"""Calls of update rules with derivatives from autograd, so that rules only need a forward computation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp

from norml.update_rules import Carried, UpdateRule

Named = dict[str, Tensor]
Name = tuple[int, str]  # index in `Values` (0: signals, 1: carried) and name
Flat = dict[Name, Tensor]


class Values(NamedTuple):
    """Inputs or outputs of a call, or derivatives by them: signals, and the tensors that a rule carries."""

    signals: Named
    carried: Carried


Function = Callable[[Values], Values]
PullBack = Callable[[Flat], tuple[Flat, Named]]


@dataclass(frozen=True)
class Call:
    """A call's outputs. handed_through: outputs that are inputs, with the input's name; the others are computed."""

    outputs: Values
    handed_through: dict[Name, Name]
    pull_back_computed: PullBack | None = None

    def hands_through(self, output: str, source: str) -> bool:
        """Whether the signal `output` is the signal `source`, unchanged."""
        return self.handed_through.get((0, output)) == (0, source)

    def pull_back(self, output_bars: Values) -> tuple[Values, Named]:
        """Derivatives by the inputs and by the parameters, by name, from those by the outputs.

        Values without a derivative are left out. An output that was handed through passes its derivative on.
        """
        of_outputs = _flat(output_bars)
        bars: Flat = {}
        parameter_bars: Named = {}
        computed = {name: bar for name, bar in of_outputs.items() if name not in self.handed_through}
        if computed and self.pull_back_computed is not None:
            bars, parameter_bars = self.pull_back_computed(computed)
        for name, source in self.handed_through.items():
            if name in of_outputs:
                bars[source] = bars[source] + of_outputs[name] if source in bars else of_outputs[name]
        return _values(bars), parameter_bars


def call_rule(
    rule: UpdateRule,
    function: Function,
    inputs: Values,
    parameters: Mapping[str, nn.Parameter] | None,
    *,
    constants: frozenset[str],
) -> Call:
    """Call `function`, which uses `rule`, on `inputs`.

    parameters: the rule's parameters that the call uses, by name; None for a call without derivatives. constants:
    signals that get no derivatives.
    """
    if parameters is None:
        outputs = function(inputs)
        return Call(outputs, _handed_through(_flat(outputs), _flat(inputs)))
    # torch.compile can only trace the functional form; otherwise the tape is faster.
    call = _by_function if torch.compiler.is_compiling() else _by_tape
    return call(rule, function, inputs, dict(parameters), constants)


def _by_tape(
    _rule: UpdateRule, function: Function, inputs: Values, parameters: Named, constants: frozenset[str]
) -> Call:
    leaves = Values(
        {
            name: tensor if name in constants else tensor.detach().requires_grad_()
            for name, tensor in inputs.signals.items()
        },
        {name: tensor.detach().requires_grad_() for name, tensor in inputs.carried.items()},
    )
    with torch.enable_grad():
        graph = _flat(function(leaves))
    sources = _flat(leaves)
    handed_through = _handed_through(graph, sources)
    outputs = Values({}, {})
    for name, tensor in graph.items():
        source = handed_through.get(name)
        outputs[name[0]][name[1]] = tensor.detach() if source is None else inputs[source[0]][source[1]]
    variables = _variable(sources, constants)
    return Call(outputs, handed_through, partial(_tape_pulled_back, graph, variables, parameters))


def _tape_pulled_back(graph: Flat, variables: Flat, parameters: Named, bars: Flat) -> tuple[Flat, Named]:
    used = [name for name in bars if graph[name].requires_grad]
    if not used:
        return {}, {}
    gradients = torch.autograd.grad(
        [graph[name] for name in used],
        [*variables.values(), *parameters.values()],
        [bars[name] for name in used],
        allow_unused=True,
    )
    of_variables, of_parameters = gradients[: len(variables)], gradients[len(variables) :]
    return (
        {name: bar for name, bar in zip(variables, of_variables, strict=True) if bar is not None},
        {name: bar for name, bar in zip(parameters, of_parameters, strict=True) if bar is not None},
    )


def _by_function(
    rule: UpdateRule, function: Function, inputs: Values, parameters: Named, constants: frozenset[str]
) -> Call:
    sources = _flat(inputs)
    plain = _flat(
        function(inputs)
    )  # only to see which outputs are computed; the compiler removes the rest as dead code
    handed_through = _handed_through(plain, sources)
    if len(handed_through) == len(plain):
        return Call(_values(plain), handed_through)

    def only_computed(variables: Flat, parameters: Named) -> Flat:
        result: Values = functional_call(rule, parameters, (partial(function, _values({**sources, **variables})),))
        return {name: tensor for name, tensor in _flat(result).items() if name not in handed_through}

    computed, pull_back, *_ = vjp(only_computed, _variable(sources, constants), parameters)
    outputs = {**{name: sources[source] for name, source in handed_through.items()}, **computed}
    return Call(_values(outputs), handed_through, partial(_function_pulled_back, pull_back, computed))


def _function_pulled_back(
    pull_back: Callable[[Flat], tuple[Flat, Named]], computed: Flat, bars: Flat
) -> tuple[Flat, Named]:
    # The functional form needs a derivative for every output; missing ones are zero.
    return pull_back(
        {name: bars[name] if name in bars else torch.zeros_like(tensor) for name, tensor in computed.items()}
    )


def _flat(values: Values) -> Flat:
    flat = {(0, name): tensor for name, tensor in values.signals.items()}
    for name, tensor in values.carried.items():
        flat[1, name] = tensor
    return flat


def _values(flat: Flat) -> Values:
    values = Values({}, {})
    for (place, name), tensor in flat.items():
        values[place][name] = tensor
    return values


def _variable(sources: Flat, constants: frozenset[str]) -> Flat:
    """The inputs that get derivatives: all except the signals in `constants`."""
    return {(place, name): tensor for (place, name), tensor in sources.items() if place or name not in constants}


def _handed_through(outputs: Flat, inputs: Flat) -> dict[Name, Name]:
    """Outputs that are inputs, with the input's name. Inputs are compared with `is`."""
    return {name: source for name, tensor in outputs.items() for source, value in inputs.items() if value is tensor}
