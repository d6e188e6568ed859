"""What is typed on the command line, parsed."""

from norml_cli.arguments import sweep_of
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.terminal.usage import spread


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
