"""A table of wrong uses: each must end in one clear line and exit code 2, and leave nothing behind.

A use is the arguments, the words that its message must hold, and, where files are needed, what lies there before
(`BEFORE`): bytes for a file, a string for one of text, None for a folder.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from norml_cli.files.yaml_files import read_mapping
from norml_cli.registry import reading
from tests.helpers.command_line import Shell

RUN = ("run", "norml", "--benchmark", "tiny-5way")
SWEEP = ("sweep", "norml", "--benchmark", "tiny-5way")
STUDY = ("study", "trial", "norml", "--benchmark", "tiny-5way")
PRETRAIN = ("pretrain", "mini-imagenet", "--recipe", "rfs-2020")

Use = tuple[tuple[str, ...], list[str]]

WRONG_WORDS: list[Use] = [
    ((), ["Usage"]),
    (("rum", "norml"), ["No such command 'rum'"]),
    (("run",), ["Missing argument"]),
    (("run", "nrml"), ["unknown method 'nrml'", "did you mean", "'norml'"]),
    (("run", ""), ["METHOD...: is empty"]),
    (("run", "   "), ["unknown method"]),
    (("run", "norml/../../etc"), ["unknown method"]),
    (("run", "../norml"), ["unknown method"]),
    (("run", "NORML"), ["unknown method 'NORML'"]),
    (("run", "nörml"), ["unknown method", "norml list"]),
    (("run", "норма"), ["unknown method"]),
    (("run", "norml\n"), ["unknown method"]),
    (("run", "norml\x1b[31m"), ["unknown method"]),
    (("run", "norml\udcff"), ["unknown method"]),
    (("run", "n" * 100_000), ["unknown method"]),
    (("run", "norml", "--benchmark", "omniglot-20-way"), ["unknown benchmark", "'omniglot-20way'"]),
    (("run", "norml", "--benchmark", "tiny-5way/"), ["unknown benchmark"]),
    (("run", "norml", "--benchmark", "../tiny-5way"), ["unknown benchmark"]),
    (("run", "norml", "--benchmark", "b" * 100_000), ["unknown benchmark"]),
    (("run", "norml"), ["norml prepare omniglot"]),
    ((*RUN, "--sots", "1"), ["No such option", "--shots"]),
    (("reproduce", "table-3"), ["unknown table 'table-3'", "did you mean"]),
    (("reproduce", "table-2", "--seeds", "2..0"), ["--seeds 2..0", "a range (0..2)"]),
    (("reproduce", "table-2", "--seeds", "0", "one"), ["--seeds one"]),
    (("reproduce", "table-2", "--seeds", "9223372036854775808"), ["--seeds 9223372036854775808"]),
    (("reproduce", "table-2", "--seeds", "0..1000000000"), ["more than 1,000 seeds"]),
    (("reproduce", "table-2", "--at-once", "0"), ["--at-once 0", "from 1 on, or auto"]),
    (("reproduce", "table-2", "--source", "nowhere"), ["--source nowhere", "no such file"]),
    (("reproduce", "table-2", "--device", "tpu9"), ["--device tpu9", "auto, cpu, cuda"]),
    (("reproduce", "table-1"), ["'mini-imagenet' is not prepared", "--source PATH"]),
    (("sweep", "norml", "nrml", "--seeds", "0", "1"), ["unknown method 'nrml'"]),
    (("sweep", "norml", "--benchmark", "tiny-5way", "tiny-6way"), ["unknown benchmark 'tiny-6way'"]),
    (("sweep", "norml", "--benchmark", "tiny-5way", "--shots", "1", "2"), ["--shots 2", "declares 1, 5"]),
    ((*SWEEP, "--grid", "inner_lr"), ["--grid inner_lr: expected KEY=V1,V2"]),
    ((*SWEEP, "--on", "cloud"), ["--on cloud", "here, ray, slurm"]),
    ((*SWEEP, "--address", "127.0.0.1:1"), ["--address", "for --on ray"]),
    ((*SWEEP, "--sbatch", "partition=gpu"), ["--sbatch", "for --on slurm"]),
    ((*SWEEP, "--gpus", "0.5"), ["--gpus", "for --on ray"]),
    ((*SWEEP, "--device", "cuda:7", "--at-once", "1"), ["--device cuda:7", "CUDA devices"]),
    (("report", "--results", "results", "nowhere"), ["--results"]),
    (("show", "nothing"), ["unknown entry 'nothing'"]),
    (("show", ""), ["ID: is empty"]),
    (("show", "a/b"), ["unknown entry 'a/b'"]),
    (("show", "norml", "--benchmark", ""), ["--benchmark: is empty"]),
    (("show", "norml", "--shots", "0"), ["--shots 0"]),
    (("show", "norml", "--set", "depth=3"), ["--set depth"]),
    (("prepare", "omniglott"), ["unknown data set", "'omniglot'"]),
    (("prepare", ""), ["DATASET: is empty"]),
    (("prepare", "../omniglot"), ["unknown data set"]),
    (("prepare", "omniglot", "--source", "nowhere"), ["nowhere"]),
    (("prepare", "omniglot", "--source", "s" * 5000), ["sss: not a usable path"]),
    (("prepare", "omniglot", "--source", "nul\0byte"), ["--source"]),
    (("prepare", "tiny-glyphs", "--source", "."), ["--source", "built in"]),
    (
        ("prepare", "mini-imagenet"),
        ["image-net.org", "--source PATH", "train.csv", "mini-imagenet-cache-{train,val,test}"],
    ),
    (("prepare", "mini-imagenet", "--source", "nowhere"), ["nowhere: does not exist"]),
    (("prepare", "mini-imagenet", "--source", "nul\0byte"), ["nul"]),
    (("prepare", "mini-imagenet", "--source", "s" * 5000), ["sss: not a usable path"]),
    (("prepare", "mini-imagenet", "--source", "."), ["."]),
    (("prepare", "mini-imagenet", "--verify"), ["'mini-imagenet' is not prepared"]),
    (("report", "--table", "table-9"), ["unknown table 'table-9'", "table-2"]),
    (("report", "--table", ""), ["--table: is empty"]),
    (("report", "--format", "word"), ["word", "markdown"]),
    (("report", "--format", ""), ["--format"]),
    (("report", "--table"), ["no table has a finished run", "norml run METHOD"]),
    (("report", "--table", "--format", "csv"), ["--table: name one table", "table-2"]),
    (("report", "--html", "page.html"), ["no table has a finished run"]),
    (("report", "--html", "page.html", "--table", "table-9"), ["unknown table 'table-9'"]),
    (("report", "--html", "page.html", "--format", "csv"), ["--html: writes HTML only"]),
    (("report", "--html", "p" * 5000), ["ppp: not a usable path"]),
    (("compare",), ["two"]),
    (("compare", "norml"), ["two"]),
    (("compare", "norml", "norml"), ["two or more different methods"]),
    (("compare", "mamll", "norml"), ["unknown method 'mamll'"]),
    (("compare", "--all", "table-9"), ["unknown table"]),
    (("compare", "norml", "maml-constant-lr", "--format", "pdf"), ["pdf"]),
    (("compare", "norml", "maml-constant-lr", "--shots", "99"), ["99"]),
    (("validate", "nowhere"), ["nowhere"]),
    (("validate", "nul\0byte"), ["nul"]),
    (("validate", "v" * 5000), ["vvv: not a usable path"]),
]

WRONG_VALUES: list[Use] = [
    ((*RUN, "--shots", "3"), ["--shots 3", "1, 5"]),
    ((*RUN, "--shots", "0"), ["--shots 0"]),
    ((*RUN, "--shots", "-1"), ["--shots -1"]),
    ((*RUN, "--shots", "one"), ["--shots", "integer"]),
    ((*RUN, "--shots", "1.5"), ["--shots", "integer"]),
    ((*RUN, "--shots", ""), ["--shots"]),
    ((*RUN, "--shots", "9" * 5000), ["--shots"]),
    ((*RUN, "--seed", "-1"), ["--seed"]),
    ((*RUN, "--seed", "nan"), ["--seed"]),
    ((*RUN, "--seed", "1e3"), ["--seed"]),
    ((*RUN, "--seed", "9" * 5000), ["--seed"]),
    ((*RUN, "--seed", "9" * 400), ["--seed"]),
    ((*RUN, "--seed", ""), ["--seed"]),
    ((*RUN, "--outer-steps", "-1"), ["--outer-steps"]),
    ((*RUN, "--outer-steps", "inf"), ["--outer-steps"]),
    ((*RUN, "--outer-steps", "1_000_000_x"), ["--outer-steps"]),
    ((*RUN, "--outer-steps", "9" * 100), ["outer"]),
    ((*RUN, "--outer-steps", "5", "--set", "outer_steps=6"), ["--outer-steps", "given twice"]),
    ((*RUN, "--device", "tpu"), ["--device tpu"]),
    ((*RUN, "--device", ""), ["--device"]),
    ((*RUN, "--device", "cuda:99"), ["--device cuda:99"]),
    ((*RUN, "--device", "cuda:-1"), ["--device cuda:-1"]),
    ((*RUN, "--device", "cpu:1"), ["--device cpu:1"]),
    ((*RUN, "--device", "meta"), ["--device meta"]),
    ((*RUN, "--device", "cüda"), ["--device"]),
    ((*RUN, "--set", "inner_lrr=0.1"), ["--set inner_lrr", "did you mean 'inner_lr'"]),
    ((*RUN, "--set", "inner_lr"), ["KEY=VALUE"]),
    ((*RUN, "--set", ""), ["--set: is empty"]),
    ((*RUN, "--set", "=0.1"), ["KEY=VALUE"]),
    ((*RUN, "--set", "inner_lr="), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr=fast"), ["--set inner_lr=fast", "number"]),
    ((*RUN, "--set", "inner_lr=-1"), ["--set inner_lr=-1", "greater than 0"]),
    ((*RUN, "--set", "inner_lr=0"), ["--set inner_lr=0"]),
    ((*RUN, "--set", "inner_lr=nan"), ["--set inner_lr=nan"]),
    ((*RUN, "--set", "inner_lr=.nan"), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr=.inf"), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr=1e999"), ["--set inner_lr", "finite"]),
    ((*RUN, "--set", "inner_lr=1" + "0" * 400), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr=" + "9" * 5000), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr=[0.1]"), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr={a: 1}"), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr=true"), ["--set inner_lr=true"]),
    ((*RUN, "--set", "inner_lr=null"), ["--set inner_lr=null"]),
    ((*RUN, "--set", "inner_lr=!!python/object/apply:os.system [id]"), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr=&a [*a]"), ["--set inner_lr", "anchors"]),
    ((*RUN, "--set", "inner_lr=\x00"), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr=\x07"), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr=\udcff"), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr=0.1}\n---\n{a: 1"), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr=" + "[" * 3000), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr=" + "x" * 100_000), ["--set inner_lr"]),
    ((*RUN, "--set", "inner_lr=0.1", "--set", "inner_lr=0.2"), ["given twice"]),
    ((*RUN, "--set", "inner_steps=1.5"), ["--set inner_steps=1.5"]),
    ((*RUN, "--set", "inner_steps=-1"), ["--set inner_steps=-1"]),
    ((*RUN, "--set", "inner_steps=" + "9" * 30), ["inner_steps"]),
    ((*RUN, "--set", "first_order=yes"), ["--set first_order=yes"]),
    ((*RUN, "--set", "first_order=1"), ["--set first_order=1"]),
    ((*RUN, "--set", "hidden_sizes=[8"), ["--set hidden_sizes=[8"]),
    ((*RUN, "--set", "hidden_sizes=[0]"), ["--set hidden_sizes"]),
    ((*RUN, "--set", "hidden_sizes=[8, -8]"), ["--set hidden_sizes"]),
    ((*RUN, "--set", "hidden_sizes=8"), ["--set hidden_sizes"]),
    ((*RUN, "--set", "hidden_sizes=[" + "9" * 25 + "]"), ["hidden_sizes"]),
    ((*RUN, "--set", "outer_schedule=linear"), ["--set outer_schedule", "cosine"]),
    ((*RUN, "--set", "queries_per_class=20"), ["shots + queries_per_class = 21", "20 examples"]),
    ((*RUN, "--set", "queries_per_class=0"), ["queries_per_class"]),
    ((*RUN, "--set", "n_way=50"), ["n_way: 50 is more than"]),
    ((*RUN, "--set", "n_way=1"), ["n_way"]),
    ((*RUN, "--set", "backbone=rfs-2020"), ["backbone"]),
    ((*RUN, "--set", "backbone=../x"), ["backbone"]),
    ((*RUN, "--set", "feature_scaling=unit-length"), ["feature_scaling"]),
    ((*RUN, "--set", "meta_batch_size=0"), ["meta_batch_size"]),
    ((*RUN, "--set", "meta_batch_size=1000000000000"), ["meta_batch_size"]),
    ((*RUN, "--set", "test_episodes=1000000000000"), ["test_episodes"]),
    ((*RUN, "--set", "episode_seed=" + "9" * 400), ["episode_seed"]),
    ((*RUN, "--set", "validate_every=0"), ["validate_every"]),
    ((*RUN, "--set", "test_episodes=0"), ["test_episodes"]),
    ((*RUN, "--set", "gradient_clip=-1"), ["gradient_clip"]),
    ((*STUDY[:2], "--grid", "inner_lr=0.1"), ["trial", "no trials yet"]),
    (("study", "no trials", "norml"), ["no trials", "a-z"]),
    (("study", "../up", "norml"), ["../up"]),
    (("study", "", "norml"), ["NAME: is empty"]),
    (("study", "trial\n", "norml"), ["study"]),
    (("study", "x" * 300, "norml", "--benchmark", "tiny-5way"), ["x"]),
    ((*STUDY, "--grid", "inner_lr"), ["--grid inner_lr", "KEY=V1,V2"]),
    ((*STUDY, "--grid", "inner_lr="), ["--grid inner_lr", "no values"]),
    ((*STUDY, "--grid", "inner_lr=0.1,fast"), ["inner_lr=fast"]),
    ((*STUDY, "--grid", "inner_lr=0.1,[0.2"), ["--grid inner_lr"]),
    ((*STUDY, "--grid", "inner_lr=0.1,nan"), ["inner_lr=nan"]),
    ((*STUDY, "--grid", "inner_lr=0.1", "--grid", "inner_lr=0.2"), ["given twice"]),
    ((*STUDY, "--grid", "inner_lr=0.1", "--set", "inner_lr=0.2"), ["give it once"]),
    (
        (*STUDY, *(word for key in "abcdefgh" for word in ("--grid", f"{key}=" + ",".join("1" * 50)))),
        ["--grid", "combinations"],
    ),
    ((*STUDY, "--format", "word"), ["word"]),
    (("pretrain", "mini-imagenet"), ["--recipe"]),
    (("pretrain", "mini-imagenet", "--recipe", "rfs-2021"), ["unknown recipe", "rfs-2020"]),
    (("pretrain", "glyphs", "--recipe", "rfs-2020"), ["grey"]),
    ((*PRETRAIN, "--epochs", "0"), ["--epochs"]),
    ((*PRETRAIN, "--epochs", "two"), ["--epochs"]),
    ((*PRETRAIN, "--epochs", "9" * 400), ["--epochs"]),
    ((*PRETRAIN, "--width", "0"), ["--width"]),
    ((*PRETRAIN, "--width", "9" * 400), ["--width"]),
    ((*PRETRAIN, "--device", "gpu"), ["--device gpu"]),
    (PRETRAIN, ["'mini-imagenet' is not prepared"]),
    ((*PRETRAIN, "--verify"), ["'mini-imagenet' is not prepared"]),
]

ENTRY = "mine/methods/mine.yaml"
LISTED = ("validate", "--registry", "mine")
RECORD = "results/tiny-5way/1-shot/norml/seed-0.json"
WRONG_FILES: list[tuple[tuple[str, ...], dict[str, str | bytes | None], list[str]]] = [
    ((*RUN, "--registry", "nowhere"), {}, ["--registry nowhere", "not a folder"]),
    ((*RUN, "--registry", "nul\0byte"), {}, ["--registry", "null byte"]),
    ((*RUN, "--registry", "r" * 5000), {}, ["rrr: not a usable path"]),
    ((*RUN, "--registry", "file"), {"file": "x"}, ["--registry file", "not a folder"]),
    ((*RUN, "--results", "file"), {"file": "x"}, ["--results file", "choose another folder"]),
    ((*RUN, "--results", "nul\0byte"), {}, ["--results", "null byte"]),
    ((*RUN, "--results", "r" * 5000), {}, ["rrr: not a usable path"]),
    (("report", "--results", "file"), {"file": "x"}, ["--results file", "not a folder"]),
    (("report", "--results", "nul\0byte"), {}, ["--results", "null byte"]),
    (("report", "--results", "r" * 5000), {}, ["rrr: not a usable path"]),
    (("compare", "norml", "maml-constant-lr", "--results", "file"), {"file": "x"}, ["--results file"]),
    (("validate", "file"), {"file": "x"}, ["file: not found, or not a .yaml file"]),
    (("prepare", "omniglot", "--source", "file"), {"file": "x"}, ["file: this is a file"]),
    (("prepare", "omniglot", "--source", "empty"), {"empty": None}, ["images_background.zip"]),
    (("prepare", "mini-imagenet", "--source", "file"), {"file": "x"}, ["file"]),
    (("prepare", "mini-imagenet", "--source", "bad.zip"), {"bad.zip": b"PK\3\4"}, ["bad.zip"]),
    (("prepare", "mini-imagenet", "--source", "bad.tar"), {"bad.tar": b"\0" * 100}, ["bad.tar"]),
    (LISTED, {ENTRY: ""}, ["mine.yaml: not a mapping"]),
    (LISTED, {ENTRY: "- a list\n"}, ["mine.yaml: not a mapping"]),
    (LISTED, {ENTRY: b"\xff\xfei\0d\0"}, ["mine.yaml: byte 0 is not UTF-8"]),
    (LISTED, {ENTRY: b"id: caf\xe9\n"}, ["mine.yaml: byte 7 is not UTF-8"]),
    (LISTED, {ENTRY: b"id: a\0b\n"}, ["mine.yaml: "]),
    (LISTED, {ENTRY: "id: mine\nid: mine\n"}, ["mine.yaml: line 2", "duplicate key"]),
    (LISTED, {ENTRY: "id: &a mine\ntitle: *a\n"}, ["mine.yaml: line 1", "anchors"]),
    (LISTED, {ENTRY: "id: !!python/name:os.system\n"}, ["mine.yaml: line 1"]),
    (LISTED, {ENTRY: "id: mine\n---\nid: other\n"}, ["mine.yaml: "]),
    (LISTED, {ENTRY: "id: [one\ntitle: x\n"}, ["mine.yaml: line "]),
    (LISTED, {ENTRY: "id: " + "[" * 50_000}, ["mine.yaml: "]),
    (LISTED, {ENTRY: "id: " + "{a: " * 5_000 + "}" * 5_000}, ["mine.yaml: "]),
    (LISTED, {ENTRY: "a: 1\n" * 300_000}, ["mine.yaml: larger than"]),
    (LISTED, {ENTRY: "id: " + "9" * 5_000 + "\n"}, ["mine.yaml: "]),
    (LISTED, {ENTRY: None}, ["mine.yaml: cannot be read"]),
    (LISTED, {"mine/methods/mine.yml": "id: mine\n"}, ["mine.yml: entries are read from"]),
    (LISTED, {"mine/method/mine.yaml": "id: mine\n"}, ["mine.yaml: entries are read from"]),
    (LISTED, {"mine/benchmarks/b.yaml": "id: a/b\ntitle: 3\nshots: [0]\n"}, ["b.yaml: id: must be lower-case"]),
    (LISTED, {"mine/datasets/b.yaml": "id: b\nclasses: .nan\n"}, ["b.yaml: "]),
    (LISTED, {"mine/tables/b.yaml": "? [a]\n: 1\n"}, ["b.yaml: ", "not plain text"]),
    (LISTED, {"mine/recipes/b.yaml": "id: b\nrecipe: {steps: {value: 1}}\n"}, ["b.yaml: recipe"]),
    (("report",), {RECORD: ""}, ["seed-0.json: is not JSON"]),
    (("report",), {RECORD: "[]"}, ["seed-0.json: is not a record"]),
    (("report",), {RECORD: b"\xff\xfe"}, ["seed-0.json: is not JSON"]),
    (("report",), {RECORD: '{"schema_version": 1}'}, ["seed-0.json: "]),
    (("report",), {RECORD: '{"schema_version": 9}'}, ["schema_version 9"]),
    (("report",), {RECORD: '{"schema_version": 1, "schema_version": 1}'}, ["seed-0.json: ", "duplicate key"]),
    (("report",), {RECORD: '{"schema_version": NaN}'}, ["seed-0.json: is not JSON"]),
    (("report",), {RECORD: '{"schema_version": ' + "9" * 5000 + "}"}, ["seed-0.json: is not JSON"]),
    (("report",), {RECORD: "[" * 100_000}, ["seed-0.json: "]),
    (("report",), {RECORD: '{"a":' * 900 + "1" + "}" * 900}, ["seed-0.json: "]),
    (("report",), {RECORD: None}, ["seed-0.json: cannot be read"]),
    (RUN, {RECORD: "{}"}, ["seed-0.json: is not a record"]),
    (RUN, {RECORD.replace(".json", ".checkpoint"): b"not a checkpoint"}, [".checkpoint: is not a readable checkpoint"]),
    (RUN, {RECORD.replace(".json", ".checkpoint"): None}, [".checkpoint: is not a readable checkpoint"]),
]


@pytest.fixture(autouse=True)
def built_in_entries_are_read_once(monkeypatch: pytest.MonkeyPatch):
    """They are no part of what is tested here, and reading them is most of a command's time."""
    monkeypatch.setattr(reading, "read_mapping", _read_once)


