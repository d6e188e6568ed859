"""The layer table: which module may import which, and what stays free of torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import norml
import norml_cli

ROOTS = [Path(package.__file__).parent for package in (norml, norml_cli)]

# A module imports only from layers below its own; a package named with `.*` is one layer whose modules may use each
# other. A new module must be placed here.
LAYERS: list[set[str]] = [
    {"norml_cli", "norml_cli.errors"},
    {
        "norml.episodes",
        "norml.fast_weights",
        "norml.hidden_layer",
        "norml.matrix_products",
        "norml.resnet12",
        "norml.statistics",
        "norml.update_rules",
    },
    {
        "norml.frozen_classifiers",
        "norml.learner",
        "norml.update_rules.*",
    },
    {"norml.adaptation"},
    {"norml.meta_training"},
    {"norml.evaluation", "norml.inspection"},
    {"norml"},
    {"norml_cli.declared", "norml_cli.files", "norml_cli.output", "norml_cli.grids"},
    {"norml_cli.display"},
    {"norml_cli.rules"},
    {"norml_cli.rules.*"},
    {"norml_cli.spec"},
    {"norml_cli.faults", "norml_cli.json_files", "norml_cli.locks", "norml_cli.yaml_files"},
    {"norml_cli.registry"},
    {"norml_cli.records", "norml_cli.datasets.*", "norml_cli.build", "norml_cli.completion", "norml_cli.image_batches"},
    {"norml_cli.array_files"},
    {"norml_cli.tables", "norml_cli.cache", "norml_cli.checkpoints", "norml_cli.provenance"},
    {"norml_cli.report", "norml_cli.comparisons", "norml_cli.recipes"},
    {"norml_cli.comparison_pages", "norml_cli.drawings"},
    {"norml_cli.page"},
    {"norml_cli.features", "norml_cli.divergence"},
    {"norml_cli.examples", "norml_cli.pretraining", "norml_cli.embedding"},
    {"norml_cli.training", "norml_cli.status", "norml_cli.event_files"},
    {"norml_cli.trained", "norml_cli.inspection_files"},
    {"norml_cli.launch"},
    {"norml_cli.commands.*"},
    {"norml_cli.app"},
    {"norml_cli.__main__"},
]

TORCH_FREE = [
    "norml",
    "norml.statistics",
    "norml_cli.app",
    "norml_cli.array_files",
    "norml_cli.cache",
    "norml_cli.commands.compare",
    "norml_cli.commands.doctor",
    "norml_cli.commands.list_",
    "norml_cli.commands.prepare",
    "norml_cli.commands.report",
    "norml_cli.commands.show",
    "norml_cli.commands.status",
    "norml_cli.commands.validate",
    "norml_cli.datasets.mini_imagenet",
    "norml_cli.datasets.omniglot",
    "norml_cli.features",
    "norml_cli.locks",
    "norml_cli.recipes",
    "norml_cli.records",
    "norml_cli.registry",
    "norml_cli.report",
    "norml_cli.spec",
]
NUMPY_FREE = [  # numpy alone takes 0.3 s
    "norml_cli.app",
    "norml_cli.commands.list_",
    "norml_cli.commands.report",
    "norml_cli.commands.status",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(next(root for root in ROOTS if root in path.parents).parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for root in ROOTS for path in sorted(root.rglob("*.py"))}


def layer_name(module: str) -> str | None:
    """The name under which the table lists `module`: its own, or its package's `.*`."""
    package = module.rpartition(".")[0]
    names = {module, f"{module}.*", f"{package}.*"}
    return next((name for layer in LAYERS for name in layer if name in names), None)


def rank(module: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if layer_name(module) in layer)


def imported(tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """Modules of `modules` that `tree` imports anywhere, at the top or inside a function."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            source = node.module or ""
            submodules = [f"{source}.{alias.name}" for alias in node.names]
            names = [name if name in modules else source for name in submodules]
        yield from (name for name in names if name in modules)


def imports_of(module: str) -> set[str]:
    return set(imported(ast.parse(MODULES[module].read_text(encoding="utf-8")), set(MODULES)))


def may_import(importer: str, target: str) -> bool:
    if importer.partition(".")[0] == "norml" and target.partition(".")[0] != "norml":
        return False
    same_package = layer_name(importer) == layer_name(target) and str(layer_name(target)).endswith(".*")
    return same_package or rank(target) < rank(importer)


def loads(statement: str, module: str) -> bool:
    """Whether `statement`, run by a fresh interpreter, loads `module`."""
    program = f"import sys\n{statement}\nprint({module!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True"


def test_modules_are_found():
    assert {"norml", "norml.learner", "norml.update_rules", "norml_cli.commands.report"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_module_has_a_layer(module):
    assert layer_name(module) is not None, f"place {module} in LAYERS"


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module):
    upward = sorted(target for target in imports_of(module) if target != module and not may_import(module, target))
    assert upward == []


def test_no_cycles():
    list(TopologicalSorter({module: imports_of(module) - {module} for module in MODULES}).static_order())


def test_imports_inside_functions_are_seen():
    tree = ast.parse("def f():\n    from norml_cli import registry, __version__\n    import norml_cli.spec\n")
    assert list(imported(tree, set(MODULES))) == ["norml_cli.registry", "norml_cli", "norml_cli.spec"]


@pytest.mark.parametrize(
    ("importer", "target"),
    [
        ("norml.statistics", "norml_cli.errors"),
        ("norml_cli.spec", "norml_cli.registry"),
        ("norml_cli.records", "norml_cli.build"),
        ("norml.learner", "norml.update_rules.nodal_lstm"),
        ("norml_cli.datasets.glyphs", "norml_cli.commands.report"),
    ],
)
def test_upward_and_sideways_imports_are_refused(importer, target):
    assert not may_import(importer, target)


def test_modules_of_one_layer_package_may_use_each_other():
    assert may_import("norml_cli.commands.run", "norml_cli.commands.prepare")
    assert may_import("norml_cli.datasets", "norml_cli.datasets.glyphs")


@pytest.mark.parametrize("module", [module for module in TORCH_FREE if module in MODULES])
def test_starts_without_torch(module):
    assert not loads(f"import {module}", "torch")


@pytest.mark.parametrize("module", [module for module in NUMPY_FREE if module in MODULES])
def test_starts_without_numpy(module):
    assert not loads(f"import {module}", "numpy")


def test_a_loaded_module_is_detected():
    """The checks above can fail; numpy stands in for torch, which takes seconds."""
    assert loads("import numpy", "numpy")
    assert loads("def f():\n    import numpy\nf()", "numpy")
