"""Specs for evaluating trained weights: which protocol values may still change after training. Torch-free."""

from typing import Any

from norml_cli.files.errors import UserError, plain
from norml_cli.files.suggestions import suggested
from norml_cli.registry.contradictions import contradictions
from norml_cli.registry.entries import DatasetEntry
from norml_cli.registry.faults import did_you_mean
from norml_cli.registry.protocol import Protocol
from norml_cli.registry.resolving import Registry, checked_value, layered, require_declared
from norml_cli.registry.specs import RunSpec

OF_EPISODES = ("n_way", "queries_per_class", "rotations", "validation_episodes", "test_episodes", "episode_seed")
NUMBER = {"meta_val": "validation_episodes", "meta_test": "test_episodes"}
OF_ADAPTATION = ("inner_steps_test", "query_statistics", "head_init")  # for meta-trained methods only
OF_BACKBONE = ("backbone", "backbone_seed", "feature_scaling")


def evaluated(
    registry: Registry,
    spec: RunSpec,
    overrides: dict[str, Any],
    *,
    benchmark: str | None,
    shots: int | None,
    split: str = "meta_test",
) -> RunSpec:
    """`spec` with `overrides` (--set), with the episodes of `benchmark` and `shots` if given.

    The number of episodes of the other split stays as in `spec`.

    Raises UserError for a value that training has fixed, and for a change that the trained weights do not allow.
    """
    k_shot = shots if shots is not None else spec.shots
    place = {"shots": k_shot} if benchmark is None else _elsewhere(registry, spec, benchmark, k_shot, split)
    values = {key: place.pop(key) for key in [*place] if key in Protocol.model_fields}
    values |= {key: _settable(spec, key, value, split) for key, value in overrides.items()}
    option = f"--benchmark {benchmark}" if benchmark is not None and "n_way" not in overrides else "--set n_way"
    protocol = at_ways(spec, spec.protocol.model_copy(update=values), option)
    found = spec.model_copy(update={**place, "protocol": protocol})
    dataset = registry.dataset_of(f"{found.method} on {found.benchmark}", found.dataset)
    faults = list(contradictions(protocol, k_shot, dataset, registry.recipes))
    if faults:
        where = f"{found.method} on {found.benchmark}, {k_shot}-shot"
        raise UserError("\n".join(f"{where}: {key}: {fault}" for key, fault in faults))
    return found


def adapted_as(spec: RunSpec, overrides: dict[str, Any]) -> RunSpec:
    """`spec` with `overrides` (--set) of adaptation values only, not of episodes. Raises UserError."""
    for key in overrides:
        if key not in OF_ADAPTATION:
            raise UserError(
                f"--set {plain(key)}: cannot be changed here; this command can change {', '.join(OF_ADAPTATION)}"
            )
    values = {key: _settable(spec, key, value, "meta_test") for key, value in overrides.items()}
    return spec.model_copy(update={"protocol": spec.protocol.model_copy(update=values)})


def at_ways(spec: RunSpec, protocol: Protocol, option: str) -> Protocol:
    """`protocol`, if weights trained by `spec` can classify its n_way classes.

    `option` is the command-line option that set n_way. Raises UserError.
    """
    answers_any = not spec.rule.has_head or protocol.head_init == "zero"
    if protocol.n_way != spec.protocol.n_way and not answers_any:
        raise UserError(
            f"{option}: has {protocol.n_way} classes, but the learner has {spec.protocol.n_way} outputs; train with "
            "--set head_init=zero, which works for any number of classes, or give it here, which replaces the learned "
            "head by zeros at some cost in accuracy"
        )
    return protocol


def changes(spec: RunSpec, run: RunSpec) -> dict[str, Any]:
    """Values of `spec` that differ from those of the trained `run`, in a fixed order."""
    places = {key: getattr(spec, key) for key in ("benchmark", "shots") if getattr(spec, key) != getattr(run, key)}
    ours, theirs = spec.protocol.model_dump(), run.protocol.model_dump()
    return places | {key: ours[key] for key in (*OF_EPISODES, *OF_ADAPTATION) if ours[key] != theirs[key]}


def _of_episodes(split: str) -> list[str]:
    return [key for key in OF_EPISODES if key not in NUMBER.values() or key == NUMBER[split]]


def _of_adaptation(spec: RunSpec) -> list[str]:
    """The keys of `OF_ADAPTATION` that apply to the method."""
    lacks = {*spec.rule.lacks, *(() if spec.rule.has_head else ("head_init",))}
    return [key for key in OF_ADAPTATION if spec.rule.meta_trained and key not in lacks]


def _settable(spec: RunSpec, key: str, value: Any, split: str) -> Any:
    """`value` as a protocol holds it. Raises UserError for a key that evaluation cannot change."""
    keys = [*_of_episodes(split), *_of_adaptation(spec)]
    if key in keys:
        checked = checked_value(Protocol, key, value)
        if key == "head_init" and checked == "learned" != spec.protocol.head_init:
            raise UserError("--set head_init=learned: these weights hold no learned head; leave it out")
        return checked
    named = plain(key)
    if key in OF_EPISODES:
        raise UserError(f"--set {named}: has no effect on --split {split.replace('_', '-')}; set {NUMBER[split]}")
    if key in OF_ADAPTATION:
        lacking = "has no head" if key == "head_init" else "takes no inner steps"
        raise UserError(f"--set {named}: {spec.algorithm} {lacking}")
    if key in Protocol.model_fields or key in type(spec.rule).model_fields:
        raise UserError(
            f"--set {named}: is fixed by training; `norml evaluate` can change {', '.join(keys)}; "
            f"to train other weights: `{suggested(f'norml run {spec.method} --set {named}=...')}`"
        )
    raise UserError(f"--set {named}: unknown key{did_you_mean(key, keys)}; use one of {', '.join(keys)}")


def _elsewhere(registry: Registry, spec: RunSpec, benchmark: str, shots: int, split: str) -> dict[str, Any]:
    """The other benchmark's id, data set, shots and episode values. Raises UserError if the weights do not fit it."""
    bench = registry.benchmark(benchmark)
    require_declared(bench, shots)
    values, _ = layered(bench, shots, registry.method(spec.method))
    option, protocol = f"--benchmark {bench.id}", spec.protocol
    if any(values[key] != getattr(protocol, key) for key in OF_BACKBONE):
        raise UserError(f"{option}: uses another backbone than {spec.benchmark}; choose a benchmark with the same one")
    if protocol.backbone is not None and bench.dataset != spec.dataset:
        raise UserError(
            f"{option}: '{bench.dataset}' has another backbone than '{spec.dataset}'; choose a benchmark of "
            f"'{spec.dataset}'"
        )
    _require_same_size(registry, spec.dataset, bench.dataset, option)
    place = {"benchmark": bench.id, "dataset": bench.dataset, "shots": shots}
    return place | {key: values[key] for key in _of_episodes(split)}


def _require_same_size(registry: Registry, trained_on: str, dataset: str, option: str) -> None:
    ours, theirs = (_size(registry.dataset(id_)) for id_ in (trained_on, dataset))
    if ours != theirs:
        raise UserError(f"{option}: has images of {theirs}, but the learner was trained on {ours}")


def _size(dataset: DatasetEntry) -> str:
    side, colours = dataset.image_size_px.value, "colour" if dataset.in_colour else "grey"
    return f"{side} x {side} {colours} pixels"
