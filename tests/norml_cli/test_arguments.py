"""What is typed on the command line, parsed."""

import pytest

from norml_cli.arguments import items_of
from norml_cli.files.errors import UserError
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.terminal.usage import spread


def test_an_option_takes_every_word_up_to_the_next_option():
    words = ["norml", "--seeds", "0", "1", "--shots", "1", "5", "--quiet", "--set", "a=1", "--seeds=2"]
    assert " ".join(spread(words, {"--seeds", "--shots"})) == (
        "norml --seeds 0 --seeds 1 --shots 1 --shots 5 --quiet --set a=1 --seeds=2"
    )


def test_a_sweep_is_every_method_at_every_place_once():
    registry = read_registry([builtin_registry()])
    items = items_of(registry, ["norml", "meta-sgd"], ["glyphs-5way", "omniglot-5way"], [1, 5], {}, {})
    assert [(item.spec.benchmark, item.spec.shots, item.spec.method) for item in items] == [
        (benchmark, shots, method)
        for benchmark in ("glyphs-5way", "omniglot-5way")
        for shots in (1, 5)
        for method in ("norml", "meta-sgd")
    ]
    (alone,) = items_of(registry, ["norml"], [], [], {}, {"outer_steps": 3})
    assert alone == registry.resolve("norml", None, None, {"outer_steps": 3})


def test_a_grid_is_every_combination_once_however_a_value_is_written():
    registry = read_registry([builtin_registry()])
    grid = {"inner_lr": [0.1, 0.2, 1e-1], "inner_steps": [1, 2]}
    items = items_of(registry, ["norml"], ["glyphs-5way"], [1], grid, {"outer_steps": 3})
    chosen = [(item.spec.protocol.inner_lr, item.spec.protocol.inner_steps) for item in items]
    assert chosen == [(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]
    assert {item.varied for item in items} == {("inner_lr", "inner_steps")}
    with pytest.raises(UserError, match="160,000 combinations are more than 10,000"):
        items_of(registry, ["norml"], [], [], {"inner_lr": list(range(400)), "inner_steps": list(range(400))}, {})
