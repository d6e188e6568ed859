"""Which folder may import which, and what stays free of torch."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import norml
import norml_cli

ROOTS = [Path(package.__file__).parent for package in (norml, norml_cli)]

# A folder imports from folders of a lower rank, and from itself.
RANKS: list[set[str]] = [
    {"norml"},
    {"files"},
    {"registry"},
    {"results", "terminal"},
    {"data", "reporting"},
    {"training"},
    {"sweeps"},
    {"commands"},
    {"app"},  # the modules beside the folders
]
APART = {("training", "reporting")}  # what trains prints no results
ALONE = {"commands"}  # its modules do not import each other
MAX_FILES = 15  # in a folder
MAX_PARAMETERS = 6  # of a function of a command

TORCH_FREE = [
    "norml",
    "norml.statistics",
    "norml_cli.app.main",
    "norml_cli.commands.results.compare",
    "norml_cli.commands.upkeep.doctor",
    "norml_cli.commands.data.prepare",
    "norml_cli.commands.results.report",
    "norml_cli.commands.runs.reproduce",
    "norml_cli.commands.runs.sweep",
    "norml_cli.commands.registry.show",
    "norml_cli.commands.results.status",
    "norml_cli.commands.registry.validate",
    "norml_cli.data.features",
    "norml_cli.data.sources.mini_imagenet",
    "norml_cli.data.sources.omniglot",
    "norml_cli.training.ranks.launching",
    "norml_cli.sweeps.on_ray",
    "norml_cli.sweeps.on_slurm",
    "norml_cli.sweeps.sweep",
]
NUMPY_FREE = [  # numpy alone takes 0.3 s
    "norml_cli.app.main",
    "norml_cli.commands.registry.show",
    "norml_cli.commands.results.report",
    "norml_cli.commands.results.status",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(next(root for root in ROOTS if root in path.parents).parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for root in ROOTS for path in sorted(root.rglob("*.py"))}


def folder_of(module: str) -> str:
    """'norml', one of the folders of norml_cli, or 'app' for what lies beside them; 'files' for norml_cli itself."""
    package, *rest = module.split(".")
    if package == "norml":
        return "norml"
    if not rest:
        return "files"  # its version alone, which all may read
    is_folder = (MODULES["norml_cli"].parent / rest[0]).is_dir()
    return rest[0] if is_folder else "app"


def rank(folder: str) -> int:
    return next(number for number, folders in enumerate(RANKS) if folder in folders)


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


@cache
def imports_of(module: str) -> set[str]:
    return set(imported(ast.parse(MODULES[module].read_text(encoding="utf-8")), set(MODULES)))


def may_import(importer: str, target: str) -> bool:
    here, there = folder_of(importer), folder_of(target)
    if here == there:
        return here not in ALONE or target in importer
    return rank(there) < rank(here) and (here, there) not in APART


def loaders(module: str, *statements: str) -> list[str]:
    """The first of `statements`, run one after the other by a fresh interpreter, that loads `module`; or none."""
    program = (
        f"import sys\nfor statement in {statements}:\n"
        f"    exec(statement, {{}})\n    if {module!r} in sys.modules: sys.exit(statement)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.stderr.splitlines()


def test_modules_are_found():
    assert {"norml", "norml.learner", "norml.update_rules", "norml_cli.commands.results.report"} <= set(MODULES)


def test_every_folder_has_a_rank():
    assert {folder_of(module) for module in MODULES} == {folder for folders in RANKS for folder in folders}


def test_imports_run_downward():
    upward = {(module, target) for module in MODULES for target in imports_of(module) if not may_import(module, target)}
    assert {(module, target) for module, target in upward if module != target} == set()


def test_no_cycles():
    list(TopologicalSorter({module: imports_of(module) - {module} for module in MODULES}).static_order())


def test_a_folder_is_small_enough_to_be_looked_over():
    files = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    assert {str(folder): count for folder, count in files.items() if count > MAX_FILES} == {}


def test_packages_of_the_command_line_load_nothing():
    faces = [path for path in MODULES.values() if path.name == "__init__.py" and "norml_cli" in path.parts]
    assert [path for path in faces if "import" in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(
    ("owner", "named"),
    [
        ("files.companions", {".checkpoint", ".weights", ".status", ".diverged", ".lock", ".log", ".features.h5"}),
        ("files.companions", {"-evaluations", "-inspection", "inspection.json", ".part"}),
        ("registry.protocol", {"studies", "other-protocols"}),
        ("registry.recipes", {"backbones"}),
    ],
)
def test_one_module_names_each_file_and_folder(owner: str, named: set[str]):
    naming = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in named
    }
    assert naming == {f"norml_cli.{owner}"}


def test_the_models_print_nothing_and_open_one_file():
    """As CONTRIBUTING.md says: /proc/cpuinfo, which names the CPU."""
    calls = {
        (module, name)
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if folder_of(module) == "norml" and isinstance(node, ast.Call)
        for name in (getattr(node.func, "attr", None) or getattr(node.func, "id", None),)
        if name in {"print", "open", "read_text", "read_bytes", "write_text", "write_bytes"}
    }
    assert calls == {("norml.matrix_products", "read_text")}


def test_a_command_takes_few_parameters():
    commands = [path for module, path in MODULES.items() if module.startswith("norml_cli.commands.")]
    many = [
        (path.name, node.name)
        for path in commands
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) > MAX_PARAMETERS
    ]
    assert many == []


def test_imports_inside_functions_are_seen():
    tree = ast.parse("def f():\n    from norml_cli.registry import specs, __doc__\n    import norml_cli.app.main\n")
    assert list(imported(tree, set(MODULES))) == [
        "norml_cli.registry.specs",
        "norml_cli.registry",
        "norml_cli.app.main",
    ]


@pytest.mark.parametrize(
    ("importer", "target"),
    [
        ("norml.statistics", "norml_cli.files.errors"),
        ("norml_cli.registry.specs", "norml_cli.results.records"),
        ("norml_cli.results.records", "norml_cli.terminal.output"),
        ("norml_cli.terminal.output", "norml_cli.results.records"),
        ("norml_cli.reporting.html", "norml_cli.data.cache"),
        ("norml_cli.data.cache", "norml_cli.reporting.html"),
        ("norml_cli.training.run", "norml_cli.reporting.html"),
        ("norml_cli.commands.runs.run", "norml_cli.commands.results.report"),
        ("norml_cli.commands.runs.run", "norml_cli.app.main"),
    ],
)
def test_upward_and_sideways_imports_are_refused(importer, target):
    assert not may_import(importer, target)


@pytest.mark.parametrize(("heavy", "modules"), [("torch", TORCH_FREE), ("numpy", NUMPY_FREE)])
def test_starts_without_what_takes_long(heavy, modules):
    assert loaders(heavy, *(f"import {module}" for module in modules)) == []


def test_what_computes_no_interval_runs_without_scipy():
    """On the records of this repository; scipy.special takes longer than the rest of these commands together."""
    results = ("--results", str(Path(__file__).parents[2] / "results"))
    light = [
        ("--help",),
        ("list",),
        ("show", "norml"),
        ("show", "mtl-2019"),
        ("status", *results),
        ("report", *results),
    ]
    commands = [
        *((words, {"scipy", "numpy", "torch"}) for words in light),
        (("report", "--table", *results), {"torch"}),
    ]
    program = (
        "import sys\nfrom norml_cli.app.main import main\n"
        f"for words, heavy in {commands}:\n"
        "    sys.argv[1:] = words\n"
        "    try: main()\n    except SystemExit as left: assert not left.code, words\n"
        "    assert not heavy & set(sys.modules), words\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "learner parameters" in done.stdout
    assert "backbone parameters" in done.stdout
    assert "NORML" in done.stdout


def test_a_loaded_module_is_detected():
    """The checks above can fail; numpy stands in for torch, which takes seconds."""
    inside = "def f():\n    import numpy\nf()"
    assert loaders("numpy", "import sys", "import numpy", "import sys") == ["import numpy"]
    assert loaders("numpy", inside) == inside.splitlines()
