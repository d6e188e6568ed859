import json

import pytest
from pydantic import TypeAdapter, ValidationError

from norml_cli.files.errors import UserError
from norml_cli.registry.entries import RULES, ProtocolEntry, Published
from norml_cli.registry.protocol import OF_CONVOLUTIONS, Protocol
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.registry.rules.gradient_descent import GradientDescentSettings
from norml_cli.registry.rules.nodal_lstm import NodalLstmSettings
from norml_cli.registry.sourced import Model
from norml_cli.registry.specs import RunSpec, json_sha256


@pytest.fixture(scope="module")
def registry():
    return read_registry([builtin_registry()])


@pytest.fixture(params=["norml", "maml-constant-lr"])
def spec(request, registry):
    return registry.resolve(request.param, "glyphs-5way", 1).spec


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return value


def leaves(value, path=()):
    """Paths of every value of nested mappings."""
    for key, item in value.items():
        yield from leaves(item, (*path, key)) if isinstance(item, dict) else [(*path, key)]


def changed(value, path):
    """A copy with another value at `path`."""
    copy = json.loads(json.dumps(value))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "changed"
    return copy


def test_spec_survives_json(spec):
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec
    assert RunSpec.model_validate(json.loads(spec.model_dump_json())).hash() == spec.hash()


def test_rule_is_read_as_the_algorithm_says(registry):
    rules = {"norml": NodalLstmSettings, "maml-layerwise-lr": GradientDescentSettings}
    for method, rule in rules.items():
        content = registry.resolve(method, "glyphs-5way", 1).spec.model_dump_json()
        assert type(RunSpec.model_validate_json(content).rule) is rule


def test_rule_of_another_algorithm_is_refused(registry):
    content = registry.resolve("norml", "glyphs-5way", 1).spec.model_dump(mode="json")
    content["algorithm"] = "gradient-descent"
    with pytest.raises(ValidationError) as caught:
        RunSpec.model_validate(content)
    assert ("rule", "learned_rates") in {error["loc"] for error in caught.value.errors()}


def test_hash_is_stable_under_key_order(spec):
    content = reversed_keys(spec.model_dump(mode="json"))
    assert RunSpec.model_validate(content).hash() == spec.hash()
    assert json_sha256(reversed_keys(spec.model_dump(mode="json", exclude_defaults=True))) == spec.hash()


def test_the_hash_leaves_defaults_out_so_a_new_key_changes_no_old_hash(spec):
    content = spec.model_dump(mode="json")
    defaults = [key for key, field in Protocol.model_fields.items() if not field.is_required()]
    features = {"backbone", "backbone_seed", "backbone_epochs", "backbone_width", "feature_scaling"}
    convolutions = {"learner", "head_weight_std", *OF_CONVOLUTIONS}
    training = {"adapted_layers", "gradient_norm_limit", "support_order", "training_examples", "training_classes"}
    training |= {"outer_gradient", "multi_step_share", "head_init"}
    training |= {"training_turns", "training_shift_px", "training_tilt_degrees", "weight_average"}
    computing = {"matmul_precision", "weight_form", "recompute"}
    assert set(defaults) == features | convolutions | training | computing
    for key in defaults:
        del content["protocol"][key]
    for key in ("layer_rates", "channel_summary"):
        content["rule"].pop(key, None)
    assert RunSpec.model_validate(content) == spec
    assert json_sha256(content) == spec.hash()


def test_hash_changes_with_any_value(spec):
    content = spec.model_dump(mode="json")
    paths = list(leaves(content))
    assert len(paths) >= len(Protocol.model_fields) + 6
    hashes = {json_sha256(changed(content, path)) for path in paths}
    assert len(hashes | {spec.hash()}) == len(paths) + 1


def test_hash_of_a_known_value():
    # sha256 of {"a":1,"b":[0.4,null]}, by `printf '{"a":1,"b":[0.4,null]}' | sha256sum`
    assert json_sha256({"b": [0.4, None], "a": 1}) == json_sha256({"a": 1, "b": [0.4, None]})
    assert json_sha256({"a": 1, "b": [0.4, None]}) == "74aec8341b6f003bd05a9649b96adb87c2e581a4dee8c0f60c5e8244a68d7087"


def test_specs_cannot_be_changed(spec):
    with pytest.raises(ValidationError):
        spec.shots = 2


