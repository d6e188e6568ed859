"""MAML and NORML once more: slow, one episode, one example and one gate at a time, and nothing of `norml` in it.

Plain functions on the dictionary of a meta-learner's named parameters. Layer gradients come from autograd, not from
an explicit backward pass; fast weights are matrices; the LSTM cell is written out gate by gate (paper eqs 14-19). Of a
convolution, every window is cut out by itself.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Parameters = dict[str, Tensor]
Weights = list[tuple[Tensor, Tensor]]  # (W_l [O, I], b_l [O]) of every layer
Statistics = list[tuple[Tensor, Tensor]]  # batch norm's mean and variance, each [O], of every hidden layer

MAML_RULES: dict[str, dict[str, Any]] = {
    "maml-constant-lr": {"learned_rates": "none"},
    "maml-global-lr": {"learned_rates": "global"},
    "maml-layerwise-lr": {"learned_rates": "layer-wise"},
}
PER_STEP_RULES: dict[str, dict[str, Any]] = {"maml-per-step-lr": {"learned_rates": "layer-and-step-wise"}}
RATES_FOR_STEPS = 2  # of the meta-learners that tests/conftest.py makes with a rate a step
STATIC_RULES: dict[str, dict[str, Any]] = {"static-gates": {"gate_scale": 2.0}}
CURVATURE_RULES: dict[str, dict[str, Any]] = {
    "meta-curvature": {"curvature": "two-matrices"},
    "t-net": {"curvature": "t-net"},
}
PACED_RULES: dict[str, dict[str, Any]] = {"alfa": {"initial_decay": 0.0}}
META_SGD_RULES: dict[str, dict[str, Any]] = {"meta-sgd": {"learned_rates": "every-weight"}}
NORML_METHODS: dict[str, dict[str, Any]] = {
    "norml": {},
    "norml-zero-hidden": {"previous_hidden": False},
    "norml-zero-cell": {"previous_cell": False},
    "norml-zero-hidden-zero-cell": {"previous_hidden": False, "previous_cell": False},
}
NORML_VARIANTS: dict[str, dict[str, Any]] = {
    "norml-layerwise-lr": {"layer_rates": True},
    "norml-no-hidden-state": {"hidden_state": "none"},
    "norml-batch-shared": {"gates": "batch-shared"},
    "norml-flattened": {"gates": "flattened"},
    "norml-log-sign": {"input_normalisation": "log-sign"},
    "norml-raw-inputs": {"input_normalisation": "none"},
    "norml-narrow-cell": {"cell_size": 2, "gate_scale": 1.5},
    "norml-batch-shared-log-sign": {"gates": "batch-shared", "input_normalisation": "log-sign"},
    "norml-flattened-log-sign": {"gates": "flattened", "input_normalisation": "log-sign"},
}
NORML_RULES = NORML_METHODS | NORML_VARIANTS
MEMORYLESS_RULES = MAML_RULES | META_SGD_RULES | STATIC_RULES | CURVATURE_RULES
METHODS = MEMORYLESS_RULES | PER_STEP_RULES | PACED_RULES | NORML_METHODS
RULES = METHODS | NORML_VARIANTS
CHANNEL_SUMMARIES: dict[str, dict[str, Any]] = {
    "norml-channel-mean": {"channel_summary": "mean"},
    "norml-channel-size": {"channel_summary": "size", "gates": "batch-shared"},
}


@dataclass(frozen=True)
class Images:
    """What convolutions do to square images: as `norml.Convolutions`, whose settings have the same names."""

    image_size: int
    in_channels: int = 1
    kernel: int = 3
    stride: int = 2
    padding: str = "same"
    max_pool: bool = False
    end: str = "mean"


@dataclass(frozen=True)
class Settings:
    """What the reference needs to know beside the parameters. `rule`: an entry of RULES. `still`: frozen layers."""

    inner_lr: float
    inner_steps: int
    rule: dict[str, Any] = field(default_factory=dict)
    first_order: bool = False
    query_statistics: str = "query"
    still: frozenset[int] = frozenset()
    support_order: str = "full"
    images: Images | None = None
    tied_classes: int | None = None  # N, where the head starts as one row for all classes, or as zero


def initial_weights(p: Parameters, tied_classes: int | None = None) -> Weights:
    n_layers = sum(name.startswith("learner.weights.") for name in p)
    weights = [(p[f"learner.weights.{layer}"], p[f"learner.biases.{layer}"]) for layer in range(n_layers)]
    if tied_classes is None:
        return weights
    row = weights[-1][0]
    zero = row.new_zeros(row.shape[1], requires_grad=True)
    rows = torch.stack([row[0] if len(row) else zero for _ in range(tied_classes)])
    return [*weights[:-1], (rows, row.new_zeros(tied_classes, requires_grad=True))]


def is_tied(settings: Settings, layer: int, weights: Weights) -> bool:
    return settings.tied_classes is not None and layer == len(weights) - 1


def forward(
    p: Parameters, weights: Weights, x: Tensor, statistics: Statistics | None = None, images: Images | None = None
) -> tuple[list[Tensor], list[Tensor], Statistics]:
    """Pre-activations a_l [B, O] (the last are the logits), inputs h_{l-1} [B, I] and statistics, for x [B, D].

    Of convolutions, both are maps: [B, O, side, side] and [B, I, side, side].
    """
    pre_activations, inputs, used = [], [], []
    h = x if images is None else x.reshape(len(x), images.image_size, images.image_size, -1).permute(0, 3, 1, 2)
    for layer, (w, b) in enumerate(weights):
        inputs.append(h)
        a = torch.stack([linear(w, b, example, images) for example in h])  # eq. 1
        pre_activations.append(a)
        if layer == len(weights) - 1:
            break
        if statistics is None:
            mean = by_node(a).sum(0) / len(by_node(a))
            variance = ((by_node(a) - mean) ** 2).sum(0) / len(by_node(a))
        else:
            mean, variance = statistics[layer]
        used.append((mean, variance))
        z = (a - spread(mean, a)) / torch.sqrt(spread(variance, a) + 1e-3)
        if f"learner.scales.{layer}" in p:
            z = z * spread(p[f"learner.scales.{layer}"], a)
        z = z + spread(p[f"learner.shifts.{layer}"], a)
        h = torch.where(z > 0, z, torch.zeros_like(z))
        if images is not None:
            h = after_convolution(h, images, is_last=layer == len(weights) - 2)
    return pre_activations, inputs, used


def linear(w: Tensor, b: Tensor, example: Tensor, images: Images | None) -> Tensor:
    """W h + b of one example: of a vector, or of every window of maps [C, side, side]."""
    if images is None or example.dim() == 1:
        return w @ example + b
    by_position = torch.stack([w @ window + b for window in windows(example, images)])
    side = math.isqrt(len(by_position))
    return by_position.T.reshape(-1, side, side)


def windows(maps: Tensor, images: Images) -> list[Tensor]:
    """Every window of maps [C, side, side], row by row: its rows, then columns, then channels, as one vector."""
    k, stride, side = images.kernel, images.stride, maps.shape[-1]
    if images.padding == "same":
        n = math.ceil(side / stride)
        missing = max(0, (n - 1) * stride + k - side)
        maps = functional.pad(maps, (missing // 2, missing - missing // 2) * 2)
    starts = range(0, maps.shape[-1] - k + 1, stride)
    return [maps[:, i : i + k, j : j + k].permute(1, 2, 0).flatten() for i in starts for j in starts]


def after_convolution(maps: Tensor, images: Images, *, is_last: bool) -> Tensor:
    """Pooled maps, or what they become for the layer to the classes."""
    if images.max_pool:
        maps = functional.max_pool2d(maps, 2)
    if not is_last:
        return maps
    return maps.mean((2, 3)) if images.end == "mean" else maps.permute(0, 2, 3, 1).flatten(1)


def by_node(a: Tensor) -> Tensor:
    """[examples (and positions), nodes]."""
    return a if a.dim() == 2 else a.permute(0, 2, 3, 1).flatten(0, 2)


def spread(nodes: Tensor, maps: Tensor) -> Tensor:
    """One number a node, as it meets vectors [B, nodes] or maps [B, nodes, side, side]."""
    return nodes if maps.dim() == 2 else nodes[:, None, None]


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy of each example."""
    return torch.stack([torch.logsumexp(a, 0) - a[y] for a, y in zip(logits, labels, strict=True)])


