from pathlib import Path

import pytest
import yaml

from norml_cli.files.errors import UserError
from norml_cli.files.yaml_files import parse_yaml
from norml_cli.registry.reading import RegistryError, builtin_registry, load_registry, read_registry
from tests.helpers.made_records import made_benchmark, made_table, write_entry

METHOD = {
    "id": "mine",
    "title": "Mine",
    "citation": "this project",
    "default_benchmark": "tiny",
    "algorithm": "gradient-descent",
    "rule": {"learned_rates": {"value": "none", "source": "chosen: for tests"}},
}
LSTM_SWITCHES = {
    "gates": "per-example",
    "previous_cell": True,
    "hidden_state": "none",
    "previous_hidden": True,
    "cell_size": 4,
    "input_normalisation": "none",
    "gate_scale": 2.0,
    "forget_bias": 0.0,
}
DATASET = {
    "id": "dots",
    "title": "Dots",
    "citation": "this project",
    "kind": "glyphs",
    "home": "embedded",
    "licence": "MIT",
    "classes": 20,
    "examples_per_class": 20,
    "image_size_px": {"value": 28, "source": "chosen: for tests"},
    "resize": {"value": "none", "source": "chosen: for tests"},
    "invert": {"value": False, "source": "chosen: for tests"},
    "rotations": {"value": "none", "source": "chosen: for tests"},
    "splits": {
        "kind": "seeded",
        "seed": 0,
        "meta_train": 10,
        "meta_val": 4,
        "meta_test": 6,
        "source": "chosen: for tests",
    },
    "generator_seed": 0,
}
ENTRIES = {"methods": METHOD, "benchmarks": made_benchmark(), "tables": made_table(), "datasets": DATASET}

READ_FROM = "entries are read from datasets, benchmarks, methods, recipes, tables/<id>.yaml; move or rename this file"


def with_value(entry, key, value):
    """A deep copy of `entry` with `value` at the dotted key; ... removes the key."""
    copy = yaml.safe_load(yaml.safe_dump(entry))
    *parents, last = key.split(".")
    place = copy
    for part in parents:
        place = place[int(part)] if part.isdigit() else place.setdefault(part, {})
    if value is ...:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return copy


def faults_of(folder: Path) -> list[str]:
    with pytest.raises(RegistryError) as caught:
        read_registry([builtin_registry(), folder])
    assert str(caught.value).splitlines() == caught.value.faults
    return caught.value.faults


def put_all(folder: Path) -> dict[str, Path]:
    return {kind: write_entry(folder, kind, entry) for kind, entry in ENTRIES.items()}


