"""Own images are prepared as those of the data set that the learner saw: the same pixels for the same file."""

import io
from pathlib import Path, PurePosixPath

import pytest
from PIL import Image

from norml_cli.data.sources.found_files import File
from norml_cli.data.sources.omniglot import resized
from norml_cli.data.sources.own_images import OwnImages, query_files, support_files
from norml_cli.files.errors import UserError
from tests.helpers import photos, synthetic


def file(data: bytes, name: str = "x.png") -> File:
    return File(PurePosixPath(name), name, lambda: data)


@pytest.mark.parametrize("resize", ["lanczos", "nearest"])
def test_a_drawing_becomes_what_omniglots_became(resize: str):
    entry = synthetic.entry(resize__value=resize)
    drawing = synthetic.drawing("Braille/character02/3")
    (found,) = OwnImages(entry, thumbnails=False).read([file(synthetic.png(drawing))])
    assert (found.pixels == resized(drawing, 28, resize, invert=True)).all()
    (grey,) = OwnImages(entry, thumbnails=False).read([file(synthetic.png(drawing.convert("RGB")))])
    assert (grey.pixels == found.pixels).all()


def test_a_photo_of_the_declared_size_is_taken_as_it_is_and_no_other():
    reader = OwnImages(photos.entry(), thumbnails=True)
    (found,) = reader.read([file(photos.photo("a"), "a.jpg")])
    assert (found.pixels == photos.pixels(photos.photo("a"))).all()
    assert found.thumbnail.startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"^b.jpg: 20 x 20 px, expected 12 x 12; declare resize to resize it"):
        reader.read([file(photos.photo("b", 20), "b.jpg")])


def test_a_thumbnail_is_small_and_keeps_the_proportions():
    image = Image.new("L", (400, 200), 7)
    (found,) = OwnImages(synthetic.entry(), thumbnails=True).read([file(synthetic.png(image))])
    assert found.pixels.shape == (28, 28)
    assert Image.open(io.BytesIO(found.thumbnail)).size == (96, 48)


def test_files_are_found_in_the_order_of_their_names_without_hidden_ones(tmp_path: Path):
    names = ["b/2.png", "b/1.png", "a/3.png", "a/1.jpg", "a/.hidden.png", "a/notes.txt", "__MACOSX/b/1.png"]
    photos.write_files(tmp_path, {name: synthetic.png(synthetic.drawing(name)) for name in names})
    classes = support_files(tmp_path)
    assert {label: [each.place.name for each in files] for label, files in classes.items()} == {
        "a": ["1.jpg", "3.png"],
        "b": ["1.png", "2.png"],
    }
    assert [str(each.place) for each in query_files(tmp_path)] == ["a/1.jpg", "a/3.png", "b/1.png", "b/2.png"]
    assert [each.read() for each in query_files(tmp_path / "a/3.png")] == [classes["a"][1].read()]