def _read_once(path: Path) -> dict[object, object]:
    if reading.builtin_registry() not in path.parents:
        return read_mapping(path)
    if path not in READ:
        READ[path] = read_mapping(path)
    return READ[path]


READ: dict[Path, dict[object, object]] = {}


def short(value: object) -> str:
    """A test's name: printable and short."""
    text = " ".join(value) if isinstance(value, tuple) else ""
    return re.sub(r"[^ -~]", "?", text)[:60]


def refused(shell: Shell, arguments: tuple[str, ...], words: list[str]) -> None:
    """`norml ARGUMENTS` ends with exit code 2 and a message with `words`, on a line of its own, and leaves no file."""
    before = files(shell.folder)
    code, out, err = shell.norml(*arguments)
    assert code == 2, (out, err)
    assert "Traceback" not in out + err
    for word in words:
        assert word in err
    said = [line for line in err.splitlines() if line.lower().startswith("error:")]
    assert len(said) >= 1 or not arguments
    assert len(err) < 3000, "a message is for people"
    assert all(character.isprintable() or character == "\n" for character in err)
    assert files(shell.folder) == before


def files(folder: Path) -> Mapping[str, bytes | None]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_table_is_long_enough():
    assert len(WRONG_WORDS) + len(WRONG_VALUES) + len(WRONG_FILES) >= 150


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("arguments", "words"), WRONG_WORDS + WRONG_VALUES, ids=short)
def test_a_wrong_use_is_one_clear_line(shell: Shell, arguments: tuple[str, ...], words: list[str]):
    refused(shell, arguments, words)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("arguments", "before", "words"), WRONG_FILES, ids=short)
def test_a_wrong_file_is_one_clear_line(
    shell: Shell, arguments: tuple[str, ...], before: dict[str, str | bytes | None], words: list[str]
):
    for name, content in before.items():
        path = shell.folder / name
        if content is None:
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    refused(shell, arguments, words)
