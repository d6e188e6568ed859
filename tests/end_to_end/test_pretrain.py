"""`norml pretrain` from the command line: weights and records, resuming, refusing."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from norml.resnet12 import Blocks, ResNet12
from norml_cli.app.main import main
from norml_cli.data.image_batches import ImageBatches
from norml_cli.results.store import digest_of
from norml_cli.training import loop, pretraining
from norml_cli.training.checkpoints import read_checkpoint
from tests.helpers import photos
from tests.helpers.command_line import Shell
from tests.helpers.tiny import write_entry

BLOCKS = Blocks(
    convolution_biases=False,
    batch_norm_scale=True,
    batch_norm_epsilon=1e-5,
    skip_batch_norm=True,
    activate_after_sum=True,
    drop_rate=0.1,
    drop_block_size=None,
)
PRETRAIN = ("pretrain", "made-mini", "--recipe", "made-recipe", "--device", "cpu")


@pytest.fixture
def shell(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell with the made photographs prepared, in caches of its own."""
    home = tmp_path_factory.mktemp("home")
    shell.monkeypatch.setenv("NORML_HOME", str(home))
    photos.write_registry(shell.registry)
    source = photos.write_files(shell.folder / "source", photos.with_images())
    assert shell.norml("prepare", "made-mini", "--source", str(source))[0] == 0
    shell.home = home
    return shell


def record_of(shell: Shell, results: str = "results") -> dict:
    (path,) = (shell.folder / results / "pretraining" / "made-mini" / "made-recipe").glob("*-seed-0.json")
    return json.loads(path.read_text())


def weights_in(shell: Shell) -> dict[str, torch.Tensor]:
    return read_checkpoint(next(shell.home.rglob("*.weights")), {"seed": 0})["classifier"]


def weights_of(shell: Shell) -> bytes:
    (path,) = shell.home.rglob("*-seed-0.weights")
    return path.read_bytes()


def figures(record: dict) -> dict:
    """A record without what may differ between two equal pretrainings."""
    return {key: value for key, value in record.items() if key not in {"digest", "cost", "created", "command", "git"}}


def test_a_pretraining_leaves_weights_and_a_record(shell: Shell):
    code, out, err = shell.norml(*PRETRAIN)
    assert code == 0, err
    assert "begins 7 steps, 9 training images" in out  # three classes of four, one of each held out
    record = record_of(shell)
    assert [point["step"] for point in record["curve"]] == [2, 5, 7]
    assert record["nearest_centroid"].keys() == {"1", "2"}
    assert f"{100 * record['nearest_centroid']['2']['mean']:.2f} ±" in out
    content = read_checkpoint(next(shell.home.rglob("*.weights")), {"seed": 0})
    assert content["classifier"]["head.weight"].shape == (3, 6)
    assert not list(shell.home.rglob("*.checkpoint"))
    private = json.dumps(record)
    assert str(shell.folder) not in private
    assert str(shell.home) not in private