# -------------------------------------------------------------------------------------------------- wrong values


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("methods", "titel", "x", "titel: unknown key"),
        ("methods", "default_benchmrk", "x", "default_benchmrk: unknown key"),
        ("methods", "title", ..., "title: is missing"),
        ("methods", "title", "", "title: must not be empty (got '')"),
        ("methods", "title", 5, "title: must be text (quote it) (got 5)"),
        ("methods", "algorithm", ..., "algorithm: is missing"),
        (
            "methods",
            "algorithm",
            "gradient-decent",
            "algorithm: must be 'alfa', 'comparison', 'gradient-descent', 'logistic-regression', 'meta-curvature', ",
        ),
        (
            "methods",
            "rule.learned_rates.value",
            "some",
            "rule.learned_rates.value: must be 'none', 'global', 'layer-wise' or 'layer-and-step-wise' (got 'some')",
        ),
        (
            "methods",
            "rule.learned_rates",
            "none",
            "rule.learned_rates: must be written {value: ..., source: \"...\"} (got 'none')",
        ),
        ("methods", "rule.learned_rates.source", ..., "rule.learned_rates.source: is missing"),
        ("methods", "rule.learned_rates.source", "", "rule.learned_rates.source: must not be empty (got '')"),
        ("methods", "rule.learned_rate", {}, "rule.learned_rate: unknown key"),
        ("methods", "rule", [], "rule: must be a mapping"),
        ("methods", "default_benchmark", "tinny", "default_benchmark: unknown benchmark 'tinny', did you mean 'tiny'?"),
        ("methods", "protocol.omniglot", {}, "protocol.omniglot: unknown benchmark 'omniglot', did you mean"),
        (
            "methods",
            "rule_by_shots",
            {"tinny": {}},
            "rule_by_shots.tinny: unknown benchmark 'tinny', did you mean",
        ),
        ("methods", "rule_by_benchmark", {"tinny": {}}, "rule_by_benchmark.tinny: unknown benchmark 'tinny', did you"),
        ("methods", "rule_by_shots", {"everywhere": {}}, "rule_by_shots.everywhere: unknown benchmark"),
        ("methods", "rule_by_shots", {"tiny": {7: {}}}, "rule_by_shots.tiny.7: 'tiny' does not declare 7 shots"),
        ("methods", "protocol_by_shots", {"tinny": {}}, "protocol_by_shots.tinny: unknown benchmark 'tinny', did you"),
        (
            "methods",
            "protocol_by_shots",
            {"tiny": {7: {}}},
            "protocol_by_shots.tiny.7: 'tiny' does not declare 7 shots",
        ),
        (
            "methods",
            "protocol_by_shots",
            {"tiny": {1: {"n_way": {"value": 61, "source": "chosen: x"}}}},
            "protocol_by_shots.tiny.1.n_way: 61 is more than the 60 classes of 'glyphs' in meta_val",
        ),
        (
            "methods",
            "rule_by_shots",
            {"tiny": {1: {"learned_rates": {"value": "some", "source": "paper"}}}},
            "rule_by_shots.tiny.1.learned_rates.value: ",
        ),
        (
            "methods",
            "protocol.tiny.n_way",
            {"value": 61, "source": "chosen: x"},
            "protocol.tiny.n_way: 61 is more than the 60 classes of 'glyphs' in meta_val",
        ),
        ("methods", "id", "Mine", "id: must be lower-case letters and digits, words joined by '-' (got 'Mine')"),
        ("methods", "id", "x" * 65, "id: must have 64 characters or fewer (got '" + "x" * 39 + "...)"),
        ("benchmarks", "protocol.n_way.value", 1, "protocol.n_way.value: must be at least 2 (got 1)"),
        ("benchmarks", "protocol.n_way.value", 5.0, "protocol.n_way.value: must be a whole number (got 5.0)"),
        ("benchmarks", "protocol.n_way.value", True, "protocol.n_way.value: must be a whole number (got true)"),
        ("benchmarks", "protocol.n_way.value", "5", "protocol.n_way.value: must be a whole number (got '5')"),
        ("benchmarks", "protocol.n_way.valu", 5, "protocol.n_way.valu: unknown key"),
        ("benchmarks", "protocol.n_wya", {}, "protocol.n_wya: unknown key"),
        ("benchmarks", "protocol.inner_lr.value", 0, "protocol.inner_lr.value: must be greater than 0 (got 0)"),
        (
            "benchmarks",
            "protocol.inner_lr.value",
            1001.5,
            "protocol.inner_lr.value: must be at most 1,000 (got 1001.5)",
        ),
        (
            "benchmarks",
            "protocol.batch_norm_epsilon.value",
            1.0,
            "protocol.batch_norm_epsilon.value: must be less than 1 (got 1.0)",
        ),
        (
            "benchmarks",
            "protocol.outer_steps.value",
            20_000_000,
            "protocol.outer_steps.value: must be at most 10,000,000 (got 20000000)",
        ),
        (
            "benchmarks",
            "protocol.first_order.value",
            "no",
            "protocol.first_order.value: must be true or false (got 'no')",
        ),
        (
            "benchmarks",
            "protocol.initial_weight_std.value",
            "hex",
            "protocol.initial_weight_std.value: must be a number or 'he' or 'xavier' (got 'hex')",
        ),
        ("benchmarks", "protocol.hidden_sizes.value", 8, "protocol.hidden_sizes.value: must be a list (got 8)"),
        ("benchmarks", "protocol.hidden_sizes.value", [0], "protocol.hidden_sizes.value.0: must be at least 1 (got 0)"),
        ("benchmarks", "protocol.inner_lr", ..., "protocol.inner_lr: is missing (1-shot)"),
        (
            "benchmarks",
            "protocol.learner",
            {"value": "conv-4", "source": "chosen: x"},
            "protocol.hidden_sizes: conv-4 has 4 convolutions, but 1 are declared",
        ),
        (
            "benchmarks",
            "protocol.stride",
            {"value": 1, "source": "chosen: x"},
            "protocol.stride: is declared, but a fully connected learner has no convolutions; leave it out",
        ),
        ("benchmarks", "shots", [], "shots: must have 1 or more items"),
        ("benchmarks", "dataset", "glyfs", "dataset: unknown data set 'glyfs', did you mean 'glyphs'?"),
        (
            "benchmarks",
            "shots",
            [1, 19],
            "protocol.queries_per_class: shots + queries_per_class = 21 is more than the 20 examples a class",
        ),
        (
            "benchmarks",
            "protocol.n_way.value",
            70,
            "protocol.n_way: 70 is more than the 60 classes of 'glyphs' in meta_val",
        ),
        (
            "benchmarks",
            "protocol_by_shots",
            {3: {"n_way": {"value": 5, "source": "chosen: x"}}},
            "protocol_by_shots.3: 3 is not in shots",
        ),
        ("tables", "columns.0.benchmark", "tinier", "columns.0.benchmark: unknown benchmark 'tinier', did you mean"),
        ("tables", "columns.0.shots", 3, "columns.0.shots: 'tiny' does not declare 3 shots"),
        ("tables", "reference", "mamal", "reference: unknown method 'mamal', did you mean"),
        ("tables", "rows.2.method", "normal", "rows.2.method: unknown method 'normal', did you mean 'norml'?"),
        (
            "tables",
            "rows.1.published",
            {"1-shot": "101.5"},
            "rows.1.published.1-shot: '101.5' is not of the form '60.2' or '60.2 +- 0.91' (percent)",
        ),
        (
            "tables",
            "rows.1.published",
            {"3-shot": "50.5"},
            "entry: row 'MAML | const' has a number for column '3-shot', which is not declared",
        ),
        ("datasets", "splits.meta_train", 11, "splits: 21 classes in all, but the data set has 20"),
        ("datasets", "splits.kind", "random", "splits.kind: must be 'seeded', 'files' or 'from-source' (got 'random')"),
        ("datasets", "splits.kind", ..., "splits.kind: is missing"),
        ("datasets", "rotations.value", "as-classes", "rotations: 'as-classes' needs split files"),
        ("datasets", "source_sha256", "abc", "source_sha256: must be 64 hexadecimal digits (got 'abc')"),
    ],
)
def test_wrong_value_is_told_with_file_and_key(tmp_path, kind, key, value, message):
    paths = put_all(tmp_path)
    paths[kind].write_text(yaml.safe_dump(with_value(ENTRIES[kind], key, value)), encoding="utf-8")
    fault = faults_of(tmp_path)[0]
    assert fault.startswith(f"{paths[kind]}: {message}")
    assert "\n" not in fault


