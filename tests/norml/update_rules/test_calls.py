"""Calls of update rules gone back through: what is handed through, what gets derivatives, and both ways back."""

# ruff: noqa: ARG002 - a rule's signature is given, whichever of it a rule uses

import pytest
import torch
from torch import nn

from norml.update_rules import UpdateRule
from norml.update_rules.calls import Values, _by_function, _by_tape, call_rule

WAYS = [_by_tape, _by_function]
CARRIED = {"memory", "square", "of_parameter"}  # the other names are signals


class Toy(UpdateRule):
    """Two parameters, of which a call may use one; the calls themselves are the tests'."""

    scales_inputs = True

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([0.7, -0.3, 1.2], dtype=torch.float64))
        self.idle = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def scaled(self, layer, delta, h, losses, carried):
        return delta, h, carried


def drawn_inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(2, 4, 3, generator=generator, dtype=torch.float64) for name in ("delta", "h", "memory")}
    return drawn | {"losses": torch.rand(2, 4, generator=generator, dtype=torch.float64)}


def mixing_call(rule):
    """Of six outputs, one hands an input through, one is constant, and one uses no parameter."""

    def call(given):
        gain = rule.gain.tanh()
        return {
            "delta_hat": given["delta"] * gain * given["memory"].sigmoid() + given["losses"].unsqueeze(-1),
            "h_hat": given["h"],
            "sum": (given["delta"] * given["h"]).sum(dim=-1) * gain.sum(),
            "square": given["memory"] ** 2,
            "of_parameter": gain.exp(),
            "fixed": torch.ones(2, dtype=torch.float64),
        }

    return call


def drawn_bars(outputs, names=None, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in outputs.items()
        if names is None or name in names
    }


def by_autograd(call, inputs, parameters, bars):
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    outputs = call(leaves)
    scalar = sum((outputs[name] * bar).sum() for name, bar in bars.items())
    wanted = {**leaves, **parameters}
    found = torch.autograd.grad(scalar, list(wanted.values()), allow_unused=True)
    return dict(zip(wanted, found, strict=True))


def values(named):
    carried = {name: tensor for name, tensor in named.items() if name in CARRIED}
    return Values({name: tensor for name, tensor in named.items() if name not in CARRIED}, carried)


def named(values):
    return values.signals | values.carried


class Seen:
    """A call whose signals and carried tensors are seen as one dictionary."""

    def __init__(self, call):
        self.call, self.outputs = call, named(call.outputs)
        self.handed_through = {output: source for (_, output), (_, source) in call.handed_through.items()}

    def pull_back(self, bars):
        of_inputs, of_parameters = self.call.pull_back(values(bars))
        return named(of_inputs), of_parameters


def called(way, rule, function, inputs, constants=()):
    with torch.no_grad():  # as the engine calls it
        call = way(
            rule,
            lambda given: values(function(named(given))),
            values(inputs),
            dict(rule.named_parameters()),
            frozenset(constants),
        )
    return Seen(call)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "names", [None, ["delta_hat"], ["h_hat"], ["sum", "square"], ["of_parameter"], ["delta_hat", "h_hat"]]
)
def test_derivatives_are_autograds_for_any_choice_of_outputs(way, names):
    rule, inputs = Toy(), drawn_inputs()
    call = mixing_call(rule)
    call_made = called(way, rule, call, inputs)
    for name, expected in call(inputs).items():
        torch.testing.assert_close(call_made.outputs[name], expected.detach(), rtol=1e-14, atol=0)
        assert not call_made.outputs[name].requires_grad
    bars = drawn_bars(call_made.outputs, names)
    of_inputs, of_parameters = call_made.pull_back(bars)
    expected = by_autograd(call, inputs, dict(rule.named_parameters()), bars)
    found = of_inputs | of_parameters
    assert set(of_inputs) <= set(inputs)
    assert set(of_parameters) <= {"gain", "idle"}
    for name, reference in expected.items():
        if reference is not None:
            torch.testing.assert_close(found[name], reference, rtol=1e-13, atol=1e-15)
        else:
            assert name not in found or not found[name].any()