def adapted(p: Parameters, settings: Settings, x: Tensor, y: Tensor) -> Weights:
    """One episode's weights after T inner steps on its support set x [S, D], y [S]."""
    return weights_of_each_step(p, settings, x, y)[-1]


def weights_of_each_step(p: Parameters, settings: Settings, x: Tensor, y: Tensor) -> list[Weights]:
    """One episode's weights before the first inner step and after each."""
    every = [initial_weights(p, settings.tied_classes)]
    memory: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    orders = [range(len(x))] if settings.support_order == "full" else [[row] for row in in_rounds(y)]
    for t, rows in enumerate(rows for _ in range(settings.inner_steps) for rows in map(list, orders)):
        seen_x, seen_y = x[rows], y[rows]
        if settings.rule in (NORML_RULES | CHANNEL_SUMMARIES).values():
            stepped = norml_step(p, settings, every[-1], seen_x, seen_y, memory=memory)
        else:
            stepped = gradient_step(p, settings, every[-1], seen_x, seen_y, t=t)
        layers = enumerate(zip(every[-1], stepped, strict=True))
        every.append([before if layer in settings.still else after for layer, (before, after) in layers])
    return every


def in_rounds(y: Tensor) -> list[int]:
    """Rows of a support set: of every class the first, in the order of labels, then of every class the second."""
    of_class = {
        label: [row for row, each in enumerate(y.tolist()) if each == label] for label in sorted(set(y.tolist()))
    }
    longest = max(len(rows) for rows in of_class.values())
    return [rows[number] for number in range(longest) for rows in of_class.values() if number < len(rows)]