@pytest.mark.parametrize(
    ("kind", "key", "near"),
    [
        ("methods", "titel", "'title'"),
        ("methods", "rule.learned_rate", "'learned_rates'"),
        ("benchmarks", "protocol.n_wya", "'n_way'"),
        ("benchmarks", "protocol.n_way.sorce", "'source'"),
    ],
)
def test_unknown_key_names_the_nearest(tmp_path, kind, key, near):
    entry = with_value(ENTRIES[kind], key, "x")
    missing = near.strip("'")  # the right key is misspelt, not doubled
    parent = key.rpartition(".")[0]
    entry = with_value(entry, f"{parent}.{missing}".lstrip("."), ...)
    path = write_entry(tmp_path, kind, entry)
    assert any(fault.startswith(f"{path}: {key}: unknown key, did you mean {near}") for fault in faults_of(tmp_path))


def test_only_keys_of_the_same_mapping_are_suggested(tmp_path):
    entry = with_value(with_value(made_benchmark(), "protocol.inner_rl", {}), "protocol.inner_lr", ...)
    path = write_entry(tmp_path, "benchmarks", entry)
    assert faults_of(tmp_path) == [f"{path}: protocol.inner_rl: unknown key, did you mean 'inner_lr'?"]


def test_rotations_of_a_data_set_that_has_none(tmp_path):
    put_all(tmp_path)
    bench = with_value(made_benchmark() | {"dataset": "dots", "id": "turned"}, "protocol.n_way.value", 4)
    path = write_entry(tmp_path, "benchmarks", with_value(bench, "protocol.rotations.value", "every-split"))
    assert faults_of(tmp_path) == [
        f"{path}: protocol.rotations: every-split, but 'dots' declares rotations: none",
    ]


