"""Episodes: which classes, examples and turns they hold (indices), and the tensors they become (batches)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from norml.arguments import check_device, check_labels, check_range, check_tensor

TURNS = 4  # 0, 90, 180, 270 degrees


@dataclass(frozen=True)
class EpisodeIndices:
    """Where the examples of E episodes lie in a pool of classes.

    classes: [E, N] int64, distinct within an episode, label = position. examples: [E, N, K + Q] int64, distinct
    within a class; the first K are the support. turns: [E, N] int64 in 0..3, quarter turns of each class.
    """

    classes: Tensor
    examples: Tensor
    turns: Tensor

    def __len__(self) -> int:
        return self.classes.shape[0]

    def __getitem__(self, part: slice) -> "EpisodeIndices":
        return EpisodeIndices(self.classes[part], self.examples[part], self.turns[part])

    def to(self, device: torch.device) -> "EpisodeIndices":
        """The same indices on `device`."""
        return EpisodeIndices(self.classes.to(device), self.examples.to(device), self.turns.to(device))


@dataclass(frozen=True)
class EpisodeBatch:
    """E episodes: x [E, S + M, D] and y [E, S + M] int64 in 0..N-1, the `n_support` = S support examples first.

    They are kept side by side since the first layer meets all of them in one product. Raises TypeError or ValueError if
    they do not go together.
    """

    x: Tensor
    y: Tensor
    n_support: int

    def __post_init__(self) -> None:
        check_tensor("x", self.x, "[E, S + M, D]")
        check_labels("y", self.y, "[E, S + M]", (self.x.shape[0], self.x.shape[1]))
        check_device("y", self.y, self.x.device, "x")
        if not 0 < self.n_support <= self.x.shape[1]:
            raise ValueError(f"n_support = S must be in 1..{self.x.shape[1]}, got {self.n_support}")

    @classmethod
    def joined(cls, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> "EpisodeBatch":
        """From support [E, S, D] and [E, S], and queries [E, M, D] and [E, M]. Raises TypeError or ValueError."""
        check_tensor("support_x", support_x, "[E, S, D]")
        check_tensor("query_x", query_x, "[E, M, D]")
        check_labels("support_y", support_y, "[E, S]", (support_x.shape[0], support_x.shape[1]))
        check_labels("query_y", query_y, "[E, M]", (query_x.shape[0], query_x.shape[1]))
        if query_x.shape[::2] != support_x.shape[::2]:
            expected = "E = {}, D = {}".format(*support_x.shape[::2])
            raise ValueError(f"query_x must be [E, M, D] with {expected}, as support_x has, got {list(query_x.shape)}")
        if query_x.dtype != support_x.dtype:
            raise TypeError(f"query_x must be {support_x.dtype}, as support_x is, got {query_x.dtype}")
        for name, part in (("support_y", support_y), ("query_x", query_x), ("query_y", query_y)):
            check_device(name, part, support_x.device, "support_x")
        x, y = torch.cat([support_x, query_x], dim=1), torch.cat([support_y, query_y], dim=1)
        return cls(x, y, support_y.shape[1])

    @property
    def support_x(self) -> Tensor:
        """[E, S, D]."""
        return self.x[:, : self.n_support]

    @property
    def support_y(self) -> Tensor:
        """[E, S]."""
        return self.y[:, : self.n_support]

    @property
    def query_x(self) -> Tensor:
        """[E, M, D]."""
        return self.x[:, self.n_support :]

    @property
    def query_y(self) -> Tensor:
        """[E, M]."""
        return self.y[:, self.n_support :]


def sample_indices(
    *,
    n_classes: int,
    n_examples: int,
    n_way: int,
    examples_per_class: int,
    rotations: bool,
    n_episodes: int,
    generator: torch.Generator,
) -> EpisodeIndices:
    """Draw E = `n_episodes` episodes uniformly: N classes of `n_classes`, K + Q = `examples_per_class` of `n_examples`.

    A random order cut short is a uniform draw without replacement; it needs no loop over episodes. The draw happens
    on the generator's device.
    Raises ValueError if there are too few classes or examples.
    """
    if n_way > n_classes:
        raise ValueError(f"n_way = {n_way} classes an episode, but the pool has {n_classes}; lower n_way")
    if examples_per_class > n_examples:
        raise ValueError(f"{examples_per_class} examples a class, but the pool has {n_examples}; lower K or Q")
    device = generator.device
    order = torch.rand(n_episodes, n_classes, generator=generator, device=device)
    classes = order.topk(n_way, dim=1).indices  # [E, N]
    order = torch.rand(n_episodes, n_way, n_examples, generator=generator, device=device)
    examples = order.topk(examples_per_class, dim=2).indices  # [E, N, K + Q]
    turns = torch.randint(TURNS, (n_episodes, n_way), generator=generator, device=device)  # [E, N]
    return EpisodeIndices(classes, examples, turns if rotations else torch.zeros_like(turns))


class ExamplePool:
    """The examples of one split, resident on a device, from which episodes are gathered.

    They lie as rows of one table, one block of C * P rows for each turn, so that gathering is copying rows.
    """

    def __init__(self, rows: Tensor, n_classes: int, n_examples: int, *, rotations: bool) -> None:
        """rows: [turns * C * P, D], float, or uint8 for pixels, which become 0..1."""
        self._rows = rows
        self.rotations = rotations
        self.n_classes, self.n_examples = n_classes, n_examples

    @classmethod
    def of_images(cls, images: Tensor, *, rotations: bool) -> "ExamplePool":
        """Square uint8 images [C, P, height, width], or [C, P, height, width, 3] in colour.

        `rotations`: in all four turns. Raises TypeError or ValueError.
        """
        letters = "[C, P, height, width]"
        if isinstance(images, Tensor) and images.dim() == letters.count(",") + 2:
            letters = "[C, P, height, width, 3]"
        check_tensor("images", images, letters)
        if images.dtype != torch.uint8 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be square uint8 {letters}, got {images.dtype} {list(images.shape)}")
        turns = range(TURNS if rotations else 1)
        in_turns = [torch.rot90(images, turn, dims=(2, 3)).flatten(2) for turn in turns]
        return cls(torch.stack(in_turns).flatten(0, 2), *images.shape[:2], rotations=rotations)

    @classmethod
    def of_features(cls, features: Tensor, *, unit_length: bool) -> "ExamplePool":
        """Features [C, P, D], float; `unit_length`: each example's are scaled to length one. Raises ValueError."""
        check_tensor("features", features, "[C, P, D]")
        if not features.is_floating_point():
            raise TypeError(f"features must be float [C, P, D], got {features.dtype}")
        rows = functional.normalize(features, dim=-1) if unit_length else features
        return cls(rows.flatten(0, 1), *features.shape[:2], rotations=False)

    @property
    def n_features(self) -> int:
        """D: values of an example."""
        return self._rows.shape[1]

    def gather(self, indices: EpisodeIndices, *, k_shot: int, dtype: torch.dtype = torch.float32) -> EpisodeBatch:
        """The episodes at `indices`, pixels scaled to [0, 1] (cbfinn/maml data_generator.py:114-118).

        Raises ValueError for indices that this pool does not have (looked at on the CPU only), or on another device.
        """
        check_device("indices", indices.classes, self._rows.device, "the pool")
        check_range("indices.classes", indices.classes, self.n_classes, "the pool's classes")
        check_range("indices.examples", indices.examples, self.n_examples, "the examples of a class")
        check_range("indices.turns", indices.turns, TURNS if self.rotations else 1, "the pool's quarter turns")
        if not 0 < k_shot < indices.examples.shape[2]:
            raise ValueError(f"k_shot = {k_shot}, but {indices.examples.shape[2]} examples a class were drawn")
        rows = (indices.turns * self.n_classes + indices.classes)[:, :, None] * self.n_examples + indices.examples
        n_episodes, n_way, n_drawn = rows.shape
        rows = torch.cat([rows[:, :, :k_shot].flatten(1), rows[:, :, k_shot:].flatten(1)], dim=1)  # [E, S + M]
        examples = self._rows.index_select(0, rows.flatten()).view(*rows.shape, -1)
        x = examples.to(dtype).div_(255) if examples.dtype == torch.uint8 else examples.to(dtype)
        label = torch.arange(n_way, device=rows.device)
        labels = torch.cat([label.repeat_interleave(count) for count in (k_shot, n_drawn - k_shot)])
        return EpisodeBatch(x, labels.expand(n_episodes, -1), n_way * k_shot)
