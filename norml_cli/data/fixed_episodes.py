"""Which fixed evaluation episodes are wanted, and the arrays that hold them. Torch-free."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from norml_cli.data.array_files import array_hash
from norml_cli.data.splits import SplitName
from norml_cli.registry.protocol import Recipe
from norml_cli.registry.specs import RunSpec


@dataclass(frozen=True)
class EpisodeRequest:
    """Which fixed evaluation episodes are wanted; equal requests are the same episodes on the same data."""

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

        Caches are read by these words and seeds are drawn from them: they stay, whatever the code calls rotations.
        """
        rotations = "turned" if self.rotations else "upright"
        size = f"{self.n_way}way-{self.shots}shot-{self.queries_per_class}query-{rotations}"
        return f"{self.split}-{size}-{self.episodes}episodes-seed{self.seed}"

    @property
    def generator_seed(self) -> int:
        """A seed of its own for each request, in 0..2^63 - 1: no two sets share a draw."""
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
    """The meta-validation episodes of a pretraining, by shots."""
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
    """Episodes as stored: classes [E, N], examples [E, N, K + Q] and quarter turns [E, N], unsigned integers."""

    classes: NDArray[Any]
    examples: NDArray[Any]
    turns: NDArray[Any]

    def hash(self) -> str:
        """SHA-256 over shapes and numbers, whatever the integer type."""
        digest = hashlib.sha256()
        for array in (self.classes, self.examples, self.turns):
            digest.update(array_hash(array.astype("<i8")).encode())
        return digest.hexdigest()
