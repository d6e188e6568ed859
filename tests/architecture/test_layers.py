"""Which folder may import which, and what stays free of torch."""

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

# A folder imports from folders of a lower rank, and from itself.
RANKS: list[set[str]] = [
    {"norml"},
    {"files"},
    {"registry"},
    {"results", "terminal"},
    {"data", "reporting"},
    {"training"},
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
    "norml_cli.commands.registry.show",
    "norml_cli.commands.results.status",
    "norml_cli.commands.registry.validate",
    "norml_cli.data.features",
    "norml_cli.data.sources.mini_imagenet",
    "norml_cli.data.sources.omniglot",
    "norml_cli.training.cells",
    "norml_cli.training.ranks.launching",
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


def imports_of(module: str) -> set[str]:
    return set(imported(ast.parse(MODULES[module].read_text(encoding="utf-8")), set(MODULES)))


def may_import(importer: str, target: str) -> bool:
    here, there = folder_of(importer), folder_of(target)
    if here == there:
        return here not in ALONE or target in importer
    return rank(there) < rank(here) and (here, there) not in APART


def loads(statement: str, module: str) -> bool:
    """Whether `statement`, run by a fresh interpreter, loads `module`."""
    program = f"import sys\n{statement}\nprint({module!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True"


def test_modules_are_found():
    assert {"norml", "norml.learner", "norml.update_rules", "norml_cli.commands.results.report"} <= set(MODULES)


def test_every_folder_has_a_rank():
    assert {folder_of(module) for module in MODULES} == {folder for folders in RANKS for folder in folders}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module):
    upward = sorted(target for target in imports_of(module) if target != module and not may_import(module, target))
    assert upward == []


def test_no_cycles():
    list(TopologicalSorter({module: imports_of(module) - {module} for module in MODULES}).static_order())


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_a_folder_is_small_enough_to_be_looked_over(folder):
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MAX_FILES


def test_packages_of_the_command_line_load_nothing():
    faces = [path for path in MODULES.values() if path.name == "__init__.py" and "norml_cli" in path.parts]
    assert [path for path in faces if "import" in path.read_text(encoding="utf-8")] == []


def test_one_module_names_the_files_beside_a_record():
    named = {".checkpoint", ".weights", ".status", ".diverged", ".lock", ".log", ".features.h5"}
    naming = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in named
    }
    assert naming == {"norml_cli.files.companions"}


def test_a_command_takes_few_parameters():
    commands = [path for module, path in MODULES.items() if module.startswith("norml_cli.commands.")]
    many = [
        (path.name, node.name)
        for path in commands
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) > 6
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


@pytest.mark.parametrize("module", TORCH_FREE)
def test_starts_without_torch(module):
    assert not loads(f"import {module}", "torch")


@pytest.mark.parametrize("module", NUMPY_FREE)
def test_starts_without_numpy(module):
    assert not loads(f"import {module}", "numpy")


@pytest.mark.parametrize("command", ["--help", "list", "status", "report"])
def test_what_computes_no_interval_runs_without_scipy(command):
    """On the records of this repository; scipy.special takes longer than the rest of these commands together."""
    results = Path(__file__).parents[2] / "results"
    arguments = [command, "--results", str(results)] if command in {"status", "report"} else [command]
    run = f"sys.argv[1:] = {arguments}\nfrom norml_cli.app.main import main\ntry: main()\nexcept SystemExit: pass"
    program = f"import sys\n{run}\nprint(any(name in sys.modules for name in ('scipy', 'numpy', 'torch')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *printed, heavy = done.stdout.splitlines()
    assert printed
    assert heavy == "False"


def test_a_loaded_module_is_detected():
    """The checks above can fail; numpy stands in for torch, which takes seconds."""
    assert loads("import numpy", "numpy")
    assert loads("def f():\n    import numpy\nf()", "numpy")
