"""What is typed on the command line, parsed."""

import pytest

from norml_cli.arguments import LARGEST_SEED, seeds_of, spread, sweep_of
from norml_cli.files.errors import UserError
from norml_cli.registry.reading import builtin_registry, read_registry


@pytest.mark.parametrize(
    ("texts", "seeds"),
    [
        (None, [0]),
        (["3"], [3]),
        (["0", "1", "2"], [0, 1, 2]),
        (["0,1,2"], [0, 1, 2]),
        (["0..2"], [0, 1, 2]),
        (["5..5", "0..1,5", "0"], [5, 0, 1]),
        ([str(LARGEST_SEED)], [LARGEST_SEED]),
    ],
)
def test_seeds_are_numbers_lists_and_ranges(texts: list[str] | None, seeds: list[int]):
    assert seeds_of(texts) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "-1", "1.5", "0...2", "2..0", "0..", "0,,1", "²", str(LARGEST_SEED + 1), "0..10000", "9" * 99]
)
def test_other_seeds_are_refused(text: str):
    with pytest.raises(UserError, match="--seeds"):
        seeds_of([text])


def test_an_option_takes_every_word_up_to_the_next_option():
    words = ["norml", "--seeds", "0", "1", "--shots", "1", "5", "--quiet", "--set", "a=1", "--seeds=2"]
    assert " ".join(spread(words, {"--seeds", "--shots"})) == (
        "norml --seeds 0 --seeds 1 --shots 1 --shots 5 --quiet --set a=1 --seeds=2"
    )


def test_a_sweep_is_every_method_at_every_place_once():
    registry = read_registry([builtin_registry()])
    items = sweep_of(registry, ["norml", "meta-sgd", "norml"], ["glyphs-5way", "omniglot-5way"], [1, 5], {})
    assert [(item.spec.benchmark, item.spec.shots, item.spec.method) for item in items] == [
        (benchmark, shots, method)
        for benchmark in ("glyphs-5way", "omniglot-5way")
        for shots in (1, 5)
        for method in ("norml", "meta-sgd")
    ]
    (alone,) = sweep_of(registry, ["norml"], [], [], {"outer_steps": 3})
    assert alone == registry.resolve("norml", None, None, {"outer_steps": 3})