def test_split_files_that_are_not_there(tmp_path):
    splits = {"kind": "files", "meta_train": "a.txt", "meta_val": "b.txt", "meta_test": "c.txt", "source": "chosen: x"}
    path = write_entry(tmp_path, "datasets", DATASET | {"splits": splits})
    (tmp_path / "datasets" / "b.txt").write_text("")
    assert faults_of(tmp_path) == [
        f"{path}: splits.meta_train: no file 'a.txt' beside this entry",
        f"{path}: splits.meta_test: no file 'c.txt' beside this entry",
    ]


FROM_SOURCE = {"kind": "from-source", "meta_train": 10, "meta_val": 4, "meta_test": 6, "source": "chosen: for tests"}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"splits": FROM_SOURCE}, "splits.kind: 'from-source' is not for kind: glyphs"),
        ({"kind": "mini-imagenet"}, "splits.kind: 'seeded' is not for kind: mini-imagenet; 'from-source' needs"),
        (
            {"kind": "mini-imagenet", "splits": FROM_SOURCE | {"meta_val": 3}},
            "splits: 19 classes in all, but the data set has 20",
        ),
    ],
    ids=["unsplit data", "split data", "classes left over"],
)
def test_only_data_that_comes_split_is_declared_so(tmp_path, changes, fault):
    path = write_entry(tmp_path, "datasets", DATASET | changes)
    assert faults_of(tmp_path)[0].startswith(f"{path}: {fault}")


WANTED = {"value": "grey", "source": "chosen: for tests"}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"generator_seed": None}, "generator_seed: is missing; embedded images are generated from it"),
        ({"invert": {"value": True, "source": "x"}}, "resize, invert: glyphs are drawn at their size"),
        ({"kind": "omniglot"}, "resize: none leaves images of 105 px, but image_size_px is 28; make them agree"),
        ({"kind": "omniglot", "resize": {"value": "box", "source": "x"}}, "resize: 'box' is not for kind: omniglot"),
        (
            {"kind": "mini-imagenet", "splits": FROM_SOURCE, "invert": {"value": True, "source": "x"}},
            "invert, rotations: photographs are not changed",
        ),
        ({"kind": "image-folder"}, "channels: is missing; declare grey or rgb"),
        ({"channels": WANTED}, "channels: not for kind: glyphs"),
        (
            {"kind": "image-folder", "channels": WANTED, "crop": {"value": "centre", "source": "x"}},
            "crop: needs a resize filter",
        ),
        (
            {"examples_per_class": {"min": 3, "max": 20}},
            "examples_per_class: all classes of kind: glyphs have the same size",
        ),
        (
            {"kind": "image-folder", "channels": WANTED, "examples_per_class": {"min": 3, "max": 2}},
            "examples_per_class: min 3 is more than max 2",
        ),
    ],
)
def test_what_a_kind_of_data_set_cannot_be_is_told_by_validate(tmp_path, changes, fault):
    path = write_entry(tmp_path, "datasets", DATASET | changes)
    assert faults_of(tmp_path)[0].startswith(f"{path}: {fault}")


def test_a_benchmark_asks_no_more_classes_than_a_split_at_the_source_has(tmp_path):
    paths = put_all(tmp_path)
    write_entry(tmp_path, "datasets", DATASET | {"kind": "mini-imagenet", "splits": FROM_SOURCE})
    benchmark = with_value(ENTRIES["benchmarks"], "protocol.n_way.value", 5) | {"dataset": DATASET["id"]}
    write_entry(tmp_path, "benchmarks", benchmark)
    assert any(
        fault.startswith(f"{paths['benchmarks']}: protocol.n_way: 5 is more than the 4 classes")
        for fault in faults_of(tmp_path)
    )


