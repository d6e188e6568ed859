"""Windows and pools: torch's own convolution and pooling, their adjoints, and values worked out by hand."""

import itertools

import pytest
import torch
from torch.nn import functional

from norml.layers import Convolutions, convolutional
from norml.layers.convolution import Flatten, MaxPool, MeanPool, Window

WINDOWS = [
    Window(side, channels, kernel, stride, padding)
    for side, channels, kernel, stride, padding in itertools.product(
        (4, 5, 7), (1, 3), (1, 2, 3), (1, 2, 3), ("same", "none")
    )
]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def as_images(maps, side):
    """[E, B * P, C] -> [E * B, C, side, side]."""
    return maps.reshape(-1, side, side, maps.shape[-1]).permute(0, 3, 1, 2)


def named(window):
    return f"{window.side}px-{window.channels}ch-k{window.kernel}-s{window.stride}-{window.padding}"


@pytest.mark.parametrize("window", WINDOWS, ids=named)
def test_patches_times_weights_are_torchs_convolution(window):
    """With TensorFlow's 'same' padding: ceil(side / stride) outputs, the odd zero at the end."""
    maps, weight = drawn(2, 3 * window.side**2, window.channels), drawn(4, window.patch_size, seed=1)
    images = as_images(maps, window.side)
    if window.padding == "same":
        n_out = -(-window.side // window.stride)
        assert window.side_out == n_out
        zeros = max(0, (n_out - 1) * window.stride + window.kernel - window.side)
        images = functional.pad(images, (zeros // 2, zeros - zeros // 2) * 2)
    filters = weight.view(4, window.kernel, window.kernel, window.channels).permute(0, 3, 1, 2)
    expected = functional.conv2d(images, filters, stride=window.stride)
    found = as_images(window.patches(maps) @ weight.T, window.side_out)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("window", WINDOWS, ids=named)
def test_maps_are_the_adjoint_of_patches(window):
    """<U x, y> = <x, U^T y> for all x and y."""
    x = drawn(2, 3 * window.side**2, window.channels)
    y = drawn(2, 3 * window.positions, window.patch_size, seed=1)
    found, expected = (window.patches(x) * y).sum(), (x * window.maps(y)).sum()
    assert abs(found - expected) <= 1e-12 * (x.norm() * y.norm())
    assert window.maps(y).shape == x.shape


def test_a_window_of_known_numbers():
    """The map (1 2 / 3 4) under a 2 x 2 window with 'same' padding: one zero row and column at the end."""
    window = Window(2, 1, 2, 1, "same")
    patches = window.patches(torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]))
    assert patches.tolist() == [[[1, 2, 3, 4], [2, 0, 4, 0], [3, 4, 0, 0], [4, 0, 0, 0]]]
    assert window.maps(torch.ones(1, 4, 4)).flatten().tolist() == [1, 2, 2, 4]


@pytest.mark.parametrize("side", [2, 4, 5])
def test_max_pooling_is_torchs_and_its_spread_is_autograds(side):
    pool, maps = MaxPool(side), drawn(2, 3 * side**2, 4).requires_grad_()
    pooled, choice = pool.forward(maps)
    expected = functional.max_pool2d(as_images(maps, side), 2)
    torch.testing.assert_close(as_images(pooled, side // 2), expected, rtol=0, atol=0)
    above = drawn(*pooled.shape, seed=1)
    by_autograd = torch.autograd.grad(expected, maps, as_images(above, side // 2))[0]
    assert torch.equal(pool.spread(above, choice), by_autograd)


@pytest.mark.parametrize("pool", [MaxPool(4), MaxPool(5), MeanPool(16), Flatten(16)], ids=str)
def test_spread_is_the_adjoint_of_taken(pool):
    rows = pool.side**2 if isinstance(pool, MaxPool) else 16
    maps, other = drawn(2, 3 * rows, 4), drawn(2, 3 * rows, 4, seed=1)
    pooled, choice = pool.forward(maps)
    assert torch.equal(pool.taken(maps, choice), pooled)
    y = drawn(*pooled.shape, seed=2)
    found, expected = (pool.taken(other, choice) * y).sum(), (other * pool.spread(y, choice)).sum()
    assert abs(found - expected) <= 1e-12 * other.norm() * y.norm()


def test_the_layers_of_mamls_omniglot_net_and_of_its_mini_imagenet_net():
    """28 -> 14 -> 7 -> 4 -> 2 strided, mean; 84 -> 42 -> 21 -> 10 -> 5 pooled, 5 * 5 * 32 = 800 values."""
    strided = convolutional(Convolutions(28), [64] * 4, 20)
    assert [layer.positions for layer in strided] == [196, 49, 16, 4, 1]
    assert [layer.weight_shape for layer in strided] == [(64, 9), *[(64, 576)] * 3, (20, 64)]
    pooled = convolutional(Convolutions(84, 3, stride=1, max_pool=True, end="flatten"), [32] * 4, 5)
    assert [layer.positions for layer in pooled] == [84**2, 42**2, 21**2, 10**2, 1]
    assert [layer.weight_shape for layer in pooled] == [(32, 27), *[(32, 288)] * 3, (5, 800)]


@pytest.mark.parametrize(
    ("convolutions", "channels", "fault"),
    [
        (Convolutions(7, max_pool=True, stride=1), [4, 4, 4], "nothing is left after layer 3"),
        (Convolutions(2, kernel=3, padding="none"), [4], "nothing is left after layer 1"),
        (Convolutions(8), [], "channels is empty"),
    ],
)
def test_convolutions_that_leave_nothing_are_refused(convolutions, channels, fault):
    with pytest.raises(ValueError, match=fault):
        convolutional(convolutions, channels, 3)
