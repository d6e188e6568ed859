"""Episodes as indices of classes, examples and rotations, and as batches of tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from norml.arguments import check_device, check_labels, check_range, check_tensor

TURNS = 4  # 0, 90, 180, 270 degrees


@dataclass(frozen=True)
class EpisodeIndices:
    """The examples of E episodes, as indices into a pool of classes.

    classes: [E, N] int64, distinct within an episode; the label is the position. examples: [E, N, K + Q] int64,
    distinct within a class; the first K are support examples. turns: [E, N] int64 in 0..3, quarter turns of each class.
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
    """E episodes: x [E, S + M, D] and y [E, S + M] int64 in 0..N-1, with the `n_support` = S support examples first.

    Support and queries share a tensor so that the first layer needs one product for both. Raises TypeError or
    ValueError if x and y do not fit together.
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
        """Join support [E, S, D] and [E, S] with queries [E, M, D] and [E, M]. Raises TypeError or ValueError."""
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

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, part: slice) -> "EpisodeBatch":
        return EpisodeBatch(self.x[part], self.y[part], self.n_support)

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
    rotations: bool,
    n_episodes: int,
    generator: torch.Generator,
) -> EpisodeIndices:
    """Draw E = `n_episodes` episodes uniformly: N classes of `n_classes`, K + Q = `examples_per_class` of `n_examples`.

    n_examples: of every class, or [C] of each class; for equal sizes both give the same episodes. Classes are drawn
    first, so large and small classes are equally likely. A class's examples are the first of a random order, which
    draws uniformly without replacement and without a loop over episodes. All draws happen on the generator's device.
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
        order.masked_fill_(lacking, -1)  # below all drawn numbers, so `topk` never takes these
    examples = order.topk(examples_per_class, dim=2).indices  # [E, N, K + Q]
    turns = torch.randint(TURNS, (n_episodes, n_way), generator=generator, device=device)  # [E, N]
    return EpisodeIndices(classes, examples, turns if rotations else torch.zeros_like(turns))


def turns_as_classes(images: Tensor, *, first: int = 2) -> Tensor:
    """Images [C, P, height, width, ...] and their rotations by quarter turns as separate classes [4 * C, P, ...].

    first: the dimension of height; 1 for images [n, height, width, ...] that are sorted by class.
    """
    return torch.cat([torch.rot90(images, turn, dims=(first, first + 1)) for turn in range(TURNS)])


def _extremes(n_examples: int | Tensor) -> tuple[int, int]:
    """Sizes of the smallest and the largest class."""
    if isinstance(n_examples, int):
        return n_examples, n_examples
    return int(n_examples.min()), int(n_examples.max())


