"""Combinations of values that no run can have, found before anything is computed. Torch-free."""

from collections.abc import Collection, Iterator

from norml.map_sizes import map_sides
from norml_cli.registry.entries import DatasetEntry, FileSplit, Unequal
from norml_cli.registry.faults import did_you_mean
from norml_cli.registry.protocol import OF_CONVOLUTIONS, Protocol, held_out_of

CONV_4_LAYERS = 4


def contradictions(
    protocol: Protocol, shots: int, dataset: DatasetEntry, recipes: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Contradictions between values: pairs of the key to change and the fault."""
    per_class, available = shots + protocol.queries_per_class, dataset.class_sizes.min
    if per_class > available:
        fault = f"shots + queries_per_class = {per_class} is more than the {available} examples a class"
        fault = f"{fault} of '{dataset.id}' has"
        smaller = isinstance(dataset.examples_per_class, Unequal)
        advice = f"; to leave smaller classes out, declare examples_per_class: {{min: {per_class}, smaller: leave-out}}"
        yield "queries_per_class", f"{fault}{advice if smaller else ''}"
    if not isinstance(dataset.splits, FileSplit):
        sizes = {split: getattr(dataset.splits, split) for split in ("meta_train", "meta_val", "meta_test")}
        smallest = min(sizes, key=sizes.__getitem__)
        if protocol.n_way > sizes[smallest]:
            fault = f"{protocol.n_way} is more than the {sizes[smallest]} classes"
            yield "n_way", f"{fault} of '{dataset.id}' in {smallest}"
    yield from _learner_contradictions(protocol, dataset)
    yield from _outer_contradictions(protocol)
    yield from _backbone_faults(protocol, dataset, recipes)
    if protocol.support_order == "one-by-one" and protocol.hidden_sizes:
        fault = f"one-by-one needs a single linear layer, but hidden_sizes is {protocol.hidden_sizes}"
        yield "support_order", f"{fault}: batch norm needs more than one example; use full"
    if protocol.training_examples == "held-out-from-pretraining":
        yield from _held_out_faults(protocol, per_class, dataset)
    yield from _training_faults(protocol)
    if protocol.rotations != "none" and dataset.rotations.value != "per-episode":
        fault = f"{protocol.rotations}, but '{dataset.id}' declares rotations: {dataset.rotations.value}"
        yield "rotations", fault


def _outer_contradictions(protocol: Protocol) -> Iterator[tuple[str, str]]:
    followed = protocol.outer_gradient
    if followed != "every-step" and protocol.multi_step_share != Protocol.model_fields["multi_step_share"].default:
        yield "multi_step_share", f"is {protocol.multi_step_share}, but outer_gradient is {followed}; leave it out"
    if followed != "query-loss" and not protocol.inner_steps:
        yield "outer_gradient", f"is {followed}, but inner_steps is 0; use query-loss"
    if followed == "reptile" and protocol.adapted_layers != "all":
        yield "adapted_layers", f"is {protocol.adapted_layers}, but reptile trains only adapted layers; use all"


def _backbone_faults(protocol: Protocol, dataset: DatasetEntry, recipes: Collection[str]) -> Iterator[tuple[str, str]]:
    if protocol.backbone is not None and not dataset.in_colour:
        yield "backbone", f"'{dataset.id}' has grey images, but recipes need colour images; leave it out"
    if protocol.backbone is None and protocol.feature_scaling != "none":
        yield "feature_scaling", f"is {protocol.feature_scaling}, but no backbone makes features; leave it out"
    for key in ("backbone_epochs", "backbone_width"):
        if protocol.backbone is None and getattr(protocol, key) is not None:
            yield key, f"is {getattr(protocol, key)}, but no backbone is pretrained; leave it out"
    if protocol.backbone is not None and protocol.backbone not in recipes:
        yield "backbone", f"unknown recipe '{protocol.backbone}'{did_you_mean(protocol.backbone, recipes)}"


def _held_out_faults(protocol: Protocol, per_class: int, dataset: DatasetEntry) -> Iterator[tuple[str, str]]:
    held_out = held_out_of(dataset.class_sizes.min)
    if protocol.backbone is None:
        yield "training_examples", "is held-out-from-pretraining, but there is no backbone; leave it out"
    elif per_class > held_out:
        fault = f"shots + queries_per_class = {per_class} is more than the {held_out} examples a class"
        yield "training_examples", f"{fault} of '{dataset.id}' that are held out from pretraining"


def _training_faults(protocol: Protocol) -> Iterator[tuple[str, str]]:
    """Contradictions of values for training episodes."""
    if protocol.training_turns == "as-classes" and protocol.rotations == "none":
        yield "training_turns", "is as-classes, but rotations is none; leave it out, or declare rotations: meta-train"
    for key in ("training_shift_px", "training_tilt_degrees"):
        if protocol.backbone is not None and getattr(protocol, key):
            yield (
                key,
                f"is {getattr(protocol, key)}, but the examples are features, not images; leave it out",
            )
    if protocol.backbone is not None and protocol.training_classes != "meta-train":
        yield "training_classes", f"is {protocol.training_classes}, but a backbone needs meta-train; leave it out"


def _learner_contradictions(protocol: Protocol, dataset: DatasetEntry) -> Iterator[tuple[str, str]]:
    if protocol.head_init == "zero" and protocol.head_weight_std is not None:
        yield "head_weight_std", "is declared, but head_init is zero; leave one of the two out"
    if protocol.backbone is None and dataset.kind == "mini-imagenet" and protocol.learner == "fully-connected":
        fault = f"'{dataset.id}' has colour images, which a fully connected learner cannot use"
        yield "backbone", f"{fault}; name a recipe to make features, or declare learner: conv-4"
    if protocol.learner == "conv-4":
        yield from _convolutional_contradictions(protocol, dataset)
    else:
        for key in (key for key in OF_CONVOLUTIONS if getattr(protocol, key) != Protocol.model_fields[key].default):
            yield key, "is declared, but a fully connected learner has no convolutions; leave it out"


def _convolutional_contradictions(protocol: Protocol, dataset: DatasetEntry) -> Iterator[tuple[str, str]]:
    if protocol.backbone is not None:
        yield "learner", "conv-4 needs images, but the backbone makes features; leave one of the two out"
        return
    if len(protocol.hidden_sizes) != CONV_4_LAYERS:
        yield "hidden_sizes", f"conv-4 has {CONV_4_LAYERS} convolutions, but {len(protocol.hidden_sizes)} are declared"
        return
    pools = protocol.pooling == "max-2x2"
    sides = map_sides(
        dataset.image_size_px.value,
        CONV_4_LAYERS,
        kernel=protocol.kernel_size,
        stride=protocol.stride,
        padding=protocol.padding,
        max_pool=pools,
    )
    if sides[-1] == 0:
        maps = " -> ".join(str(side) for side in [dataset.image_size_px.value, *sides[: sides.index(0) + 1]])
        advice = "declare pooling: none" if pools else "lower stride or kernel_size, or declare padding: same"
        yield "pooling" if pools else "stride", f"nothing is left of '{dataset.id}' images ({maps} px); {advice}"
