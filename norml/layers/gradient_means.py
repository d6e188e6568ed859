"""The mean of a layer's gradient sum_s delta[s] h[s]^T, without forming the gradient, and its adjoint."""

from torch import Tensor


def gradient_mean(delta: Tensor, patches: Tensor) -> Tensor:
    """The mean [E], from delta [E, S * P, O] and patches [E, S * P, I]."""
    return (delta.mean(dim=2) * patches.mean(dim=2)).sum(dim=1)


def gradient_mean_adjoint(mean_bar: Tensor, delta: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives by delta and patches, from that by the mean [E]."""
    each = mean_bar[:, None, None] / (delta.shape[2] * patches.shape[2])
    of_delta, of_patches = each * patches.sum(dim=2, keepdim=True), each * delta.sum(dim=2, keepdim=True)
    return of_delta.expand_as(delta), of_patches.expand_as(patches)
