"""A resolved run spec or recipe -> the torch objects of `norml`."""

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
    """A generator of its own for each purpose, so that one more draw here changes nothing there."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    generator = torch.Generator(device or torch.device("cpu"))
    return generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def build_method(spec: RunSpec, n_features: int, generator: torch.Generator | None) -> MetaTrained | FrozenClassifier:
    """What `spec` classifies with, on examples of D = `n_features` values: meta-trained, or what learns nothing."""
    if isinstance(spec.rule, FittedSettings):
        return spec.rule.classifier()
    if isinstance(spec.rule, ComparingSettings):
        protocol, body = spec.protocol, _learner(spec.protocol, n_features, generator, n_way=0)
        return MetricLearner(
            body, spec.rule.comparison(), n_way=protocol.n_way, query_statistics=protocol.query_statistics
        )
    return build_meta_learner(spec, n_features, generator)


def build_meta_learner(spec: RunSpec, n_features: int, generator: torch.Generator | None) -> MetaLearner:
    """The untrained meta-learner of `spec`; its initial weights come from `generator`."""
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
    still = frozen_layers(protocol.adapted_layers, learner.n_layers)
    if still:
        rule = Frozen(rule, still)
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
    """Of images of D values, which tell their side and colours: no square number is three times another."""
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


OF_SHAPES = {  # keys of a protocol
    *("learner", "hidden_sizes", "n_way", "batch_norm_scale", "adapted_layers"),
    *("kernel_size", "stride", "padding", "pooling", "map_end"),
}


def shape_of(registry: Registry, spec: RunSpec) -> tuple[int, str, str]:
    """Runs that are equal in it can be built, or not, alike: more support examples or steps only lengthen tensors."""
    protocol = spec.protocol.model_dump_json(include=OF_SHAPES)
    return n_features(registry, spec), f"{spec.algorithm} {spec.rule.model_dump_json()}", protocol


def multiplications(registry: Registry, spec: RunSpec) -> int | None:
    """Of an inner step on one episode's support set, without batch norm; None if nothing is adapted.

    Three products of equal size: forward, backward and the sum of outer products; nothing is pulled back through the
    first layer.
    """
    with torch.device("meta"):
        method = build_method(spec, n_features(registry, spec), generator=None)
    if not isinstance(method, MetaLearner):
        return None
    layers = [layer.multiplications for layer in method.learner.layers]
    return spec.protocol.n_way * spec.shots * (3 * sum(layers) - layers[0])


def parameter_counts(registry: Registry, spec: RunSpec) -> dict[str, int]:
    """Learned values of learner and meta-learner, from a build that holds no numbers."""
    with torch.device("meta"):
        return build_method(spec, n_features(registry, spec), generator=None).parameter_counts()


def least_memory_bytes(registry: Registry, spec: RunSpec) -> int:
    """What an outer step cannot do without: weights, gradients and Adam's two moments, and what going back needs.

    For each support example and inner step that is at least both signals of every layer, and as much again where the
    steps are kept and not recomputed. Measured: MAML takes 1.4 times that much, rules with more to them 4 to 10 times.
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
    """The untrained backbone of `recipe` with its layer to `n_classes`; initial weights come from `generator`."""
    blocks = Blocks(**{field.name: getattr(recipe, field.name) for field in dataclasses.fields(Blocks)})
    backbone = ResNet12(recipe.widths, blocks, initial_weights=recipe.initial_weights, generator=generator)
    return Classifier(backbone, n_classes, generator)


def try_backbone(recipe: Recipe) -> ResNet12:
    """A recipe's backbone that holds no numbers, after a look at two images.

    Raises ValueError if the recipe's images are too small for what it drops.
    """
    with torch.device("meta"):
        classifier = build_backbone_classifier(recipe, n_classes=2, generator=None)
        classifier(torch.empty(2, 3, recipe.input_size_px, recipe.input_size_px))
    return classifier.backbone
