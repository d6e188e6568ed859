"""What `norml show` counts from shapes is what torch builds."""

import subprocess
import sys

import pytest

from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.registry.resolving import n_features
from norml_cli.registry.specs import RunSpec
from norml_cli.training.build import parameter_counts

REGISTRY = read_registry([builtin_registry()])
SPECS = [
    REGISTRY.resolve(method, bench.id, shots).spec
    for method in REGISTRY.methods
    for bench in REGISTRY.benchmarks.values()
    for shots in bench.shots
    if REGISTRY.methods[method].algorithm != "comparison" or bench.protocol.hidden_sizes.value
]
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


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.method} {spec.benchmark} {spec.shots}")
def test_every_declared_run(spec: RunSpec):
    assert equal(spec)


@pytest.mark.parametrize("overrides", SETTINGS, ids=str)
def test_settings_that_change_shapes(overrides: dict[str, object]):
    assert equal(REGISTRY.resolve("norml", "glyphs-5way", 5, overrides).spec)


def test_show_loads_no_torch():
    code = (
        "import sys\nfrom norml_cli.app.main import app\n"
        "try:\n    app(['show', 'norml'])\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "meta-learner parameters" in shown.stdout