def test_json_is_the_record_alone_and_status_lists_it(shell: Shell):
    code, out, err = shell.norml(*PRETRAIN, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["nearest_centroid"] == record_of(shell)["nearest_centroid"]
    assert {json.loads(line)["event"] for line in err.splitlines()} <= {"line", "progress"}
    assert shell.norml(*PRETRAIN, "--quiet") == (0, "", "")
    listed = json.loads(shell.norml("status", "--json")[1])
    assert listed["unfinished"] == []
    assert [item["title"] for item in listed["finished"]] == ["made-recipe, seed 0"]


def test_it_is_done_again_only_by_force_and_ends_alike(shell: Shell):
    assert shell.norml(*PRETRAIN)[0] == 0
    first, weights = record_of(shell), weights_of(shell)
    assert "already pretrained" in shell.norml(*PRETRAIN)[1]
    assert record_of(shell) == first
    assert shell.norml(*PRETRAIN, "--force")[0] == 0
    assert figures(record_of(shell)) == figures(first)
    assert weights_of(shell) == weights
    code, out, err = shell.norml(*PRETRAIN, "--seeds", "0..1", "--json", "--quiet")
    assert code == 0, err
    assert [told["seed"] for told in json.loads(out)] == [0, 1]
    assert len(list(shell.home.rglob("*.weights"))) == 2
    assert shell.norml(*PRETRAIN, "--seeds", "0..1", "--verify")[0] == 0


def test_epochs_and_width_change_the_recipe_and_are_told(shell: Shell):
    assert shell.norml(*PRETRAIN, "--epochs", "3", "--width", "8")[0] == 0
    record = record_of(shell)
    assert record["spec"]["values"]["steps"] == 3 * (9 // 4)
    assert record["spec"]["values"]["widths"] == [8, 8, 8, 12]
    assert record["changed"] == ["widths", "steps"]


def test_bfloat16_is_told_by_the_record_and_its_features_are_stored_as_float32(shell: Shell):
    assert shell.norml(*PRETRAIN, "--precision", "bfloat16")[0] == 0
    record = record_of(shell)
    assert record["spec"]["values"]["precision"] == "bfloat16"
    assert record["device"].endswith(", bfloat16)")
    (features,) = shell.home.rglob("*.features.h5")
    with h5py.File(features) as file:
        assert file["features/meta_val"].dtype == np.float32
    assert all(not value.is_floating_point() or value.dtype == torch.float32 for value in weights_in(shell).values())


def test_a_pretraining_can_resume_in_another_precision_and_its_record_names_both(shell: Shell, monkeypatch):
    write_entry(shell.registry, "recipes", photos.recipe_values(precision="auto"))
    take_step = pretraining.Pretraining._take_step
    precisions = iter([torch.bfloat16, torch.float32, torch.float32])
    monkeypatch.setattr(pretraining, "precision_on", lambda *_: next(precisions))

    def stopping(self: pretraining.Pretraining, step: int) -> torch.Tensor:
        if step == 3 and self._precision == torch.bfloat16:
            signal.raise_signal(signal.SIGTERM)
        return take_step(self, step)

    monkeypatch.setattr(pretraining.Pretraining, "_take_step", stopping)
    assert shell.norml(*PRETRAIN)[0] == 130
    assert shell.norml(*PRETRAIN)[0] == 0
    first, then = record_of(shell)["device"].split(", then ")
    assert first.endswith(", bfloat16)")
    assert "bfloat16" not in then


def test_an_unknown_precision_is_refused(shell: Shell):
    code, _, err = shell.norml(*PRETRAIN, "--precision", "half")
    assert (code, err) == (2, "error: --precision half: unknown; use auto, float32, bfloat16\n")


class Killed(BaseException):
    """Stands for SIGKILL: nothing may tidy up."""


@pytest.fixture(scope="module")
def kept() -> dict:
    """What `whole` found, for the tests after the first."""
    return {}


@pytest.fixture
def whole(shell: Shell, kept: dict) -> dict:
    """An uninterrupted pretraining's record and weights."""
    if not kept:
        assert shell.norml(*PRETRAIN)[0] == 0
        kept.update(record=figures(record_of(shell)), weights=weights_of(shell))
        for path in [*shell.home.rglob("*.weights"), *shell.results.rglob("*.json")]:
            path.unlink()
    return kept


@pytest.mark.parametrize(
    ("where", "calls", "saves_every_step"),
    [("_take_step", n, True) for n in range(0, 7, 2)] + [("_validate", 1, True), ("_take_step", 5, False)],
)
def test_a_killed_pretraining_ends_like_an_uninterrupted_one(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, whole: dict, where: str, calls: int, saves_every_step: bool
):
    original, left = getattr(pretraining.Pretraining, where), [calls]

    def dies(self: pretraining.Pretraining, *arguments: object) -> object:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0 if saves_every_step else 3600.0)
        patch.setattr(pretraining.Pretraining, where, dies)
        patch.setattr("sys.argv", ["norml", *PRETRAIN])
        with pytest.raises(Killed):
            main()
    assert not list(shell.results.rglob("*.json"))
    code, out, err = shell.norml(*PRETRAIN)
    assert code == 0, err
    assert ("continues from" in out) == (saves_every_step and (where, calls) != ("_take_step", 0))
    assert figures(record_of(shell)) == whole["record"]
    assert weights_of(shell) == whole["weights"]
    assert not list(shell.home.rglob(".*.part"))
    assert "verified" in shell.norml(*PRETRAIN, "--verify")[1]


def test_the_record_names_the_threads(shell: Shell):
    try:
        assert shell.norml(*PRETRAIN, "--threads", "2")[0] == 0
    finally:
        torch.set_num_threads(1)
    assert record_of(shell)["device"].startswith("cpu (2 threads, ")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("where", ["_take_step", "_held_out_accuracy"])
def test_a_signal_stops_cleanly_and_the_command_goes_on(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, whole: dict, where: str, name: str
):
    original, calls = getattr(pretraining.Pretraining, where), []

    def signalled(self: pretraining.Pretraining, *arguments: object) -> object:
        calls.append(self.state.step)
        if len(calls) == 2:
            signal.raise_signal(getattr(signal, name))
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining.Pretraining, where, signalled)
        code, out, _ = shell.norml(*PRETRAIN)
    assert code == 130
    stopped = {"_take_step": 2, "_held_out_accuracy": 5}[where]
    assert f"stopped after step {stopped}; run the same command to continue" in out
    assert not list(shell.results.rglob("*.json"))
    assert f"continues from {stopped} of 7 steps" in shell.norml(*PRETRAIN)[1]
    assert (figures(record_of(shell)), weights_of(shell)) == (whole["record"], whole["weights"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pretrain", "made-mini", "--recipe", "made"), ["unknown recipe 'made'", "did you mean 'made-recipe'"]),
        (("pretrain", "made-min", "--recipe", "made-recipe"), ["unknown data set 'made-min'"]),
        (("pretrain", "tiny-glyphs", "--recipe", "made-recipe"), ["has grey images"]),
        (("pretrain", "mini-imagenet", "--recipe", "made-recipe"), ["norml prepare mini-imagenet", "--source"]),
        (("pretrain", "made-mini", "--recipe", "rfs-2020"), ["batch_size 64", "9 training images"]),
        ((*PRETRAIN, "--epochs", "0"), ["--epochs"]),
        ((*PRETRAIN[:-1], "tpu"), ["--device tpu"]),
        ((*PRETRAIN, "--epochs", "9999999"), ["--epochs", "less than or equal to 1000000"]),
    ],
)
def test_bad_input_is_one_clear_line(shell: Shell, arguments: tuple[str, ...], words: list[str]):
    code, out, err = shell.norml(*arguments)
    assert code == 2
    assert "Traceback" not in out + err
    assert len([line for line in err.splitlines() if line.lower().startswith("error:")]) == 1
    for word in words:
        assert word in err
    assert not list(shell.home.rglob("*.weights"))