def gradient_step(p: Parameters, settings: Settings, weights: Weights, x: Tensor, y: Tensor, *, t: int) -> Weights:
    """A step along what the rule makes of the gradient of the mean support loss, which is found by autograd."""
    loss = example_losses(forward(p, weights, x, images=settings.images)[0][-1], y).mean()
    flat = [tensor for pair in weights for tensor in pair]
    gradients = torch.autograd.grad(loss, flat, create_graph=not settings.first_order)
    if "initial_decay" in settings.rule:
        return alfa_step(p, settings.inner_lr, weights, gradients, t=t)
    stepped = []
    for layer, (w, b) in enumerate(weights):
        w_step, b_step = along(p, settings.rule, layer, gradients[2 * layer], gradients[2 * layer + 1], t=t)
        stepped.append((w - settings.inner_lr * w_step, b - settings.inner_lr * b_step))
    return stepped


def alfa_step(p: Parameters, inner_lr: float, weights: Weights, gradients: tuple[Tensor, ...], *, t: int) -> Weights:
    """W <- decay W - eta rate G, by a net of two layers that sees the mean of every layer's W, then of every G."""
    means = torch.stack([w.mean() for w, _ in weights] + [gradient.mean() for gradient in gradients[::2]])
    hidden = p["rule.in_weight"] @ means + p["rule.in_bias"]
    out = p["rule.out_weight"] @ torch.where(hidden > 0, hidden, torch.zeros_like(hidden)) + p["rule.out_bias"]
    step, n_layers, stepped = min(t, RATES_FOR_STEPS - 1), len(weights), []
    for layer, (w, b) in enumerate(weights):
        rate = inner_lr * p["rule.rate_factors"][step, layer] * out[layer]
        decay = 1 - p["rule.decay_factors"][step, layer] * out[n_layers + layer]
        stepped.append((decay * w - rate * gradients[2 * layer], decay * b - rate * gradients[2 * layer + 1]))
    return stepped


