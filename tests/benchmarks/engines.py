"""MAML's outer step in six engines behind one interface: ours, plain and compiled, and the same in other libraries.

Each starts from a copy of one learner's initial weights and names its parameters as the learner does, so that their
meta-gradients can be compared one by one. Batch norm's shift, and its scale where the learner has one, are learned by
the outer loop only. Each library is used as its own MAML example uses it, an optimiser of one kind (`workloads.adam`)
takes every outer step.
"""

import copy
import importlib.util
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from norml.adaptation import InnerLoop
from norml.episodes import EpisodeBatch
from norml.layers import LayerShape
from norml.layers.convolution import MaxPool, MeanPool
from norml.learner import Learner
from norml.meta_training import MetaLearner, compiled_meta_gradient, meta_gradient, outer_step
from norml.update_rules.gradient_descent import GradientDescent
from norml_cli.files.errors import UserError
from norml_cli.files.machine import cpp_compiler
from tests.benchmarks.workloads import adam

Tensors = dict[str, Tensor]


class Engine(ABC):
    """One way to compute MAML's meta-gradient."""

    title: ClassVar[str]

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        """`parameters`: what the outer loop learns, under the learner's names (weights.0, biases.0, shifts.0, ...)."""
        self.parameters = parameters
        self.optimizer = adam(list(parameters.values()))

    @abstractmethod
    def differentiate(self, batch: EpisodeBatch) -> None:
        """Set every parameter's gradient of the query loss, a mean over episodes and queries."""

    def step(self, batch: EpisodeBatch) -> None:
        """One outer step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.differentiate(batch)
        self.optimizer.step()

    def meta_gradient(self, batch: EpisodeBatch) -> Tensors:
        """The gradient of every parameter."""
        self.optimizer.zero_grad(set_to_none=True)
        self.differentiate(batch)
        return {name: p.grad.clone() for name, p in self.parameters.items() if p.grad is not None}


class Ours(Engine):
    """This project's engine, by the function that `norml run` calls."""

    title = "norml"

    def __init__(self, learner: Learner, *, inner_lr: float, inner_steps: int) -> None:
        rule = GradientDescent(learner.n_layers)
        self._meta_learner = MetaLearner(copy.deepcopy(learner), rule, InnerLoop(inner_lr))
        self._inner_steps = inner_steps
        self._gradient = meta_gradient
        super().__init__(dict(self._meta_learner.learner.named_parameters()))

    def differentiate(self, batch: EpisodeBatch) -> None:
        gradients = self._gradient(self._meta_learner, batch, self._inner_steps)[2]
        for name, p in self.parameters.items():
            p.grad = gradients[f"learner.{name}"]

    def step(self, batch: EpisodeBatch) -> None:
        settings = {"inner_steps": self._inner_steps, "gradient": self._gradient}
        outer_step(self._meta_learner, self.optimizer, batch, **settings)


class OursCompiled(Ours):
    """The same compiled, as long runs are; its first step compiles."""

    title = "norml, compiled"

    def __init__(self, learner: Learner, *, inner_lr: float, inner_steps: int) -> None:
        super().__init__(learner, inner_lr=inner_lr, inner_steps=inner_steps)
        self._gradient = compiled_meta_gradient(learner.weights[0].device)


class TorchFunc(Engine):
    """Written by hand with torch.func: a gradient of a vmapped loss that itself takes gradients."""

    title = "torch.func"

    def __init__(self, learner: Learner, *, inner_lr: float, inner_steps: int) -> None:
        super().__init__({name: nn.Parameter(p.detach().clone()) for name, p in learner.named_parameters()})
        layers, epsilon = learner.layers, learner.batch_norm_epsilon

        def loss(parameters: Tensors, x: Tensor, y: Tensor) -> Tensor:
            return functional.cross_entropy(logits(parameters, x, layers=layers, epsilon=epsilon), y)

        def query_loss(parameters: Tensors, *episode: Tensor) -> Tensor:
            support_x, support_y, query_x, query_y = episode
            fast = {name: p for name, p in parameters.items() if name.startswith(("weights", "biases"))}
            for _ in range(inner_steps):
                gradient = torch.func.grad(lambda fast: loss({**parameters, **fast}, support_x, support_y))(fast)
                fast = {name: p - inner_lr * gradient[name] for name, p in fast.items()}
            return loss({**parameters, **fast}, query_x, query_y)

        over_episodes = torch.func.vmap(query_loss, in_dims=(None, 0, 0, 0, 0))
        self._gradient: Callable[..., Tensors] = torch.func.grad(lambda *given: over_episodes(*given).mean())

    def differentiate(self, batch: EpisodeBatch) -> None:
        values = {name: p.detach() for name, p in self.parameters.items()}  # autograd would follow what torch.func does
        gradient = self._gradient(values, batch.support_x, batch.support_y, batch.query_x, batch.query_y)
        for name, p in self.parameters.items():
            p.grad = gradient[name]