# --------------------------------------------------------------------------------------------------- wrong files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id: mine\ntitle: a\ntitle: b\n", "line 3: duplicate key 'title'"),
        ("id: mine\nrule: &a {}\n", "line 2: anchors and aliases are not allowed"),
        ("id: mine\nrule: *a\n", "line 2: anchors and aliases are not allowed"),
        ("id: mine\nrule: {<<: {a: 1}}\n", "line 2: could not determine a constructor for the tag"),
        ("id: mine\n title: x\n", "line 2: mapping values are not allowed here"),
        ("id: [mine\n", "line 2: expected ',' or ']', but got '<stream end>'"),
        ("id: mine\n---\nid: other\n", "line 2: but found another document"),
        ("id: !!python/object:os.system x\n", "line 1: could not determine a constructor"),
        ("? [a, b]\n: c\n", "line 1: a key is not plain text"),
        ("- id: mine\n", "not a mapping; start with 'id: ...'"),
        ("", "not a mapping; start with 'id: ...'"),
        ("[" * 5000, "not readable as YAML"),
        (b"id: m\xff\n", "byte 5 is not UTF-8; save the file as UTF-8"),
        (b"id: \x00\n", "not readable as YAML: unacceptable character"),
        ("x" * 1_000_001, "larger than 1,000,000 bytes"),
    ],
)
def test_file_that_is_no_plain_mapping(tmp_path, content, message):
    path = tmp_path / "methods" / "mine.yaml"
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    faults = faults_of(tmp_path)
    assert len(faults) == 1
    assert faults[0].startswith(f"{path}: {message}")


def test_folder_in_place_of_a_file(tmp_path):
    path = tmp_path / "methods" / "mine.yaml"
    path.mkdir(parents=True)
    assert faults_of(tmp_path) == [f"{path}: cannot be read (it is a folder, not a file)"]


def test_id_that_is_not_the_file_name(tmp_path):
    path = write_entry(tmp_path, "benchmarks", made_benchmark())
    path = path.rename(path.with_name("other.yaml"))
    assert faults_of(tmp_path) == [f"{path}: id: is 'tiny', but the file is named 'other'; make them agree"]


def test_id_that_is_taken(tmp_path):
    path = write_entry(tmp_path, "methods", METHOD | {"id": "norml", "default_benchmark": "glyphs-5way"})
    taken = builtin_registry() / "methods" / "norml.yaml"
    assert faults_of(tmp_path) == [
        f"{path}: id: 'norml' is already declared in {taken}; choose another id",
    ]


@pytest.mark.parametrize("place", ["mine.yaml", "methods/mine.yml", "method/mine.yaml", "methods/old/mine.yaml"])
def test_file_that_would_not_be_read(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("id: mine\n")
    assert faults_of(tmp_path) == [
        f"{path}: {READ_FROM}",
    ]


def test_all_faults_are_told_at_once(tmp_path):
    stray = tmp_path / "notes.yml"
    stray.write_text("")
    bench = write_entry(tmp_path, "benchmarks", with_value(made_benchmark(), "protocol.n_way.value", 1))
    method = write_entry(
        tmp_path, "methods", METHOD | {"title": "", "rule": {"learned_rates": {"value": "none", "source": ""}}}
    )
    # `tiny` and `mine` are broken themselves: who names them is not at fault; who names `nobody` is
    second = write_entry(tmp_path, "methods", METHOD | {"id": "second"})
    table = write_entry(
        tmp_path, "tables", with_value(with_value(made_table(), "reference", "mine"), "rows.2.method", "nobody")
    )
    assert faults_of(tmp_path) == [
        f"{stray}: {READ_FROM}",
        f"{bench}: protocol.n_way.value: must be at least 2 (got 1)",
        f"{method}: title: must not be empty (got '')",
        f"{method}: rule.learned_rates.source: must not be empty (got '')",
        f"{table}: rows.2.method: unknown method 'nobody'",
    ]
    assert second.exists()


# ------------------------------------------------------------------------------------------------ YAML as written


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5E3", 1500.0),
        (".5", 0.5),
        ("12", 12),
        ("-3", -3),
        ("007", "007"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", "False"),
        ("null", None),
        ("2017-03-09", "2017-03-09"),
        ("[256, 64]", [256, 64]),
        (".inf", ".inf"),
    ],
)
def test_values_are_read_as_people_write_them(text, value):
    parsed = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)


# ------------------------------------------------------------------------------------------- a user's own entries


def test_one_file_adds_a_method(tmp_path):
    write_entry(tmp_path, "methods", METHOD | {"default_benchmark": "glyphs-5way"})
    spec = load_registry(tmp_path).resolve("mine").spec
    assert (spec.method, spec.benchmark, spec.shots, spec.algorithm) == ("mine", "glyphs-5way", 1, "gradient-descent")