def test_a_checkpoint_that_is_none_is_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pretraining.Pretraining, "keep_weights", lambda *_: (_ for _ in ()).throw(Killed))
    monkeypatch.setattr("sys.argv", ["norml", *PRETRAIN])
    with pytest.raises(Killed):
        main()
    (checkpoint,) = shell.home.rglob("*.checkpoint")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    code, _, err = shell.norml(*PRETRAIN)
    assert (code, err.count("\n")) == (2, 1)
    assert "is damaged (its checksum differs); start over with --force" in err
    assert "--force" in err


def test_a_loss_that_is_no_number_stops_with_advice(shell: Shell):
    recipe = photos.recipe_values(learning_rate=10.0, optimiser="sgd", batch_norm_epsilon=1e-9)
    write_entry(shell.registry, "recipes", recipe)
    shell.monkeypatch.setattr(pretraining.functional, "cross_entropy", lambda x, _: x.sum() * float("nan"))
    code, _, err = shell.norml(*PRETRAIN)
    assert code == 2
    advice = "there is no checkpoint yet; declare a recipe with a lower learning_rate"
    assert err == f"error: made-recipe: the loss is nan by step 1; {advice}\n"


def test_a_changed_recipe_is_another_pretraining(shell: Shell):
    assert shell.norml(*PRETRAIN)[0] == 0
    path = Path(shell.registry) / "recipes/made-recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["recipe"]["learning_rate"]["value"] = 0.02
    path.write_text(yaml.safe_dump(recipe))
    assert "begins 7 steps" in shell.norml(*PRETRAIN)[1]
    assert len(list(shell.home.rglob("*.weights"))) == 2


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("best_step", 3, "best_step 3 is not a step of the curve"),
        ("spec_hash", "0" * 64, "spec_hash is not the hash of spec"),
        ("nearest_centroid", {}, "nearest_centroid differs from that of best_step"),
        ("curve", [], "curve: must have 1 or more items"),
    ],
)
def test_a_record_that_was_edited_is_refused(shell: Shell, key: str, value: object, fault: str):
    assert shell.norml(*PRETRAIN)[0] == 0
    (path,) = (shell.results / "pretraining").rglob("*.json")
    edited = json.loads(path.read_text()) | {key: value}
    for content, expected in ((edited, "digest: does not match"), (edited | {"digest": digest_of(edited)}, fault)):
        path.write_text(json.dumps(content))
        code, _, err = shell.norml(*PRETRAIN)
        assert (code, err.count("\n")) == (2, 1)
        assert expected in err


# ----------------------------------------------------------------------------------------------------------- features


def file_of(shell: Shell, suffix: str) -> Path:
    (path,) = shell.home.rglob(f"*{suffix}")
    return path


