"""Made episodes and meta-learners in float64; every random number from a seeded generator."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
import typer

from norml.episodes import EpisodeBatch
from norml.layers import Convolutions, LayerShape
from norml.learner import HeadInit, Learner
from norml.meta_training import InnerLoop, MetaLearner
from norml.update_rules import UpdateRule
from norml.update_rules.alfa import Alfa
from norml.update_rules.gradient_descent import GradientDescent
from norml.update_rules.meta_curvature import MetaCurvature
from norml.update_rules.meta_sgd import MetaSgd
from norml.update_rules.nodal_lstm import NodalLstm
from norml.update_rules.static_gates import StaticGates
from norml_cli.files.suggestions import remember_places
from norml_cli.registry import reading
from tests.helpers.kept_registries import KeptMappings, KeptRegistries
from tests.helpers.reference import (
    CHANNEL_SUMMARIES,
    CURVATURE_RULES,
    MAML_RULES,
    META_SGD_RULES,
    PACED_RULES,
    PER_STEP_RULES,
    RATES_FOR_STEPS,
    RULES,
    STATIC_RULES,
)

# Each command of a test reads the whole registry and builds the whole command line: 70 ms, thousands of times. Test
# modules are imported after this one, so they import what stands here.
reading.read_registry = KeptRegistries(reading.read_registry)
reading.read_mapping = KeptMappings(reading.read_mapping)
typer.main.get_command = cache(typer.main.get_command)

torch.set_num_threads(1)  # tensors of a few numbers: on shared cores a second thread is a hundredfold slower


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def no_places_remembered() -> None:
    """Commands that a test calls in this process leave the places that they were given to the hints of later tests."""
    remember_places({})


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


def update_rule_of(
    rule: str, settings: dict[str, Any], layers: Sequence[LayerShape], n_support: int, generator: torch.Generator
) -> UpdateRule:
    if rule in META_SGD_RULES:
        return MetaSgd(layers)
    if rule in STATIC_RULES:
        return StaticGates(layers, **settings)
    if rule in CURVATURE_RULES:
        return MetaCurvature(layers, **settings)
    if rule in PACED_RULES:
        return Alfa(len(layers), inner_steps=RATES_FOR_STEPS, generator=generator, **settings)
    if rule in MAML_RULES | PER_STEP_RULES:
        return GradientDescent(len(layers), inner_steps=RATES_FOR_STEPS, **settings)
    return NodalLstm(layers, n_support=n_support, generator=generator, **settings)


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
        head_init: HeadInit = "learned",
        convolutions: Convolutions | None = None,
        channel_summary: str | None = None,
        **inner_loop: Any,
    ) -> MetaLearner:
        generator = seeded(seed)
        learner = Learner(
            sizes[0],
            sizes[1:-1],
            sizes[-1],
            batch_norm_scale=batch_norm_scale,
            initial_weight_std=initial_weight_std,
            head_init=head_init,
            convolutions=convolutions,
            generator=generator,
        )
        settings = (RULES | CHANNEL_SUMMARIES)[rule]
        if channel_summary is not None:
            settings = settings | {"channel_summary": channel_summary}
        update_rule = update_rule_of(rule, settings, learner.layers, n_support, generator)
        meta_learner = MetaLearner(learner, update_rule, InnerLoop(**({"inner_lr": 0.4} | inner_loop))).double()
        if perturbed:
            with torch.no_grad():
                for parameter in meta_learner.parameters():
                    noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                    parameter.add_(0.3 * noise)
        return meta_learner

    return made
