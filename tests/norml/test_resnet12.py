"""ResNet-12 against hand counts, the literature's sizes, and a readable block; what training drops."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from norml.resnet12 import Blocks, Classifier, PartOfBatch, ResNet12, drop_squares, drop_values, parameter_count

RFS = Blocks(
    convolution_biases=False,
    batch_norm_scale=True,
    batch_norm_epsilon=1e-5,
    skip_batch_norm=True,
    activate_after_sum=True,
    drop_rate=0.1,
    drop_block_size=5,
)
MTL = Blocks(
    convolution_biases=True,
    batch_norm_scale=False,
    batch_norm_epsilon=1e-3,
    skip_batch_norm=False,
    activate_after_sum=False,
    drop_rate=0.1,
    drop_block_size=None,
)
RFS_WIDTHS, MTL_WIDTHS, TINY = (64, 160, 320, 640), (64, 128, 256, 512), (3, 4, 5, 6)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(widths: tuple[int, ...], blocks: Blocks) -> ResNet12:
    return ResNet12(widths, blocks, initial_weights="he", generator=seeded())


def counted(widths: tuple[int, ...], *, per_channel: int, norm_of_skip: int) -> int:
    """Convolutions 3x3, 3x3, 3x3 and 1x1 a block, and so many values a channel."""
    n_in, total = 3, 0
    for n in widths:
        total += 9 * (n_in * n + 2 * n * n) + n_in * n + 3 * n * per_channel + n * norm_of_skip
        n_in = n
    return total


@pytest.mark.parametrize(
    ("widths", "blocks", "per_channel", "norm_of_skip", "literature"),
    [
        (RFS_WIDTHS, RFS, 2, 2, 12.4e6),  # scale and shift; the 12.4 M of Tian et al. (2020)
        (MTL_WIDTHS, MTL, 2, 0, 8.0e6),  # bias and shift; the 8 M that ResNet-12 with 512 features is quoted with
    ],
)
def test_parameters_are_those_of_the_literature(widths, blocks, per_channel, norm_of_skip, literature):
    with torch.device("meta"):
        model = Classifier(ResNet12(widths, blocks, initial_weights="he"), 64)
    count = parameter_count(model.backbone)
    assert count == counted(widths, per_channel=per_channel, norm_of_skip=norm_of_skip)
    assert count == pytest.approx(literature, rel=0.003)
    assert parameter_count(model) - count == widths[-1] * 64 + 64


def test_the_strong_recipe_has_the_12_424_320_parameters_it_is_known_by():
    with torch.device("meta"):
        assert parameter_count(ResNet12(RFS_WIDTHS, RFS, initial_weights="he")) == 12_424_320


@pytest.mark.parametrize("blocks", [RFS, MTL])
@pytest.mark.parametrize("size_px", [84, 42])
def test_features_and_scores_have_their_shapes(blocks, size_px):
    model = Classifier(made(TINY, blocks), 7).eval()
    images = torch.rand(2, 3, size_px, size_px, generator=seeded())
    assert model.backbone(images).shape == (2, 6)
    assert model(images).shape == (2, 7)


def reference_block(block: torch.nn.Module, x: Tensor, *, rfs: bool) -> Tensor:
    """The two designs as their repositories write them, line by line, in evaluation."""

    def normed(norm: torch.nn.BatchNorm2d, a: Tensor) -> Tensor:
        mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
        a = (a - mean) / (variance + norm.eps).sqrt()
        return a * norm.weight[:, None, None] + norm.bias[:, None, None]

    def leaky(a: Tensor) -> Tensor:
        return torch.maximum(a, 0.1 * a)

    one, two, three = block.convolutions
    out = leaky(normed(block.norms[0], one(x)))
    out = leaky(normed(block.norms[1], two(out)))
    out = normed(block.norms[2], three(out))
    out = leaky(out + normed(block.skip_norm, block.skip(x))) if rfs else leaky(out) + block.skip(x)
    return functional.max_pool2d(out, 2)


@pytest.mark.parametrize("blocks", [RFS, MTL])
def test_blocks_compute_what_their_repositories_write(blocks):
    model = made(TINY, blocks).double().eval()
    generator = seeded(1)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point() and tensor.requires_grad:
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    x = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    expected = x
    for block in model.blocks:
        expected = reference_block(block, expected, rfs=blocks is RFS)
    torch.testing.assert_close(model(x), expected.mean(dim=(2, 3)), rtol=0, atol=1e-12)


def test_batch_norm_without_scale_keeps_it_at_one():
    model = made(TINY, MTL)
    model(torch.rand(4, 3, 32, 32, generator=seeded()), generator=seeded()).sum().backward()
    scales = [norm.weight for block in model.blocks for norm in block.norms]
    assert all(scale.grad is None and (scale == 1).all() for scale in scales)


def test_equal_generators_build_and_drop_the_same():
    models = [made(TINY, RFS).train() for _ in range(2)]
    images = torch.rand(4, 3, 84, 84, generator=seeded())
    first, second = (model(images, generator=seeded(5)) for model in models)
    assert torch.equal(first, second)
    assert not torch.equal(first, models[0](images, generator=seeded(6)))


def test_evaluation_drops_nothing_and_sees_no_neighbour():
    model = made(TINY, MTL).eval()
    images = torch.rand(3, 3, 32, 32, generator=seeded())
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=1e-5, atol=1e-6)


def test_dropped_values_keep_the_mean():
    x = torch.ones(20, 10, 20, 20)
    dropped = drop_values(x, 0.1, seeded())
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)


def squares_of(kept: Tensor, size: int) -> Tensor:
    """The map that squares of `size` make which lie in the zeros of `kept` [height, width]: a slow reference."""
    covered = torch.zeros_like(kept, dtype=torch.bool)
    for top in range(kept.shape[0] - size + 1):
        for left in range(kept.shape[1] - size + 1):
            part = slice(top, top + size), slice(left, left + size)
            if not kept[part].any():
                covered[part] = True
    return covered


def test_dropped_squares_are_whole_and_keep_the_mean():
    dropped = drop_squares(torch.ones(40, 20, 10, 10), 0.1, 5, seeded())
    zeros = dropped == 0
    assert 0.09 < zeros.float().mean() < 0.1  # overlaps drop a little less than the rate
    for maps in zeros.flatten(0, 1):
        assert torch.equal(squares_of(~maps, 5), maps)
    assert dropped.mean().item() == pytest.approx(1, rel=1e-6)


def test_a_square_as_large_as_the_map_drops_whole_channels():
    dropped = drop_squares(torch.ones(40, 50, 5, 5), 0.1, 5, seeded())
    whole = (dropped == 0).flatten(2)
    assert torch.equal(whole.any(dim=2), whole.all(dim=2))
    assert whole.float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_a_rate_of_nothing_drops_nothing():
    x = torch.rand(2, 3, 6, 6, generator=seeded())
    assert torch.equal(drop_squares(x, 0.0, 5, seeded()), x)


def test_squares_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"squares of 5 pixels do not fit a map of 2 x 2"):
        drop_squares(torch.ones(1, 1, 2, 2), 0.1, 5, seeded())


def test_another_number_of_blocks_is_refused():
    with pytest.raises(ValueError, match="4 blocks, got 3"):
        made((3, 4, 5), RFS)


@pytest.mark.parametrize("blocks", [RFS, MTL])
def test_a_part_of_a_batch_drops_what_it_would_within_the_whole(blocks: Blocks):
    model = made(TINY, blocks).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # or its statistics would be the part's
    images = torch.rand(5, 3, 84, 84, generator=seeded())
    whole = model(images, generator=seeded(5))
    parts = [slice(0, 2), slice(2, 5)]
    apart = [model(images[part], generator=seeded(5), part=PartOfBatch(part.start, 5)) for part in parts]
    torch.testing.assert_close(torch.cat(apart), whole, rtol=1e-5, atol=1e-6)
