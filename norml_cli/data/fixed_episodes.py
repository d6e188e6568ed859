"""Fixed evaluation episodes: requests, arrays, and the drawing, which is the only part that needs torch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from norml_cli.data.array_files import array_hash
from norml_cli.data.splits import SplitName
from norml_cli.files.errors import UserError
from norml_cli.registry.protocol import Recipe
from norml_cli.registry.specs import RunSpec

NESTED = 500  # chosen: most benchmarks declare this many meta-validation episodes


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
        nested = "" if self.first is None else f"-after{self.first.episodes}"
        return f"{self.split}-{size}-{self.episodes}episodes-seed{self.seed}{nested}"

    @property
    def first(self) -> "EpisodeRequest | None":
        """The smaller set with which more than 1,000 meta-validation episodes begin; None for any other set.

        So a choice on more episodes keeps those of before. Sets of up to 1,000 keep the draws of our records.
        """
        nested = self.split == "meta_val" and self.episodes > 2 * NESTED
        return replace(self, episodes=NESTED) if nested else None

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

    def followed_by(self, other: "EpisodeArrays") -> "EpisodeArrays":
        """These episodes, then those of `other`."""
        parts = ("classes", "examples", "turns")
        return EpisodeArrays(*(np.concatenate([getattr(each, part) for each in (self, other)]) for part in parts))

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
    per_class, smallest = request.shots + request.queries_per_class, min(sizes)
    if request.n_way > len(sizes):
        raise UserError(f"{request.split}: n_way is {request.n_way}, but there are {len(sizes)} classes; lower n_way")
    if per_class > smallest:
        raise UserError(
            f"{request.split}: class '{names[sizes.index(smallest)]}' has {smallest} examples, but shots + "
            f"queries_per_class = {per_class}; lower these, or leave out small classes (examples_per_class)"
        )
    if request.first is None:
        return _sampled(request, sizes, request.episodes)
    first = _sampled(request.first, sizes, request.first.episodes)
    return first.followed_by(_sampled(request, sizes, request.episodes - request.first.episodes))


def _sampled(request: EpisodeRequest, sizes: Sequence[int], episodes: int) -> EpisodeArrays:
    """A number of episodes of the request's form, drawn from its own seed."""
    import torch  # noqa: PLC0415 - slow to load, and not needed if the cache is up to date

    from norml.episodes import sample_indices  # noqa: PLC0415 - as torch

    indices = sample_indices(
        n_classes=len(sizes),
        n_examples=sizes[0] if min(sizes) == max(sizes) else torch.tensor(sizes),
        n_way=request.n_way,
        examples_per_class=request.shots + request.queries_per_class,
        rotations=request.rotations,
        n_episodes=episodes,
        generator=torch.Generator().manual_seed(request.generator_seed),
    )
    return EpisodeArrays(indices.classes.numpy(), indices.examples.numpy(), indices.turns.numpy())
