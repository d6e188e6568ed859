"""Episodes: which classes, examples and turns they hold (indices), and the tensors they become (batches)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

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

    They are kept side by side since the first layer meets all of them in one product.
    """

    x: Tensor
    y: Tensor
    n_support: int

    @classmethod
    def joined(cls, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> "EpisodeBatch":
        """From support [E, S, D] and [E, S], and queries [E, M, D] and [E, M]."""
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
    n_examples: int | Tensor,
    n_way: int,
    examples_per_class: int,
    turned: bool,
    n_episodes: int,
    generator: torch.Generator,
) -> EpisodeIndices:
    """Draw E = `n_episodes` episodes uniformly: N classes of `n_classes`, K + Q = `examples_per_class` of `n_examples`.

    n_examples: of every class, or [C] of each. Classes are drawn first, so that a large class comes as often as a small
    one; equal sizes give the same episodes in either form.
    A random order cut short is a uniform draw without replacement; it needs no loop over episodes. The draw happens
    on the generator's device.
    Raises ValueError if there are too few classes or examples.
    """
    device = generator.device
    smallest, largest = _extremes(n_examples)
    if n_way > n_classes:
        raise ValueError(f"n_way = {n_way} classes an episode, but the pool has {n_classes}; lower n_way")
    if examples_per_class > smallest:
        raise ValueError(f"{examples_per_class} examples a class, but the pool has {smallest}; lower K or Q")
    order = torch.rand(n_episodes, n_classes, generator=generator, device=device)
    classes = order.topk(n_way, dim=1).indices  # [E, N]
    order = torch.rand(n_episodes, n_way, largest, generator=generator, device=device)
    if isinstance(n_examples, Tensor):
        lacking = torch.arange(largest, device=device) >= n_examples[classes].unsqueeze(-1)
        order.masked_fill_(lacking, -1)  # below every number drawn, and there are enough of those
    examples = order.topk(examples_per_class, dim=2).indices  # [E, N, K + Q]
    turns = torch.randint(TURNS, (n_episodes, n_way), generator=generator, device=device)  # [E, N]
    return EpisodeIndices(classes, examples, turns if turned else torch.zeros_like(turns))


def _extremes(n_examples: int | Tensor) -> tuple[int, int]:
    """The sizes of the smallest and of the largest class."""
    if isinstance(n_examples, int):
        return n_examples, n_examples
    return int(n_examples.min()), int(n_examples.max())


class ExamplePool:
    """The examples of one split, resident on a device, from which episodes are gathered.

    They lie as rows of one table, class by class, and once for each turn, so that gathering is copying rows.
    """

    def __init__(self, rows: Tensor, n_examples: int | Tensor, n_classes: int, *, turned: bool) -> None:
        """rows: [turns * n, D], float, or uint8 for pixels, which become 0..1; n_examples: of each class, or [C]."""
        self._rows = rows
        self.turned = turned
        self.n_classes, self.n_examples = n_classes, n_examples
        sizes = torch.as_tensor(n_examples, device=rows.device).expand(n_classes)
        self._starts = sizes.cumsum(0) - sizes  # [C], the row of each class's first example
        self._n_upright = rows.shape[0] // (TURNS if turned else 1)

    @classmethod
    def of_images(cls, images: Tensor, *, turned: bool, sizes: Tensor | None = None) -> "ExamplePool":
        """Square images [C, P, height, width] uint8, or [C, P, height, width, 3] in colour.

        sizes: [C] int64 where classes differ in size; the images are then [n, height, width] or [n, height, width, 3],
        class by class. turned: in all four turns, side by side. Raises ValueError.
        """
        first = 2 if sizes is None else 1  # the dimension of height
        shape = images.shape[first:]
        colours = len(shape) == 3 and shape[2] == 3  # noqa: PLR2004
        if images.dtype != torch.uint8 or len(shape) != 2 + colours or shape[0] != shape[1]:
            found = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"expected square uint8 images [C, P, height, width] or [..., 3], got {found}")
        flat = images.flatten(0, first - 1)
        turns = range(TURNS if turned else 1)
        rows = torch.cat([torch.rot90(flat, turn, dims=(1, 2)).flatten(1) for turn in turns])
        return cls._of(rows, images, sizes, turned=turned)

    @classmethod
    def of_features(cls, features: Tensor, *, unit_length: bool, sizes: Tensor | None = None) -> "ExamplePool":
        """Features [C, P, D], float; `unit_length`: each example's are scaled to length one. Raises ValueError.

        sizes: [C] int64 where classes differ in size; the features are then [n, D], class by class.
        """
        dims = 3 if sizes is None else 2
        if not features.is_floating_point() or features.dim() != dims:
            raise ValueError(f"expected float features [C, P, D], got {features.dtype} {tuple(features.shape)}")
        rows = functional.normalize(features, dim=-1) if unit_length else features
        return cls._of(rows.flatten(0, dims - 2), features, sizes, turned=False)

    @classmethod
    def _of(cls, rows: Tensor, examples: Tensor, sizes: Tensor | None, *, turned: bool) -> "ExamplePool":
        if sizes is None:
            return cls(rows, examples.shape[1], examples.shape[0], turned=turned)
        if int(sizes.sum()) != len(examples):
            raise ValueError(f"{int(sizes.sum())} examples by their sizes, but there are {len(examples)}")
        return cls(rows, sizes.to(rows.device), len(sizes), turned=turned)

    @property
    def n_features(self) -> int:
        """D: values of an example."""
        return self._rows.shape[1]

    def gather(self, indices: EpisodeIndices, *, k_shot: int, dtype: torch.dtype = torch.float32) -> EpisodeBatch:
        """The episodes at `indices`, pixels scaled to [0, 1] (cbfinn/maml data_generator.py:114-118)."""
        if not 0 < k_shot < indices.examples.shape[2]:
            raise ValueError(f"k_shot = {k_shot}, but {indices.examples.shape[2]} examples a class were drawn")
        starts = indices.turns * self._n_upright + self._starts[indices.classes]  # [E, N]
        rows = starts[:, :, None] + indices.examples
        n_episodes, n_way, n_drawn = rows.shape
        rows = torch.cat([rows[:, :, :k_shot].flatten(1), rows[:, :, k_shot:].flatten(1)], dim=1)  # [E, S + M]
        examples = self._rows.index_select(0, rows.flatten()).view(*rows.shape, -1)
        x = examples.to(dtype).div_(255) if examples.dtype == torch.uint8 else examples.to(dtype)
        label = torch.arange(n_way, device=rows.device)
        labels = torch.cat([label.repeat_interleave(count) for count in (k_shot, n_drawn - k_shot)])
        return EpisodeBatch(x, labels.expand(n_episodes, -1), n_way * k_shot)
