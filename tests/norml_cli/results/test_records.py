import hashlib
import json
import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from norml_cli.files.errors import UserError
from norml_cli.registry.rules.gradient_descent import GradientDescentSettings
from norml_cli.registry.rules.nodal_lstm import NodalLstmSettings
from norml_cli.results.records import RunRecord, TrialRecord
from norml_cli.results.store import Results, digest_of, read_record, read_trial, trial_name, write_record
from norml_cli.terminal.command_line import command_line
from tests.helpers.made_records import made_content, made_record, made_registry

CORRECT = [5, 6, 4, 5]


@pytest.fixture
def registry(tmp_path):
    return made_registry(tmp_path / "entries")


@pytest.fixture
def content(registry):
    return made_content(registry, "norml", CORRECT)


def put(results: Path, record: RunRecord) -> Path:
    path = Results(results).run_path(record.spec, record.seed)
    write_record(path, record)
    return path


def signed(content: dict) -> dict:
    """With the digest of what it holds, as a faulty program would write it."""
    return {**content, "digest": digest_of(content)}


def fault_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_record(path)
    return str(caught.value)


def test_place_of_a_record(registry, tmp_path):
    spec = registry.resolve("norml", "tiny", 5).spec
    assert Results(tmp_path).run_path(spec, 3) == tmp_path / "tiny" / "5-shot" / "norml" / "seed-3.json"


@pytest.mark.parametrize(
    ("method", "rule"), [("norml", NodalLstmSettings), ("maml-constant-lr", GradientDescentSettings)]
)
def test_written_and_read_again(registry, tmp_path, method, rule):
    record = made_record(registry, method, CORRECT)
    path = put(tmp_path, record)
    assert read_record(path) == record
    assert isinstance(read_record(path).spec.rule, rule)


def test_file_is_for_people_too(registry, tmp_path):
    text = put(tmp_path, made_record(registry, "norml", CORRECT)).read_text(encoding="utf-8")
    assert '\n  "correct": [5, 6, 4, 5],\n' in text
    assert '"hidden_sizes": [8],' in text
    assert re.match(r'{\n  "schema_version": 2,\n  "digest": "[0-9a-f]{64}",\n  "status": "finished",\n', text)
    assert text.endswith("}\n")


def test_same_record_same_bytes(registry, tmp_path):
    first = put(tmp_path / "a", made_record(registry, "norml", CORRECT))
    second = put(tmp_path / "b", read_record(first))
    assert first.read_bytes() == second.read_bytes()


def test_texts_with_brackets_stay_as_they_are(content, tmp_path):
    content["device"] = "odd [\n 1 2\n] name"
    path = put(tmp_path, RunRecord.model_validate(content))
    assert read_record(path).device == content["device"]


