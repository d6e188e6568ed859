"""The inner loop, the only one: for training and evaluation, for every update rule."""

from collections.abc import Sequence

from torch import Tensor

from norml.fast_weights import Form, LayerWeights
from norml.learner import Learner, cross_entropy
from norml.update_rules import State, UpdateRule


def adapt(
    learner: Learner,
    rule: UpdateRule,
    support_x: Tensor,
    support_y: Tensor,
    *,
    inner_lr: float,
    inner_steps: int,
    first_order: bool = False,
    forms: Sequence[Form] | None = None,
) -> list[LayerWeights]:
    """Run T inner steps on the support sets of E independent episodes (paper Algorithm 1, lines 7-13; eqs 8-10).

    support_x [E, S, D]; support_y [E, S] int64 in 0..N-1. Returns each layer's weights, one set an episode.
    The support loss is a mean over S and a sum over E, so no episode sees another. Every step uses the whole support
    set (Algorithm 1's loop over single examples contradicts batch norm and the text's "10 epochs").
    `first_order`: the meta-gradient treats delta and h as constants. `forms`: how each layer holds its weights.
    Raises ValueError if the leading axes differ.
    """
    if support_x.shape[:2] != support_y.shape:
        shapes = f"support_x {tuple(support_x.shape)} and support_y {tuple(support_y.shape)}"
        raise ValueError(f"{shapes} do not go together; expected [E, S, D] and [E, S]")
    weights = learner.initial(forms)
    states: list[State] = []
    for _ in range(inner_steps):
        logits, trace = learner(weights, support_x)
        losses, delta_out = cross_entropy(logits, support_y)
        deltas, inputs = learner.backward(weights, trace, delta_out), trace.inputs
        if first_order:
            losses, deltas = losses.detach(), [delta.detach() for delta in deltas]
            # The support set stays the object it is: the first layer knows it again from step to step.
            inputs = [h.detach() if h.requires_grad else h for h in inputs]
        states = states or [rule.initial_state(layer, delta) for layer, delta in enumerate(deltas)]
        for layer, (delta, h) in enumerate(zip(deltas, inputs, strict=True)):
            delta_hat, h_hat, states[layer] = rule.scaled(layer, delta, h, losses, states[layer])
            weights[layer] = weights[layer].stepped(delta_hat, h_hat, inner_lr)
    return weights
