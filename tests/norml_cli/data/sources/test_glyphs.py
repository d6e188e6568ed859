"""Glyphs: the same bytes everywhere, hard enough to be worth learning, easy enough to be learned."""

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from norml_cli.data.sources.glyphs import draw
from norml_cli.data.splits import ImageClasses
from norml_cli.registry.entries import DatasetEntry
from norml_cli.registry.reading import load_registry

# Made by this code on x86-64 with NumPy 2.4.6; only exactly rounded operations go into it, so any platform agrees.
GOLDEN_SHA256 = "a82b6b0b7e9a64a5d81402b5c6f93902bcf4a0e46b15947ac687dda58b7453e5"


def entry(**changes: object) -> DatasetEntry:
    return load_registry().dataset("glyphs").model_copy(update=changes)


def drawn(**changes: object) -> ImageClasses:
    return draw(entry(**changes), lambda *_: None)


@pytest.fixture(scope="module")
def glyphs() -> ImageClasses:
    """All of the built-in glyphs."""
    return drawn()


def test_bytes_are_pinned(glyphs: ImageClasses):
    assert glyphs.images.shape == (400, 20, 28, 28)
    assert glyphs.images.dtype == np.uint8
    assert (glyphs.names[0], glyphs.names[-1]) == ("glyph-000", "glyph-399")
    assert hashlib.sha256(glyphs.images.tobytes()).hexdigest() == GOLDEN_SHA256


def test_drawing_in_other_batches_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    whole = drawn(classes=13, examples_per_class=4)
    monkeypatch.setattr("norml_cli.data.sources.glyphs.BATCH", 5)
    assert (drawn(classes=13, examples_per_class=4).images == whole.images).all()


def test_another_seed_gives_other_glyphs():
    first, second = (drawn(classes=5, examples_per_class=2, generator_seed=seed) for seed in (0, 1))
    assert not (first.images == second.images).all(axis=(1, 2, 3)).any()


def test_ink_is_255_on_0_and_every_glyph_has_some(glyphs: ImageClasses):
    ink = (glyphs.images > 127).mean(axis=(2, 3))
    assert 0.03 < ink.mean() < 0.2
    assert ink.min() > 0.003  # two pixels and more
    assert glyphs.images.max() == 255
    assert len(np.unique(glyphs.images)) > 200  # edges are smooth


def test_no_two_drawings_are_the_same(glyphs: ImageClasses):
    pixels = glyphs.images.reshape(-1, 28 * 28)
    assert len(np.unique(pixels, axis=0)) == len(pixels)


def test_raw_pixels_do_not_give_the_class_away(glyphs: ImageClasses):
    """5-way 1-shot by the nearest raw image stays well under what a meta-learner reaches, and well over chance."""
    accuracy = nearest_neighbour(glyphs.images.astype(np.float32), episodes=600)
    assert 0.5 < accuracy < 0.7


def test_what_the_drawers_vary_can_be_learned(glyphs: ImageClasses):
    """Taking out place and pen alone, by centring and blurring, makes the same neighbour much better."""
    accuracy = nearest_neighbour(blurred(centred(glyphs.images.astype(np.float32))), episodes=600)
    assert accuracy > 0.8


def nearest_neighbour(images: NDArray[np.float32], *, episodes: int, n_way: int = 5, queries: int = 5) -> float:
    generator = np.random.default_rng(0)
    correct = 0
    for _ in range(episodes):
        classes = generator.choice(len(images), n_way, replace=False)
        order = np.stack([generator.permutation(images.shape[1])[: 1 + queries] for _ in classes])
        pixels = images[classes[:, None], order].reshape(n_way, 1 + queries, -1)
        distance = ((pixels[:, 1:, None] - pixels[:, 0]) ** 2).sum(-1)  # [N, Q, N]
        correct += int((distance.argmin(-1) == np.arange(n_way)[:, None]).sum())
    return correct / (episodes * n_way * queries)


def centred(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each image moved so that its ink's mean lies in the middle."""
    flat, place = images.reshape(-1, 28, 28), np.arange(28)
    ink = flat.sum((1, 2))
    down = np.rint(13.5 - (flat.sum(2) * place).sum(1) / ink).astype(int)
    right = np.rint(13.5 - (flat.sum(1) * place).sum(1) / ink).astype(int)
    moved = [np.roll(image, shift, (0, 1)) for image, shift in zip(flat, zip(down, right, strict=True), strict=True)]
    return np.stack(moved).reshape(images.shape)


def blurred(images: NDArray[np.float32]) -> NDArray[np.float32]:
    for _ in range(3):
        for axis in (2, 3):
            images = (np.roll(images, 1, axis) + images + np.roll(images, -1, axis)) / 3
    return images
