"""Plain YAML 1.2 files: no tags, duplicate keys, anchors or aliases, and no huge files."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from norml_cli.files.regular import read_regular

MAX_FILE_BYTES = 1_000_000  # chosen: a thousand times a real entry

MAX_DEPTH = 32  # levels of mappings and lists. Chosen: a real entry has 6
_SAFE_NESTING = 1000  # libyaml's binding recurses in C: fifty thousand levels crash the interpreter

_INDENTATION = re.compile(r"^[ \t?:-]+", re.MULTILINE)
_MAY_HAVE_ANCHORS = re.compile(r"(?:^|[\s\[{,:-])[&*]\S")  # wherever one may begin, even inside text


class _PlainKeys(yaml.constructor.SafeConstructor):
    """Mappings without duplicate keys, nested no deeper than MAX_DEPTH."""

    def construct_document(self, node: yaml.Node) -> Any:
        level: list[yaml.Node] = [node]
        for _ in range(MAX_DEPTH + 1):
            collections = [of for of in level if isinstance(of, yaml.CollectionNode)]
            if not collections:
                return super().construct_document(node)
            level = [inner for of in collections for inner in _inner(of)]
        raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=level[0].start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int):
                raise yaml.MarkedYAMLError(problem="a key is not plain text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key '{key}'", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _inner(node: yaml.CollectionNode) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value)


class _EntryLoader(_PlainKeys, yaml.SafeLoader):
    """Safe YAML with YAML 1.2's floats and booleans, without duplicate keys, anchors and aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
        if getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


# PyYAML follows YAML 1.1, where 1e-3 is text and `no` is false. These rules are YAML 1.2.
_REPLACED_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "timestamp")}
_EntryLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag not in _REPLACED_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_EntryLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_EntryLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")
)
_EntryLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


if yaml.__with_libyaml__:

    class _FastLoader(_PlainKeys, yaml.CSafeLoader):
        """The same with libyaml: several times faster, but it cannot detect anchors."""

    _FastLoader.yaml_implicit_resolvers = _EntryLoader.yaml_implicit_resolvers


def parse_yaml(text: str) -> Any:
    """Parse one YAML document. Raises ValueError with one line (what and where) if it is not plain YAML."""
    if yaml.__with_libyaml__ and not _MAY_HAVE_ANCHORS.search(text) and _nesting_at_most(text) <= _SAFE_NESTING:
        with suppress(yaml.YAMLError, RecursionError, ValueError):  # the slower loader below words the error
            return yaml.load(text, Loader=_FastLoader)  # noqa: S506 - a SafeLoader
    try:
        return yaml.load(text, Loader=_EntryLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"not readable as YAML: {str(error).splitlines()[0]}") from None


def _nesting_at_most(text: str) -> int:
    """An upper bound of the text's depth: each level needs a bracket, or a column of indentation."""
    return text.count("[") + text.count("{") + max((len(found) for found in _INDENTATION.findall(text)), default=0)


def _text(path: Path) -> str:
    """The file's text, with every system's line ends as newlines."""
    return read_regular(path, MAX_FILE_BYTES).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def read_mapping(path: Path) -> dict[Any, Any]:
    """The file's mapping. Raises OSError, and ValueError with one line if it is not a mapping in plain YAML."""
    try:
        data = parse_yaml(_text(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8; save the file as UTF-8") from None
    if not isinstance(data, dict):
        raise ValueError("not a mapping; start with 'id: ...'")  # noqa: TRY004 - one error for all unusable content
    return data
