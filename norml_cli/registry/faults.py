"""Turn pydantic's errors into one `key: message` line per key, in the terms of the YAML file."""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from norml_cli.files.errors import counted
from norml_cli.registry.protocol import ID_PATTERN, SHA256_PATTERN
from norml_cli.registry.sourced import Model

_LONGEST_VALUE = 40  # characters of a wrong value that a message repeats

_PATTERNS = {
    ID_PATTERN: "must be lower-case letters and digits, words joined by '-'",
    SHA256_PATTERN: "must be 64 hexadecimal digits",
}


def _number(value: float) -> str:
    return f"{value:,.15g}"


# By pydantic's error type. Other types keep pydantic's message.
_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda _: "is missing",
    "int_type": lambda _: "must be a whole number",
    "int_from_float": lambda _: "must be a whole number",
    "float_type": lambda _: "must be a number",
    "bool_type": lambda _: "must be true or false",
    "string_type": lambda _: "must be text (quote it)",
    "list_type": lambda _: "must be a list",
    "dict_type": lambda _: "must be a mapping",
    "finite_number": lambda _: "must be finite",
    "none_required": lambda _: "must be null",
    "greater_than": lambda limits: f"must be greater than {_number(limits['gt'])}",
    "greater_than_equal": lambda limits: f"must be at least {_number(limits['ge'])}",
    "less_than": lambda limits: f"must be less than {_number(limits['lt'])}",
    "less_than_equal": lambda limits: f"must be at most {_number(limits['le'])}",
    "literal_error": lambda limits: f"must be {limits['expected']}",
    "too_short": lambda limits: f"must have {limits['min_length']} or more items",
    "too_long": lambda limits: f"must have {limits['max_length']} items or fewer",
    "string_too_short": lambda _: "must not be empty",
    "string_too_long": lambda limits: f"must have {limits['max_length']} characters or fewer",
    "string_pattern_mismatch": lambda limits: _PATTERNS[limits["pattern"]],
    "union_tag_not_found": lambda _: "is missing",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """', did you mean ...?' with the nearest known words, or ''."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f", did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def in_short(faults: Sequence[str]) -> str:
    """The first fault, and the number of further faults."""
    first, *more = faults
    return f"{first}, and {counted(len(more), 'more fault')}" if more else first


def fault_lines(error: ValidationError, data: Any) -> list[str]:
    """One `key: message` line per key of `data`; messages of several union branches are joined."""
    by_key: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        messages = by_key.setdefault(_key(item, data), [])
        message = _message(item, data)
        if message not in messages:
            messages.append(message)
    return [f"{key}: {_joined(messages)}" for key, messages in by_key.items()]


def value_fault(error: ValidationError) -> str:
    """The fault of a single value, such as that of `--set`."""
    messages = dict.fromkeys(_without_value(item) for item in error.errors(include_url=False))
    return _joined(list(messages))


def _joined(messages: list[str]) -> str:
    """Join the messages of a union's branches, `must be a number or 'he'`, and show the value once."""
    bare = [message.removesuffix(_suffix(message)) for message in messages]
    head, *rest = bare
    return " or ".join([head, *(message.removeprefix("must be ") for message in rest)]) + _suffix(messages[-1])


def _suffix(message: str) -> str:
    start = message.rfind(" (got ")
    return message[start:] if start >= 0 else ""


def _message(item: ErrorDetails, data: Any) -> str:
    if item["type"] == "extra_forbidden":
        return f"unknown key{did_you_mean(str(item['loc'][-1]), _words_beside(item['loc'], data))}"
    message = _without_value(item)
    value = item["ctx"]["tag"] if item["type"] == "union_tag_invalid" else item["input"]
    return message if isinstance(value, dict | list | Model) else f"{message} (got {_shown(value)})"


def _without_value(item: ErrorDetails) -> str:
    limits = item.get("ctx", {})
    if item["type"] == "model_type":
        sourced = str(limits["class_name"]).startswith("Sourced")
        return 'must be written {value: ..., source: "..."}' if sourced else "must be a mapping"
    if item["type"] == "union_tag_invalid":
        return f"must be {' or '.join(str(limits['expected_tags']).rsplit(', ', 1))}"
    if item["type"] in _WORDS:
        return _WORDS[item["type"]](limits)
    return item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")


def _shown(value: Any) -> str:
    """The value as the file has it, shortened."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _key(item: ErrorDetails, data: Any) -> str:
    """The dotted key, as in the file."""
    parts, _ = _walk(item["loc"], data)
    if item["type"] == "missing":
        parts.append(str(item["loc"][-1]))
    elif item["type"].startswith("union_tag"):
        parts.append(str(item["ctx"]["discriminator"]).strip("'"))
    return ".".join(parts) or "entry"


def _walk(loc: tuple[int | str, ...], data: Any) -> tuple[list[str], Any]:
    """The keys of `loc` that are in `data`, without pydantic's names of union branches, and the value there."""
    parts = []
    for part in loc:
        if part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int):
            data = data[part]
            parts.append(str(part))
    return parts, data


def _words_beside(loc: tuple[int | str, ...], data: Any) -> set[str]:
    """Known keys of the models that best match the mapping with the unknown key."""
    siblings = set(_walk(loc[:-1], data)[1])
    models, known = [Model], []
    while models:
        model = models.pop()
        models += model.__subclasses__()
        known.append(set(model.model_fields))
    most = max(len(words & siblings) for words in known)
    return set().union(*(words for words in known if len(words & siblings) == most)) - siblings
