"""`norml evaluate`, `norml export` and `norml report --protocols`, as a user types them."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from norml import GradientDescent, Learner, MetaLearner, MetricLearner, SupportComparison
from norml.meta_training import MetaTrained
from norml_cli.data.cache import Cache
from norml_cli.data.fixed_episodes import episode_requests
from norml_cli.registry.reading import load_registry
from norml_cli.registry.specs import RunSpec
from norml_cli.results.store import Results, digest_of, read_card, read_evaluation, read_record, stored_digest
from norml_cli.training import trained
from norml_cli.training.checkpoints import read_checkpoint
from norml_cli.training.trained import load_trained
from tests.helpers.command_line import Shell
from tests.helpers.tiny import write_entry

ROOT = Path(__file__).parents[2]
RUN = ("run", "norml", "--benchmark", "tiny-5way")
FOLDER = Path("results/tiny-5way/1-shot")
RECORD = FOLDER / "norml/seed-0.json"
AT_THE_END = ("--set", "validate_every=9")  # one meta-validation: the weights tested are those of the last step


def evaluated(shell: Shell, *arguments: str) -> dict[str, object]:
    """What `norml evaluate RECORD ARGUMENTS --json` says of the one evaluation."""
    code, out, err = shell.norml("evaluate", str(RECORD), *arguments, "--device", "cpu", "--json", "--quiet")
    assert code == 0, err
    (one,) = json.loads(out)
    return one


def refused(shell: Shell, *arguments: str) -> str:
    """The one line that refuses `norml evaluate RECORD ARGUMENTS`, which leaves nothing."""
    before = sorted(shell.folder.rglob("*"))
    code, out, err = shell.norml("evaluate", str(RECORD), *arguments, "--device", "cpu")
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert sorted(shell.folder.rglob("*")) == before
    return err


def test_meta_validation_gives_what_the_training_saw(shell: Shell, record: Path):
    found = evaluated(shell, "--split", "meta-val")
    best = read_record(record).best
    assert found["accuracy"]["mean"] == best.validation_accuracy
    assert found["accuracy"]["half_width"] == best.validation_half_width
    assert found["episodes"]["hash"] == read_record(record).episodes.validation_hash
    fewer = evaluated(shell, "--split", "meta-val", "--set", "validation_episodes=20")
    assert (fewer["changed"], len(fewer["correct"])) == ({"validation_episodes": 20}, 20)


@pytest.mark.parametrize(
    "change", [["--set", "inner_steps_test=4"], ["--set", "episode_seed=7"], ["--set", "test_episodes=20"]]
)
def test_it_is_what_a_run_tested_by_those_values_finds(shell: Shell, change: list[str]):
    """Neither value changes the training, so a run of its own has the same weights."""
    assert shell.norml(*RUN, *AT_THE_END, *change, "--results", "other")[0] == 0
    assert shell.norml(*RUN, *AT_THE_END)[0] == 0
    found = evaluated(shell, *change)
    other = read_record(Path("other/tiny-5way/1-shot/norml/seed-0.json"))
    assert found["correct"] == other.correct
    assert found["episodes"]["hash"] == other.episodes.test_hash
    assert found["spec_hash"] == other.spec_hash
    assert found["run_digest"] == stored_digest(RECORD)


def test_a_record_of_its_own_beside_the_run_that_no_list_of_runs_shows(shell: Shell, record: Path):
    before = record.read_bytes()
    arguments = ["--set", "inner_steps_test=5", "--set", "queries_per_class=3", "--set", "query_statistics=support"]
    code, out, err = shell.norml("evaluate", str(record), *arguments, "--shots", "2", "--device", "cpu")
    assert code == 0, err
    name = "shots=2,queries_per_class=3,inner_steps_test=5,query_statistics=support.json"
    path = FOLDER / "norml/seed-0-evaluations" / name
    found = read_evaluation(path)
    assert found.changed == {
        "shots": 2,
        "queries_per_class": 3,
        "inner_steps_test": 5,
        "query_statistics": "support",
    }
    assert (found.episodes.queries_per_episode, found.episodes.n, found.spec.shots) == (15, 350, 2)
    assert "shots 2, queries_per_class 3, inner_steps_test 5, query_statistics support: " in out
    assert str(path) in out
    assert record.read_bytes() == before
    assert [each for each, _ in Results(shell.results).runs()] == [shell.results / record.relative_to("results")]
    assert len(Results(shell.results).scan_evaluations().sound()) == 1


@pytest.mark.usefixtures("record")
def test_what_is_finished_is_printed_and_force_does_it_again(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    change = ("--set", "queries_per_class=3")
    first = evaluated(shell, *change)
    counted = []
    count = trained.count_correct
    monkeypatch.setattr(trained, "count_correct", lambda *a: counted.append(a) or count(*a))
    assert evaluated(shell, *change) == first | {"new": False}
    assert counted == []
    again = evaluated(shell, *change, "--force")
    assert (again["correct"], again["new"]) == (first["correct"], True)
    assert len(counted) == 1
    assert shell.norml(*RUN, "--force", "--set", "outer_steps=8")[0] == 0  # other weights: evaluated anew
    assert evaluated(shell, *change)["new"] is True
    assert len(counted) == 2


@pytest.mark.usefixtures("record")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to change; add --set, --shots, --benchmark or --split (`norml verify` repeats the test)"),
        (
            ["--set", "n_way=3"],
            "--set n_way: has 3 classes, but the learner has 5 outputs; train with --set head",
        ),
        (["--set", "n_way=3", "--set", "head_init=zero"], "norml has parameters for each class; train with it"),
        (["--set", "head_init=learned"], "nothing to change; add --set"),
        (["--set", "n_way=9", "--set", "head_init=zero"], "n_way: 9 is more than the 8 classes of 'tiny-glyphs'"),
        (
            ["--set", "inner_lr=0.3"],
            "--set inner_lr: is fixed by training; `norml evaluate` can change n_way, queries",
        ),
        (["--set", "gate_scale=2"], "--set gate_scale: is fixed by training"),
        (["--set", "querys_per_class=3"], "unknown key, did you mean 'queries_per_class' or "),
        (["--set", "queries_per_class=many"], "--set queries_per_class=many: "),
        (["--set", "queries_per_class=900"], "queries_per_class: shots + queries_per_class = 901 is more than the "),
        (
            ["--set", "validation_episodes=3"],
            "--set validation_episodes: has no effect on --split meta-test; set test_",
        ),
        (["--split", "meta-train"], "--split meta-train: expected meta-val or meta-test"),
        (
            ["--benchmark", "tiny-3way"],
            "--benchmark tiny-3way: has 3 classes, but the learner has 5 outputs",
        ),
        (
            ["--benchmark", "tiny-large"],
            "--benchmark tiny-large: has images of 20 x 20 grey pixels, but the learner was",
        ),
        (["--benchmark", "tiny-5way", "--shots", "3"], "--shots 3: benchmark 'tiny-5way' declares 1, 5; use one"),
        (["--benchmark", "mini-imagenet-5way"], "uses another backbone than"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(shell: Shell, arguments: list[str], says: str):
    folder = shell.registry
    bench = yaml.safe_load((folder / "benchmarks/tiny-5way.yaml").read_text())
    bench["protocol"]["n_way"]["value"] = 3
    write_entry(folder, "benchmarks", bench | {"id": "tiny-3way"})
    bench["protocol"]["n_way"]["value"] = 5
    write_entry(folder, "benchmarks", bench | {"id": "tiny-large", "dataset": "large-glyphs"})
    data = yaml.safe_load((folder / "datasets/tiny-glyphs.yaml").read_text()) | {"id": "large-glyphs"}
    data["image_size_px"]["value"] = 20
    write_entry(folder, "datasets", data)
    assert says in refused(shell, *arguments)


def test_gates_of_all_support_examples_at_once_stay_at_their_shots(shell: Shell):
    assert shell.norml(*RUN, "--set", "gates=flattened")[0] == 0
    assert "trained for 5-way 1-shot cannot adapt to 5-way 2-shot" in refused(shell, "--shots", "2")
    assert evaluated(shell, "--set", "inner_steps_test=3")["new"] is True


def test_other_ways_with_a_head_that_starts_at_zero(shell: Shell):
    """Untrained weights do not depend on N, so a 3-way run's own test is what the 5-way run's weights give there."""
    untrained = (*RUN, "--set", "head_init=zero", "--outer-steps", "0")
    assert shell.norml(*untrained)[0] == 0
    assert shell.norml(*untrained, "--set", "n_way=3", "--results", "three")[0] == 0
    expected = read_record(Path("three/tiny-5way/1-shot/norml/seed-0.json"))
    found = evaluated(shell, "--set", "n_way=3")
    assert found["changed"] == {"n_way": 3}
    assert found["correct"] == expected.correct
    assert found["spec_hash"] == expected.spec_hash
    assert found["episodes"]["queries_per_episode"] == expected.episodes.queries_per_episode
    bench = yaml.safe_load((shell.registry / "benchmarks/tiny-5way.yaml").read_text())
    bench["protocol"]["n_way"]["value"] = 3
    write_entry(shell.registry, "benchmarks", bench | {"id": "tiny-3way"})
    elsewhere = evaluated(shell, "--benchmark", "tiny-3way")
    assert (elsewhere["changed"], elsewhere["correct"]) == ({"benchmark": "tiny-3way", "n_way": 3}, expected.correct)
    assert "these weights hold no learned head" in refused(shell, "--set", "head_init=learned")
    assert shell.norml("inspect", str(RECORD), "--episodes", "4", "--device", "cpu")[0] == 0
    assert shell.norml("export", str(RECORD))[0] == 0
    RECORD.with_suffix(".weights").unlink()
    assert "equal, all 350 episodes" in shell.norml("verify", str(RECORD), "--device", "cpu")[1]


def test_a_learned_head_is_left_out_where_the_rule_knows_no_classes(shell: Shell):
    assert shell.norml("run", "maml-layerwise-lr", "--benchmark", "tiny-5way")[0] == 0
    path, options = str(FOLDER / "maml-layerwise-lr/seed-0.json"), ("--device", "cpu", "--json", "--quiet")
    change = ("--set", "n_way=3", "--set", "head_init=zero")
    code, out, err = shell.norml("evaluate", path, *change, *options)
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["changed"] == {"n_way": 3, "head_init": "zero"}
    again = load_trained(path)
    state = again.meta_learner.state_dict()
    head = len(again.meta_learner.learner.weights) - 1
    learner = Learner(784, [12, 8], 3, batch_norm_scale=True, head_init="zero")
    by_hand = MetaLearner(learner, GradientDescent(3, learned_rates="layer-wise"), again.meta_learner.inner_loop)
    by_hand.load_state_dict(
        {
            name: value[:0] if name.endswith(f".{head}") and "shifts" not in name else value
            for name, value in state.items()
        }
    )
    expected = correct_by_hand(by_hand, found["spec"])
    assert found["correct"] == expected
    assert shell.norml("run", "nearest-centroid", "--benchmark", "tiny-5way")[0] == 0
    path = str(FOLDER / "nearest-centroid/seed-0.json")
    code, out, err = shell.norml("evaluate", path, "--set", "n_way=3", *options)
    assert code == 0, err
    assert json.loads(out)[0]["episodes"]["queries_per_episode"] == 3 * found["spec"]["protocol"]["queries_per_class"]


@pytest.mark.parametrize("method", ["prototypical-network", "matching-network"])
def test_a_comparison_answers_any_number_of_classes(shell: Shell, method: str):
    assert shell.norml("run", method, "--benchmark", "tiny-5way")[0] == 0
    path, options = str(FOLDER / method / "seed-0.json"), ("--device", "cpu", "--json", "--quiet")
    code, out, err = shell.norml("evaluate", path, "--set", "n_way=3", *options)
    assert code == 0, err
    (found,) = json.loads(out)
    trained = load_trained(path).meta_learner
    comparison = SupportComparison(trained.rule.compared_with, trained.rule.similarity)
    by_hand = MetricLearner(trained.learner, comparison, n_way=3)
    assert found["correct"] == correct_by_hand(by_hand, found["spec"])
    code, _, err = shell.norml("evaluate", path, "--set", "head_init=zero", *options)
    assert (code, err) == (2, "error: --set head_init: comparison has no head\n")


def correct_by_hand(meta_learner: MetaTrained, spec: dict) -> list[int]:
    """Correct answers on the fixed meta-test episodes that `spec` names, one episode at a time."""
    run = RunSpec.model_validate(spec)
    entries = load_registry()
    cache = Cache.open(entries.dataset(run.dataset), entries.files["datasets", run.dataset])
    arrays = cache.episodes(episode_requests(run)[1])
    images = torch.from_numpy(cache.images("meta_test")).float() / 255
    counts = []
    for classes, examples, turns in zip(arrays.classes, arrays.examples, arrays.turns, strict=True):
        drawn = [
            [torch.rot90(images[int(c), int(e)], int(turn)).flatten() for e in of_class]
            for c, of_class, turn in zip(classes, examples, turns, strict=True)
        ]
        n_way, labels = len(drawn), torch.arange(len(drawn))
        support = torch.stack([x for of_class in drawn for x in of_class[: run.shots]])[None]
        query = torch.stack([x for of_class in drawn for x in of_class[run.shots :]])[None]
        adapted = meta_learner.adapt(
            support, labels.repeat_interleave(run.shots)[None], run.protocol.inner_steps_test
        ).logits(query)
        answers = adapted[0].argmax(-1)
        counts.append(int((answers == labels.repeat_interleave(len(answers) // n_way)).sum()))
    return counts


def test_a_head_that_stays_at_zero_is_refused_before_anything_runs(shell: Shell):
    code, _, err = shell.norml("run", "boil", "--benchmark", "tiny-5way", "--set", "head_init=zero")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "boil: head_init: zero with adapted_layers: body makes all logits equal; use head_init: learned" in err
    code, _, err = shell.norml(*RUN, "--set", "head_init=zero", "--set", "head_weight_std=1.0")
    assert (code, "head_weight_std: is declared, but head_init is zero" in err) == (2, True)


def test_another_data_set_only_where_a_benchmark_names_it(shell: Shell, record: Path):
    data = yaml.safe_load((shell.registry / "datasets/tiny-glyphs.yaml").read_text())
    bench = yaml.safe_load((shell.registry / "benchmarks/tiny-5way.yaml").read_text())
    bench["protocol"]["episode_seed"]["value"] = 4
    write_entry(shell.registry, "datasets", data | {"id": "other-glyphs", "generator_seed": 99})
    write_entry(shell.registry, "benchmarks", bench | {"id": "other-5way", "dataset": "other-glyphs"})
    found = evaluated(shell, "--benchmark", "other-5way")
    assert found["changed"] == {"benchmark": "other-5way", "episode_seed": 4}
    assert found["dataset"]["id"] == "other-glyphs"
    assert found["dataset"]["content_hash"] != read_record(record).dataset.content_hash
    write_entry(shell.registry, "datasets", data | {"generator_seed": 99})
    shell.monkeypatch.setenv("NORML_HOME", str(shell.folder / "caches"))
    assert shell.norml("prepare", "tiny-glyphs")[0] == 0
    assert "was made with other images than" in refused(shell, "--set", "queries_per_class=3")


def test_heads_fitted_to_each_support_set_accept_other_episodes_but_no_inner_steps(shell: Shell):
    assert shell.norml("run", "nearest-centroid", "--benchmark", "tiny-5way")[0] == 0
    path = str(FOLDER / "nearest-centroid/seed-0.json")
    code, _, err = shell.norml("evaluate", path, "--set", "inner_steps_test=3")
    assert code == 2
    assert "--set inner_steps_test: nearest-centroid takes no inner steps" in err
    assert shell.norml("evaluate", path, "--set", "queries_per_class=3")[0] == 0


def test_an_evaluation_belongs_to_the_run_that_it_read(shell: Shell, monkeypatch: pytest.MonkeyPatch, record: Path):
    """The run is replaced while its weights are tested."""
    before, count = json.loads(record.read_text()), trained.count_correct

    def replaced(*args: object) -> object:
        after = before | {"command": "norml run another"}
        record.write_text(json.dumps(after | {"digest": digest_of(after)}))
        return count(*args)

    monkeypatch.setattr(trained, "count_correct", replaced)
    assert evaluated(shell, "--set", "inner_steps_test=3")["run_digest"] == before["digest"]


def test_ctrl_c_leaves_nothing_half_done(shell: Shell, monkeypatch: pytest.MonkeyPatch, record: Path):
    before = sorted(shell.folder.rglob("*"))

    def signalled(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")

    monkeypatch.setattr(trained, "count_correct", signalled)
    code, _, err = shell.norml("evaluate", str(record), "--set", "inner_steps_test=3", "--device", "cpu")
    assert (code, err) == (130, "")
    assert sorted(shell.folder.rglob("*")) == before


@pytest.mark.usefixtures("record")
def test_a_changed_moved_or_foreign_evaluation_is_named(shell: Shell):
    path = Path(str(evaluated(shell, "--set", "queries_per_class=3")["record"]))
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"seed": 1}))
    assert "digest: does not match the content" in refused(shell, "--set", "queries_per_class=3")
    content["correct"][0] ^= 1
    path.write_text(json.dumps(content | {"digest": digest_of(content)}))
    assert "accuracy.mean is not the mean of correct" in refused(shell, "--set", "queries_per_class=3")
    evaluated(shell, "--set", "queries_per_class=3", "--force")
    copied = path.with_name("queries_per_class=4.json")
    copied.write_bytes(path.read_bytes())
    assert shell.norml(*RUN, "--force", "--set", "outer_steps=8")[0] == 0
    faults = Results(Path("results")).scan_evaluations().faults
    assert faults == [
        f"{path}: evaluates other weights than those of seed-0.json next to it; delete it",
        f"{copied}: holds the evaluation that belongs at {path}; move it there or delete it",
    ]
    assert "is the record of an evaluation; name a run's record instead" in shell.norml("verify", str(path))[2]
    assert shell.norml("doctor", "--json")[0] == 1


# ------------------------------------------------------------------------------------------------------ protocol table


def test_methods_beside_each_other_under_every_protocol(shell: Shell, record: Path):
    assert shell.norml("run", "maml-constant-lr", "--benchmark", "tiny-5way")[0] == 0
    code, _, err = shell.norml("report", "--protocols")
    assert (code, "`norml evaluate RECORD --set KEY=VALUE` makes one" in err) == (2, True)
    records = [str(record), str(FOLDER / "maml-constant-lr/seed-0.json")]
    for change in (["queries_per_class=3"], ["queries_per_class=3", "--set", "inner_steps_test=4"]):
        assert shell.norml("evaluate", *records, "--set", *change)[0] == 0
    assert shell.norml("evaluate", records[0], "--split", "meta-val")[0] == 0
    code, out, err = shell.norml("report", "--protocols", "maml-constant-lr", "norml", "--format", "json")
    assert code == 0, err
    rows = json.loads(out)["protocols"]
    several = "queries_per_class 3, inner_steps_test 4"
    assert [(row["protocol"], row["method"]) for row in rows] == [
        (protocol, method)
        for protocol in ("as trained", "queries_per_class 3", several)
        for method in ("maml-constant-lr", "norml")
    ] + [("meta-validation", "norml")]
    assert [row["minus_reference"] is None for row in rows] == [True, False, True, False, True, False, True]
    for maml, norml in zip(rows[0:6:2], rows[1:6:2], strict=True):
        assert norml["minus_reference"] == pytest.approx(norml["accuracy"] - maml["accuracy"], abs=1e-12)
    assert rows[1]["accuracy"] == pytest.approx(read_record(record).accuracy.mean, abs=1e-12)
    for format_ in ("rich", "markdown", "latex", "csv"):
        code, out, err = shell.norml("report", "--protocols", "--format", format_)
        assert code == 0, err
        assert ("as trained" in out, "norml" in out) == (True, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["norml"], "report norml: name a method only with --protocols"),
        (["--protocols", "nobody"], "unknown method 'nobody'"),
        (["--protocols", "--table", "table-2"], "--protocols: leave out --table and --html"),
    ],
)
def test_a_slip_of_the_protocol_table_is_one_line(shell: Shell, arguments: list[str], says: str):
    code, _, err = shell.norml("report", *arguments)
    assert (code, len(err.splitlines())) == (2, 1)
    assert says in err


# ------------------------------------------------------------------------------------------------------------- weights


def test_git_tracks_published_weights_and_evaluations_and_not_the_run_s_own():
    def ignored(name: str) -> bool:
        path = f"results/omniglot-20way/1-shot/norml/{name}"
        done = subprocess.run(["git", "check-ignore", "--no-index", "-q", path], cwd=ROOT, check=False)  # noqa: S607
        return done.returncode == 0

    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    published = ("seed-0.safetensors", "seed-0.card.json", "seed-0-evaluations/rotations=none.json")
    assert [ignored(name) for name in (*published, "seed-0.weights")] == [False, False, False, True]


def test_exported_weights_are_the_same_numbers_and_stand_in_for_the_run_s(shell: Shell, record: Path):
    learned = read_checkpoint(record.with_suffix(".weights"), {})["meta_learner"]
    code, out, err = shell.norml("export", str(record))
    assert code == 0, err
    file, card = record.with_suffix(".safetensors"), record.with_suffix(".card.json")
    assert f"{file}: 0.3 MB, with seed-0.card.json" in out
    published = load_file(file)
    assert published.keys() == learned.keys()
    assert all(published[name].equal(value) and published[name].dtype == value.dtype for name, value in learned.items())
    said = read_card(card)
    assert (said.licence, said.run_digest) == ("MIT", stored_digest(record))
    assert said.accuracy == read_record(record).accuracy
    assert said.title == "norml, tiny-5way, 1-shot, seed 0"
    first = file.read_bytes(), card.read_bytes()
    assert shell.norml("export", str(record))[0] == 0
    assert (file.read_bytes(), card.read_bytes()) == first

    before = evaluated(shell, "--set", "inner_steps_test=4")["correct"]
    record.with_suffix(".weights").unlink()
    assert "equal, all 350 episodes" in shell.norml("verify", str(record), "--device", "cpu")[1]
    assert evaluated(shell, "--set", "inner_steps_test=4", "--force")["correct"] == before
    assert shell.norml("inspect", str(record), "--episodes", "4", "--device", "cpu")[0] == 0
    assert [path for path, _ in Results(Path("results")).runs()] == [record]
    assert shell.norml("doctor", "--json")[0] == 0


def test_damaged_or_other_published_weights_are_refused(shell: Shell, record: Path):
    assert shell.norml("export", str(record))[0] == 0
    record.with_suffix(".weights").unlink()
    file, card = record.with_suffix(".safetensors"), record.with_suffix(".card.json")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "is damaged, or not the file of seed-0.card.json" in refused(shell, "--set", "inner_steps_test=4")
    file.write_bytes(data)
    content = json.loads(card.read_text()) | {"run_digest": "0" * 64}
    card.write_text(json.dumps(content | {"digest": digest_of(content)}))
    assert "belongs to another run than seed-0.json" in refused(shell, "--set", "inner_steps_test=4")
    card.unlink()
    assert "seed-0.card.json: no such file" in refused(shell, "--set", "inner_steps_test=4")
    file.unlink()
    assert "seed-0.weights: no such file, and no published weights; make them with: norml run norml" in refused(
        shell, "--set", "inner_steps_test=4"
    )


def test_export_takes_a_place_of_its_own_and_refuses_what_learns_nothing(shell: Shell, record: Path):
    code, _, err = shell.norml("export", str(record), "--out", "mine.safetensors")
    assert code == 0, err
    assert (Path("mine.safetensors").exists(), Path("mine.card.json").exists()) == (True, True)
    code, _, err = shell.norml("export", str(record), "--out", "mine.bin")
    assert (code, "takes one RECORD and a file that ends in .safetensors" in err) == (2, True)
    assert shell.norml("run", "nearest-centroid", "--benchmark", "tiny-5way")[0] == 0
    code, _, err = shell.norml("export", str(record), str(FOLDER / "nearest-centroid/seed-0.json"))
    assert (code, "has no trained weights" in err) == (2, True)
    assert not record.with_suffix(".safetensors").exists()
