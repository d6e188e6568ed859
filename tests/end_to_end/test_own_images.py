"""Images of one's own go the whole way, as a user types it: each command's last line is the next command."""

import json
import re
import shlex
from pathlib import Path

import h5py
import pytest
import yaml

from tests.helpers.command_line import Shell
from tests.helpers.own_images import SIZES, own_images
from tests.helpers.photos import benchmark_values, photo, recipe_values, write_files
from tests.helpers.tiny import write_entry

SMALL = "hidden_sizes=[8] outer_steps=4 validate_every=2 validation_episodes=20 test_episodes=30 queries_per_class=5"
BENCHMARK = (
    f"new benchmark birds-5way --like omniglot-5way --dataset my-birds --shots 1 --set {SMALL.replace(' ', ' --set ')}"
)
RECORD = "results/birds-5way/1-shot/maml-constant-lr/seed-0.json"


@pytest.fixture
def user(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A user in a folder that holds nothing but images, `birds/`."""
    monkeypatch.delenv("NORML_REGISTRY")
    monkeypatch.setenv("NORML_HOME", str(tmp_path / "caches"))
    write_files(shell.folder / "birds", own_images())
    return shell


def typed(user: Shell, line: str) -> str:
    """The standard output of `norml LINE`, which must succeed."""
    code, out, err = user.norml(*shlex.split(line))
    assert code == 0, err
    return out


def next_of(out: str) -> str:
    """The command that the last line says to type."""
    *_, last = out.splitlines()
    assert last.startswith("next: norml "), last
    return last.removeprefix("next: norml ")


@pytest.mark.parametrize("channels", ["grey", "rgb"])
def test_a_folder_of_images_goes_the_whole_way(user: Shell, channels: str):
    out = typed(user, f"new dataset my-birds --source birds --set channels={channels}")
    assert "a folder of class folders: 30 classes of 8 to 25 images, 10 x 10 to 34 x 34 px, some in colour" in out
    out = typed(user, next_of(out))
    assert "cache_sha256" in out
    like = "omniglot-5way" if channels == "grey" else "mini-imagenet-5way-conv"
    assert next_of(out) == f"new benchmark NAME --like {like} --dataset my-birds --registry mine"
    out = typed(user, BENCHMARK)
    assert not typed(user, "prepare my-birds --registry mine").startswith("next:")
    typed(user, "run maml-constant-lr --benchmark birds-5way --registry mine --no-compile --quiet")
    assert next_of(out) == "run maml-constant-lr norml --benchmark birds-5way --registry mine"
    record = json.loads((user.folder / RECORD).read_text())
    assert len(record["correct"]) == 30
    assert record["spec"]["protocol"]["rotations"] == "none"  # the data set turns no images, so the benchmark does not
    assert "birds-5way" in typed(user, "report --registry mine")
    typed(user, f"evaluate {RECORD} --registry mine --set queries_per_class=2")
    typed(user, f"verify {RECORD} --registry mine")
    classify(user, f"classify {RECORD} --support labelled --query new --registry mine --json")


def test_a_backbone_is_pretrained_on_classes_of_unequal_size(user: Shell, tmp_path: Path):
    """Every image gets its features; episodes of them and a run on them know how many each class has."""
    typed(user, "new dataset my-birds --source birds --set channels=rgb --set image_size_px=16")
    typed(user, "prepare my-birds --source birds --registry mine")
    write_entry(user.folder / "mine", "recipes", recipe_values())
    write_entry(user.folder / "mine", "benchmarks", benchmark_values() | {"dataset": "my-birds"})
    out = typed(user, "pretrain my-birds --recipe made-recipe --registry mine --device cpu")
    entry = yaml.safe_load((user.folder / "mine/datasets/my-birds.yaml").read_text())
    (path,) = (tmp_path / "caches").rglob("*.features.h5")
    with h5py.File(path) as file:
        stored = {name: array.shape for name, array in file["features"].items()}
    assert sum(shape[0] for shape in stored.values()) == sum(SIZES.values())
    assert {shape[1] for shape in stored.values()} == {6}
    assert entry["examples_per_class"] == {"min": 8, "max": 25}
    assert "2-way 1-shot nearest centroid on meta-validation" in out
    typed(user, "run nearest-centroid maml-constant-lr --benchmark made-2way --registry mine --no-compile --quiet")
    assert len(list((user.results / "made-2way/1-shot").glob("*/seed-0.json"))) == 2


def classify(user: Shell, line: str) -> None:
    """Five labelled images of classes that the learner has not seen, and three others."""
    labelled = {f"labelled/{name}/a.jpg": photo(name, 40) for name in ("owl", "jay", "tit", "rook", "wren")}
    write_files(user.folder, labelled | {f"new/{n}.png": photo(f"new {n}", 30 + n, kind="PNG") for n in range(3)})
    found = json.loads(typed(user, line))
    assert found["classes"] == ["jay", "owl", "rook", "tit", "wren"]
    assert [image["file"] for image in found["images"]] == ["0.png", "1.png", "2.png"]
    for image in found["images"]:
        assert sum(image["probabilities"].values()) == pytest.approx(1, abs=1e-6)


def test_the_commands_of_the_page_run(user: Shell):
    text = (Path(__file__).parents[2] / "docs/how-to/own-images.md").read_text(encoding="utf-8")
    lines = re.findall(r"^ {4}norml (.*)$", text, re.MULTILINE)
    commands = ["new", "prepare", "new", "run", "report", "new", "evaluate", "classify"]
    assert [line.split()[0] for line in lines] == commands
    for line in lines[:-1]:
        typed(user, line)
    classify(user, f"{lines[-1]} --json")
    assert "--outer-steps 5" in lines[3]  # a try, as the page says: what is trained in earnest takes longer
    assert (user.results / "birds-5way/1-shot/norml/seed-0-evaluations").is_dir()


def test_a_method_of_ones_own_is_two_words(user: Shell):
    typed(user, "new dataset my-birds --source birds --set image_size_px=8")
    typed(user, "prepare my-birds --source birds --registry mine")
    typed(user, BENCHMARK)
    out = typed(
        user, "new method norml-small --like norml --benchmark birds-5way --set cell_size=4 --set inner_steps=2"
    )
    shown = json.loads(typed(user, "show norml-small --registry mine --json"))["values"]
    values = {row["key"]: (row["value"], row["source"]) for row in shown}
    assert values["cell_size"] == (4, "chosen: with --set of norml new")
    assert values["forget_bias"] == (1.0, "Jozefowicz, Zaremba & Sutskever, ICML 2015, sec. 2")
    assert (values["inner_steps"][0], values["benchmark"][0]) == (2, "birds-5way")
    assert '"norml-small"' in typed(user, f"{next_of(out)} --no-compile --json --quiet")


def test_classes_too_small_are_refused_by_name_or_left_out(user: Shell):
    write_files(user.folder / "birds", {"dodo/1.png": photo("x", kind="PNG")})
    code, _, err = user.norml("new", "dataset", "my-birds", "--source", "birds")
    assert (code, not (user.folder / "mine").exists()) == (2, True)
    assert "class 'dodo' has 1 image, but needs 2" in err
    assert "--min-images 2" in err
    out = typed(user, "new dataset my-birds --source birds --min-images 9")
    assert "left out, with fewer than 9 images: 3 classes" in out
    assert "left out, with fewer than 9 images: class-00, class-01, dodo" in typed(user, next_of(out))


def test_an_entry_is_never_overwritten(user: Shell):
    typed(user, "new dataset my-birds --source birds")
    path = user.folder / "mine/datasets/my-birds.yaml"
    path.write_text("kept\n")
    code, _, err = user.norml("new", "dataset", "my-birds", "--source", "birds")
    assert (code, path.read_text()) == (2, "kept\n")
    assert err == "error: mine/datasets/my-birds.yaml: already exists; choose another name, or remove it\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("new bird x", "bird: not a kind of entry; write dataset, benchmark or method"),
        ("new dataset x", "--source: is missing; a dataset needs it"),
        ("new method x --set cell_size=3", "--like: is missing; a method needs it"),
        ("new dataset x --source birds --like omniglot", "--like: does not apply to a dataset; leave it out"),
        ("new method x --like norml --shots 1", "--shots: does not apply to a method; leave it out"),
        ("new dataset My_Birds --source birds", "'My_Birds': may contain only a-z, 0-9 and single hyphens"),
        ("new dataset omniglot --source birds", "id: 'omniglot' is already declared in"),
        ("new dataset x --source nowhere", "--source nowhere: does not exist; name a folder"),
        ("new dataset x --source birds --set size=3", "--set size: not a key of a data set"),
        ("new dataset x --source birds --set image_size_px=3", "image_size_px.value: must be at least 4 (got 3)"),
        ("new dataset x --source birds --registry a.yaml", "--registry a.yaml: this is a file; name the folder"),
        ("new benchmark x --like omniglot-5-way", "unknown benchmark 'omniglot-5-way', did you mean 'omniglot-5way'"),
        ("new benchmark x --like norml", "unknown benchmark 'norml'"),
        ("new benchmark x --like omniglot-5way --set n_wy=3", "--set n_wy: unknown key, did you mean 'n_way'"),
        ("new benchmark x --like omniglot-5way --set n_way=two", "n_way.value: must be a whole number (got 'two')"),
        (
            "new benchmark x --like omniglot-5way --set n_way=200",
            "n_way: 200 is more than the 100 classes of 'omniglot'",
        ),
        (
            "new benchmark x --like omniglot-5way --dataset omniglt",
            "unknown data set 'omniglt', did you mean 'omniglot'",
        ),
        ("new benchmark x --like omniglot-5way --shots 3", "protocol.queries_per_class: is missing (3-shot)"),
        ("new method x --like norml --set cell_sise=3", "--set cell_sise: unknown key, did you mean 'cell_size'"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_no_file(user: Shell, line: str, said: str):
    code, out, err = user.norml(*shlex.split(line))
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (user.folder / "mine").exists()


def test_a_place_that_cannot_be_written_is_told(user: Shell):
    (user.folder / "mine").write_text("a file")
    code, _, err = user.norml("new", "method", "x", "--like", "norml")
    assert (code, err) == (2, "error: --registry mine: this is a file; name the folder of your own entries\n")
