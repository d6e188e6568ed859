"""Fixed evaluation episodes: requests, arrays, and the drawing, which is the only part that needs torch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from norml_cli.data.array_files import array_hash
from norml_cli.data.splits import SplitName
from norml_cli.files.errors import UserError
from norml_cli.registry.protocol import Recipe
from norml_cli.registry.specs import RunSpec


@dataclass(frozen=True)
class EpisodeRequest:
    """A request for fixed evaluation episodes. Equal requests give the same episodes on the same data."""

    split: SplitName
    n_way: int
    shots: int
    queries_per_class: int
    rotations: bool
    episodes: int
    seed: int

    @property
    def key(self) -> str:
        """The request as the name of an HDF5 group.

        Never change these words: existing caches have them, and the seeds derive from them.
        """
        rotations = "turned" if self.rotations else "upright"
        size = f"{self.n_way}way-{self.shots}shot-{self.queries_per_class}query-{rotations}"
        return f"{self.split}-{size}-{self.episodes}episodes-seed{self.seed}"

    @property
    def generator_seed(self) -> int:
        """A seed in 0..2^63 - 1 that differs for each request, so that no two sets of episodes share draws."""
        return int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:8], "big") >> 1


def episode_requests(spec: RunSpec) -> tuple[EpisodeRequest, EpisodeRequest]:
    """The meta-validation and the meta-test episodes of a run."""
    protocol = spec.protocol
    validation = EpisodeRequest(
        split="meta_val",
        n_way=protocol.n_way,
        shots=spec.shots,
        queries_per_class=protocol.queries_per_class,
        rotations=protocol.rotations == "every-split",
        episodes=protocol.validation_episodes,
        seed=protocol.episode_seed,
    )
    return validation, replace(validation, split="meta_test", episodes=protocol.test_episodes)


def pretraining_requests(recipe: Recipe) -> dict[int, EpisodeRequest]:
    """The meta-validation episodes of a pretraining, for each number of shots."""
    return {
        shots: EpisodeRequest(
            split="meta_val",
            n_way=recipe.n_way,
            shots=shots,
            queries_per_class=recipe.queries_per_class,
            rotations=False,
            episodes=recipe.validation_episodes,
            seed=recipe.episode_seed,
        )
        for shots in recipe.shots
    }


@dataclass(frozen=True)
class EpisodeArrays:
    """Stored episodes, in unsigned integers: classes [E, N], examples [E, N, K + Q] and quarter turns [E, N]."""

    classes: NDArray[Any]
    examples: NDArray[Any]
    turns: NDArray[Any]

    def hash(self) -> str:
        """SHA-256 (hex) over shapes and numbers. The integer type does not matter."""
        digest = hashlib.sha256()
        for array in (self.classes, self.examples, self.turns):
            digest.update(array_hash(array.astype("<i8")).encode())
        return digest.hexdigest()


def drawn(request: EpisodeRequest, names: Sequence[str], sizes: Sequence[int]) -> EpisodeArrays:
    """Draw the episodes of a request from classes of these names and sizes. The result is the same on every machine.

    Raises UserError if there are too few classes, or too few examples in one of them.
    """
    import torch  # noqa: PLC0415 - slow to load, and not needed if the cache is up to date

    from norml.episodes import sample_indices  # noqa: PLC0415 - as torch

    per_class, smallest = request.shots + request.queries_per_class, min(sizes)
    if request.n_way > len(sizes):
        raise UserError(f"{request.split}: n_way is {request.n_way}, but there are {len(sizes)} classes; lower n_way")
    if per_class > smallest:
        raise UserError(
            f"{request.split}: class '{names[sizes.index(smallest)]}' has {smallest} examples, but shots + "
            f"queries_per_class = {per_class}; lower these, or leave out small classes (examples_per_class)"
        )
    indices = sample_indices(
        n_classes=len(sizes),
        n_examples=smallest if smallest == max(sizes) else torch.tensor(sizes),
        n_way=request.n_way,
        examples_per_class=per_class,
        rotations=request.rotations,
        n_episodes=request.episodes,
        generator=torch.Generator().manual_seed(request.generator_seed),
    )
    return EpisodeArrays(indices.classes.numpy(), indices.examples.numpy(), indices.turns.numpy())
