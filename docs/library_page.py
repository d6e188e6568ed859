"""The page of the library's public names, from their signatures and docstrings."""

import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import norml

LONGEST = 100  # characters of a signature in one line
HEAD = """\
Everything here is imported from `norml`. [Use norml as a library](../how-to/library.md) shows how it fits together.

Shapes are written in brackets, with these letters:

| letter | size |
| --- | --- |
"""


def library_page(made: str) -> str:
    """Every name of `norml.__all__`, by module. made: the line that says which command writes the page."""
    lines = ["# Library", "", made, "", HEAD + "\n".join(_letters()), ""]
    for home, names in norml._HOMES.items():  # noqa: SLF001 - the package's own table of its public names
        lines += [f"## {home}", "", _prose(importlib.import_module(home)), ""]
        for name in names:
            lines += [f"### {name}", "", *_entry(name, getattr(norml, name)), ""]
    return "\n".join(lines)


def _letters() -> Iterator[str]:
    """The legend in norml's docstring, one row for each letter."""
    legend = (norml.__doc__ or "").split("\n\n")[2]
    for line in legend.splitlines():
        for letter, meaning in re.findall(r"(?<!\S)([A-Z])(?: =)? (.*?)(?=\s{2,}|; [A-Z] |$)", line.strip()):
            yield f"| {letter} | {meaning} |"


def _entry(name: str, thing: Any) -> Iterator[str]:
    if isinstance(thing, types.GenericAlias | types.UnionType) or typing.get_origin(thing):  # a name for a type
        yield from ["```python", f"{name} = {_type(thing)}", "```"]
        return
    yield from _signed(name, thing)
    yield ""
    yield _prose(thing)
    if inspect.isclass(thing):
        for key, member in vars(thing).items():
            yield from _member(key, member)


def _member(key: str, member: Any) -> Iterator[str]:
    """A public method or property with a docstring."""
    if key.startswith("_"):
        return
    if isinstance(member, property) and member.__doc__:
        yield from ["", f"**`{key}`**: {_prose(member)}"]
    elif inspect.isfunction(inspect.unwrap(getattr(member, "__func__", member))) and member.__doc__:
        yield from ["", *_signed(f".{key}", getattr(member, "__func__", member)), "", _prose(member)]


def _signed(name: str, thing: Any) -> list[str]:
    """The signature as code, with one parameter per line if it is long."""
    signature = inspect.signature(thing)
    given = list(_listed([each for each in signature.parameters.values() if each.name not in {"self", "cls"}]))
    end = "" if inspect.isclass(thing) else f" -> {_type(signature.return_annotation)}"
    line = f"{name}({', '.join(given)}){end}"
    if len(line) > LONGEST:
        line = "\n".join([f"{name}(", *(f"    {each}," for each in given), f"){end}"])
    return ["```python", line, "```"]


def _listed(parameters: list[inspect.Parameter]) -> Iterator[str]:
    """The parameters, with the star before those that must be given by name."""
    before = None
    for each in parameters:
        if each.kind == each.KEYWORD_ONLY and before not in {each.KEYWORD_ONLY, each.VAR_POSITIONAL}:
            yield "*"
        before = each.kind
        name = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "") + each.name
        yield f"{name}: {_type(each.annotation)}{_default(each)}"


def _default(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is inspect.Parameter.empty:
        return ""
    named = inspect.isclass(default) or inspect.isfunction(default)
    return f" = {default.__name__ if named else repr(default).removeprefix('torch.')}"


def _type(annotation: Any) -> str:
    """A type by its last name, equal in all versions of Python."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in {typing.Union, types.UnionType}:
        return " | ".join(map(_type, parts))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, parts))}]"
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_type, parts))}]"
    if isinstance(annotation, list):  # of a Callable's parameters
        return f"[{', '.join(map(_type, annotation))}]"
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return "None" if name == "NoneType" else "..." if annotation is ... else name.rpartition(".")[2]


def _prose(thing: Any) -> str:
    return inspect.getdoc(thing) or ""
