"""Plain JSON files: no duplicate keys, no NaN, no huge files or numbers. Torch-free."""

import json
from pathlib import Path
from typing import Any

from norml_cli.files.regular import read_regular

MAX_FILE_BYTES = 64_000_000  # chosen: over a hundred times a record of 10,000 test episodes
MAX_DIGITS = 20  # of a whole number: 2^64 has 20; longer ones are slow to read, or overflow


def read_json(path: Path) -> Any:
    """The file's content. Raises OSError, and ValueError with one line if it is not plain JSON."""
    return parse_json(read_regular(path, MAX_FILE_BYTES))


def parse_json(data: bytes) -> Any:
    """The content of a JSON text. Raises ValueError with one line if it is not plain JSON."""
    try:
        return json.loads(
            data, object_pairs_hook=_without_duplicates, parse_int=_whole_number, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # add returns None
        raise ValueError(f"duplicate key '{twice:.40}'")
    return found


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
