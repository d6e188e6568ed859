"""What is timed: problems of the paper's shapes, their episodes, and the meta-learners of the registry."""

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from norml.episodes import EpisodeBatch, ExamplePool
from norml.meta_training import MetaLearner
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.registry.resolving import Registry
from norml_cli.training.build import build_meta_learner, generator_for

BENCHMARK = "omniglot-20way"
MAML, NORML = "maml-constant-lr", "norml"
INKED = 0.2  # share of pixels that are 1: chosen, no engine's time depends on the images


@dataclass(frozen=True)
class Workload:
    """One outer step's size: K shots, Q queries per class, E episodes, T inner steps of an N-way problem."""

    k_shot: int
    n_query: int
    meta_batch_size: int = 16
    inner_steps: int = 5
    n_way: int = 20
    n_features: int = 784

    @property
    def title(self) -> str:
        return f"{self.k_shot}/{self.n_query}"

    @property
    def size(self) -> str:
        """All but shots and queries, in words."""
        return f"{self.n_way}-way, meta-batch {self.meta_batch_size}, {self.inner_steps} inner steps"


SHOTS_AND_QUERIES = (Workload(1, 1), Workload(1, 15), Workload(5, 5))
SMALL = Workload(1, 1, meta_batch_size=2, inner_steps=2)  # takes milliseconds


def made_episodes(
    workload: Workload, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> EpisodeBatch:
    """Episodes of random ink on paper; the same ones at every call."""
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        shape = (workload.meta_batch_size, workload.n_way * count, workload.n_features)
        x = (torch.rand(shape, generator=generator) < INKED).to(device, dtype)
        labels = torch.arange(workload.n_way, device=device).repeat_interleave(count)
        return x, labels.expand(workload.meta_batch_size, -1)

    return EpisodeBatch.joined(*drawn(workload.k_shot), *drawn(workload.n_query))


def apart(batch: EpisodeBatch) -> SimpleNamespace:
    """The same episodes in four tensors of their own, as other libraries' users hold them."""
    names = ("support_x", "support_y", "query_x", "query_y")
    return SimpleNamespace(**{name: getattr(batch, name).contiguous() for name in names})


def made_pool(*, n_classes: int, n_examples: int, size_px: int, device: torch.device) -> ExamplePool:
    """A pool of random images in four turns."""
    shape = (n_classes, n_examples, size_px, size_px)
    ink = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < INKED
    return ExamplePool.of_images(ink.to(torch.uint8).mul_(255).to(device), rotations=True)


@cache
def registry() -> Registry:
    """The built-in entries, whatever the user's environment adds."""
    return read_registry([builtin_registry()])


def from_registry(
    method: str,
    workload: Workload,
    *,
    benchmark: str = BENCHMARK,
    device: torch.device | str = "cpu",
    **overrides: Any,
) -> MetaLearner:
    """The untrained meta-learner that `norml run METHOD` would build for this workload (`overrides`: as --set)."""
    overrides |= {"queries_per_class": workload.n_query, "inner_steps": workload.inner_steps}
    spec = registry().resolve(method, benchmark, workload.k_shot, overrides).spec
    return build_meta_learner(spec, workload.n_features, generator_for("initial weights", 0)).to(device)


def adam(parameters: Any) -> torch.optim.Adam:
    """The optimiser that every engine is timed with.

    Its rate is next to nothing: hundreds of steps on one batch of random images would end in weights that nobody
    trains, and a step costs the same at any rate.
    """
    return torch.optim.Adam(parameters, lr=1e-8, fused=True)
