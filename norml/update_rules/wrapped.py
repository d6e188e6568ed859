"""Wrappers of update rules, for inspection and for freezing layers."""

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from norml.update_rules import Carried, Pace, Rates, UpdateRule

AdaptedLayers = Literal["all", "head", "body"]


class Wrapped(UpdateRule):
    """A rule that wraps another rule, to observe it or to change its results."""

    def __init__(self, rule: UpdateRule) -> None:
        super().__init__()
        self.rule = rule
        self.scales_inputs, self.sets_pace = rule.scales_inputs, rule.sets_pace

    @override
    def initially_carried(self, layer: int, delta: Tensor, h: Tensor) -> Carried:
        return self.rule.initially_carried(layer, delta, h)

    @override
    def of_constant_input(self, h: Tensor) -> Carried:
        return self.rule.of_constant_input(h)

    @override
    def rates(self, layer: int) -> Rates | None:
        return self.rule.rates(layer)

    @override
    def pace(self, step: int, weight_means: Tensor, gradient_means: Tensor) -> Pace:
        return self.rule.pace(step, weight_means, gradient_means)

    @override
    def parameters_of(self, layer: int) -> Mapping[str, nn.Parameter]:
        return {f"rule.{name}": parameter for name, parameter in self.rule.parameters_of(layer).items()}

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        return self.rule.scaled(layer, delta, h, losses, carried)


class Frozen(Wrapped):
    """A rule that freezes some layers at their initial weights and adapts the others as before.

    It shows what adaptation does (Raghu et al. 2020, sec. 3). In training it makes ANIL, which adapts only the head
    (Raghu et al. 2020), and BOIL, which adapts only the body (Oh et al. 2021).
    """

    def __init__(self, rule: UpdateRule, layers: Collection[int]) -> None:
        super().__init__(rule)
        self.layers = frozenset(layers)

    @override
    def initially_carried(self, layer: int, delta: Tensor, h: Tensor) -> Carried:
        return {} if layer in self.layers else super().initially_carried(layer, delta, h)

    @override
    def of_constant_input(self, h: Tensor) -> Carried:
        return {} if 0 in self.layers else super().of_constant_input(h)

    @override
    def rates(self, layer: int) -> Rates | None:
        return None if layer in self.layers else super().rates(layer)

    @override
    def pace(self, step: int, weight_means: Tensor, gradient_means: Tensor) -> Pace:
        rate, decay = super().pace(step, weight_means, gradient_means)
        frozen = torch.tensor([layer in self.layers for layer in range(decay.shape[1])], device=decay.device)
        return Pace(rate, torch.where(frozen, torch.ones_like(decay), decay))

    @override
    def parameters_of(self, layer: int) -> Mapping[str, nn.Parameter]:
        return {} if layer in self.layers else super().parameters_of(layer)

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        if layer in self.layers:
            return torch.zeros_like(delta), h, carried
        return super().scaled(layer, delta, h, losses, carried)


def frozen_layers(adapted: AdaptedLayers, n_layers: int) -> frozenset[int]:
    """The frozen layers if all layers, the last ('head'), or all but the last ('body') are adapted."""
    head = n_layers - 1
    return frozenset({"all": [], "head": range(head), "body": [head]}[adapted])
