"""Which examples training episodes are made of."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from norml.episodes import EpisodeIndices, turns_as_classes
from norml_cli.data.examples import Examples
from norml_cli.registry.protocol import Protocol

SIDE = 3


def numbered(first: int, sizes: tuple[int, ...]) -> np.ndarray:
    """Images of which no two pixels are equal in a class; [C, P, ...] where sizes are equal, else [n, ...]."""
    pixels = np.arange(sum(sizes) * SIDE * SIDE, dtype=np.uint8).reshape(-1, SIDE, SIDE) + first
    return pixels.reshape(len(sizes), sizes[0], SIDE, SIDE) if len(set(sizes)) == 1 else pixels


def examples(**splits: tuple[int, ...]) -> Examples:
    images = {split: numbered(100 * number, sizes) for number, (split, sizes) in enumerate(splits.items())}
    cache = SimpleNamespace(sizes=splits.__getitem__, images=images.__getitem__)
    return Examples(cache, None, unit_length=False)


def pool(of: Examples, **changed: str):
    values = {"training_examples": "all", "training_classes": "meta-train", "rotations": "every-split"} | changed
    return of.training_pool(Protocol.model_construct(**values), torch.device("cpu"))


def rows(of, classes: list[int], n_examples: int):
    """The examples of those classes, upright: [classes, examples, D]."""
    indices = EpisodeIndices(
        torch.tensor([classes]),
        torch.arange(n_examples).expand(1, len(classes), -1),
        torch.zeros(1, len(classes), dtype=torch.int64),
    )
    batch = of.gather(indices, k_shot=1)
    return torch.cat([batch.support_x.view(len(classes), 1, -1), batch.query_x.view(len(classes), -1, SIDE**2)], 1)


@pytest.mark.parametrize("sizes", [(2, 2), (2, 3)], ids=["of one size", "unequal"])
def test_quarter_turns_become_classes_of_their_own(sizes):
    of = examples(meta_train=sizes)
    usual, turned = pool(of), pool(of, training_turns="as-classes")
    assert (usual.n_classes, usual.rotations) == (2, True)
    assert (turned.n_classes, turned.rotations) == (8, False)
    upright = rows(usual, [0, 1], 2).view(2, 2, SIDE, SIDE)
    for turn in range(4):
        found = rows(turned, [2 * turn, 2 * turn + 1], 2)
        assert torch.equal(found, torch.rot90(upright, turn, dims=(2, 3)).reshape(2, 2, -1))


def test_classes_of_meta_validation_come_after_those_of_meta_training():
    of = examples(meta_train=(2, 2), meta_val=(2, 2, 2))
    both = pool(of, training_classes="meta-train-and-meta-val")
    assert (pool(of).n_classes, both.n_classes) == (2, 5)
    assert torch.equal(rows(both, [0, 1], 2), rows(pool(of), [0, 1], 2))
    expected = torch.from_numpy(numbered(100, (2, 2, 2))).reshape(3, 2, -1) / 255
    assert torch.allclose(rows(both, [2, 3, 4], 2), expected)


def test_turns_as_classes_of_colour_images_keep_their_colours():
    images = torch.rand(2, 3, SIDE, SIDE, 3)
    turned = turns_as_classes(images)
    assert turned.shape == (8, 3, SIDE, SIDE, 3)
    assert torch.equal(turned[2:4], torch.rot90(images, 1, dims=(2, 3)))