def along(
    p: Parameters, rule: dict[str, Any], layer: int, w_gradient: Tensor, b_gradient: Tensor, *, t: int
) -> tuple[Tensor, Tensor]:
    """The directions of weights and biases in step t."""
    if "curvature" in rule:
        out = p[f"rule.out_matrices.{layer}"]
        out = out if len(out) == len(w_gradient) else out[0, 0] * torch.eye(len(w_gradient), dtype=out.dtype)
        if rule["curvature"] == "t-net":
            return out @ out.T @ w_gradient, out @ out.T @ b_gradient
        in_matrix = p[f"rule.in_matrices.{layer}"]
        places = w_gradient.shape[1] // len(in_matrix)  # of a window, the same matrix for the channels at each
        return out @ w_gradient @ torch.block_diag(*[in_matrix] * places), out @ b_gradient
    if "gate_scale" in rule:
        of_row, of_column = (
            rule["gate_scale"] * sigmoid(p[f"rule.{signal}_biases.{layer}"]) for signal in ("delta", "h")
        )
        of_column = of_column.repeat(w_gradient.shape[1] // len(of_column))
        of_row = of_row.expand(len(w_gradient))  # of a tied head: one for all classes
        return torch.diag(of_row) @ w_gradient @ torch.diag(of_column), of_row * b_gradient
    if rule["learned_rates"] == "every-weight":
        return p[f"rule.weight_rates.{layer}"] * w_gradient, p[f"rule.bias_rates.{layer}"] * b_gradient
    rate = {
        "none": lambda: torch.ones(()),
        "global": lambda: torch.exp(p["rule.log_alpha"][0]),
        "layer-wise": lambda: torch.exp(p["rule.log_alpha"][layer]),
        "layer-and-step-wise": lambda: torch.exp(p["rule.log_alpha"][layer, min(t, RATES_FOR_STEPS - 1)]),
    }[rule["learned_rates"]]()
    return rate * w_gradient, rate * b_gradient


def norml_step(
    p: Parameters,
    settings: Settings,
    weights: Weights,
    x: Tensor,
    y: Tensor,
    *,
    memory: dict[tuple[int, int], tuple[Tensor, Tensor]],
) -> Weights:
    """Algorithm 1, lines 10-12: the outer products of the gated signals, example by example."""
    pre_activations, inputs, _ = forward(p, weights, x, images=settings.images)
    losses = example_losses(pre_activations[-1], y)
    deltas = list(torch.autograd.grad(losses.mean(), pre_activations, create_graph=True))
    if settings.first_order:
        losses = losses.detach()
        deltas, inputs = [d.detach() for d in deltas], [h.detach() for h in inputs]
    n_support = len(x)
    stepped = []
    for layer, (w, b) in enumerate(weights):
        new_w, new_b = w, b
        gates = gates_of_examples(
            p,
            settings.rule,
            layer,
            losses=losses,
            deltas=deltas[layer] * len(by_node(deltas[layer])),
            inputs=inputs[layer],
            memory=memory,
            tied=is_tied(settings, layer, weights),
        )
        for s in range(n_support):
            delta_gate, h_gate = gates[s]
            delta_hat = deltas[layer][s] * spread(delta_gate, deltas[layer])  # eq. 18
            if "layer_rates" in settings.rule:
                delta_hat = torch.exp(p["rule.log_alpha"][layer]) * delta_hat
            h_hat = inputs[layer][s] * spread(h_gate, inputs[layer])  # eq. 19
            is_vector = delta_hat.dim() == 1
            rows = [delta_hat] if is_vector else list(delta_hat.flatten(1).T)
            patches = [h_hat] if is_vector or settings.images is None else windows(h_hat, settings.images)
            for delta_row, patch in zip(rows, patches, strict=True):
                new_w = new_w - settings.inner_lr * torch.outer(delta_row, patch)  # eq. 9
                new_b = new_b - settings.inner_lr * delta_row  # eq. 10
        stepped.append((new_w, new_b))
    return stepped


def gates_of_examples(
    p: Parameters,
    rule: dict[str, Any],
    layer: int,
    *,
    losses: Tensor,
    deltas: Tensor,
    inputs: Tensor,
    memory: dict[tuple[int, int], tuple[Tensor, Tensor]],
    tied: bool = False,
) -> list[tuple[Tensor, Tensor]]:
    """(delta gate, h gate) of every example; `memory` holds a cell's state by (layer, example), or (layer, 0).

    tied: one delta gate for all classes, whose delta the cell does not see.
    """
    normalise = {"standardise": standardise, "log-sign": log_sign, "none": lambda v: v}[
        rule.get("input_normalisation", "standardise")
    ]
    kind = rule.get("gates", "per-example")
    n_support = len(losses)
    of_delta, of_h = [] if tied else summaries(deltas, rule), summaries(inputs, rule)
    if kind == "per-example":
        seen = [
            torch.cat([losses[s].reshape(1), *(normalise(part[s]) for part in of_delta + of_h)])
            for s in range(n_support)
        ]
    elif kind == "batch-shared":
        sizes = [sum(d.abs() for d in part) / n_support for part in of_delta]
        means = [sum(iter(part)) / n_support for part in of_h]
        seen = [torch.cat([losses.mean().reshape(1), *(normalise(part) for part in sizes + means)])]
    else:
        seen = [torch.cat([losses, *(normalise(torch.cat(list(part))) for part in of_delta + of_h)])]
    gates = []
    for s, cell_input in enumerate(seen):
        delta_gate, h_gate, memory[layer, s] = cell_step(p, rule, layer, cell_input, memory.get((layer, s)))
        gates.append((delta_gate, h_gate))
    return gates if kind == "per-example" else gates * n_support


def summaries(signal: Tensor, rule: dict[str, Any]) -> list[Tensor]:
    """What enters the cell of a signal [S, nodes]: itself; or of maps [S, nodes, side, side], over positions."""
    if signal.dim() == 2:
        return [signal]
    parts = {"mean": signal.mean((2, 3)), "size": signal.abs().mean((2, 3))}
    return [part for name, part in parts.items() if name in rule.get("channel_summary", "mean-and-size")]


def cell_step(
    p: Parameters, rule: dict[str, Any], layer: int, x: Tensor, state: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Eqs 14-19 for one cell and one input vector, with the hidden state of sec. 5.2 where the rule has one."""
    cell_parameters = {
        name.removeprefix(f"rule.cells.{layer}."): tensor
        for name, tensor in p.items()
        if name.startswith(f"rule.cells.{layer}.")
    }
    forgets = rule.get("previous_cell", True)
    feeds_hidden = rule.get("previous_hidden", True) and rule.get("hidden_state", "output-gate") == "output-gate"
    packed = ["input"] + ["forget"] * forgets + ["output"] * feeds_hidden + ["update"]
    size = len(cell_parameters["bias"]) // len(packed)
    input_weight = torch.cat([cell_parameters[f"{source}_weight"] for source in ("loss", "delta", "h")], dim=1)
    cell, hidden = state or (x.new_zeros(size), x.new_zeros(size))

    def pre_activation(gate: str) -> Tensor:
        rows = slice(packed.index(gate) * size, (packed.index(gate) + 1) * size)
        total = input_weight[rows] @ x + cell_parameters["bias"][rows]
        return total + cell_parameters["hidden_weight"][rows] @ hidden if feeds_hidden else total

    new_cell = sigmoid(pre_activation("input")) * torch.tanh(pre_activation("update"))  # eqs 15-17
    if forgets:
        new_cell = new_cell + sigmoid(pre_activation("forget")) * cell  # eqs 14, 17
    new_hidden = sigmoid(pre_activation("output")) * torch.tanh(new_cell) if feeds_hidden else hidden
    scale = rule.get("gate_scale", 2.0)
    gates = scale * sigmoid(cell_parameters["gate_weight"] @ new_cell + cell_parameters["gate_bias"])
    n_out = len(p[f"learner.biases.{layer}"]) or 1  # a tied head has no bias, and one gate
    return gates[:n_out], gates[n_out:], (new_cell, new_hidden)


def sigmoid(v: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-v))


def standardise(v: Tensor) -> Tensor:
    """Zero mean, unit variance over a vector's entries."""
    centred = v - v.sum() / len(v)
    return centred / torch.sqrt((centred**2).sum() / len(v) + 1e-20)


def log_sign(v: Tensor) -> Tensor:
    """Ravi & Larochelle 2017 with p = 10: all sizes, then all signs."""
    sizes, signs = [], []
    for entry in v:
        if abs(entry.item()) >= math.exp(-10):
            sizes.append(torch.log(torch.abs(entry)) / 10)
            signs.append(torch.sign(entry))
        else:
            sizes.append(-torch.ones_like(entry))
            signs.append(entry * math.exp(10))
    return torch.stack(sizes + signs)


def query_logits(p: Parameters, settings: Settings, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """One episode's query logits [M, N]."""
    weights = adapted(p, settings, support_x, support_y)
    of_support = forward(p, weights, support_x, images=settings.images)[2]
    statistics = of_support if settings.query_statistics == "support" else None
    return forward(p, weights, query_x, statistics, settings.images)[0][-1]


def query_loss(p: Parameters, settings: Settings, batch: Any) -> Tensor:
    """Mean over episodes and queries, one episode at a time."""
    losses = []
    for episode in range(len(batch.support_x)):
        logits = query_logits(p, settings, batch.support_x[episode], batch.support_y[episode], batch.query_x[episode])
        losses.append(example_losses(logits, batch.query_y[episode]).mean())
    return torch.stack(losses).mean()


def multi_step_loss(p: Parameters, settings: Settings, batch: Any, step_weights: list[float]) -> Tensor:
    """The query losses after every inner step, weighed: mean over episodes and queries."""
    losses = []
    for episode in range(len(batch.support_x)):
        every = weights_of_each_step(p, settings, batch.support_x[episode], batch.support_y[episode])
        for weight, weights in zip(step_weights, every[1:], strict=True):
            of_support = forward(p, weights, batch.support_x[episode], images=settings.images)[2]
            statistics = of_support if settings.query_statistics == "support" else None
            logits = forward(p, weights, batch.query_x[episode], statistics, settings.images)[0][-1]
            losses.append(weight * example_losses(logits, batch.query_y[episode]).mean())
    return torch.stack(losses).sum() / len(batch.support_x)


def reptile_way(p: Parameters, settings: Settings, batch: Any) -> Parameters:
    """(theta_0 - theta_T) / eta, a mean over episodes; of batch norm's scale and shift, the sum of their gradients."""
    total = {name: torch.zeros_like(tensor) for name, tensor in p.items()}
    for episode in range(len(batch.x)):
        x, y, weights = batch.x[episode], batch.y[episode], initial_weights(p)
        of_norm = [name for name in p if name.startswith(("learner.scales.", "learner.shifts."))]
        order, part = in_rounds(y), batch.n_support
        parts = [order[start : start + part] for start in range(0, len(order) - part + 1, part)]
        for t in range(settings.inner_steps):
            rows = parts[t % len(parts)]
            loss = example_losses(forward(p, weights, x[rows], images=settings.images)[0][-1], y[rows]).mean()
            flat = [tensor for pair in weights for tensor in pair]
            gradients = torch.autograd.grad(loss, [*flat, *(p[name] for name in of_norm)])
            moved = [w - settings.inner_lr * g for w, g in zip(flat, gradients, strict=False)]
            weights = list(zip(moved[::2], moved[1::2], strict=True))
            for name, gradient in zip(of_norm, gradients[len(flat) :], strict=True):
                total[name] += gradient / len(batch.x)
        for layer, (before, after) in enumerate(zip(initial_weights(p), weights, strict=True)):
            for name, start, end in zip(("weights", "biases"), before, after, strict=True):
                total[f"learner.{name}.{layer}"] += (start - end) / settings.inner_lr / len(batch.x)
    return total


def compared_logits(p: Parameters, settings: Settings, rule: dict[str, str], batch: Any, episode: int) -> Tensor:
    """One episode's query logits [M, N] of a body that compares, query by query and class by class."""
    weights, y = initial_weights(p), batch.support_y[episode]
    _, inputs, used = forward(p, weights, batch.support_x[episode], images=settings.images)
    statistics = used if settings.query_statistics == "support" else None
    support, rows = inputs[-1], []
    for query in forward(p, weights, batch.query_x[episode], statistics, settings.images)[1][-1]:
        row = []
        for label in range(int(y.max()) + 1):
            mine = [s for s in range(len(y)) if y[s] == label]
            if rule["compared_with"] == "class-means":
                row.append(alike(query, sum(support[s] for s in mine) / len(mine), rule))
            else:
                every = torch.stack([torch.exp(alike(query, other, rule)) for other in support])
                row.append(torch.log(sum(every[s] for s in mine) / every.sum()))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def alike(one: Tensor, other: Tensor, rule: dict[str, str]) -> Tensor:
    """Minus the squared distance, or the cosine, which is 0 where all neurons of one are dead."""
    if rule["similarity"] == "euclidean":
        return -((one - other) ** 2).sum()
    if not one.any() or not other.any():
        return one.new_zeros(())
    return (one * other).sum() / torch.sqrt((one**2).sum() * (other**2).sum())


def loss_and_meta_gradient(p: Parameters, settings: Settings, batch: Any) -> tuple[Tensor, Parameters]:
    """The outer loss and its gradient for every named parameter."""
    loss = query_loss(p, settings, batch)
    gradients = torch.autograd.grad(loss, list(p.values()), allow_unused=True, materialize_grads=True)
    return loss.detach(), dict(zip(p, gradients, strict=True))
