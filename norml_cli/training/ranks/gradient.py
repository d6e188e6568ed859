"""The meta-gradient of a meta-batch that ranks share."""

from torch import Tensor

from norml_cli.training.ranks.sharing import Ranks

Found = tuple[Tensor, Tensor, dict[str, Tensor]]  # query loss, accuracy and gradients, as norml.meta_training has them


def of_whole_batch(found: Found, ranks: Ranks, weight: float) -> Found:
    """What each rank found on its episodes, as one rank would find it on all; weight: its share of them."""
    loss, accuracy, gradients = found
    loss, accuracy, *means = ranks.means([loss, accuracy, *gradients.values()], weight)
    return loss, accuracy, dict(zip(gradients, means, strict=True))
