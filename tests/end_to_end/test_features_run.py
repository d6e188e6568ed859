"""`norml run` on the frozen features of a pretrained backbone, and `norml reproduce` of a table of them."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from norml.episodes import sample_indices
from norml.meta_training import outer_step
from norml_cli.data.cache import Cache
from norml_cli.data.examples import Examples
from norml_cli.registry.protocol import Protocol, held_out_of
from norml_cli.registry.reading import load_registry
from norml_cli.results.store import read_record
from norml_cli.training.embedding import features_of_images
from norml_cli.training.trained import load_trained
from tests.helpers import photos, tiny
from tests.helpers.command_line import Shell

META_LEARNED = (
    "maml-constant-lr",
    "maml-global-lr",
    "maml-layerwise-lr",
    "meta-sgd",
    "norml-zero-hidden-zero-cell",
    "norml-zero-cell",
    "norml-zero-hidden",
    "norml",
)
FROZEN = ("nearest-centroid", "cosine-classifier", "logistic-regression")
PRETRAIN = ("pretrain", "made-mini", "--recipe", "made-recipe", "--device", "cpu")
PLACE = ("--benchmark", "made-2way", "--device", "cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches with the made photographs and, once a test has pretrained it, their backbone."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def shell(shell: Shell, home: Path) -> Shell:
    """A shell with the made photographs, pretrained once for all tests here."""
    shell.monkeypatch.setenv("NORML_HOME", str(home))
    photos.write_registry(shell.registry)
    tiny.write_entry(shell.registry, "benchmarks", photos.benchmark_values())
    shell.home = home
    if not (home / "made-mini.h5").exists():
        source = photos.write_files(shell.folder / "source", photos.with_images())
        assert shell.norml("prepare", "made-mini", "--source", str(source))[0] == 0
    code, _, err = shell.norml(*PRETRAIN)
    assert code == 0, err
    return shell


def record_of(shell: Shell, method: str, shots: int = 1) -> dict:
    return json.loads((shell.results / "made-2way" / f"{shots}-shot" / method / "seed-0.json").read_text())


@pytest.mark.parametrize("method", ["norml", "meta-sgd"])
def test_what_was_learned_on_features_can_be_inspected(shell: Shell, method: str):
    """A single layer: there is no body to freeze apart from the head."""
    assert shell.norml("run", method, *PLACE, "--quiet")[0] == 0
    record = f"results/made-2way/1-shot/{method}/seed-0.json"
    code, out, err = shell.norml("inspect", record, "--episodes", "4", "--json", "--quiet")
    assert code == 0, err
    folder = shell.folder / json.loads(out)["folder"]
    assert folder == shell.folder / f"results/made-2way/1-shot/{method}/seed-0-inspection"
    everything = json.loads((folder / "inspection.json").read_text())
    assert [row["case"] for row in everything["freezing"]] == ["all layers adapted", "nothing adapted"]
    assert {row["layer"] for row in everything["layers"]} == {1}


def test_all_methods_run_on_features_and_share_their_episodes(shell: Shell):
    methods = (*META_LEARNED, *FROZEN, "no-adaptation")
    code, out, err = shell.norml("run", *methods, "--shots", "2", *PLACE)
    assert code == 0, err
    records = {method: record_of(shell, method, 2) for method in methods}
    assert len({record["episodes"]["test_hash"] for record in records.values()}) == 1
    (features,) = {record["dataset"]["features"] for record in records.values()}
    with h5py.File(next(shell.home.rglob("*.features.h5"))) as file:
        assert file.attrs["fingerprint"].decode() == features
    for method in META_LEARNED:
        assert [point["step"] for point in records[method]["curve"]] == [2, 4, 5]
        assert records[method]["parameters"]["learner"] == 6 * 2 + 2
    for method in FROZEN:
        assert [(point["step"], point["loss"]) for point in records[method]["curve"]] == [(0, None)]
        assert records[method]["parameters"] == {"learner": 0, "meta_learner": 0}
        assert records[method]["spec"]["protocol"]["outer_steps"] == 0
    assert "nothing is meta-trained" in out
    assert records["cosine-classifier"]["spec"]["protocol"]["feature_scaling"] == "none"
    assert records["no-adaptation"]["spec"]["protocol"]["inner_steps_test"] == 0
    shown = shell.norml("report")[1]
    assert all(method in shown for method in methods)
    assert "compare" not in shell.norml("compare", "norml", "nearest-centroid", *PLACE[:2], "--shots", "2")[2]


def test_nearest_centroids_of_a_run_are_those_of_its_stored_features_and_episodes(shell: Shell):
    """The record against a loop over the HDF5 files."""
    assert shell.norml("run", "nearest-centroid", *PLACE)[0] == 0
    with h5py.File(next(shell.home.rglob("*.features.h5"))) as file:
        features = file["features/meta_test"][()].astype(np.float64)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    with h5py.File(shell.home / "made-mini.h5") as file:
        group = file["episodes/meta_test-2way-1shot-2query-upright-40episodes-seed0"]
        classes, examples = group["classes"][()], group["examples"][()]
    expected = []
    for of_episode, drawn in zip(classes, examples, strict=True):
        support = [features[c, row[0]] for c, row in zip(of_episode, drawn, strict=True)]
        expected.append(0)
        for label, (c, row) in enumerate(zip(of_episode, drawn, strict=True)):
            for example in row[1:]:
                distances = [np.linalg.norm(features[c, example] - centroid) for centroid in support]
                expected[-1] += int(np.argmin(distances) == label)
    assert record_of(shell, "nearest-centroid")["correct"] == expected


def test_the_penalty_of_logistic_regression_is_chosen_on_meta_validation(shell: Shell):
    study = (
        "study",
        "penalty",
        "logistic-regression",
        *PLACE,
        "--grid",
        "inverse_penalty=0.001,1.0",
        "--format",
        "json",
    )
    code, out, err = shell.norml(*study)
    assert code == 0, err
    trials = json.loads(out[out.index("{") :])["trials"]
    assert {trial["values"]["inverse_penalty"] for trial in trials} == {0.001, 1.0}
    assert {trial["outer_steps"] for trial in trials} == {0}
    assert [trial["minus_best"] is None for trial in trials] == [True, False]


def test_a_stopped_run_on_features_ends_like_an_uninterrupted_one(shell: Shell):
    assert shell.norml("run", "norml", *PLACE)[0] == 0
    whole = record_of(shell, "norml")
    steps = iter(range(1, 100))

    def signalled(*arguments: object, **options: object) -> object:
        if next(steps) == 3:
            signal.raise_signal(signal.SIGTERM)
        return outer_step(*arguments, **options)

    with shell.monkeypatch.context() as patch:
        patch.setattr("norml_cli.training.run.outer_step", signalled)
        assert shell.norml("run", "norml", *PLACE, "--results", "stopped")[0] == 130
    code, out, _ = shell.norml("run", "norml", *PLACE, "--results", "stopped")
    assert code == 0
    assert "continues from 3 of 5 outer steps" in out
    path = shell.folder / "stopped" / "made-2way" / "1-shot" / "norml" / "seed-0.json"
    resumed = json.loads(path.read_text())
    assert (resumed["correct"], resumed["curve"]) == (whole["correct"], whole["curve"])


def test_a_shorter_schedule_leaves_alone_what_has_none(shell: Shell):
    code, _, err = shell.norml("run", "nearest-centroid", "maml-constant-lr", *PLACE, "--outer-steps", "2")
    assert code == 0, err
    assert record_of(shell, "nearest-centroid")["changed"] == []
    assert record_of(shell, "maml-constant-lr")["changed"] == ["outer_steps"]


def test_untrained_initial_weights_can_be_tested(shell: Shell):
    code, _, err = shell.norml("run", "maml-constant-lr", *PLACE, "--outer-steps", "0")
    assert code == 0, err
    record = record_of(shell, "maml-constant-lr")
    assert (record["best_step"], record["cost"]["steps_per_s"]) == (0, 0.0)
    assert record["curve"][0]["train_accuracy"] is None


def test_logistic_regression_is_shown_with_the_source_of_its_values(shell: Shell):
    code, out, _ = shell.norml("show", "logistic-regression", *PLACE[:2], "--json")
    assert code == 0
    values = {row["key"]: (row["value"], row["source"]) for row in json.loads(out)["values"]}
    assert values["inverse_penalty"] == (1.0, values["inverse_penalty"][1])
    assert "Tian et al. 2020" in values["inverse_penalty"][1]
    assert values["outer_steps"] == (0, "logistic-regression has no outer loop")
    assert "learner parameters" not in values


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--set", "backbone=rfs-2020"), "rfs-2020: batch_size 64 is more than the 9 training images of 'made-mini'"),
        (("--set", "backbone_seed=3"), "has no features by 'made-recipe', seed 3; run `norml pretrain made-mini"),
        (
            ("--set", "backbone=null", "--set", "feature_scaling=none"),
            "has colour images, which a fully connected learner cannot use; name a recipe",
        ),
        (("--set", "backbone=made-recipes"), "unknown recipe 'made-recipes', did you mean 'made-recipe'"),
        (
            ("--benchmark", "tiny-5way", "--set", "backbone=made-recipe"),
            "has grey images, but recipes need colour images",
        ),
        (("--benchmark", "tiny-5way", "--set", "feature_scaling=unit-length"), "no backbone makes features"),
    ],
)
def test_what_cannot_be_run_is_refused_before_it_starts(shell: Shell, arguments: tuple[str, ...], fault: str):
    place = () if "--benchmark" in arguments else PLACE
    code, out, err = shell.norml("run", "norml", *place, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert fault in err
    assert "begins" not in out
    assert not list(shell.folder.rglob("seed-0.json"))


def test_features_of_other_images_are_refused(shell: Shell):
    path = next(shell.home.rglob("*.weights"))
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    code, _, err = shell.norml("run", "norml", *PLACE)
    path.write_bytes(kept)
    assert (code, err.count("\n")) == (2, 1)
    assert "does not match the current weights" in err


def test_a_benchmark_of_an_unknown_recipe_is_a_fault_of_its_file(shell: Shell):
    tiny.write_entry(shell.registry, "benchmarks", photos.benchmark_values(backbone="made-recipee"))
    code, _, err = shell.norml("run", "norml", *PLACE)
    assert code == 2
    assert "made-2way.yaml: protocol.backbone: unknown recipe 'made-recipee', did you mean 'made-recipe'" in err


def test_own_photos_are_classified_by_the_features_of_the_run_s_backbone(shell: Shell):
    assert shell.norml("run", "norml", *PLACE, "--quiet")[0] == 0
    path = shell.results / "made-2way/1-shot/norml/seed-0.json"
    record, registry = read_record(path), load_registry()
    cache = Cache.open(registry.dataset("made-mini"), registry.files["datasets", "made-mini"])
    images = cache.images("meta_test")
    with h5py.File(next(shell.home.rglob("*.features.h5"))) as file:
        cached = torch.from_numpy(file["features/meta_test"][:])
    pixels = images.reshape(-1, *images.shape[2:])
    features = features_of_images(registry, record, pixels, torch.device("cpu"))
    torch.testing.assert_close(features, cached.flatten(0, 1), rtol=1e-4, atol=1e-5)
    for number, name in enumerate(("ash", "birch")):
        (shell.folder / "own" / name).mkdir(parents=True)
        Image.fromarray(images[number, 0]).save(shell.folder / "own" / name / "1.png")
    (shell.folder / "new").mkdir()
    for number in range(2):
        Image.fromarray(images[number, 1]).save(shell.folder / "new" / f"{number}.png")
    words = ("classify", str(path), "--support", "own", "--query", "new", "--device", "cpu", "--json")
    code, out, err = shell.norml(*words)
    assert code == 0, err
    found = [list(image["probabilities"].values()) for image in json.loads(out)["images"]]
    x = torch.nn.functional.normalize(cached, dim=-1)
    if record.spec.protocol.feature_scaling == "none":
        x = cached
    adapted = load_trained(path).meta_learner.adapt(x[None, :, 0], torch.tensor([[0, 1]]), 3)
    expected = adapted.logits(x[None, :, 1], query_statistics="support")[0].softmax(-1)
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-3, atol=1e-4)


# --------------------------------------------------------------------------------------------------- a whole table


def test_a_whole_table_is_made_over_several_starts(shell: Shell):
    """The first start has no time for anything; the second has to prepare and pretrain, too."""
    columns = [{"title": "2-shot", "benchmark": "made-2way", "shots": 2}]
    rows = [{"title": name, "method": name, "citation": "this project"} for name in ("norml", "nearest-centroid")]
    table = {"id": "made-table", "title": "Made", "citation": "this project", "columns": columns, "rows": rows}
    tiny.write_entry(shell.registry, "tables", table)
    source = photos.write_files(shell.folder / "source", photos.with_images())
    shell.monkeypatch.setenv("NORML_HOME", str(shell.folder / "bare"))
    reproduce = ("reproduce", "made-table", "--source", str(source), "--device", "cpu", "--at-once", "2")
    code, out, _ = shell.norml(*reproduce, "--minutes", "0")
    assert (code, "time is up: 0 of 4 finished, 4 left; run the same command to continue" in out) == (75, True)
    code, out, err = shell.norml(*reproduce)
    assert (code, err) == (0, "")
    steps = [line.split(": ")[1] for line in out.splitlines() if line.endswith(": started")]
    assert steps[:2] == ["prepare made-mini", "pretrain made-recipe on made-mini, seed 0"]
    assert sorted(steps[2:]) == ["nearest-centroid, made-2way, 2-shot, seed 0", "norml, made-2way, 2-shot, seed 0"]
    assert "missing" not in out
    assert "Made" in out  # the table
    assert len(list(shell.results.rglob("seed-*.json"))) == 2
    code, out, _ = shell.norml(*reproduce, "--json", "--seeds", "0..1", "--dry-run")
    missing = json.loads(out)
    assert missing["finished_already"] == 2
    assert [each["title"].split(", ")[-1] for each in missing["missing"]] == ["seed 1", "seed 1"]
    assert all(each["expected_s"] > 0 for each in missing["missing"])  # as long as seed 0 took


def test_training_episodes_of_what_was_held_out_from_pretraining_alone(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """21 photographs a class: the first, the eleventh and the last are held out."""
    monkeypatch.setattr(photos, "PER_CLASS", 21)
    monkeypatch.setenv("NORML_HOME", str(tmp_path / "home"))
    photos.write_registry(shell.registry)
    source = photos.write_files(shell.folder / "more", photos.with_images())
    assert shell.norml("prepare", "made-mini", "--source", str(source))[0] == 0
    assert shell.norml(*PRETRAIN)[0] == 0
    pools = []

    def watched(**options: object):
        pools.append(options["n_examples"])
        return sample_indices(**options)

    monkeypatch.setattr("norml_cli.training.run.sample_indices", watched)
    run = ("run", "maml-constant-lr", *PLACE, "--set", "queries_per_class=1")
    held_out = ("--set", "training_examples=held-out-from-pretraining")
    for name, more, expected in (("all", (), 21), ("held-out", held_out, 3)):
        pools.clear()
        code, _, err = shell.norml(*run, *more, "--results", name)
        assert code == 0, err
        assert set(pools) == {expected}
    code, _, err = shell.norml("run", "maml-constant-lr", *PLACE, "--set", "queries_per_class=3", *held_out)
    assert code == 2
    assert "more than the 3 examples a class of 'made-mini' that are held out" in " ".join(err.split())


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [((21, 21), [0, 10, 20, 21, 31, 41]), ((21, 11), [0, 10, 20, 21, 31])],
    ids=["of one size", "unequal"],
)
def test_held_out_examples_are_those_that_pretraining_leaves_out(sizes: tuple[int, ...], kept: list[int]):
    """Pretraining, too, numbers images class by class, and leaves out the first and every tenth after it."""
    features = np.arange(sum(sizes), dtype=np.float32)[:, None]
    stored = features.reshape(2, 21, 1) if len(set(sizes)) == 1 else features
    cache = SimpleNamespace(sizes=lambda _split: sizes)
    held_out = Protocol.model_construct(
        training_examples="held-out-from-pretraining", training_classes="meta-train", rotations="none"
    )
    examples = Examples(cache, SimpleNamespace(features=lambda _split: stored), unit_length=False)
    pool = examples.training_pool(held_out, torch.device("cpu"))
    assert torch.as_tensor(pool.n_examples).expand(2).tolist() == [held_out_of(size) for size in sizes]
    assert pool._rows.flatten().tolist() == kept


@pytest.mark.parametrize("method", ["maml-layerwise-lr", "norml"])
def test_one_example_an_inner_step(shell: Shell, method: str):
    """Two passes over two classes of two shots are eight steps in training; inspected over three passes, twelve."""
    code, _, err = shell.norml("run", method, *PLACE, "--shots", "2", "--set", "support_order=one-by-one", "--force")
    assert code == 0, err
    assert record_of(shell, method, 2)["spec"]["protocol"]["support_order"] == "one-by-one"
    record = f"results/made-2way/2-shot/{method}/seed-0.json"
    assert "equal" in shell.norml("verify", record)[1]
    code, out, err = shell.norml("inspect", record, "--episodes", "4", "--json", "--quiet")
    assert code == 0, err
    everything = json.loads((shell.folder / json.loads(out)["folder"] / "inspection.json").read_text())
    assert len(everything["layers"]) == 12


def test_a_run_finds_the_features_of_a_shortened_pretraining(shell: Shell):
    """What `--epochs` and `--width` make has values of its own in a benchmark, and the error names both ways."""
    run = ("run", "nearest-centroid", *PLACE, "--set", "backbone_epochs=1", "--set", "backbone_width=2")
    code, _, err = shell.norml(*run)
    assert code == 2
    assert "norml pretrain made-mini --recipe made-recipe --epochs 1 --width 2 --seed 0" in err
    assert "--set backbone_epochs=N" in err
    code, out, err = shell.norml(*PRETRAIN, "--epochs", "1", "--width", "2")
    assert code == 0, err
    assert "its features: norml run METHOD --benchmark ID --set backbone_epochs=1 --set backbone_width=2" in out
    assert shell.norml(*run)[0] == 0
    assert record_of(shell, "nearest-centroid")["spec"]["protocol"]["backbone_epochs"] == 1
    code, out, err = shell.norml("show", "maml-constant-lr", *PLACE[:2], "--set", "backbone_width=2", "--json")
    assert code == 0, err


@pytest.mark.parametrize("key", ["backbone_epochs", "backbone_width"])
def test_without_a_backbone_there_is_no_pretraining_to_shorten(shell: Shell, key: str):
    code, _, err = shell.norml("run", "norml", "--benchmark", "tiny-5way", "--set", f"{key}=1")
    assert code == 2
    assert f"{key}: is 1, but no backbone is pretrained; leave it out" in err
