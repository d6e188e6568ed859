"""Episodes: what is drawn, how uniformly, and which pixels and labels it becomes."""

from collections import Counter

import pytest
import torch

from norml.episodes import EpisodeIndices, ExamplePool, sample_indices

N_CLASSES, N_EXAMPLES, N_WAY, K_SHOT, N_QUERY = 7, 6, 3, 2, 3


def drawn(n_episodes, *, seed=0, rotations=True, generator=None, **sizes):
    settings = {
        "n_classes": N_CLASSES,
        "n_examples": N_EXAMPLES,
        "n_way": N_WAY,
        "examples_per_class": K_SHOT + N_QUERY,
        "rotations": rotations,
    }
    generator = generator or torch.Generator().manual_seed(seed)
    return sample_indices(**(settings | sizes), n_episodes=n_episodes, generator=generator)


def chi_square(counts, n_cells):
    """Pearson's statistic for equally likely cells; `counts`: of the cells met."""
    expected = sum(counts) / n_cells
    return sum((count - expected) ** 2 / expected for count in counts) + (n_cells - len(counts)) * expected


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (N_CLASSES, N_EXAMPLES, 4, 4), dtype=torch.uint8, generator=generator)


def test_classes_are_distinct_within_an_episode_and_examples_within_a_class():
    episodes = drawn(200)
    assert all(len(set(row)) == N_WAY for row in episodes.classes.tolist())
    for episode in episodes.examples.tolist():
        assert all(len(set(row)) == K_SHOT + N_QUERY for row in episode)
    assert set(episodes.classes.flatten().tolist()) == set(range(N_CLASSES))
    assert set(episodes.examples.flatten().tolist()) == set(range(N_EXAMPLES))
    assert set(episodes.turns.flatten().tolist()) == {0, 1, 2, 3}


def test_shapes_and_types_are_the_declared_ones():
    episodes = drawn(5)
    assert len(episodes) == 5
    assert episodes.classes.shape == (5, N_WAY)
    assert episodes.examples.shape == (5, N_WAY, K_SHOT + N_QUERY)
    assert episodes.turns.shape == (5, N_WAY)
    assert {t.dtype for t in (episodes.classes, episodes.examples, episodes.turns)} == {torch.int64}


def test_the_whole_pool_can_be_one_episode():
    episodes = drawn(3, n_way=N_CLASSES, examples_per_class=N_EXAMPLES)
    assert episodes.classes.sort(dim=1).values.tolist() == [list(range(N_CLASSES))] * 3
    assert episodes.examples.sort(dim=2).values.tolist() == [[list(range(N_EXAMPLES))] * N_CLASSES] * 3


def test_same_seed_draws_the_same_episodes_and_another_seed_others():
    first, again, other = drawn(20, seed=3), drawn(20, seed=3), drawn(20, seed=4)
    for name in ("classes", "examples", "turns"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_turning_changes_the_turns_only_and_not_what_is_drawn_next():
    upright_generator, turned_generator = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    for _ in range(2):
        upright = drawn(10, rotations=False, generator=upright_generator)
        turned = drawn(10, rotations=True, generator=turned_generator)
        assert not upright.turns.any()
        assert torch.equal(upright.classes, turned.classes)
        assert torch.equal(upright.examples, turned.examples)


def test_ordered_pairs_of_classes_are_equally_likely():
    """7 * 6 = 42 ordered pairs in the first two places: chi-square with 41 degrees, 0.999 quantile 74.7."""
    counts = Counter(map(tuple, drawn(20_000).classes[:, :2].tolist()))
    assert chi_square(counts.values(), 42) < 74.7


def test_all_pairs_of_a_last_support_and_a_first_query_example_are_equally_likely():
    """6 * 5 = 30 ordered pairs of the last support and the first query example: 29 degrees, 0.999 quantile 58.3."""
    pairs = drawn(20_000).examples[:, 0, K_SHOT - 1 : K_SHOT + 1]
    assert chi_square(Counter(map(tuple, pairs.tolist())).values(), 30) < 58.3


def test_turns_of_two_classes_are_equally_likely_and_independent():
    """4 * 4 = 16 pairs of turns of the first two classes: 15 degrees, 0.999 quantile 37.7."""
    counts = Counter(map(tuple, drawn(20_000).turns[:, :2].tolist()))
    assert chi_square(counts.values(), 16) < 37.7


def test_too_few_classes_or_examples_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"n_way = 8 classes an episode, but the pool has 7"):
        drawn(1, n_way=8)
    with pytest.raises(ValueError, match=r"7 examples a class, but the pool has 6"):
        drawn(1, examples_per_class=7)


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    drawn(10)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_slice_of_episodes_holds_those_episodes():
    episodes = drawn(6)
    part = episodes[2:5]
    assert len(part) == 3
    for name in ("classes", "examples", "turns"):
        assert torch.equal(getattr(part, name), getattr(episodes, name)[2:5])
        assert torch.equal(getattr(part.to(torch.device("cpu")), name), getattr(part, name))


def test_gathered_pixels_are_the_turned_images_over_255_support_first(images):
    episodes = drawn(4)
    batch = ExamplePool.of_images(images, rotations=True).gather(episodes, k_shot=K_SHOT, dtype=torch.float64)
    for e in range(4):
        support, query = [], []
        for n in range(N_WAY):
            for place, example in enumerate(episodes.examples[e, n].tolist()):
                image = torch.rot90(images[episodes.classes[e, n], example], int(episodes.turns[e, n]))
                (support if place < K_SHOT else query).append(image.flatten().double() / 255)
        assert torch.equal(batch.support_x[e], torch.stack(support))
        assert torch.equal(batch.query_x[e], torch.stack(query))