def test_one_file_adds_a_method_of_the_other_algorithm(tmp_path):
    rule = {key: {"value": value, "source": "chosen: for tests"} for key, value in LSTM_SWITCHES.items()}
    entry = METHOD | {"default_benchmark": "glyphs-5way", "algorithm": "nodal-lstm", "rule": rule}
    write_entry(tmp_path, "methods", entry)
    assert load_registry(tmp_path).resolve("mine").spec.rule.model_dump(exclude_defaults=True) == LSTM_SWITCHES


def test_one_file_adds_a_benchmark(tmp_path):
    write_entry(tmp_path, "benchmarks", made_benchmark())
    spec = load_registry(tmp_path).resolve("norml", "tiny", 5).spec
    assert (spec.benchmark, spec.dataset, spec.shots, spec.protocol.n_way) == ("tiny", "glyphs", 5, 5)


def test_registry_named_by_the_environment(tmp_path, monkeypatch):
    write_entry(tmp_path, "benchmarks", made_benchmark())
    monkeypatch.setenv("NORML_REGISTRY", str(tmp_path))
    assert "tiny" in load_registry().benchmarks
    monkeypatch.setenv("NORML_REGISTRY", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"^NORML_REGISTRY .*nowhere: is not a folder; name a folder with datasets, "):
        load_registry()


def test_registry_folder_that_does_not_exist(tmp_path, monkeypatch):
    monkeypatch.delenv("NORML_REGISTRY", raising=False)
    with pytest.raises(UserError, match=r"^--registry .*nowhere: is not a folder"):
        load_registry(tmp_path / "nowhere")


def test_registry_cannot_be_changed():
    registry = read_registry([builtin_registry()])
    with pytest.raises(TypeError):
        registry.methods["mine"] = registry.methods["norml"]


# ------------------------------------------------------------------------------------------------------- resolving


@pytest.fixture(scope="module")
def registry():
    return read_registry([builtin_registry()])


def test_later_layers_win(tmp_path):
    bench = made_benchmark() | {"protocol_by_shots": {5: {"inner_steps": {"value": 2, "source": "chosen: by shots"}}}}
    write_entry(tmp_path, "benchmarks", bench)
    own = {"tiny": {"inner_lr": {"value": 0.1, "source": "chosen: by method"}}}
    write_entry(tmp_path, "methods", METHOD | {"protocol": own})
    registry = read_registry([builtin_registry(), tmp_path])
    one, five = registry.resolve("mine", "tiny", 1), registry.resolve("mine", "tiny", 5, {"outer_lr": 0.002})
    assert [r.spec.protocol.inner_steps for r in (one, five)] == [1, 2]
    assert [r.spec.protocol.inner_lr for r in (one, five)] == [0.1, 0.1]
    assert [r.spec.protocol.outer_lr for r in (one, five)] == [0.001, 0.002]
    assert [five.sources[key] for key in ("n_way", "inner_steps", "inner_lr", "outer_lr")] == [
        "chosen: for tests",
        "chosen: by shots",
        "chosen: by method",
        "--set on the command line",
    ]
    assert five.changed == ("outer_lr",)


def test_a_method_may_differ_from_every_benchmark(tmp_path):
    write_entry(tmp_path, "benchmarks", made_benchmark())
    own = {"tiny": {"inner_lr": {"value": 0.1, "source": "chosen: here"}}}
    everywhere = {
        key: {"value": value, "source": "chosen: everywhere"}
        for key, value in {"inner_lr": 0.7, "inner_steps": 9}.items()
    }
    write_entry(tmp_path, "methods", METHOD | {"protocol": own | {"everywhere": everywhere}})
    registry = read_registry([builtin_registry(), tmp_path])
    tiny, glyphs = (registry.resolve("mine", bench) for bench in ("tiny", "glyphs-5way"))
    assert [(r.spec.protocol.inner_lr, r.spec.protocol.inner_steps) for r in (tiny, glyphs)] == [(0.1, 9), (0.7, 9)]
    assert glyphs.sources["inner_steps"] == "chosen: everywhere"


def test_a_method_may_differ_on_a_benchmark_by_its_shots(tmp_path):
    own = {
        "protocol": {"glyphs-5way": {"inner_lr": {"value": 0.1, "source": "chosen: here"}}},
        "protocol_by_shots": {"glyphs-5way": {5: {"inner_lr": {"value": 0.3, "source": "chosen: here, 5-shot"}}}},
    }
    write_entry(tmp_path, "methods", METHOD | {"default_benchmark": "glyphs-5way"} | own)
    registry = read_registry([builtin_registry(), tmp_path])
    one, five = (registry.resolve("mine", "glyphs-5way", shots) for shots in (1, 5))
    assert [r.spec.protocol.inner_lr for r in (one, five)] == [0.1, 0.3]
    assert [r.sources["inner_lr"] for r in (one, five)] == ["chosen: here", "chosen: here, 5-shot"]