def test_features_are_those_of_each_image_alone(shell: Shell):
    """Against the backbone, one image at a time, prepared by hand."""
    assert shell.norml(*PRETRAIN)[0] == 0
    recipe = photos.recipe_values()["recipe"]
    backbone = ResNet12(recipe["widths"]["value"], BLOCKS, initial_weights="he").eval()
    weights = read_checkpoint(file_of(shell, ".weights"), {})["classifier"]
    own = {key.removeprefix("backbone."): value for key, value in weights.items() if key.startswith("backbone.")}
    backbone.load_state_dict(own)
    mean, std = (torch.tensor(recipe[key]["value"])[:, None, None] for key in ("pixel_mean", "pixel_std"))
    with h5py.File(file_of(shell, ".features.h5")) as file, h5py.File(shell.home / "made-mini.h5") as cache:
        for split in ("meta_train", "meta_val", "meta_test"):
            images, features = cache[f"images/{split}"][()], file[f"features/{split}"][()]
            assert (features.shape, features.dtype) == ((*images.shape[:2], 6), np.float32)
            assert list(file[f"classes/{split}"]) == list(cache[f"classes/{split}"])
            for place in np.ndindex(images.shape[:2]):
                pixels = torch.from_numpy(images[place]).permute(2, 0, 1).float()
                small = torch.nn.functional.adaptive_avg_pool2d(pixels, 16).round()
                with torch.no_grad():
                    expected = backbone(((small / 255 - mean) / std)[None])[0]
                torch.testing.assert_close(torch.from_numpy(features[place]), expected, rtol=1e-4, atol=1e-5)


def test_features_that_are_missing_are_made_from_the_weights(shell: Shell):
    assert shell.norml(*PRETRAIN)[0] == 0
    path = file_of(shell, ".features.h5")
    before = path.read_bytes()
    path.unlink()
    code, _, err = shell.norml(*PRETRAIN, "--verify")
    assert (code, err.count("\n")) == (2, 1)
    assert "has no features by 'made-recipe', seed 0; run `norml pretrain made-mini --recipe made-recipe" in err
    code, out, _ = shell.norml(*PRETRAIN)
    assert "already pretrained" in out
    assert "6 features of every image" in out
    assert path.read_bytes() == before


def change_the_images(shell: Shell) -> None:
    files = photos.with_images()
    name = next(name for name in files if name.endswith(".jpg"))
    other = photos.write_files(shell.folder / "other", files | {name: photos.photo("another picture")})
    assert shell.norml("prepare", "made-mini", "--source", str(other), "--force")[0] == 0


def change_the_weights(shell: Shell) -> None:
    path = file_of(shell, ".weights")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def damage_the_features(shell: Shell) -> None:
    path = file_of(shell, ".features.h5")
    with h5py.File(path) as file:
        place = file["features/meta_val"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[place + 5] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (change_the_images, "does not match the current images"),
        (change_the_weights, "does not match the current weights"),
        (damage_the_features, "features/meta_val is damaged"),
        (lambda shell: file_of(shell, ".features.h5").write_bytes(b"no HDF5"), "not a readable cache"),
        (lambda shell: file_of(shell, ".weights").unlink(), "cannot be read"),
    ],
)
def test_features_of_other_images_or_weights_are_refused(shell: Shell, change: Callable[[Shell], object], fault: str):
    assert shell.norml(*PRETRAIN)[0] == 0
    change(shell)
    code, _, err = shell.norml(*PRETRAIN, "--verify")
    assert (code, err.count("\n")) == (2, 1)
    assert fault in err
    assert shell.norml(*PRETRAIN, "--force")[0] == 0
    assert "verified, all 6 checksums" in shell.norml(*PRETRAIN, "--verify")[1]


def test_weights_that_are_not_their_records_make_no_features(shell: Shell):
    assert shell.norml(*PRETRAIN)[0] == 0
    file_of(shell, ".features.h5").unlink()
    change_the_weights(shell)
    code, _, err = shell.norml(*PRETRAIN)
    assert (code, err.count("\n")) == (2, 1)
    assert "does not match its record; pretrain again with --force" in err
    assert not list(shell.home.rglob("*.features.h5"))


def test_interrupted_features_leave_nothing_and_the_same_command_makes_them(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
):
    outputs = ImageBatches.outputs

    def signalled(self: ImageBatches, model: torch.nn.Module, images: torch.Tensor, *rest: object) -> torch.Tensor:
        if isinstance(model, ResNet12) and len(images) == photos.PER_CLASS:  # one class: features are being made
            signal.raise_signal(signal.SIGTERM)
        return outputs(self, model, images, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ImageBatches, "outputs", signalled)
        code, out, _ = shell.norml(*PRETRAIN)
    assert code == 130
    assert "stopped while making features; run the same command again to make them" in out
    assert not list(shell.home.rglob("*.features.h5*"))
    assert shell.norml(*PRETRAIN)[0] == 0
    assert "verified" in shell.norml(*PRETRAIN, "--verify")[1]