class ExamplePool:
    """The examples of one split on a device, from which episodes are gathered.

    All examples are rows of one table, sorted by class, once for each rotation. So gathering only copies rows.
    """

    def __init__(self, rows: Tensor, n_classes: int, n_examples: int | Tensor, *, rotations: bool) -> None:
        """rows: [turns * n, D], float, or uint8 for pixels, which become 0..1. n_examples: of every class, or [C]."""
        self._rows = rows
        self.rotations = rotations
        self.n_classes, self.n_examples = n_classes, n_examples
        sizes = torch.as_tensor(n_examples, device=rows.device).expand(n_classes)
        self._starts = sizes.cumsum(0) - sizes  # [C], the row of each class's first example
        self._n_upright = rows.shape[0] // (TURNS if rotations else 1)

    @classmethod
    def of_images(cls, images: Tensor, *, rotations: bool, sizes: Tensor | None = None) -> "ExamplePool":
        """A pool of square images [C, P, height, width] uint8, or [C, P, height, width, 3] in colour.

        sizes: [C] int64 if classes differ in size; the images are then [n, height, width] or [n, height, width, 3],
        sorted by class. rotations: also store the images rotated by quarter turns. Raises TypeError or ValueError.
        """
        letters = "C, P, height, width" if sizes is None else "n, height, width"
        first = 2 if sizes is None else 1  # the dimension of height
        in_colour = isinstance(images, Tensor) and images.dim() == first + 3 and images.shape[-1] == 3  # noqa: PLR2004
        letters = f"[{letters}, 3]" if in_colour else f"[{letters}]"
        check_tensor("images", images, letters)
        if images.dtype != torch.uint8 or images.shape[first] != images.shape[first + 1]:
            raise ValueError(f"images must be square uint8 {letters}, got {images.dtype} {list(images.shape)}")
        flat = images.flatten(0, first - 1)
        turns = range(TURNS if rotations else 1)
        rows = torch.cat([torch.rot90(flat, turn, dims=(1, 2)).flatten(1) for turn in turns])
        return cls._of(rows, images, sizes, rotations=rotations)

    @classmethod
    def of_features(cls, features: Tensor, *, unit_length: bool, sizes: Tensor | None = None) -> "ExamplePool":
        """A pool of features [C, P, D], float. unit_length: scale each example's features to length one.

        sizes: [C] int64 if classes differ in size; the features are then [n, D], sorted by class.
        Raises TypeError or ValueError.
        """
        letters = "[C, P, D]" if sizes is None else "[n, D]"
        check_tensor("features", features, letters)
        if not features.is_floating_point():
            raise TypeError(f"features must be float {letters}, got {features.dtype}")
        rows = functional.normalize(features, dim=-1) if unit_length else features
        return cls._of(rows.flatten(0, -2), features, sizes, rotations=False)

    @classmethod
    def _of(cls, rows: Tensor, examples: Tensor, sizes: Tensor | None, *, rotations: bool) -> "ExamplePool":
        if sizes is None:
            return cls(rows, *examples.shape[:2], rotations=rotations)
        check_tensor("sizes", sizes, "[C]")
        if int(sizes.sum()) != len(examples):
            raise ValueError(f"{int(sizes.sum())} examples by their sizes, but there are {len(examples)}")
        return cls(rows, len(sizes), sizes.to(rows.device), rotations=rotations)

    @property
    def n_features(self) -> int:
        """D: values of an example."""
        return self._rows.shape[1]

    def upright(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """All examples without rotations, sorted by class, as episodes have them: [n, D]."""
        return _scaled(self._rows[: self._n_upright], dtype)

    def gather(self, indices: EpisodeIndices, *, k_shot: int, dtype: torch.dtype = torch.float32) -> EpisodeBatch:
        """The episodes at `indices`, with pixels scaled to [0, 1] (cbfinn/maml data_generator.py:114-118).

        Raises ValueError for indices outside this pool (checked on the CPU only) or on another device.
        """
        check_device("indices", indices.classes, self._rows.device, "the pool")
        check_range("indices.classes", indices.classes, self.n_classes, "the pool's classes")
        n_examples = self.n_examples
        of_class = n_examples if isinstance(n_examples, int) else n_examples[indices.classes].unsqueeze(-1)
        check_range("indices.examples", indices.examples, of_class, "the examples of a class")
        check_range("indices.turns", indices.turns, TURNS if self.rotations else 1, "the pool's quarter turns")
        if not 0 < k_shot < indices.examples.shape[2]:
            raise ValueError(f"k_shot = {k_shot}, but {indices.examples.shape[2]} examples a class were drawn")
        starts = indices.turns * self._n_upright + self._starts[indices.classes]  # [E, N]
        rows = starts[:, :, None] + indices.examples
        n_episodes, n_way, n_drawn = rows.shape
        rows = torch.cat([rows[:, :, :k_shot].flatten(1), rows[:, :, k_shot:].flatten(1)], dim=1)  # [E, S + M]
        x = _scaled(self._rows.index_select(0, rows.flatten()).view(*rows.shape, -1), dtype)
        label = torch.arange(n_way, device=rows.device)
        labels = torch.cat([label.repeat_interleave(count) for count in (k_shot, n_drawn - k_shot)])
        return EpisodeBatch(x, labels.expand(n_episodes, -1), n_way * k_shot)


def _scaled(examples: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels scaled to 0..1, features unchanged, as a new tensor."""
    return examples.to(dtype).div_(255) if examples.dtype == torch.uint8 else examples.to(dtype)
