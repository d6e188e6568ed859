"""A run's spec under another protocol: what may still change once its weights are trained. Torch-free."""

from typing import Any

from norml_cli.files.errors import UserError, plain
from norml_cli.files.suggestions import suggested
from norml_cli.registry.faults import did_you_mean
from norml_cli.registry.protocol import Protocol
from norml_cli.registry.resolving import Registry, checked_value, contradictions, layered, require_declared
from norml_cli.registry.specs import RunSpec

OF_EPISODES = ("queries_per_class", "rotations", "validation_episodes", "test_episodes", "episode_seed")
NUMBER = {"meta_val": "validation_episodes", "meta_test": "test_episodes"}
OF_ADAPTATION = ("inner_steps_test", "query_statistics")  # of what is meta-trained
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
    """`spec` with `overrides` (--set), on the episodes that `benchmark` declares and at `shots`, if they are given.

    The other split's number of episodes stays the run's.

    Raises UserError for a value that is fixed once the weights are trained, and for what trained weights cannot do.
    """
    k_shot = shots if shots is not None else spec.shots
    place = {"shots": k_shot} if benchmark is None else _elsewhere(registry, spec, benchmark, k_shot, split)
    values = {key: place.pop(key) for key in [*place] if key in Protocol.model_fields}
    values |= {key: _settable(spec, key, value, split) for key, value in overrides.items()}
    protocol = spec.protocol.model_copy(update=values)
    found = spec.model_copy(update={**place, "protocol": protocol})
    if found.dataset not in registry.datasets:
        raise UserError(f"data set '{found.dataset}' is not declared; name its folder with --registry")
    faults = list(contradictions(protocol, k_shot, registry.datasets[found.dataset], registry.recipes))
    if faults:
        where = f"{found.method} on {found.benchmark}, {k_shot}-shot"
        raise UserError("\n".join(f"{where}: {key}: {fault}" for key, fault in faults))
    return found


def changes(spec: RunSpec, run: RunSpec) -> dict[str, Any]:
    """What of `spec` is not as in the `run` whose weights are evaluated by it, in one order whatever was typed."""
    places = {key: getattr(spec, key) for key in ("benchmark", "shots") if getattr(spec, key) != getattr(run, key)}
    ours, theirs = spec.protocol.model_dump(), run.protocol.model_dump()
    return places | {key: ours[key] for key in (*OF_EPISODES, *OF_ADAPTATION) if ours[key] != theirs[key]}


def _of_episodes(split: str) -> list[str]:
    return [key for key in OF_EPISODES if key not in NUMBER.values() or key == NUMBER[split]]


def _settable(spec: RunSpec, key: str, value: Any, split: str) -> Any:
    """`value` as a protocol holds it. Raises UserError for what evaluating cannot change."""
    of_adaptation = [key for key in OF_ADAPTATION if spec.rule.meta_trained and key not in spec.rule.lacks]
    keys = [*_of_episodes(split), *of_adaptation]
    if key in keys:
        return checked_value(Protocol, key, value)
    named = plain(key)
    if key in OF_EPISODES:
        raise UserError(f"--set {named}: says nothing of --split {split.replace('_', '-')}; set {NUMBER[split]}")
    if key == "n_way":
        raise UserError(f"--set n_way: the classifier has an output for each of its {spec.protocol.n_way} classes")
    if key in OF_ADAPTATION:
        raise UserError(f"--set {named}: {spec.algorithm} takes no inner steps")
    if key in Protocol.model_fields or key in type(spec.rule).model_fields:
        raise UserError(
            f"--set {named}: is fixed once the weights are trained; evaluate takes {', '.join(keys)}; "
            f"`{suggested(f'norml run {spec.method} --set {named}=...')}` trains others"
        )
    raise UserError(f"--set {named}: unknown key{did_you_mean(key, keys)}; evaluate takes {', '.join(keys)}")


def _elsewhere(registry: Registry, spec: RunSpec, benchmark: str, shots: int, split: str) -> dict[str, Any]:
    """Benchmark, data set, shots and the episodes' values there. Raises UserError where the weights do not fit."""
    bench = registry.benchmark(benchmark)
    require_declared(bench, shots)
    values, _ = layered(bench, shots, registry.method(spec.method))
    option, protocol = f"--benchmark {bench.id}", spec.protocol
    if values["n_way"] != protocol.n_way:
        raise UserError(
            f"{option}: has {values['n_way']}-way episodes, but the classifier has an output for each of its "
            f"{protocol.n_way} classes"
        )
    if any(values[key] != getattr(protocol, key) for key in OF_BACKBONE):
        raise UserError(f"{option}: its examples come from another backbone than those of {spec.benchmark}")
    if protocol.backbone is not None and bench.dataset != spec.dataset:
        raise UserError(f"{option}: the backbone of '{bench.dataset}' is another than that of '{spec.dataset}'")
    _require_same_size(registry, spec.dataset, bench.dataset, option)
    place = {"benchmark": bench.id, "dataset": bench.dataset, "shots": shots}
    return place | {key: values[key] for key in _of_episodes(split)}


def _require_same_size(registry: Registry, trained_on: str, dataset: str, option: str) -> None:
    ours, theirs = registry.dataset(trained_on).image_size_px.value, registry.dataset(dataset).image_size_px.value
    if ours != theirs:
        raise UserError(
            f"{option}: has images of {theirs} x {theirs} pixels, but the learner was trained on {ours} x {ours}"
        )
