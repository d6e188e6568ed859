"""The meta-gradient of a meta-batch that several ranks share."""

from torch import Tensor

from norml_cli.training.ranks.sharing import Ranks

Found = tuple[Tensor, Tensor, dict[str, Tensor]]  # query loss, accuracy and gradients, as in norml.meta_training


def of_whole_batch(found: Found, ranks: Ranks, weight: float) -> Found:
    """Average what each rank `found` on its episodes over the whole meta-batch. weight: this rank's share of it."""
    loss, accuracy, gradients = found
    loss, accuracy, *means = ranks.means([loss, accuracy, *gradients.values()], weight)
    return loss, accuracy, dict(zip(gradients, means, strict=True))
