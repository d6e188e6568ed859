"""A problem that takes milliseconds, for the benchmark's own tests."""

import torch

from norml.learner import Learner
from tests.benchmarks.workloads import Workload

TINY = Workload(2, 3, meta_batch_size=3, inner_steps=2, n_way=3, n_features=6)


def tiny_learner(*, batch_norm_scale: bool = True) -> Learner:
    generator = torch.Generator().manual_seed(0)
    settings = {"batch_norm_scale": batch_norm_scale, "initial_weight_std": 0.5, "generator": generator}
    learner = Learner(TINY.n_features, [5, 4], TINY.n_way, **settings).double()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return learner
