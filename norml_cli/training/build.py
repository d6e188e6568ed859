"""Build the torch objects of `norml` from a run's spec or a recipe."""

import dataclasses
import hashlib
import math

import torch

from norml.adaptation import InnerLoop
from norml.adapted.metric_learner import MetricLearner
from norml.frozen_classifiers import FrozenClassifier
from norml.layers import Convolutions
from norml.learner import Learner
from norml.meta_training import MetaLearner, MetaTrained
from norml.resnet12 import Blocks, Classifier, ResNet12
from norml.update_rules.wrapped import Frozen, frozen_layers
from norml_cli.registry.protocol import Protocol, Recipe
from norml_cli.registry.resolving import Registry, n_features
from norml_cli.registry.rules.base import ComparingSettings, FittedSettings, LearnedSettings
from norml_cli.registry.specs import RunSpec

FLOAT_BYTES = 4
COLOURS = 3  # values of a pixel of a colour image


def generator_for(purpose: str, seed: int, device: torch.device | None = None) -> torch.Generator:
    """A separate generator for each purpose, so that draws for one purpose do not affect another."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    generator = torch.Generator(device or torch.device("cpu"))
    return generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def build_method(spec: RunSpec, n_features: int, generator: torch.Generator | None) -> MetaTrained | FrozenClassifier:
    """The untrained model of `spec` for examples with D = `n_features` values."""
    if isinstance(spec.rule, FittedSettings):
        return spec.rule.classifier()
    if isinstance(spec.rule, ComparingSettings):
        protocol, body = spec.protocol, _learner(spec.protocol, n_features, generator, n_way=0)
        return MetricLearner(
            body, spec.rule.comparison(), n_way=protocol.n_way, query_statistics=protocol.query_statistics
        )
    return build_meta_learner(spec, n_features, generator)


def build_meta_learner(spec: RunSpec, n_features: int, generator: torch.Generator | None) -> MetaLearner:
    """The untrained meta-learner of `spec`, with initial weights drawn from `generator`."""
    protocol = spec.protocol
    if not isinstance(spec.rule, LearnedSettings):
        raise TypeError(f"{spec.algorithm} has no update rule")
    learner = _learner(protocol, n_features, generator, n_way=protocol.n_way)
    inner_loop = InnerLoop(
        inner_lr=protocol.inner_lr,
        first_order=protocol.first_order,
        query_statistics=protocol.query_statistics,
        weight_form=protocol.weight_form,
        recompute=protocol.recompute,
        support_order=protocol.support_order,
    )
    rule = spec.rule.update_rule(
        learner.layers,
        n_support=spec.support_of_a_step,
        inner_steps=spec.steps_of_an_episode,
        generator=generator,
    )
    frozen = frozen_layers(protocol.adapted_layers, learner.n_layers)
    if frozen:
        rule = Frozen(rule, frozen)
    return MetaLearner(learner, rule, inner_loop)


def _learner(protocol: Protocol, n_features: int, generator: torch.Generator | None, *, n_way: int) -> Learner:
    return Learner(
        n_features,
        protocol.hidden_sizes,
        n_way,
        batch_norm_scale=protocol.batch_norm_scale,
        batch_norm_epsilon=protocol.batch_norm_epsilon,
        initial_weight_std=protocol.initial_weight_std,
        head_weight_std=protocol.head_weight_std,
        head_init=protocol.head_init,
        convolutions=_convolutions(protocol, n_features) if protocol.learner == "conv-4" else None,
        generator=generator,
    )


def _convolutions(protocol: Protocol, n_features: int) -> Convolutions:
    """The convolutions' shapes. D gives the side and the colours, since no square number is three times another."""
    is_grey = math.isqrt(n_features) ** 2 == n_features
    in_channels = 1 if is_grey else COLOURS
    return Convolutions(
        math.isqrt(n_features // in_channels),
        in_channels,
        kernel=protocol.kernel_size,
        stride=protocol.stride,
        padding=protocol.padding,
        max_pool=protocol.pooling == "max-2x2",
        end=protocol.map_end,
    )


OF_SHAPES = {  # protocol keys that decide tensor shapes
    *("learner", "hidden_sizes", "n_way", "batch_norm_scale", "adapted_layers"),
    *("kernel_size", "stride", "padding", "pooling", "map_end"),
}


def shape_of(registry: Registry, spec: RunSpec) -> tuple[int, str, str]:
    """A key for runs that need only one trial build; more support examples or steps only lengthen tensors."""
    protocol = spec.protocol.model_dump_json(include=OF_SHAPES)
    return n_features(registry, spec), f"{spec.algorithm} {spec.rule.model_dump_json()}", protocol


def multiplications(registry: Registry, spec: RunSpec) -> int | None:
    """Multiplications of an inner step on one episode's support set, without batch norm; None without inner steps.

    Each layer has three products of equal size: forward, backward and the sum of outer products. The first layer has
    no backward product.
    """
    with torch.device("meta"):
        method = build_method(spec, n_features(registry, spec), generator=None)
    if not isinstance(method, MetaLearner):
        return None
    layers = [layer.multiplications for layer in method.learner.layers]
    return spec.protocol.n_way * spec.shots * (3 * sum(layers) - layers[0])


def parameter_counts(registry: Registry, spec: RunSpec) -> dict[str, int]:
    """Numbers of parameters of the learner and the update rule, from a build on torch's meta device."""
    with torch.device("meta"):
        return build_method(spec, n_features(registry, spec), generator=None).parameter_counts()


def least_memory_bytes(registry: Registry, spec: RunSpec) -> int:
    """A lower bound of an outer step's memory: weights, gradients, Adam's two moments, and tensors for the reverse.

    The reverse needs at least both signals of every layer for each support example and inner step, and twice that
    without recomputation. Measured: MAML takes 1.4 times this bound, larger rules 4 to 10 times.
    """
    protocol = spec.protocol
    with torch.device("meta"):
        model = build_method(spec, n_features(registry, spec), generator=None)
    if not isinstance(model, MetaTrained):
        return 0
    signals = sum(layer.signal_values for layer in model.learner.layers)
    kept = spec.examples_of_an_outer_step * protocol.inner_steps * signals * (1 if protocol.recompute else 2)
    return FLOAT_BYTES * (4 * sum(model.parameter_counts().values()) + kept)


def build_backbone_classifier(recipe: Recipe, n_classes: int, generator: torch.Generator | None) -> Classifier:
    """The untrained backbone of `recipe` with a layer to `n_classes`; initial weights come from `generator`."""
    blocks = Blocks(**{field.name: getattr(recipe, field.name) for field in dataclasses.fields(Blocks)})
    backbone = ResNet12(recipe.widths, blocks, initial_weights=recipe.initial_weights, generator=generator)
    return Classifier(backbone, n_classes, generator)


def try_backbone(recipe: Recipe) -> ResNet12:
    """A recipe's backbone on torch's meta device, after a pass of two images.

    Raises ValueError if the recipe's images are too small for its DropBlock.
    """
    with torch.device("meta"):
        classifier = build_backbone_classifier(recipe, n_classes=2, generator=None)
        classifier(torch.empty(2, 3, recipe.input_size_px, recipe.input_size_px))
    return classifier.backbone
