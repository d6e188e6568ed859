"""Entries that are like another: what they take, what they state, and likenesses that lead nowhere."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from norml_cli.commands.registry.show import show
from norml_cli.files.errors import UserError
from norml_cli.registry.likeness import in_full
from norml_cli.registry.reading import RegistryError, builtin_registry, load_registry, read_registry
from norml_cli.registry.resolving import Registry

OMNIGLOT_10WAY_3SHOT = """\
id: omniglot-10way-3shot
title: Omniglot 10-way 3-shot
like: omniglot-5way
shots: [3]
protocol: {n_way: {value: 10, source: "chosen: mine"}, queries_per_class: {value: 3, source: "chosen: as shots"}}
"""


def sourced(value: object) -> dict[str, object]:
    return {"value": value, "source": "chosen: for tests"}


def put(folder: Path, kind: str, id_: str, text: str) -> Path:
    path = folder / kind / f"{id_}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"id: {id_}\ntitle: T\n{text}" if not text.startswith("id:") else text)
    return path


def registry_with(folder: Path, **texts: str) -> Registry:
    """The built-in entries and benchmarks of these ids (_ for -)."""
    for name, text in texts.items():
        put(folder, "benchmarks", name.replace("_", "-"), text)
    return read_registry([builtin_registry(), folder])


def faults_of(folder: Path) -> list[str]:
    with pytest.raises(RegistryError) as caught:
        read_registry([builtin_registry(), folder])
    return [line.removeprefix(f"{folder}/") for line in caught.value.faults]


def test_five_lines_are_omniglot_10way_3shot(tmp_path: Path):
    assert len(OMNIGLOT_10WAY_3SHOT.splitlines()) == 5
    registry = registry_with(tmp_path, omniglot_10way_3shot=OMNIGLOT_10WAY_3SHOT)
    base = registry.resolve("norml", "omniglot-5way", 1)
    found = registry.resolve("norml", "omniglot-10way-3shot")
    assert found.spec.shots == 3
    changed = {"n_way": 10, "queries_per_class": 3}
    assert found.spec.protocol == base.spec.protocol.model_copy(update=changed)
    assert found.sources == base.sources | {"n_way": "chosen: mine", "queries_per_class": "chosen: as shots"}
    assert registry.benchmark("omniglot-10way-3shot").citation == "this project, like 'omniglot-5way'"


def test_show_prints_every_value_with_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    registry = registry_with(tmp_path, omniglot_10way_3shot=OMNIGLOT_10WAY_3SHOT)
    id_ = "omniglot-10way-3shot"
    show(registry, id_, Console(), resolve=lambda: registry.resolve("norml", id_), as_json=True)
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)["values"]}
    assert rows["like"]["value"] == "omniglot-5way"
    assert rows["protocol.n_way"] == {"key": "protocol.n_way", "value": 10, "source": "chosen: mine"}
    assert rows["protocol.hidden_sizes"]["source"] == "Finn et al. 2017 sec. 5.2"
    assert all(row["source"] for key, row in rows.items() if key.startswith("protocol"))
    assert not [key for key in rows if key.startswith("protocol_by_shots")]  # of shots that it does not declare


def test_an_own_word_for_all_shots_goes_before_the_others_word_for_some(tmp_path: Path):
    registry = registry_with(
        tmp_path, mine='like: omniglot-20way\nprotocol: {outer_lr: {value: 0.5, source: "chosen: x"}}\n'
    )
    for shots in (1, 5):
        mine, theirs = (registry.resolve("norml", id_, shots) for id_ in ("mine", "omniglot-20way"))
        assert mine.spec.protocol.outer_lr == 0.5
        assert mine.spec.protocol.queries_per_class == theirs.spec.protocol.queries_per_class == shots


def test_an_entry_can_be_like_a_later_one_and_like_one_that_is_itself_like_another(tmp_path: Path):
    one_more = 'protocol: {n_way: {value: 7, source: "chosen: x"}}\n'
    registry = registry_with(tmp_path, a="like: z\nshots: [5]\n", z=f"like: omniglot-5way\n{one_more}")
    found = registry.resolve("norml", "a")
    assert (found.spec.shots, found.spec.protocol.n_way, found.spec.protocol.queries_per_class) == (5, 7, 5)
    assert list(registry.benchmarks)[-2:] == ["a", "z"]


def test_what_a_method_sets_on_a_benchmark_counts_on_one_that_is_like_it(tmp_path: Path):
    registry = registry_with(
        tmp_path, mine="like: omniglot-20way\n", twice="like: mine\n", narrower="like: mine\nshots: [5]\n"
    )
    for id_ in ("mine", "twice"):
        cells = [registry.resolve("norml", id_, shots).spec.rule.cell_size for shots in (1, 5)]
        assert cells == [64, 16]  # as on omniglot-20way
    assert registry.resolve("norml", "narrower").spec.rule.cell_size == 16  # what norml says of 1 shot is left out
    other = f"like: norml\nrule_by_shots: {{mine: {{1: {{cell_size: {json.dumps(sourced(8))}}}}}}}\n"
    put(tmp_path, "methods", "other", other)
    registry = read_registry([builtin_registry(), tmp_path])
    assert registry.resolve("other", "mine", 1).spec.rule.cell_size == 8  # its own word goes before


def test_a_method_is_like_another(tmp_path: Path):
    text = 'like: norml\nrule: {cell_size: {value: 8, source: "chosen: x"}}\n'
    put(tmp_path, "methods", "norml-8", text)
    registry = read_registry([builtin_registry(), tmp_path])
    for benchmark in ("omniglot-20way", "mini-imagenet-5way"):  # norml says 64 and layer-width there
        mine, theirs = (registry.resolve(id_, benchmark, 1).spec for id_ in ("norml-8", "norml"))
        assert mine.rule == theirs.rule.model_copy(update={"cell_size": 8})
    assert registry.method("norml-8").default_benchmark == "omniglot-20way"


def test_a_method_of_another_algorithm_takes_no_rule(tmp_path: Path):
    rule = 'algorithm: meta-sgd\nrule: {initial_rate: {value: 0.5, source: "chosen: x"}}\n'
    put(tmp_path, "methods", "mine", f"like: norml\n{rule}")
    found = read_registry([builtin_registry(), tmp_path]).resolve("mine")
    assert found.spec.rule.model_dump() == {"initial_rate": 0.5}


WIDE: dict[str, Any] = {"protocol": {"everywhere": {"inner_lr": sourced(1.0)}}, "rule": {"x": sourced(1)}}
NARROW: dict[str, Any] = {
    "protocol": {"b": {"inner_lr": sourced(2.0), "first_order": sourced(True)}},
    "protocol_by_shots": {"b": {1: {"inner_lr": sourced(3.0)}}},
    "rule_by_benchmark": {"b": {"x": sourced(2), "y": sourced(2)}},
    "rule_by_shots": {"b": {1: {"x": sourced(3)}}, "c": {1: {"y": sourced(3)}}},
}


def test_a_wide_word_replaces_narrow_ones_of_its_family_alone():
    found = in_full("methods", ["own", "base"], {"base": {"id": "base", **NARROW}, "own": {"id": "own", **WIDE}})
    assert found["protocol"] == WIDE["protocol"] | {"b": {"first_order": sourced(True)}}
    assert found["protocol_by_shots"] == {"b": {1: {}}}
    assert found["rule_by_benchmark"] == {"b": {"y": sourced(2)}}
    assert found["rule_by_shots"] == {"b": {1: {}}, "c": {1: {"y": sourced(3)}}}


def test_a_narrow_word_leaves_wide_ones():
    found = in_full("methods", ["own", "base"], {"base": {"id": "base", **WIDE}, "own": {"id": "own", **NARROW}})
    assert found["protocol"] == WIDE["protocol"] | NARROW["protocol"]
    assert {key: found[key] for key in ("rule", "rule_by_shots")} == {
        "rule": WIDE["rule"],
        "rule_by_shots": NARROW["rule_by_shots"],
    }


LIKE_A = "benchmarks/{}.yaml: like: 'a' has faults itself; fix those first"
GOES_ROUND = "is circular ({}); state every value in one of them"


@pytest.mark.parametrize(
    ("texts", "faults"),
    [
        ({"a": "like: a\n"}, ["benchmarks/a.yaml: like: " + GOES_ROUND.format("a -> a")]),
        (
            {"a": "like: b\n", "b": "like: a\n", "c": "like: a\n"},
            [
                "benchmarks/a.yaml: like: " + GOES_ROUND.format("a -> b -> a"),
                "benchmarks/b.yaml: like: " + GOES_ROUND.format("b -> a -> b"),
                LIKE_A.format("c"),
            ],
        ),
        (
            {"a": "like: omniglot-5-way\n", "c": "like: a\n"},
            ["benchmarks/a.yaml: like: unknown benchmark 'omniglot-5-way', did you mean", LIKE_A.format("c")],
        ),
        ({"a": "like: norml\n"}, ["benchmarks/a.yaml: like: 'norml' is one of the methods; name a benchmark"]),
        ({"a": "like: [omniglot-5way]\n"}, ["benchmarks/a.yaml: like: must be a benchmark's id"]),
        (
            {"a": "like: omniglot-5way\nshots: 3\n", "c": "like: a\n"},
            ["benchmarks/a.yaml: shots: must be a list", LIKE_A.format("c")],
        ),
        ({"a": "like: omniglot-5way\nprotocol: 3\n"}, ["benchmarks/a.yaml: protocol: must be a mapping"]),
        (
            {"a": "like: omniglot-5way\nshots: [3]\n"},
            ["benchmarks/a.yaml: protocol.queries_per_class: is missing (3-shot)"],
        ),
        (
            {"a": 'like: glyphs-5way\nprotocol: {n_way: {value: 900, source: "chosen: x"}}\n'},
            ["benchmarks/a.yaml: protocol.n_way: 900 is more than the 60 classes of 'glyphs' in meta_val"],
        ),
    ],
)
def test_a_likeness_that_leads_nowhere_is_one_line(tmp_path: Path, texts: dict[str, str], faults: list[str]):
    for name, text in texts.items():
        put(tmp_path, "benchmarks", name, text)
    found = faults_of(tmp_path)
    assert len(found) == len(faults)
    assert all(line.startswith(expected) for line, expected in zip(found, faults, strict=True)), found


def test_kinds_of_entries_that_are_like_none_refuse_the_key(tmp_path: Path):
    put(tmp_path, "datasets", "mine", "like: omniglot\n")
    line = "datasets/mine.yaml: like: is for benchmarks and methods only; state every key"
    assert faults_of(tmp_path) == [line]


def test_who_asks_for_one_of_a_circle_is_told(tmp_path: Path):
    for id_, like in (("a", "b"), ("b", "a")):
        put(tmp_path, "benchmarks", id_, f"like: {like}\n")
    registry = read_registry([builtin_registry(), tmp_path], strict=False)
    with pytest.raises(UserError, match=r"a\.yaml: like: is circular \(a -> b -> a\)"):
        registry.benchmark("a")


def test_a_file_of_its_own_is_of_the_kind_of_what_it_is_like(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("id: mine\ntitle: Mine\nlike: omniglot-5way\n")
    assert load_registry(path).benchmark("mine").shots == [1, 5]
    path.write_text("id: mine\ntitle: Mine\nlike: omniglot-5-way\n")
    with pytest.raises(
        UserError, match=r"mine\.yaml: like: unknown method or benchmark 'omniglot-5-way', did you mean"
    ):
        load_registry(path)