def test_failed_write_leaves_the_old_record_and_no_other_file(registry, tmp_path, monkeypatch):
    path = put(tmp_path, made_record(registry, "norml", CORRECT))
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"seed-0\.json: cannot be written \(No space left on device\)"):
        write_record(path, made_record(registry, "norml", [9, 9, 9, 8]))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_parent_that_is_a_file(registry, tmp_path):
    (tmp_path / "tiny").write_text("in the way")
    with pytest.raises(UserError, match=r"seed-0\.json: cannot be written"):
        put(tmp_path, made_record(registry, "norml", CORRECT))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_read_only_folder(registry, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    results.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(UserError, match="cannot be written"):
        put(results, made_record(registry, "norml", CORRECT))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("spec_hash", "0" * 64, "entry: spec_hash is not the hash of spec"),
        ("spec_hash", "abc", "spec_hash: must be 64 hexadecimal digits (got 'abc')"),
        ("spec.protocol.inner_lr", 0.5, "entry: spec_hash is not the hash of spec"),
        ("spec.protocol.inner_lr", -0.5, "spec.protocol.inner_lr: must be greater than 0 (got -0.5)"),
        (
            "spec.rule.gates",
            "none",
            "spec.rule.gates: must be 'per-example', 'batch-shared' or 'flattened' (got 'none')",
        ),
        ("spec.rule.learned_rates", "none", "spec.rule.learned_rates: unknown key"),
        ("dataset.id", "omniglot", "entry: dataset.id is 'omniglot', but the spec's data set is 'glyphs'"),
        ("correct", [5, 6, 4, 6], "entry: accuracy.mean is not the mean of correct / queries_per_episode"),
        (
            "correct",
            [5, 6, 4],
            "entry: correct, episodes.n_test, accuracy.n and the spec have different numbers of episodes",
        ),
        ("correct", [5, 6, 4, 11], "entry: correct has a count above the 10 queries of an episode"),
        (
            "by_class",
            {f"class {n}": {"episodes": 4, "correct": 19} for n in range(5)},
            "entry: by_class does not add up to the episodes and their correct answers",
        ),
        ("by_class", {"a": {"episodes": 0, "correct": 0}}, "by_class.a.episodes: must be at least 1 (got 0)"),
        ("correct", [5, 6, 4, -1], "correct.3: must be at least 0 (got -1)"),
        ("correct", [5, 6, 4, 5.0], "correct.3: must be a whole number (got 5.0)"),
        ("accuracy.half_width", 0.1, "entry: accuracy.half_width is not t(0.975, n-1) * sd(ddof=1) / sqrt(n)"),
        ("accuracy.formula", "1.96", "entry: accuracy.formula is not 't(0.975, n-1) * sd(ddof=1) / sqrt(n)'"),
        ("episodes.queries_per_episode", 20, "entry: episodes.queries_per_episode is not n_way * queries_per_class"),
        ("best_step", 7, "entry: best_step 7 is not a step of the curve"),
        ("curve", [], "curve: must have 1 or more items"),
        ("curve.0.step", 7, "entry: curve does not end at the spec's outer_steps"),
        ("created", "yesterday", "created: must be a UTC time such as 2026-01-31T12:00:00+00:00 (got 'yesterday')"),
        (
            "created",
            "2026-01-31T12:00:00+02:00",
            "created: must be a UTC time such as 2026-01-31T12:00:00+00:00 (got '2026-01-31T12:00:00+02:00')",
        ),
        ("status", "begun", "status: must be 'finished' (got 'begun')"),
        ("cost.wall_s", "long", "cost.wall_s: must be a number (got 'long')"),
        ("cost.wal_s", 1.0, "cost.wal_s: unknown key"),
    ],
)
def test_damaged_record_is_told_with_file_and_key(content, tmp_path, key, value, message):
    *parents, last = key.split(".")
    place = content
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = value
    path = tmp_path / "seed-0.json"
    path.write_text(json.dumps(signed(content)), encoding="utf-8")
    assert fault_of(path) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("key", "value"),
    [("curve.0.loss", 1.5), ("cost.wall_s", 13.0), ("parameters.learner", 1), ("device", "another"), ("seed", 1)],
)
def test_a_value_that_nothing_else_tells_is_held_by_the_digest(registry, tmp_path, key, value):
    path = put(tmp_path, made_record(registry, "norml", CORRECT))
    content = place = json.loads(path.read_text(encoding="utf-8"))
    *parents, last = key.split(".")
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    assert fault_of(path) == (
        f"{path}: digest: does not match the content, so the file was changed or damaged; restore it from a copy, "
        f"or run it again with --force"
    )


def test_the_digest_is_of_the_content_whatever_its_order_and_layout(registry, tmp_path):
    """By hand: SHA-256 of the JSON with sorted keys and no spaces, without the digest."""
    path = put(tmp_path, made_record(registry, "norml", CORRECT))
    content = json.loads(path.read_text(encoding="utf-8"))
    digest = content.pop("digest")
    assert digest == hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    path.write_text(json.dumps({"digest": digest, **dict(reversed(content.items()))}, indent=7), encoding="utf-8")
    assert read_record(path) == made_record(registry, "norml", CORRECT)
    path.write_text(json.dumps(content), encoding="utf-8")
    assert "digest: does not match the content" in fault_of(path)


def test_missing_key(content, tmp_path):
    del content["git"]
    path = tmp_path / "seed-0.json"
    path.write_text(json.dumps(signed(content)), encoding="utf-8")
    assert fault_of(path) == f"{path}: git: is missing"


@pytest.mark.parametrize(
    "text", [b"", b'{"schema_version": 2,', b'{"schema_version": 2, "seed": NaN}', b"\xff\xfe", b"[" * 100_000]
)
def test_not_json(tmp_path, text):
    path = tmp_path / "seed-0.json"
    path.write_bytes(text)
    fault = fault_of(path)
    assert fault.startswith(f"{path}: is not JSON (")
    assert fault.endswith("); it is damaged or cut off, delete it and run again")


@pytest.mark.parametrize("text", ["[]", "{}", "3"])
def test_not_a_record(tmp_path, text):
    path = tmp_path / "seed-0.json"
    path.write_text(text)
    assert fault_of(path) == f"{path}: is not a record (no schema_version); move it out of the results folder"


