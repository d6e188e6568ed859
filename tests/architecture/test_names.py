"""One name, one thing: no two public classes or aliases of norml and norml_cli share a name."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import norml
import norml_cli

PACKAGES = [Path(package.__file__).parent for package in (norml, norml_cli)]


def public_names(source: str) -> Iterator[str]:
    """Classes and type aliases at the top of a module: names with a capital that are no constants."""
    for node in ast.parse(source).body:
        names = [node.name] if isinstance(node, ast.ClassDef) else []
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        yield from (name for name in names if name[0].isupper() and not name.isupper())


def homes() -> dict[str, list[str]]:
    """The files that define each name."""
    defined = defaultdict(list)
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            for name in public_names(path.read_text(encoding="utf-8")):
                defined[name].append(path.relative_to(package.parent).as_posix())
    return defined


def test_no_two_public_classes_or_aliases_share_a_name():
    shared = {name: files for name, files in homes().items() if len(files) > 1}
    assert shared == {}


def test_the_settings_of_an_algorithm_and_its_torch_module_have_different_names():
    defined = homes()
    assert defined["GradientDescent"] == ["norml/update_rules/gradient_descent.py"]
    assert defined["GradientDescentSettings"] == ["norml_cli/registry/rules/gradient_descent.py"]
    assert not [name for name in defined if name.endswith("Rule") and name != "UpdateRule"]


def test_classes_and_aliases_are_seen_and_constants_and_private_names_are_not():
    source = (
        "class One: ...\nTwo = int\nThree: type = str\nD_E = 1\n_F = int\ndef g(): ...\nclass Four:\n    Inner = 1\n"
    )
    assert list(public_names(source)) == ["One", "Two", "Three", "Four"]
