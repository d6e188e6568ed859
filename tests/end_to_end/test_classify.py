"""`norml classify`, as a user types it: images of one's own, a few labelled, by a trained learner."""

import base64
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from norml_cli.data.cache import Cache
from norml_cli.registry.reading import load_registry
from norml_cli.training.trained import load_trained
from tests.helpers import photos, tiny
from tests.helpers.command_line import Shell

FOLDER = Path("results/tiny-5way/1-shot")
RECORD = FOLDER / "maml-constant-lr/seed-0.json"
CLASSES = ["ash", "birch", "cedar", "elm", "fir"]
N_QUERIES = 8


def run(shell: Shell, method: str = "maml-constant-lr", *options: str) -> str:
    assert shell.norml("run", method, "--benchmark", "tiny-5way", *options)[0] == 0
    return str(FOLDER / method / "seed-0.json")


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def images(shell: Shell) -> np.ndarray:
    """`support/<class>/*.png`, two of each class, and `query/*.png`: glyphs of meta-test classes; those glyphs."""
    run(shell)
    registry = load_registry()
    cache = Cache.open(registry.dataset("tiny-glyphs"), registry.files["datasets", "tiny-glyphs"])
    glyphs = cache.images("meta_test")
    for number, name in enumerate(CLASSES):
        for example in range(2):
            save(glyphs[number, example], Path(f"support/{name}/{example}.png"))
    for number in range(N_QUERIES):
        save(glyphs[number % len(CLASSES), 2 + number], Path(f"query/q{number}.png"))
    return glyphs


def classified(shell: Shell, *arguments: str, record: str = str(RECORD)) -> tuple[str, str]:
    """Standard output and error of `norml classify RECORD --support support --query query ARGUMENTS`."""
    given = arguments if "--query" in arguments else ("--query", "query", *arguments)
    given = given if "--support" in given else ("--support", "support", *given)
    code, out, err = shell.norml("classify", record, *given, "--device", "cpu")
    assert code == 0, err
    return out, err


def probabilities(shell: Shell, *arguments: str, record: str = str(RECORD)) -> torch.Tensor:
    """[M, N] as the command says in JSON."""
    found = json.loads(classified(shell, *arguments, "--json", record=record)[0])
    assert [image["class"] for image in found["images"]] == [
        max(image["probabilities"], key=image["probabilities"].__getitem__) for image in found["images"]
    ]
    return torch.tensor([[image["probabilities"][name] for name in found["classes"]] for image in found["images"]])


def by_library(glyphs: np.ndarray, statistics: str, record: str = str(RECORD), shots: int = 2) -> torch.Tensor:
    """What docs/library.md does with the same images."""
    x = torch.from_numpy(glyphs).flatten(2).float() / 255
    support = torch.cat([x[number, :shots] for number in range(5)])[None]
    query = torch.stack([x[number % 5, 2 + number] for number in range(N_QUERIES)])[None]
    labels = torch.arange(5).repeat_interleave(shots)[None]
    adapted = load_trained(record).meta_learner.adapt(support, labels, inner_steps=2)
    return adapted.logits(query, query_statistics=statistics)[0].softmax(-1)


