"""Made episodes and meta-learners in float64; every random number from a seeded generator."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from norml.episodes import EpisodeBatch
from norml.learner import Learner
from norml.meta_training import InnerLoop, MetaLearner
from norml.update_rules import UpdateRule
from norml.update_rules.gradient_descent import GradientDescent
from norml.update_rules.meta_curvature import MetaCurvature
from norml.update_rules.meta_sgd import MetaSgd
from norml.update_rules.nodal_lstm import NodalLstm
from norml.update_rules.static_gates import StaticGates
from tests.helpers.reference import (
    CURVATURE_RULES,
    MAML_RULES,
    META_SGD_RULES,
    PER_STEP_RULES,
    RATES_FOR_STEPS,
    RULES,
    STATIC_RULES,
)

torch.set_num_threads(1)  # tensors of a few numbers: on shared cores a second thread is a hundredfold slower


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def generator() -> torch.Generator:
    return seeded(0)


@pytest.fixture(scope="session")
def make_episodes() -> Callable[..., EpisodeBatch]:
    """Episodes of Gaussian clusters, float64."""

    def made(
        *, seed: int = 0, n_episodes: int = 3, n_way: int = 3, k_shot: int = 2, n_query: int = 2, n_features: int = 5
    ) -> EpisodeBatch:
        generator = seeded(seed)
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
        centres = torch.randn(n_episodes, n_way, n_features, **options)

        def drawn(count: int) -> tuple[torch.Tensor, torch.Tensor]:
            labels = torch.arange(n_way).repeat_interleave(count)
            x = centres[:, labels] + torch.randn(n_episodes, n_way * count, n_features, **options)
            return x, labels.expand(n_episodes, -1)

        return EpisodeBatch.joined(*drawn(k_shot), *drawn(n_query))

    return made


def update_rule_of(rule: str, sizes: Sequence[int], n_support: int, generator: torch.Generator) -> UpdateRule:
    settings = RULES[rule]
    if rule in META_SGD_RULES:
        return MetaSgd(sizes)
    if rule in STATIC_RULES:
        return StaticGates(sizes, **settings)
    if rule in CURVATURE_RULES:
        return MetaCurvature(sizes, **settings)
    if rule in MAML_RULES | PER_STEP_RULES:
        return GradientDescent(len(sizes) - 1, inner_steps=RATES_FOR_STEPS, **settings)
    return NodalLstm(sizes, n_support=n_support, generator=generator, **settings)


@pytest.fixture(scope="session")
def make_meta_learner() -> Callable[..., MetaLearner]:
    """A meta-learner with the rule named in `reference.RULES`, float64; `perturbed` moves every parameter."""

    def made(
        rule: str,
        *,
        seed: int = 0,
        sizes: Sequence[int] = (5, 4, 4, 3),
        n_support: int = 6,
        perturbed: bool = True,
        batch_norm_scale: bool = True,
        initial_weight_std: float = 0.5,
        **inner_loop: Any,
    ) -> MetaLearner:
        generator = seeded(seed)
        learner = Learner(
            sizes[0],
            sizes[1:-1],
            sizes[-1],
            batch_norm_scale=batch_norm_scale,
            initial_weight_std=initial_weight_std,
            generator=generator,
        )
        update_rule = update_rule_of(rule, sizes, n_support, generator)
        meta_learner = MetaLearner(learner, update_rule, InnerLoop(**({"inner_lr": 0.4} | inner_loop))).double()
        if perturbed:
            with torch.no_grad():
                for parameter in meta_learner.parameters():
                    noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                    parameter.add_(0.3 * noise)
        return meta_learner

    return made