@pytest.mark.parametrize("seed", range(4))
def test_both_ways_back_agree(seed):
    rule, inputs = Toy(), drawn_inputs(seed)
    for constants in ((), ("h",), ("delta", "h", "losses")):
        one, other = (called(way, rule, mixing_call(rule), inputs, constants) for way in WAYS)
        assert one.handed_through == other.handed_through == {"h_hat": "h"}
        assert set(one.outputs) == set(other.outputs)
        bars = drawn_bars(one.outputs, ["delta_hat", "sum", "square", "of_parameter"], seed)
        for taped, functional in zip(one.pull_back(bars), other.pull_back(bars), strict=True):
            for name in set(taped) | set(functional):
                if name not in taped:  # the functional way gives zeros where the tape gives none
                    assert not functional[name].any()
                else:
                    torch.testing.assert_close(taped[name], functional[name], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("way", WAYS)
def test_outputs_that_are_inputs_are_the_very_same_objects(way):
    """The engine merges a first layer's steps by the identity of h."""
    rule, inputs = Toy(), drawn_inputs()

    def call(given):
        return {"delta_hat": given["delta"], "h_hat": given["h"], "copy": given["h"] * 1, "view": given["delta"][:]}

    for constants in ((), ("h",), ("delta", "h", "losses", "memory")):
        call_made = called(way, rule, call, inputs, constants)
        assert call_made.handed_through == {"delta_hat": "delta", "h_hat": "h"}
        assert call_made.outputs["delta_hat"] is inputs["delta"]
        assert call_made.outputs["h_hat"] is inputs["h"]
        assert call_made.outputs["copy"] is not inputs["h"]


@pytest.mark.parametrize("way", WAYS)
def test_an_input_that_is_used_and_returned_twice_gets_the_sum_of_its_derivatives(way):
    rule, inputs = Toy(), drawn_inputs()

    def call(given):
        return {"one": given["delta"], "two": given["delta"], "thrice": 3 * given["delta"]}

    call_made = called(way, rule, call, inputs)
    bars = drawn_bars(call_made.outputs)
    of_inputs, of_parameters = call_made.pull_back(bars)
    torch.testing.assert_close(
        of_inputs["delta"], bars["one"] + bars["two"] + 3 * bars["thrice"], rtol=1e-14, atol=1e-15
    )
    assert not any(bar.any() for bar in of_parameters.values())


@pytest.mark.parametrize("way", WAYS)
def test_handing_everything_through_needs_no_way_back(way):
    rule, inputs = Toy(), drawn_inputs()
    call_made = called(way, rule, lambda given: {"delta_hat": given["delta"], "h_hat": given["h"]}, inputs)
    bars = drawn_bars(call_made.outputs)
    of_inputs, of_parameters = call_made.pull_back(bars)
    assert of_inputs["delta"] is bars["delta_hat"]
    assert of_inputs["h"] is bars["h_hat"]
    assert of_parameters == {}


@pytest.mark.parametrize("way", WAYS)
def test_constants_get_no_derivative_from_what_is_made_of_them(way):
    rule, inputs = Toy(), drawn_inputs()
    call_made = called(way, rule, mixing_call(rule), inputs, ("delta", "h", "losses"))
    bars = drawn_bars(call_made.outputs, ["delta_hat", "sum", "square"])
    of_inputs, of_parameters = call_made.pull_back(bars)
    assert set(of_inputs) == {"memory"}
    expected = by_autograd(mixing_call(rule), inputs, dict(rule.named_parameters()), bars)
    torch.testing.assert_close(of_inputs["memory"], expected["memory"], rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(of_parameters["gain"], expected["gain"], rtol=1e-13, atol=1e-15)


def test_parameters_and_inputs_without_influence_are_left_out_by_the_tape():
    rule, inputs = Toy(), drawn_inputs()
    call_made = called(_by_tape, rule, mixing_call(rule), inputs)
    of_inputs, of_parameters = call_made.pull_back(drawn_bars(call_made.outputs, ["square"]))
    assert set(of_inputs) == {"memory"}
    assert of_parameters == {}
    of_inputs, of_parameters = call_made.pull_back({})
    assert of_inputs == of_parameters == {}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_with_constant_inputs_still_gives_the_parameters_their_gradients(way):
    rule, inputs = Toy(), drawn_inputs()
    del inputs["memory"]
    call_made = called(way, rule, lambda given: {"made": given["delta"] * rule.gain}, inputs, ("delta", "h", "losses"))
    bars = drawn_bars(call_made.outputs)
    of_inputs, of_parameters = call_made.pull_back(bars)
    assert of_inputs == {}
    torch.testing.assert_close(
        of_parameters["gain"], (bars["made"] * inputs["delta"]).sum(dim=(0, 1)), rtol=1e-13, atol=1e-15
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_parameter_may_have_the_name_of_an_input(way):
    rule, inputs = Toy(), drawn_inputs()
    rule.delta = nn.Parameter(torch.tensor([0.2, 0.4, -0.6], dtype=torch.float64))

    def call(given):
        return {"delta_hat": given["delta"] * rule.delta}

    call_made = called(way, rule, call, inputs)
    bars = drawn_bars(call_made.outputs)
    of_inputs, of_parameters = call_made.pull_back(bars)
    torch.testing.assert_close(of_inputs["delta"], bars["delta_hat"] * rule.delta.detach(), rtol=1e-13, atol=1e-15)
    expected = (bars["delta_hat"] * inputs["delta"]).sum(dim=(0, 1))
    torch.testing.assert_close(of_parameters["delta"], expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("way", WAYS)
def test_inputs_and_parameters_stay_as_they_were(way):
    rule, inputs = Toy(), drawn_inputs()
    tensors = [*inputs.values(), *rule.parameters()]
    before = [tensor.detach().clone() for tensor in tensors]
    call_made = called(way, rule, mixing_call(rule), inputs)
    call_made.pull_back(drawn_bars(call_made.outputs))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True))
    assert not any(tensor.requires_grad for tensor in inputs.values())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in rule.parameters())


def test_without_parameters_asked_for_a_call_is_made_without_a_way_back():
    rule, inputs = Toy(), drawn_inputs()
    function = mixing_call(rule)
    with torch.no_grad():
        call = call_rule(
            rule, lambda given: values(function(named(given))), values(inputs), None, constants=frozenset()
        )
    assert call.outputs.signals["h_hat"] is inputs["h"]
    assert call.hands_through("h_hat", "h")
    assert not call.hands_through("delta_hat", "delta")
    assert call.pull_back_computed is None


def test_a_tensor_that_is_carried_is_no_signal_of_the_same_name():
    rule, delta = Toy(), torch.ones(2, 4, 3, dtype=torch.float64)
    inputs = Values({"delta": delta}, {"delta": 2 * delta})
    with torch.no_grad():
        call = _by_tape(rule, lambda given: Values({"delta_hat": given.carried["delta"]}, {}), inputs, {}, frozenset())
    assert not call.hands_through("delta_hat", "delta")
    of_inputs, _ = call.pull_back(Values({"delta_hat": delta}, {}))
    assert of_inputs.signals == {}
    assert of_inputs.carried["delta"] is delta


def test_outside_of_the_compiler_the_tape_is_taken():
    rule, inputs = Toy(), values(drawn_inputs())
    with torch.no_grad():
        call = call_rule(rule, lambda given: given, inputs, dict(rule.named_parameters()), constants=frozenset())
    assert call.pull_back_computed.func.__name__ == "_tape_pulled_back"
