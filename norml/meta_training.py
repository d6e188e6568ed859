"""The meta-learner (initial weights and update rule), its meta-gradient and its outer step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from norml.adaptation import Adaptation, InnerLoop
from norml.adapted import Adapted
from norml.arguments import check_examples, check_labels, check_range
from norml.episodes import EpisodeBatch
from norml.learner import Learner, cross_entropy
from norml.update_rules import UpdateRule


class MetaTrained(nn.Module, ABC):
    """Everything that the outer loop learns: a learner's initial weights theta_0 and a rule's parameters Phi."""

    def __init__(self, learner: Learner, rule: nn.Module, *, n_way: int) -> None:
        super().__init__()
        self.learner, self.rule, self.n_way = learner, rule, n_way

    def forward(self, batch: EpisodeBatch, inner_steps: int) -> Tensor:
        """Query logits [E, M, N] after `inner_steps` inner steps on the support sets.

        Differentiable once, by this module's parameters but not by the episodes. Raises TypeError or ValueError for a
        batch that does not fit the learner; support labels are checked on the CPU only.
        """
        if not torch.is_grad_enabled():
            return self.adapt_and_query(batch, inner_steps, reversible=False)[1]
        logits: Tensor = _QueryLogits.apply(self, batch, inner_steps, *self.parameters())
        return logits

    def adapt(self, support_x: Tensor, support_y: Tensor, inner_steps: int) -> Adapted:
        """Adapt the learner to support sets [E, S, D] with labels [E, S] int64 in 0..N-1; then call its `logits`.

        Raises TypeError or ValueError for data that do not fit the learner; labels are checked on the CPU only.
        """
        self._check_support(support_x, support_y)
        return self.adapted(support_x, support_y, inner_steps, reversible=False)

    def _check_support(self, support_x: Tensor, support_y: Tensor) -> None:
        check_examples("support_x", support_x, "[E, S, D]", self.learner.sizes[0], self.learner.weights[0])
        check_labels("support_y", support_y, "[E, S]", (support_x.shape[0], support_x.shape[1]))

    @abstractmethod
    def adapted(self, x: Tensor, support_y: Tensor, inner_steps: int, *, reversible: bool) -> Adapted:
        """As `adapt`, for x [E, S + M, D] with the queries last. reversible: keep what `reverse` needs."""

    def adapt_and_query(self, batch: EpisodeBatch, inner_steps: int, *, reversible: bool) -> tuple[Adapted, Tensor]:
        """The learner adapted to the support sets, and the query logits [E, M, N]."""
        adapted = self.adapted(batch.x, batch.support_y, inner_steps, reversible=reversible)
        return adapted, adapted.logits()

    def parameter_counts(self) -> dict[str, int]:
        """Numbers of parameters of the learner (without batch norm, as the paper counts) and of the rule."""
        linear = [*self.learner.weights, *self.learner.biases]
        return {
            "learner": sum(p.numel() for p in linear),
            "meta_learner": sum(p.numel() for p in self.rule.parameters()),
        }

    def named(self, learner: dict[str, Tensor], rule: dict[str, Tensor]) -> dict[str, Tensor]:
        """Join values by the learner's and by the rule's parameter names into values by this module's names."""
        parts = {"learner": learner, "rule": rule}
        return {f"{part}.{name}": value for part, of in parts.items() for name, value in of.items()}


class MetaLearner(MetaTrained):
    """A learner and the update rule that adapts it in inner steps."""

    rule: UpdateRule

    def __init__(self, learner: Learner, rule: UpdateRule, inner_loop: InnerLoop) -> None:
        super().__init__(learner, rule, n_way=learner.sizes[-1])
        self.inner_loop = inner_loop

    @override
    def adapt(self, support_x: Tensor, support_y: Tensor, inner_steps: int) -> Adaptation:
        self._check_support(support_x, support_y)
        return self.adapted(support_x, support_y, inner_steps, reversible=False)

    @override
    def adapted(self, x: Tensor, support_y: Tensor, inner_steps: int, *, reversible: bool) -> Adaptation:
        parts = (self.learner, self.rule, self.inner_loop, x, support_y)
        return Adaptation(*parts, inner_steps=inner_steps, reversible=reversible).run()


class _QueryLogits(torch.autograd.Function):
    """The adaptation and its query pass as one autograd operation; its backward is the adaptation's `reverse`."""

    @staticmethod
    def forward(
        ctx: Any, meta_learner: MetaTrained, batch: EpisodeBatch, inner_steps: int, *_parameters: nn.Parameter
    ) -> Tensor:
        ctx.adaptation, logits = meta_learner.adapt_and_query(batch, inner_steps, reversible=True)
        ctx.named = meta_learner.named
        ctx.names = [name for name, _ in meta_learner.named_parameters()]
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, logits_bar: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.named(*ctx.adaptation.reverse(logits_bar))
        return None, None, None, *(gradients.get(name) for name in ctx.names)


MetaGradient = Callable[[MetaTrained, EpisodeBatch, int], tuple[Tensor, Tensor, dict[str, Tensor]]]


