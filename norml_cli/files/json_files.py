"""Files of plain JSON: not too large, without duplicate keys, NaN and numbers of a thousand digits. Torch-free."""

import json
from pathlib import Path
from typing import Any

from norml_cli.files.regular import read_regular

MAX_FILE_BYTES = 64_000_000  # chosen: over a hundred times a record of 10,000 test episodes
MAX_DIGITS = 20  # of a whole number: 2^64 has 20; a longer one only slows or overflows what reads it


def read_json(path: Path) -> Any:
    """The file's content. Raises OSError, and ValueError with one line for anything but plain JSON."""
    return parse_json(read_regular(path, MAX_FILE_BYTES))


def parse_json(data: bytes) -> Any:
    """The content of a JSON text. Raises ValueError with one line for anything but plain JSON."""
    try:
        return json.loads(data, object_pairs_hook=_mapping, parse_int=_whole, parse_constant=_refused)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # add returns None
        raise ValueError(f"key '{twice:.40}' stands twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no number")
