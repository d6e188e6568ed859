"""What `norml show` counts from shapes is what torch builds."""

import pytest

from norml.resnet12 import parameter_count
from norml_cli.registry.protocol import Recipe
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.registry.resolving import n_features
from norml_cli.registry.specs import RunSpec
from norml_cli.training.build import parameter_counts, try_backbone

REGISTRY = read_registry([builtin_registry()])
SETTINGS = [
    {"gates": "flattened"},
    {"gates": "batch-shared", "cell_size": "layer-width"},
    {"input_normalisation": "log-sign", "gates": "flattened"},
    {"hidden_state": "none"},
    {"previous_hidden": False, "previous_cell": False},
    {"hidden_sizes": []},
    {"hidden_sizes": [7, 5, 3]},
]


def equal(spec: RunSpec) -> bool:
    counted = spec.parameter_counts(n_features(REGISTRY, spec))
    if spec.protocol.learner != "fully-connected" and spec.rule.meta_trained:
        return counted is None
    return counted is not None and counted == parameter_counts(REGISTRY, spec)


@pytest.mark.parametrize("method", REGISTRY.methods)
def test_every_declared_run(method: str):
    compares = REGISTRY.methods[method].algorithm == "comparison"  # which needs a hidden layer
    benchmarks = [b for b in REGISTRY.benchmarks.values() if b.protocol.hidden_sizes.value or not compares]
    places = [(bench.id, shots) for bench in benchmarks for shots in bench.shots]
    assert [place for place in places if not equal(REGISTRY.resolve(method, *place).spec)] == []


@pytest.mark.parametrize("overrides", SETTINGS, ids=str)
def test_settings_that_change_shapes(overrides: dict[str, object]):
    assert equal(REGISTRY.resolve("norml", "glyphs-5way", 5, overrides).spec)


RECIPE = next(iter(REGISTRY.recipes.values())).values
BLOCKS = [
    {"convolution_biases": biases, "batch_norm_scale": scale, "skip_batch_norm": skip}
    for biases in (False, True)
    for scale in (False, True)
    for skip in (False, True)
]


@pytest.mark.parametrize(
    "recipe",
    [*(entry.values for entry in REGISTRY.recipes.values())]
    + [RECIPE.model_copy(update={"widths": [2, 3, 5, 7], **blocks}) for blocks in BLOCKS],
)
def test_backbones(recipe: Recipe):
    assert recipe.backbone_parameters == parameter_count(try_backbone(recipe))