class CompiledTorchFunc(TorchFunc):
    """The same under torch.compile, for one fixed shape; its first step compiles."""

    title = "torch.func, compiled"

    def __init__(self, learner: Learner, *, inner_lr: float, inner_steps: int) -> None:
        super().__init__(learner, inner_lr=inner_lr, inner_steps=inner_steps)
        torch.compiler.reset()  # nothing is left of another shape's compilation
        self._gradient = torch.compile(self._gradient, dynamic=False)


class Autograd(Engine):
    """Plain autograd, one episode after another."""

    title = "autograd, episode by episode"

    def __init__(self, learner: Learner, *, inner_lr: float, inner_steps: int) -> None:
        super().__init__({name: nn.Parameter(p.detach().clone()) for name, p in learner.named_parameters()})
        self._shape = {"layers": learner.layers, "epsilon": learner.batch_norm_epsilon}
        self._inner_lr, self._inner_steps = inner_lr, inner_steps

    def differentiate(self, batch: EpisodeBatch) -> None:
        for support_x, support_y, query_x, query_y in _one_by_one(batch):
            fast = {name: p for name, p in self.parameters.items() if name.startswith(("weights", "biases"))}
            for _ in range(self._inner_steps):
                loss = self._loss(fast, support_x, support_y)
                gradients = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
                fast = {
                    name: p - self._inner_lr * gradient
                    for (name, p), gradient in zip(fast.items(), gradients, strict=True)
                }
            (self._loss(fast, query_x, query_y) / len(batch.support_x)).backward()

    def _loss(self, fast: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(logits({**self.parameters, **fast}, x, **self._shape), y)


class Network(nn.Module):
    """The learner as the libraries expect it: an ordinary module of one network."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        pairs = zip(learner.weights, learner.biases, strict=True)
        self.linears = nn.ModuleList(_linear(weight, bias) for weight, bias in pairs)
        scales = learner.scales or [None] * len(learner.shifts)
        self.norms = nn.ModuleList(
            _batch_norm(scale, shift, learner.batch_norm_epsilon)
            for scale, shift in zip(scales, learner.shifts, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        for linear, norm in zip(self.linears, self.norms, strict=False):
            x = functional.relu(norm(linear(x)))
        return self.linears[-1](x)

    def learner_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters under the learner's names."""
        names = {"weights": (self.linears, "weight"), "biases": (self.linears, "bias")}
        names |= {"shifts": (self.norms, "bias"), "scales": (self.norms, "weight")}
        return {
            f"{kind}.{layer}": parameter
            for kind, (modules, name) in names.items()
            for layer, module in enumerate(modules)
            if (parameter := getattr(module, name)) is not None
        }


class Higher(Engine):
    """higher 0.2.1, one episode after another (its examples/maml-omniglot.py)."""

    title = "higher"

    def __init__(self, learner: Learner, *, inner_lr: float, inner_steps: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # older than today's Python, and no longer maintained
            import higher  # noqa: PLC0415 - a peer need not be installed unless it is timed
        self._innerloop = higher.innerloop_ctx
        self._network, self._inner_steps = Network(learner), inner_steps
        self._inner_optimizer = torch.optim.SGD(self._network.linears.parameters(), lr=inner_lr)
        super().__init__(self._network.learner_parameters())

    def differentiate(self, batch: EpisodeBatch) -> None:
        for support_x, support_y, query_x, query_y in _one_by_one(batch):
            context = self._innerloop(self._network, self._inner_optimizer, copy_initial_weights=False)
            with context as (adapted, inner_optimizer):
                for _ in range(self._inner_steps):
                    inner_optimizer.step(functional.cross_entropy(adapted(support_x), support_y))
                loss = functional.cross_entropy(adapted(query_x), query_y)
                (loss / len(batch.support_x)).backward()


class TorchOptMetaSgd(Engine):
    """TorchOpt's MetaSGD, one episode after another (its examples/few-shot/maml_omniglot.py)."""

    title = "TorchOpt MetaSGD"

    def __init__(self, learner: Learner, *, inner_lr: float, inner_steps: int) -> None:
        import torchopt  # noqa: PLC0415 - a peer need not be installed unless it is timed

        self._torchopt = torchopt
        self._network, self._inner_steps = Network(learner), inner_steps
        super().__init__(self._network.learner_parameters())
        self._inner_optimizer = torchopt.MetaSGD(self._network.linears, lr=inner_lr)

    def differentiate(self, batch: EpisodeBatch) -> None:
        stateful = (self._network, self._inner_optimizer)
        initial = [self._torchopt.extract_state_dict(part, by="reference") for part in stateful]
        losses = []
        for support_x, support_y, query_x, query_y in _one_by_one(batch):
            for _ in range(self._inner_steps):
                self._inner_optimizer.step(functional.cross_entropy(self._network(support_x), support_y))
            losses.append(functional.cross_entropy(self._network(query_x), query_y))
            for part, state in zip(stateful, initial, strict=True):
                self._torchopt.recover_state_dict(part, state)
        torch.stack(losses).mean().backward()


ENGINES: tuple[type[Engine], ...] = (Ours, OursCompiled, CompiledTorchFunc, TorchFunc, TorchOptMetaSgd, Higher)

COMPILED = (OursCompiled, CompiledTorchFunc)
PEERS: dict[str, type[Engine]] = {"higher": Higher, "torchopt": TorchOptMetaSgd}  # by the package that each needs


def usable_engines(*, compiled: bool, all_peers: bool) -> tuple[list[type[Engine]], list[str]]:
    """The engines to time, and the peers that are not installed.

    Raises UserError if one of the compiled cannot run here, or if a peer is missing and `all_peers` are wanted.
    """
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    if missing and all_peers:
        raise UserError(f"{' and '.join(missing)} not installed; call `nox -s bench`, which installs the peers")
    if compiled and cpp_compiler() is None:
        raise UserError("torch.compile finds no C++ compiler; install one or add --no-compile")
    left_out = {PEERS[name] for name in missing} | (set() if compiled else set(COMPILED))
    return [engine for engine in ENGINES if engine not in left_out], missing


def _one_by_one(batch: EpisodeBatch) -> zip:
    return zip(batch.support_x, batch.support_y, batch.query_x, batch.query_y, strict=True)


def logits(parameters: Tensors, x: Tensor, *, layers: Sequence[LayerShape], epsilon: float) -> Tensor:
    """Logits [B, N] of one episode's examples [B, D], by torch's own operations."""
    window = layers[0].window
    if window is not None:
        x = x.reshape(-1, window.side, window.side, window.channels).permute(0, 3, 1, 2)
    for number, layer in enumerate(layers[:-1]):
        a = _pre_activations(layer, parameters[f"weights.{number}"], parameters[f"biases.{number}"], x)
        scale, shift = parameters.get(f"scales.{number}"), parameters[f"shifts.{number}"]
        x = functional.relu(functional.batch_norm(a, None, None, scale, shift, training=True, eps=epsilon))
        x = _pooled(layer, x)
    last = len(layers) - 1
    return functional.linear(x, parameters[f"weights.{last}"], parameters[f"biases.{last}"])


def _pre_activations(layer: LayerShape, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    window = layer.window
    if window is None:
        return functional.linear(x, weight, bias)
    filters = weight.view(layer.nodes_out, window.kernel, window.kernel, layer.nodes_in).permute(0, 3, 1, 2)
    zeros = max(0, window.stride * (window.side_out - 1) + window.kernel - window.side)
    if zeros % 2:  # torch pads both sides alike
        x = functional.pad(x, (zeros // 2, zeros - zeros // 2) * 2)
    return functional.conv2d(x, filters, bias, stride=window.stride, padding=0 if zeros % 2 else zeros // 2)


def _pooled(layer: LayerShape, x: Tensor) -> Tensor:
    for pool in layer.pools:
        if isinstance(pool, MaxPool):
            x = functional.max_pool2d(x, 2)
        elif isinstance(pool, MeanPool):
            x = x.mean((2, 3))
        else:
            x = x.permute(0, 2, 3, 1).flatten(1)
    return x


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.weight, made.bias = _copied(weight), _copied(bias)
    return made


def _batch_norm(scale: Tensor | None, shift: Tensor, epsilon: float) -> nn.BatchNorm1d:
    made = nn.BatchNorm1d(len(shift), eps=epsilon, track_running_stats=False)
    made.weight, made.bias = None if scale is None else _copied(scale), _copied(shift)
    return made


def _copied(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone())