def test_record_of_another_version(content, tmp_path):
    path = tmp_path / "seed-0.json"
    path.write_text(json.dumps(content | {"schema_version": 1}))
    assert fault_of(path) == (
        f"{path}: was written by another version of norml (schema_version 1, this version reads 2); "
        f"report it with that version, or run it again"
    )


def test_unreadable_record(tmp_path):
    path = tmp_path / "seed-0.json"
    path.mkdir()
    assert fault_of(path) == f"{path}: cannot be read (it is a folder, not a file); name a record in it (seed-N.json)"
    assert fault_of(tmp_path / "nothere.json").startswith(f"{tmp_path / 'nothere.json'}: no such file; ")
    (tmp_path / "seed-0.weights").write_bytes(b"\x00\x01")
    assert fault_of(tmp_path / "seed-0.weights").endswith(
        "seed-0.weights: is not a record; name a run's record (seed-N.json)"
    )


def test_another_kind_of_record_is_called_what_it_is(content, tmp_path):
    path = tmp_path / "a-seed-0.json"
    path.write_text(json.dumps(signed({**content, "study": "rates"})), encoding="utf-8")
    assert fault_of(path) == (
        f"{path}: is the record of a study's trial, which has no meta-test; name a run's record instead"
    )
    path.write_text(json.dumps(signed(content)), encoding="utf-8")
    with pytest.raises(UserError, match="is a run's record; name the record of a study's trial"):
        read_trial(path)


def test_the_half_width_alone_may_be_left_unchecked(content, tmp_path):
    """It takes scipy, which `norml status` does without; mean and digest are held in any case."""
    content["accuracy"]["half_width"] += 0.1
    path = tmp_path / "seed-0.json"
    path.write_text(json.dumps(signed(content)), encoding="utf-8")
    assert read_record(path, intervals=False).accuracy.half_width == content["accuracy"]["half_width"]
    assert "accuracy.half_width is not" in fault_of(path)
    content["accuracy"]["mean"] += 0.1
    path.write_text(json.dumps(signed(content)), encoding="utf-8")
    with pytest.raises(UserError, match=r"accuracy\.mean is not"):
        read_record(path, intervals=False)


def trial_of(registry, **values):
    return registry.resolve("norml", "tiny", 1, values)


def test_a_trial_is_named_by_what_it_varies_in_the_order_of_the_spec(registry, tmp_path):
    folder = tmp_path / "studies" / "rates" / "1-shot" / "norml"
    results = Results(tmp_path)
    for values in ({"inner_lr": 0.2, "gate_scale": 4.0}, {"gate_scale": 4.0, "inner_lr": 0.2}):
        path = results.trial_path("rates", trial_of(registry, **values), 0)
        assert path == folder / "inner_lr=0.2,gate_scale=4.0-seed-0.json"
    assert results.trial_path("rates", trial_of(registry), 7) == folder / "as-declared-seed-7.json"


def test_names_of_trials_are_safe_and_short(registry):
    sizes = trial_of(registry, hidden_sizes=[16, 32], first_order=True, gradient_clip=None)
    assert trial_name(sizes.spec, ["hidden_sizes", "first_order"]) == "hidden_sizes=16_32,first_order=true"
    long = [trial_of(registry, hidden_sizes=[*range(1001, 1032), last]) for last in (7, 8)]
    names = [trial_name(each.spec, ["hidden_sizes"]) for each in long]
    assert len({*names}) == 2
    assert all(re.fullmatch(r"hidden_sizes=[0-9_]{107}~[0-9a-f]{8}", name) for name in names)


def test_trials_of_two_registries_do_not_share_a_name(registry, tmp_path):
    """The same change of another declared protocol: the first to finish keeps the name."""
    results, trial = Results(tmp_path), trial_of(registry, inner_lr=0.2)
    record = made_content(registry, "norml", CORRECT, inner_lr=0.2)
    for key in ("episodes", "correct", "accuracy"):
        del record[key]
    path = results.trial_path("rates", trial, 0)
    write_record(path, TrialRecord.model_validate({**record, "study": "rates", "validation_hash": "x"}))
    assert results.trial_path("rates", trial, 0) == path
    other = replace(trial, spec=trial_of(registry, inner_lr=0.2, outer_lr=0.5).spec)
    expected = path.with_name(f"inner_lr=0.2~{other.spec.hash()[:8]}-seed-0.json")
    assert results.trial_path("rates", other, 0) == expected
    path.write_text("damaged")  # --force may replace it
    assert results.trial_path("rates", trial, 0) == path