def test_a_rule_may_differ_on_a_benchmark_by_its_shots(tmp_path):
    write_entry(tmp_path, "benchmarks", made_benchmark())
    own = {"glyphs-5way": {5: {"learned_rates": {"value": "layer-wise", "source": "chosen: here, 5-shot"}}}}
    write_entry(tmp_path, "methods", METHOD | {"rule_by_shots": own})
    registry = read_registry([builtin_registry(), tmp_path])
    five, *others = (
        registry.resolve("mine", *place) for place in (("glyphs-5way", 5), ("glyphs-5way", 1), ("tiny", 1))
    )
    assert (five.spec.rule.learned_rates, five.sources["learned_rates"]) == ("layer-wise", "chosen: here, 5-shot")
    for other in others:
        assert (other.spec.rule.learned_rates, other.sources["learned_rates"]) == ("none", "chosen: for tests")
    changed = registry.resolve("mine", "glyphs-5way", 5, {"learned_rates": "global"})
    assert changed.spec.rule.learned_rates == "global"


def test_what_a_method_asks_everywhere_must_be_possible_everywhere(tmp_path):
    everywhere = {"rotations": {"value": "meta-train", "source": "chosen: for tests"}}
    path = write_entry(
        tmp_path, "methods", METHOD | {"default_benchmark": "glyphs-5way", "protocol": {"everywhere": everywhere}}
    )
    with pytest.raises(RegistryError) as raised:
        read_registry([builtin_registry(), tmp_path])
    assert f"{path}: protocol.everywhere.rotations: meta-train, but 'cifar-fs'" in raised.value.faults[0]


def test_a_method_without_an_outer_loop_takes_no_outer_steps(registry):
    resolved = registry.resolve("nearest-centroid", "glyphs-5way", 1, {"outer_steps": 7})
    assert resolved.spec.protocol.outer_steps == 0
    assert resolved.changed == ()
    assert resolved.sources["outer_steps"] == "nearest-centroid has no outer loop"


def test_a_rows_own_benchmark_must_be_known_and_declare_the_shots(tmp_path):
    table = made_table()
    table["rows"][1]["benchmark"] = "tinny"
    table["rows"][2]["benchmark"] = "tiny"
    table["columns"][0]["shots"] = 3
    write_entry(tmp_path, "benchmarks", made_benchmark())
    path = write_entry(tmp_path, "tables", table)
    with pytest.raises(RegistryError) as raised:
        read_registry([builtin_registry(), tmp_path])
    faults = [fault for fault in raised.value.faults if ": rows." in fault]
    assert faults == [
        f"{path}: rows.1.benchmark: unknown benchmark 'tinny', did you mean 'tiny'?",
        f"{path}: rows.2.benchmark: 'tiny' does not declare 3 shots",
    ]


def test_override_with_the_same_value_changes_nothing(registry):
    plain = registry.resolve("norml")
    same = registry.resolve("norml", overrides={"inner_lr": plain.spec.protocol.inner_lr})
    assert same.changed == ()
    assert same.spec.hash() == plain.spec.hash()