@pytest.mark.parametrize(
    ("text", "accuracy", "half_width"),
    [("86.3", 0.863, None), ("95.7", 0.957, None), ("60.2 +- 0.91", 0.602, 0.0091), ("5", 0.05, None)],
)
def test_published_number(text, accuracy, half_width):
    published = TypeAdapter(Published).validate_python(text)
    assert (published.accuracy, published.half_width) == (accuracy, half_width)
    assert published.text == text


@pytest.mark.parametrize("text", ["100.5", "0.863 %", "60.2+-0.91", "60.2 ± 0.91", "", "-3", "60.2 +- "])
def test_published_number_in_another_form(text):
    with pytest.raises(ValidationError, match="is not of the form"):
        TypeAdapter(Published).validate_python(text)


def test_sourced_form_has_every_key():
    assert list(ProtocolEntry.model_fields) == list(Protocol.model_fields)


@pytest.mark.parametrize("model", [Protocol, *RULES.values()])
def test_every_key_is_described(model: type[Model]):
    undescribed = [key for key, field in model.model_fields.items() if not field.description]
    assert undescribed == []


def test_keys_of_protocol_and_rules_differ():
    """--set and reports name a value by its key alone."""
    keys = [*Protocol.model_fields, *(key for key in RunSpec.model_fields if key not in {"protocol", "rule"})]
    for rule in RULES.values():
        assert not set(keys) & set(rule.model_fields)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(("order", "support", "steps"), [("full", 25, 10), ("one-by-one", 1, 250)])
def test_inner_steps_of_an_episode_and_what_each_sees(registry, order, support, steps):
    spec = registry.resolve("norml", "mini-imagenet-5way", 5, {"support_order": order}).spec
    assert (spec.support_of_a_step, spec.steps_of_an_episode) == (support, steps)


@pytest.mark.parametrize(
    ("benchmark", "changed", "fault"),
    [
        ("glyphs-5way", {"support_order": "one-by-one"}, "support_order: one-by-one needs a single linear layer, but"),
        (
            "glyphs-5way",
            {"training_examples": "held-out-from-pretraining"},
            "training_examples: is held-out-from-pretraining, but there is no backbone",
        ),
        (
            "mini-imagenet-5way",
            {"training_examples": "held-out-from-pretraining", "queries_per_class": 60},
            "61 is more than the 60 examples a class of 'mini-imagenet' that are held out from pretraining",
        ),
        (
            "glyphs-5way",
            {"training_turns": "as-classes", "rotations": "none"},
            "training_turns: is as-classes, but rotations is none",
        ),
        ("mini-imagenet-5way", {"training_shift_px": 2}, "training_shift_px: is 2, but the examples are features"),
        (
            "mini-imagenet-5way",
            {"training_classes": "meta-train-and-meta-val"},
            "training_classes: is meta-train-and-meta-val, but a backbone needs meta-train",
        ),
    ],
)
def test_an_order_or_training_episodes_that_there_cannot_be_are_refused(registry, benchmark, changed, fault):
    with pytest.raises(UserError, match=fault):
        registry.resolve("norml", benchmark, 1, changed)


def test_keys_that_change_training_episodes_are_off_by_default_and_not_hashed(registry):
    """The hash is that of the records of Table 2, made before there were such keys."""
    spec = registry.resolve("norml", "omniglot-20way", 5).spec
    assert spec.hash() == "09563c839e8f45430f4e34fb020367bb457d02eee2cb09774202bffe9b594c3a"
    off = {"training_turns": "per-episode", "training_shift_px": 0, "training_tilt_degrees": 0, "weight_average": None}
    off["training_classes"] = "meta-train"
    assert registry.resolve("norml", "omniglot-20way", 5, off).spec.hash() == spec.hash()
    assert registry.resolve("norml", "omniglot-20way", 5, {"weight_average": 0.999}).spec.hash() != spec.hash()


@pytest.mark.parametrize("method", ["norml", "norml-zero-cell", "norml-zero-hidden", "norml-zero-hidden-zero-cell"])
def test_on_512_features_the_cell_is_as_wide_as_the_layer(registry, method):
    for benchmark in ("mini-imagenet-5way", "mini-imagenet-5way-one-by-one"):
        assert registry.resolve(method, benchmark, 1).spec.rule.cell_size == "layer-width"
    assert registry.resolve(method, "mini-imagenet-5way-narrow", 1).spec.rule.cell_size == 16  # as its records have it
    assert registry.resolve(method, "omniglot-20way", 1).spec.rule.cell_size == 64
