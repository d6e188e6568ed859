"""Complete entries that name another entry (`like`) and state only what they change. Torch-free.

An entry's own value always wins over the other entry's. For example, a value that it states for all numbers of shots
also replaces the other's value for one number of shots.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeVar

from norml_cli.registry.entries import EVERYWHERE
from norml_cli.registry.faults import did_you_mean

T = TypeVar("T")

NOUNS = {"benchmarks": "benchmark", "methods": "method"}  # kinds that allow `like`

Stated = dict[str, Any]  # an entry as its file states it

_OF_ITSELF = {"id", "title", "citation", "like"}  # keys that are never taken from another entry
_DEPTHS = {  # levels of keys above the values: a benchmark's id, a number of shots
    "benchmarks": {"protocol": 0, "protocol_by_shots": 1},
    "methods": {"protocol": 1, "protocol_by_shots": 2, "rule": 0, "rule_by_benchmark": 1, "rule_by_shots": 2},
}


def line_of(kind: str, id_: str, stated: Mapping[str, Mapping[str, Stated]]) -> list[str]:
    """The ids of an entry, of the entry that it names with `like`, of that entry's `like`, and so on.

    stated: the entries by kind and id. Raises ValueError with a message `like: ...`.
    """
    if kind not in NOUNS:
        if "like" in stated[kind][id_]:
            raise ValueError(f"like: is for {' and '.join(NOUNS)} only; state every key")
        return [id_]
    line = [id_]
    while (like := stated[kind][line[-1]].get("like")) is not None:
        if like == id_:
            raise ValueError(f"like: is circular ({' -> '.join([*line, like])}); state every value in one of them")
        known = isinstance(like, str) and like in stated[kind]
        if len(line) > 1 and (not known or like in line):
            raise ValueError(faulty(line[1]))
        if not known:
            raise ValueError(f"like: {_unknown(kind, like, stated)}")
        line.append(like)
    return line


def faulty(like: str) -> str:
    """The fault of an entry whose `like` names a faulty entry."""
    return f"like: '{like}' has faults itself; fix those first"


def _unknown(kind: str, like: Any, stated: Mapping[str, Mapping[str, Stated]]) -> str:
    noun = NOUNS[kind]
    if not isinstance(like, str):
        return f"must be a {noun}'s id"
    other = next((other for other in stated if like in stated[other]), None)
    if other is not None:
        return f"'{like}' is one of the {other}; name a {noun}"
    return f"unknown {noun} '{like}'{did_you_mean(like, stated[kind])}"


def in_full(kind: str, line: Collection[str], stated: Mapping[str, Stated]) -> Stated:
    """The first entry of `line`, completed from the entries behind it."""
    *others, last = line
    full = stated[last]
    for id_ in reversed(others):
        full = _merged(kind, full, stated[id_])
    return full


def carried_over(values: Mapping[str, T], lines: Iterable[Sequence[str]]) -> dict[str, T]:
    """`values` by benchmark id, completed: a benchmark without a value takes that of the benchmark that it is like.

    lines: of each benchmark, as `line_of` returns them.
    """
    nearest = {line[0]: next((id_ for id_ in line if id_ in values), None) for line in lines}
    return {**values, **{id_: values[found] for id_, found in nearest.items() if found is not None}}


def _merged(kind: str, base: Stated, own: Stated) -> Stated:
    """`base` with everything that `own` states."""
    taken = {key: deepcopy(value) for key, value in base.items() if key not in _OF_ITSELF}
    if own.get("algorithm", base.get("algorithm")) != base.get("algorithm"):
        taken = {
            key: value for key, value in taken.items() if not key.startswith("rule")
        }  # settings of another algorithm
    _drop_undeclared_shots(taken, own)
    for place, values in _layers(kind, taken):
        for wider, stated in _layers(kind, own):
            if wider == place[: len(wider)]:
                for key in stated:
                    values.pop(key, None)
    merged: Stated = _overlaid({"citation": f"this project, like '{base.get('id')}'", **taken}, own)
    return merged


def _drop_undeclared_shots(taken: Stated, own: Stated) -> None:
    """Remove a benchmark's values for numbers of shots that it no longer declares."""
    by_shots, shots = taken.get("protocol_by_shots"), own.get("shots")
    if isinstance(by_shots, dict) and isinstance(shots, list):
        taken["protocol_by_shots"] = {key: values for key, values in by_shots.items() if key in shots}


def _layers(kind: str, stated: Stated) -> Iterator[tuple[tuple[Any, ...], Stated]]:
    """Each mapping of values with its place, such as ('protocol', 'omniglot-5way', 1)."""
    for key, depth in _DEPTHS[kind].items():
        for place, values in _walked(stated.get(key), depth):
            yield (key.partition("_")[0], *(part for part in place if part != EVERYWHERE)), values


def _walked(value: Any, depth: int) -> Iterator[tuple[tuple[Any, ...], Stated]]:
    if not isinstance(value, dict):
        return
    if depth == 0:
        yield (), value
        return
    for key, inner in value.items():
        yield from (((key, *place), values) for place, values in _walked(inner, depth - 1))


def _overlaid(base: Any, own: Any) -> Any:
    """`base` updated from `own` key by key; a value is replaced together with its source."""
    if not isinstance(base, dict) or not isinstance(own, dict) or "value" in own:
        return own
    return base | {key: _overlaid(base.get(key), value) for key, value in own.items()}