def test_whole_number_for_a_number_hashes_alike(registry):
    whole, real = (registry.resolve("norml", overrides={"inner_lr": value}).spec for value in (1, 1.0))
    assert whole.hash() == real.hash()


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("norml", {"inner_lrr": 1}, "--set inner_lrr: unknown key of 'norml', did you mean 'inner_lr' or"),
        ("norml", {"gate": 1}, "--set gate: unknown key of 'norml', did you mean"),
        (
            "maml-constant-lr",
            {"gates": "flattened"},
            "--set gates: 'maml-constant-lr' has no such key; it belongs to algorithm nodal-lstm",
        ),
        ("norml", {"inner_lr": "fast"}, "--set inner_lr=fast: must be a number; `norml show` lists a method's keys"),
        ("norml", {"inner_lr": -1}, "--set inner_lr=-1: must be greater than 0; "),
        ("norml", {"inner_lr": True}, "--set inner_lr=true: must be a number; "),
        ("norml", {"inner_lr": None}, "--set inner_lr=null: must be a number; "),
        ("norml", {"gradient_clip": float("inf")}, "--set gradient_clip=inf: must be finite; "),
        ("norml", {"first_order": 1}, "--set first_order=1: must be true or false; "),
        ("norml", {"n_way": 2.0}, "--set n_way=2.0: must be a whole number; "),
        (
            "norml",
            {"initial_weight_std": "hex"},
            "--set initial_weight_std=hex: must be a number or 'he' or 'xavier'; ",
        ),
        (
            "norml",
            {"gates": "shared"},
            "--set gates=shared: must be 'per-example', 'batch-shared' or 'flattened'; ",
        ),
        (
            "norml",
            {"queries_per_class": 20},
            "norml on omniglot-20way, 1-shot: queries_per_class: shots + queries_per_class = 21 is more than the 20",
        ),
        (
            "norml",
            {"n_way": 101},
            "norml on omniglot-20way, 1-shot: n_way: 101 is more than the 100 classes of 'omniglot' in meta_val",
        ),
    ],
)
def test_override_that_is_refused(registry, method, overrides, message):
    with pytest.raises(UserError) as caught:
        registry.resolve(method, overrides=overrides)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("normal",), "unknown method 'normal', did you mean 'norml'"),
        (("norml", "omniglot-5-way"), "unknown benchmark 'omniglot-5-way', did you mean 'omniglot-5way'"),
        (("norml", "glyphs-5way", 3), "--shots 3: benchmark 'glyphs-5way' declares 1, 5; use one of these"),
    ],
)
def test_run_that_is_not_declared(registry, arguments, message):
    with pytest.raises(UserError) as caught:
        registry.resolve(*arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "name",
    [
        ".git/config.yaml",
        ".github/workflows/tests.yml",
        ".pre-commit-config.yaml",
        "methods/.ipynb_checkpoints/x-checkpoint.yaml",
        "methods/._x.yaml",
        ".git/methods/x.yaml",
    ],
)
def test_names_that_begin_with_a_dot_are_passed_over(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x00\x05 no entry")
    load_registry(tmp_path)


@pytest.mark.parametrize("name", ["methods/x.YAML", "methods/x.Yml", "datasets/x.yml"])
def test_a_suffix_that_would_not_be_read_is_told(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("id: x")
    (fault,) = faults_of(tmp_path)
    assert fault.startswith(f"{path}: entries are read from datasets, ")
    assert fault.endswith("tables/<id>.yaml; move or rename this file")


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (
            {"stride": 3, "padding": "none"},
            "stride: nothing is left of 'omniglot' images (28 -> 9 -> 3 -> 1 -> 0 px); ",
        ),
        ({"kernel_size": 9, "padding": "none", "stride": 1}, "stride: nothing is left of 'omniglot' images (28 -> 20 "),
        ({"pooling": "max-2x2"}, "pooling: nothing is left of 'omniglot' images (28 -> 7 -> 2 -> 0 px); declare "),
        ({"hidden_sizes": []}, "hidden_sizes: conv-4 has 4 convolutions, but 0 are declared"),
        ({"backbone": "mtl-2019"}, "learner: conv-4 needs images, but the backbone makes features"),
        (
            {"support_order": "one-by-one"},
            "support_order: one-by-one needs a single linear layer, but hidden_sizes is [64, 64, 64, 64]: ",
        ),
        ({"learner": "conv-5"}, "--set learner=conv-5: must be 'fully-connected' or 'conv-4'"),
    ],
    ids=str,
)
def test_an_impossible_convolutional_learner_is_refused_with_the_key_to_change(overrides, fault):
    with pytest.raises(UserError) as caught:
        load_registry().resolve("norml", "omniglot-20way-conv", 1, overrides)
    assert fault in str(caught.value).splitlines()[0]


def test_colour_images_need_features_or_convolutions():
    registry = load_registry()
    assert registry.resolve("norml", "mini-imagenet-5way-conv", 5).spec.protocol.learner == "conv-4"
    with pytest.raises(UserError, match="name a recipe to make features, or declare learner: conv-4"):
        registry.resolve("norml", "mini-imagenet-5way-conv", 5, {"learner": "fully-connected"})