def test_a_quarter_turn_is_counter_clockwise():
    """rot90 moves the right column to the top: [[1, 2], [3, 4]] -> [[2, 4], [1, 3]]."""
    pool = ExamplePool.of_images(torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).expand(1, 2, 2, 2), rotations=True)
    expected = {0: [1, 2, 3, 4], 1: [2, 4, 1, 3], 2: [4, 3, 2, 1], 3: [3, 1, 4, 2]}
    for turn, pixels in expected.items():
        episode = EpisodeIndices(torch.tensor([[0]]), torch.tensor([[[0, 1]]]), torch.tensor([[turn]]))
        batch = pool.gather(episode, k_shot=1)
        assert (batch.support_x * 255).round().int().tolist() == [[pixels]]
        assert (batch.query_x * 255).round().int().tolist() == [[pixels]]


def test_pixels_span_zero_to_one():
    pool = ExamplePool.of_images(torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 2, 1, 1), rotations=False)
    assert pool.gather(
        EpisodeIndices(torch.tensor([[0]]), torch.tensor([[[0, 1]]]), torch.tensor([[0]])), k_shot=1
    ).query_x.tolist() == [[[1.0]]]


def test_labels_are_the_places_of_the_classes_with_k_and_q_each(images):
    batch = ExamplePool.of_images(images, rotations=False).gather(drawn(4, rotations=False), k_shot=K_SHOT)
    assert batch.support_y.tolist() == [[0, 0, 1, 1, 2, 2]] * 4
    assert batch.query_y.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 4
    assert batch.support_y.dtype == batch.query_y.dtype == torch.int64
    assert batch.support_x.dtype == torch.float32


def test_support_and_query_of_an_episode_share_no_example():
    """Every image is one pixel with its own value, so equal pixels would be the same image."""
    values = torch.arange(N_CLASSES * N_EXAMPLES, dtype=torch.uint8).reshape(N_CLASSES, N_EXAMPLES, 1, 1)
    batch = ExamplePool.of_images(values, rotations=True).gather(drawn(200), k_shot=K_SHOT)
    for support, query in zip(batch.support_x, batch.query_x, strict=True):
        assert not set(support.flatten().tolist()) & set(query.flatten().tolist())


def test_the_pool_knows_its_size(images):
    pool = ExamplePool.of_images(images, rotations=False)
    assert (pool.n_classes, pool.n_examples, pool.n_features) == (N_CLASSES, N_EXAMPLES, 16)


# ---------------------------------------------------------------------------------------------- classes of unequal size


def test_equal_sizes_in_either_form_draw_the_same_episodes():
    one, each = (
        drawn(50, n_examples=n_examples, generator=torch.Generator().manual_seed(3))
        for n_examples in (N_EXAMPLES, torch.full((N_CLASSES,), N_EXAMPLES))
    )
    assert all((a == b).all() for a, b in zip(vars(one).values(), vars(each).values(), strict=True))


def test_unequal_classes_and_their_examples_are_drawn_uniformly():
    """Chi-square over 100,000 draws: 99.99% of uniform draws stay below the limits."""
    sizes = torch.tensor([2, 3, 5, 9])
    episodes = sample_indices(
        n_classes=4,
        n_examples=sizes,
        n_way=1,
        examples_per_class=2,
        rotations=False,
        n_episodes=100_000,
        generator=torch.Generator().manual_seed(0),
    )
    counts = torch.bincount(episodes.classes.flatten(), minlength=4).double()
    assert ((counts - 25_000) ** 2 / 25_000).sum() < 21.1  # 3 degrees of freedom
    for number, size in enumerate(sizes.tolist()):
        first = episodes.examples[episodes.classes[:, 0] == number, 0, 0]
        counts = torch.bincount(first, minlength=size).double()
        assert len(counts) == size
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 31.9  # 8 degrees of freedom at most


def test_a_pool_of_unequal_classes_gathers_the_examples_of_each():
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1)
    pool = ExamplePool.of_images(images, rotations=False, sizes=torch.tensor([2, 3]))
    episodes = EpisodeIndices(torch.tensor([[1, 0]]), torch.tensor([[[2, 0], [1, 0]]]), torch.zeros(1, 2).long())
    batch = pool.gather(episodes, k_shot=1)
    assert (batch.x * 255).round().flatten().tolist() == [4, 1, 2, 0]


def test_an_example_beyond_a_small_class_is_refused_beside_larger_classes():
    """Row 2 of the class of two would be the first row of the class of three."""
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1)
    pool = ExamplePool.of_images(images, rotations=False, sizes=torch.tensor([2, 3]))
    episodes = EpisodeIndices(torch.tensor([[1, 0]]), torch.tensor([[[2, 0], [1, 2]]]), torch.zeros(1, 2).long())
    with pytest.raises(ValueError, match=r"indices.examples must be in 0..1, the examples of a class, got 2..2"):
        pool.gather(episodes, k_shot=1)
    with pytest.raises(ValueError, match=r"indices.examples must be in 0..2, the examples of a class, got -1..2"):
        pool.gather(EpisodeIndices(episodes.classes, torch.tensor([[[2, 0], [1, -1]]]), episodes.turns), k_shot=1)


def test_sizes_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match=r"4 examples by their sizes, but there are 5"):
        ExamplePool.of_features(torch.zeros(5, 2), unit_length=False, sizes=torch.tensor([2, 2]))