@torch.no_grad()
def meta_gradient(
    meta_learner: MetaTrained, batch: EpisodeBatch, inner_steps: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Query loss and accuracy, both scalars, and the derivatives of the loss by the parameters, by name.

    The loss is the mean over episodes and queries. The paper has the sum; Adam does not depend on a constant factor.
    Parameters without influence have no derivative. Raises TypeError or ValueError for a batch that does not fit the
    learner; labels are checked on the CPU only.
    """
    check_range("query_y", batch.query_y, meta_learner.n_way, "the learner's N classes")
    adaptation, logits = meta_learner.adapt_and_query(batch, inner_steps, reversible=True)
    losses, delta_out = cross_entropy(logits, batch.query_y)
    gradients = meta_learner.named(*adaptation.reverse(delta_out / logits.shape[0]))
    accuracy = (logits.argmax(-1) == batch.query_y).to(logits.dtype).mean()
    return losses.mean(), accuracy, gradients


def compiled_meta_gradient(device: torch.device, gradient: MetaGradient = meta_gradient) -> MetaGradient:
    """`gradient` as one compiled graph (on a GPU, captured as a CUDA graph).

    Compiling takes a minute or more for each set of shapes; torch caches the result on disk. The numbers equal those of
    `gradient` up to float32 rounding. Clears graphs compiled earlier, because torch keeps only a few per function and a
    run needs only its own.
    """
    torch.compiler.reset()
    mode = "reduce-overhead" if device.type == "cuda" else None
    compiled: MetaGradient = torch.compile(gradient, fullgraph=True, dynamic=False, mode=mode)
    return compiled


class CapturedMetaGradient:
    """A meta-gradient on a GPU as a CUDA graph, captured in the first call: one launch instead of thousands.

    Use it for one meta-learner, whose parameters must stay in place in memory, and for batches of one shape. The next
    call overwrites the results of the last. The numbers equal those without the graph, which has the same kernels in
    the same order.
    """

    def __init__(self, gradient: MetaGradient = meta_gradient) -> None:
        self._gradient = gradient
        self._captured: _Captured | None = None

    def __call__(
        self, meta_learner: MetaTrained, batch: EpisodeBatch, inner_steps: int
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """As `meta_gradient`."""
        if self._captured is None:
            self._captured = _captured(self._gradient, meta_learner, batch, inner_steps)
        self._captured.batch.x.copy_(batch.x)
        self._captured.batch.y.copy_(batch.y)
        self._captured.graph.replay()
        return self._captured.results


@dataclass(frozen=True)
class _Captured:
    """A CUDA graph, the episodes that it reads, and the loss, accuracy and gradients that it writes."""

    graph: torch.cuda.CUDAGraph
    batch: EpisodeBatch
    results: tuple[Tensor, Tensor, dict[str, Tensor]]


def _captured(gradient: MetaGradient, meta_learner: MetaTrained, batch: EpisodeBatch, inner_steps: int) -> _Captured:
    batch = EpisodeBatch(batch.x.clone(), batch.y.clone(memory_format=torch.contiguous_format), batch.n_support)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(batch.x.device):
        # Run once on a separate stream, as torch requires, so that first-use initialisation is not captured.
        stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            gradient(meta_learner, batch, inner_steps)
        torch.cuda.current_stream().wait_stream(stream)
        # "thread_local", because a thread of NCCL may query the GPU during capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = gradient(meta_learner, batch, inner_steps)
    return _Captured(graph, batch, results)


def outer_step(
    meta_learner: MetaTrained,
    optimizer: torch.optim.Optimizer,
    batch: EpisodeBatch,
    *,
    inner_steps: int,
    gradient_clip: float | None = None,
    gradient_norm_limit: float | None = None,
    gradient: MetaGradient = meta_gradient,
) -> tuple[Tensor, Tensor]:
    """Take a step on theta_0 and Phi (paper eqs 12-13); returns query loss and accuracy, scalars on the device.

    gradient_clip: bounds each element of the meta-gradient. gradient_norm_limit: then bounds its norm over all
    parameters (Pascanu, Mikolov & Bengio 2013). gradient: `meta_gradient`, compiled or not, or another objective's.
    """
    loss, accuracy, gradients = gradient(meta_learner, batch, inner_steps)
    for name, parameter in meta_learner.named_parameters():
        parameter.grad = gradients.get(name)
    if gradient_clip is not None:
        nn.utils.clip_grad_value_(meta_learner.parameters(), gradient_clip)
    if gradient_norm_limit is not None:
        nn.utils.clip_grad_norm_(meta_learner.parameters(), gradient_norm_limit)
    optimizer.step()
    return loss, accuracy


def outer_lr_at(step: int, *, outer_lr: float, outer_steps: int, schedule: Literal["constant", "cosine"]) -> float:
    """The outer learning rate of step `step` in 0..outer_steps - 1; 'cosine' falls from outer_lr towards 0.

    Without steps it is outer_lr.
    """
    if schedule == "constant" or not outer_steps:
        return outer_lr
    return outer_lr * 0.5 * (1 + math.cos(math.pi * step / outer_steps))
