"""The models of NORML and its MAML baselines in pure torch: no files, no printing, no global random state.

Letters in the shapes of this package:

    E episodes          N way               K shots             Q queries per class
    S = N * K support   M = N * Q query     D input features    L layers
    O neurons out       I neurons in        T inner steps       F LSTM inputs       H LSTM cell size
    P positions of a convolution's maps         C channels, the "neurons" of a convolution

Terms: an *episode* is one N-way K-shot problem with a *support set* and *queries*. *Inner steps* adapt the *learner* to
it. An *update rule* turns the learner's *update signals* (layer gradients delta and layer inputs h) into the scaled
signals of a step. The *meta-learner* has the parameters that *outer steps* learn. The paper's "node" is a neuron.

All names in `__all__` can be imported from `norml`; docs/how-to/library.md has examples. `import norml` does not load
torch; using one of its names does.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from norml.adaptation import Adaptation, InnerLoop
    from norml.adapted import Adapted
    from norml.adapted.metric_learner import MetricLearner, SupportComparison
    from norml.episodes import EpisodeBatch, EpisodeIndices, ExamplePool, sample_indices
    from norml.evaluation import correct_counts
    from norml.frozen_classifiers import LogisticRegression, NearestCentroid
    from norml.layers import Convolutions, LayerShape, fully_connected
    from norml.learner import Learner
    from norml.meta_training import (
        CapturedMetaGradient,
        MetaLearner,
        MetaTrained,
        compiled_meta_gradient,
        meta_gradient,
        outer_step,
    )
    from norml.objectives.multi_step import multi_step_gradient
    from norml.objectives.reptile import reptile_gradient
    from norml.statistics import interval_95
    from norml.update_rules import Carried, Pace, Rates, UpdateRule
    from norml.update_rules.alfa import Alfa
    from norml.update_rules.gradient_descent import GradientDescent
    from norml.update_rules.meta_curvature import MetaCurvature
    from norml.update_rules.meta_sgd import MetaSgd
    from norml.update_rules.nodal_lstm import NodalLstm
    from norml.update_rules.static_gates import StaticGates

_HOMES = {
    "norml.adaptation": ("Adaptation", "InnerLoop"),
    "norml.episodes": ("EpisodeBatch", "EpisodeIndices", "ExamplePool", "sample_indices"),
    "norml.evaluation": ("correct_counts",),
    "norml.frozen_classifiers": ("LogisticRegression", "NearestCentroid"),
    "norml.layers": ("Convolutions", "LayerShape", "fully_connected"),
    "norml.learner": ("Learner",),
    "norml.meta_training": (
        "CapturedMetaGradient",
        "MetaLearner",
        "MetaTrained",
        "compiled_meta_gradient",
        "meta_gradient",
        "outer_step",
    ),
    "norml.adapted": ("Adapted",),
    "norml.adapted.metric_learner": ("SupportComparison", "MetricLearner"),
    "norml.objectives.multi_step": ("multi_step_gradient",),
    "norml.objectives.reptile": ("reptile_gradient",),
    "norml.statistics": ("interval_95",),
    "norml.update_rules": ("Rates", "Carried", "Pace", "UpdateRule"),
    "norml.update_rules.alfa": ("Alfa",),
    "norml.update_rules.gradient_descent": ("GradientDescent",),
    "norml.update_rules.meta_curvature": ("MetaCurvature",),
    "norml.update_rules.meta_sgd": ("MetaSgd",),
    "norml.update_rules.nodal_lstm": ("NodalLstm",),
    "norml.update_rules.static_gates": ("StaticGates",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Adaptation",
    "Adapted",
    "Alfa",
    "CapturedMetaGradient",
    "Carried",
    "Convolutions",
    "EpisodeBatch",
    "EpisodeIndices",
    "ExamplePool",
    "GradientDescent",
    "InnerLoop",
    "LayerShape",
    "Learner",
    "LogisticRegression",
    "MetaCurvature",
    "MetaLearner",
    "MetaSgd",
    "MetaTrained",
    "MetricLearner",
    "NearestCentroid",
    "NodalLstm",
    "Pace",
    "Rates",
    "StaticGates",
    "SupportComparison",
    "UpdateRule",
    "compiled_meta_gradient",
    "correct_counts",
    "fully_connected",
    "interval_95",
    "meta_gradient",
    "multi_step_gradient",
    "outer_step",
    "reptile_gradient",
    "sample_indices",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'norml' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