@pytest.mark.parametrize(
    ("method", "statistics"),
    [
        ("maml-constant-lr", "support"),
        ("norml", "support"),
        ("norml", "query"),
        ("alfa", "query"),
        ("prototypical-network", "support"),
        ("matching-network", "query"),
    ],
)
def test_it_says_what_the_library_says_of_the_same_images(
    shell: Shell, images: np.ndarray, method: str, statistics: str
):
    record = run(shell, method)
    change = () if statistics == "support" else ("--set", "query_statistics=query")
    found = probabilities(shell, *change, record=record)
    torch.testing.assert_close(found, by_library(images, statistics, record), rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("images")
def test_an_image_alone_is_classified_as_it_is_among_others(shell: Shell):
    """By the queries' own statistics an image alone would look like any other: the same class for each."""
    together = probabilities(shell)
    alone = torch.cat([probabilities(shell, "--query", f"query/q{number}.png") for number in range(N_QUERIES)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-7)
    assert len(set(together.argmax(-1).tolist())) > 1


@pytest.mark.usefixtures("images")
def test_every_format_says_the_same(shell: Shell):
    expected = probabilities(shell)
    rows = list(csv.DictReader(io.StringIO(classified(shell, "--format", "csv")[0])))
    assert [row["file"] for row in rows] == [f"q{number}.png" for number in range(N_QUERIES)]
    assert list(rows[0]) == ["file", "class", "probability", *(f"p_{name}" for name in CLASSES)]
    found = torch.tensor([[float(row[f"p_{name}"]) for name in CLASSES] for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert [float(row["probability"]) for row in rows] == pytest.approx(expected.max(-1).values.tolist(), rel=1e-6)
    for format_ in ("rich", "markdown", "latex"):
        out, err = classified(shell, "--format", format_)
        assert err == ""
        assert all(row["class"] in out for row in rows)
        assert f"{100 * expected[0].max():.1f}" in out
    shell.monkeypatch.setenv("COLUMNS", "40")
    assert all(len(line) <= 40 for line in classified(shell)[0].splitlines())
    said = json.loads(classified(shell, "--json")[0])
    assert (said["support"], said["classified"]) == ("5 classes, 2 images each", "each image by itself")


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.usefixtures("images")
def test_a_page_with_thumbnails_that_needs_nothing_else_and_runs_nothing(shell: Shell):
    hostile = "<img src=x onerror=alert(1)>&\"'.png"
    shutil.copy("query/q0.png", f"query/{hostile}")
    out, err = classified(shell, "--html", "answers.html")
    assert "wrote answers.html" in err
    assert "wrote" not in out
    text = Path("answers.html").read_text(encoding="utf-8")
    page = Page(text)
    assert hostile in page.text
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "link", "object", "form"} == set()
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == N_QUERIES + 1 + 2 * len(CLASSES)
    for attributes in pictures:
        head, _, data = str(attributes["src"]).partition(",")
        assert head == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (28, 28)
        assert attributes["alt"]
    assert not re.search(r"(?:src|href)=\"(?!data:)", text)
    assert ("html", {"lang": "en"}) in page.tags
    assert sum(tag == "h1" for tag, _ in page.tags) == 1
    rows = [attributes["scope"] for tag, attributes in page.tags if tag == "th"]
    assert rows.count("row") == N_QUERIES + 1
    assert "5 classes, 2 images each" in page.text


@pytest.mark.usefixtures("images")
def test_other_numbers_of_classes(shell: Shell):
    shutil.rmtree("support/ash")
    shutil.rmtree("support/birch")
    code, _, err = shell.norml("classify", str(RECORD), "--support", "support", "--query", "query")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "--support support: has 3 classes, but the learner has 5 outputs; train with --set head" in err
    assert probabilities(shell, "--set", "head_init=zero").shape == (N_QUERIES, 3)
    record = run(shell, "norml", "--set", "head_init=zero")
    found = probabilities(shell, record=record)
    assert found.shape == (N_QUERIES, 3)
    torch.testing.assert_close(found.sum(-1), torch.ones(N_QUERIES))
    for method in ("nearest-centroid", "prototypical-network"):
        assert probabilities(shell, record=run(shell, method)).shape == (N_QUERIES, 3)


BAD = {
    "no such folder": (["--support", "nowhere"], "--support nowhere: does not exist"),
    "a file": (["--support", "query/q0.png"], "--support query/q0.png: not a folder; name a folder"),
    "no images": (["--support", "empty"], "--support empty: no images here; name a folder with one subfolder of"),
    "one class": (["--support", "one"], "--support one: only one class, 'ash'; name a folder of two or more"),
    "unequal": (
        ["--support", "unequal"],
        "class 'ash' has 1 image, but 'birch' has 2; give every class the same number",
    ),
    "an empty class": (["--support", "hollow"], "--support hollow: class 'oak' has no images; add some, or remove"),
    "no classes": (["--support", "query"], "query/q0.png: not in a class folder; move it into the folder of its"),
    "no queries": (["--query", "empty"], "--query empty: no images here; name the folder of the images to classify"),
    "no query folder": (["--query", "nowhere"], "--query nowhere: does not exist"),
    "a query that is none": (["--query", "notes.txt"], "--query notes.txt: not an image; name a folder"),
    "an unreadable image": (["--query", "broken"], "broken/x.png: not a complete JPEG, PNG, BMP or WEBP image"),
    "another size": (["--query", "large"], "large/x.png: 30 x 30 px, expected 28 x 28; declare resize to resize it"),
    "a value of training": (
        ["--set", "inner_lr=1"],
        "--set inner_lr: cannot be changed here; this command can change inner",
    ),
    "too few": (
        ["--query", "query/q0.png", "--set", "query_statistics=query"],
        "batch norm needs at least 5 images, one for each class, but --query has 1 image",
    ),
    "another format": (["--format", "yaml"], "--format yaml: unknown format"),
    "a page to nowhere": (["--html", "-"], "--html -: standard input and output are not supported here; name a file"),
    "a link out": (["--query", "linked"], "linked/out.png: a link to a place outside linked"),
}


@pytest.fixture
def bad_folders(images: np.ndarray) -> None:
    for name in ("empty", "linked", "hollow/oak"):
        Path(name).mkdir(parents=True)
    for name, count in (("ash", 1), ("birch", 2)):
        for number in range(count):
            save(images[0, number], Path(f"unequal/{name}/{number}.png"))
    save(images[0, 0], Path("one/ash/0.png"))
    save(images[0, 0], Path("hollow/ash/0.png"))
    save(np.zeros((30, 30), np.uint8), Path("large/x.png"))
    Path("notes.txt").write_text("not an image")
    Path("broken").mkdir()
    Path("broken/x.png").write_bytes(Path("query/q0.png").read_bytes()[:60])
    Path("linked/out.png").symlink_to(Path("query/q0.png").absolute())


@pytest.mark.usefixtures("bad_folders")
def test_bad_input_is_one_line_and_leaves_nothing(shell: Shell):
    before = sorted(shell.folder.rglob("*"))
    for arguments, says in BAD.values():
        given = {"--support": "support", "--query": "query", "--html": "page.html"}
        given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
        words = [word for pair in given.items() for word in pair]
        code, out, err = shell.norml("classify", str(RECORD), *words, "--device", "cpu")
        assert (code, out, len(err.splitlines())) == (2, "", 1), (arguments, err)
        assert says in err
        assert sorted(shell.folder.rglob("*")) == before
    RECORD.with_suffix(".weights").unlink()
    code, out, err = shell.norml("classify", str(RECORD), "--support", "support", "--query", "query")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "seed-0.weights: no such file, and no published weights; make them with: norml run maml-constant-lr" in err


@pytest.mark.usefixtures("images")
def test_what_was_seen_on_the_way_is_said_beside_the_answers(shell: Shell):
    save(np.zeros((28, 28), np.uint8), Path("query/blank.png"))
    Image.new("RGBA", (28, 28), (255, 0, 0, 0)).save("query/clear.png")
    Path("query/.DS_Store").write_bytes(b"\0")
    out, err = classified(shell, "--format", "csv")
    assert len(out.splitlines()) == 1 + N_QUERIES + 2
    assert "images of one colour: 2, first query/blank.png" in err
    assert "transparent images, put on a white background: 1, first query/clear.png" in err
    entry = shell.registry / "datasets/tiny-glyphs.yaml"
    entry.write_text(entry.read_text().replace("generator_seed: 0", "generator_seed: 5"))
    assert "the entry 'tiny-glyphs' has changed since the run" in classified(shell)[1]


def test_flattened_gates_stay_at_their_shots(shell: Shell, images: np.ndarray):
    record = run(shell, "norml", "--set", "gates=flattened")
    code, _, err = shell.norml("classify", record, "--support", "support", "--query", "query")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "trained for 5-way 1-shot cannot adapt to 5-way 2-shot" in err
    for name in CLASSES:
        Path(f"support/{name}/1.png").unlink()
    found = probabilities(shell, record=record)
    torch.testing.assert_close(found, by_library(images, "support", record, shots=1), rtol=1e-5, atol=1e-7)


def test_photos_of_any_size_for_a_folder_of_images(shell: Shell):
    """A data set of kind image-folder says how photos are cropped and resized, and so they are."""
    said = {"source": "chosen: for tests"}
    entry = photos.entry_values(id="made-photos", kind="image-folder", resize__value="bilinear")
    entry |= {"channels": {"value": "rgb", **said}, "crop": {"value": "centre", **said}}
    bench = photos.benchmark_values(hidden_sizes=[6], rotations="none")
    bench |= {"id": "made-photos", "like": "glyphs-5way", "dataset": "made-photos"}
    bench["protocol"].pop("backbone")
    tiny.write_entry(shell.registry, "datasets", entry)
    tiny.write_entry(shell.registry, "benchmarks", bench)
    source = photos.write_files(shell.folder / "source", photos.class_folders())
    assert shell.norml("prepare", "made-photos", "--source", str(source))[0] == 0
    code, _, err = shell.norml("run", "maml-constant-lr", "--benchmark", "made-photos", "--device", "cpu", "--quiet")
    assert code == 0, err
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held upright
    for name in ("ash", "birch"):
        Path(f"own/{name}").mkdir(parents=True)
        wide = Image.open(io.BytesIO(photos.photo(name, 60))).resize((60, 40))
        wide.save(f"own/{name}/1.jpg", exif=turned)
    photos.write_files(Path("new"), {"1.webp": photos.photo("new", 50, kind="WEBP")})

    def by_hand(path: str) -> torch.Tensor:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        side, (width, height) = min(image.size), image.size
        left, top = (width - side) // 2, (height - side) // 2
        image = image.resize((12, 12), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        return torch.from_numpy(np.array(image)).flatten().float() / 255

    record = "results/made-photos/1-shot/maml-constant-lr/seed-0.json"
    support = torch.stack([by_hand(f"own/{name}/1.jpg") for name in ("ash", "birch")])[None]
    adapted = load_trained(record).meta_learner.adapt(support, torch.tensor([[0, 1]]), inner_steps=3)
    expected = adapted.logits(by_hand("new/1.webp")[None, None], query_statistics="support")[0].softmax(-1)
    found = probabilities(shell, "--support", "own", "--query", "new", record=record)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