@pytest.mark.parametrize(
    ("correct", "fault"),
    [
        ([4, 5, 6, 5], None),
        ([4, 5, 6], "for each of the spec's validation_episodes"),
        ([4, 5, 6, 6], "mean of correct"),
    ],
)
def test_a_trial_keeps_counts_that_follow_from_its_curve(registry, correct, fault):
    content = made_content(registry, "norml", [5, 5, 5, 5])  # its curve ends at an accuracy of a half
    for key in ("episodes", "accuracy"):
        del content[key]
    trial = {**content, "correct": correct, "study": "rates", "validation_hash": "x"}
    if fault is None:
        assert TrialRecord.model_validate(trial).correct == correct
    else:
        with pytest.raises(ValidationError, match=fault):
            TrialRecord.model_validate(trial)


def test_every_record_is_read_once_by_the_reader_of_its_kind(registry, tmp_path):
    paths = [put(tmp_path, made_record(registry, "norml", CORRECT))]
    paths.append(put(tmp_path / "other-protocols" / "short", made_record(registry, "norml", CORRECT)))
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "seed-0.json").write_text("another kind of measurement")
    scan = Results(tmp_path).scan_all()
    assert [path for path, _ in scan.records] == paths
    assert scan.faults == []


def test_no_results_folder(tmp_path):
    assert Results(tmp_path / "nowhere").runs() == []


def test_a_results_folder_that_is_named_must_be_there(tmp_path, monkeypatch):
    path = tmp_path / "results"
    with pytest.raises(UserError, match=r"--results .*results: no such folder; name the folder that"):
        Results(path).require_folder()
    path.write_text("")
    with pytest.raises(UserError, match="not a folder; name the folder that `norml run` wrote to"):
        Results(path).require_folder()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="no such folder"):
        Results(tmp_path / "loop").require_folder()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Results(Path("results")).require_folder()  # the default, which the first run makes


def test_records_are_found_in_order_and_other_files_left_alone(registry, tmp_path):
    results = tmp_path / "results"
    paths = [put(results, made_record(registry, "norml", CORRECT, seed=seed)) for seed in (0, 1)]
    paths.append(put(results, made_record(registry, "norml", CORRECT, shots=5)))
    (results / "README.md").write_text("notes")
    (paths[0].parent / "seed-2.checkpoint").write_bytes(b"")
    (paths[0].parent / ".seed-3.json.x.part").write_bytes(b"")
    for folder in ("studies", "speed"):
        (results / folder).mkdir()
        (results / folder / "seed-0.json").write_text("another kind of measurement")
    other = results / "other-protocols" / "meta-batch-4"
    apart = put(other, made_record(registry, "norml", CORRECT))
    assert [path for path, _ in Results(results).runs()] == sorted(paths)
    assert [path for path, _ in Results(other).runs()] == [apart]


def test_every_broken_record_is_told(registry, tmp_path):
    good = put(tmp_path, made_record(registry, "norml", CORRECT))
    cut_off = good.with_name("seed-1.json")
    cut_off.write_text("{")
    misplaced = good.with_name("seed-7.json")
    misplaced.write_bytes(good.read_bytes())
    with pytest.raises(UserError) as caught:
        Results(tmp_path).runs()
    cut_off_fault, misplaced_fault = str(caught.value).splitlines()
    assert cut_off_fault.startswith(f"{cut_off}: is not JSON (")
    assert misplaced_fault == (f"{misplaced}: holds the run that belongs at {good}; move it there or delete it")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "norml", "--seed", "1"], "norml run norml --seed 1"),
        (["run", "norml", "--results", "/srv/ann/out"], "norml run norml --results out"),
        (["run", "norml", "--registry=/srv/ann/my entries/"], "norml run norml '--registry=my entries'"),
        (["prepare", "omniglot", "--source", "."], "norml prepare omniglot --source ."),
        (["run", "norml", "--set", "hidden_sizes=[8, 8]"], "norml run norml --set 'hidden_sizes=[8, 8]'"),
    ],
)
def test_command_line_names_no_folder_of_the_machine(arguments, line):
    assert command_line(arguments) == line


@pytest.mark.parametrize(
    ("device", "threads"),
    [
        ("cpu (x86_64, 2 threads)", 2),  # as records were written before they named the model
        ("cpu (1 thread, Some(R) Processor, oneDNN)", 1),
        ("cpu (1 thread, Some(R) Processor), then cpu (16 threads, Some(R) Processor)", 16),
        ("NVIDIA H100 80GB HBM3", None),
    ],
)
def test_a_record_tells_its_threads(registry, device, threads):
    record = made_record(registry, "norml", CORRECT)
    assert record.model_copy(update={"device": device}).threads == threads
