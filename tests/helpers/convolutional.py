"""A benchmark with a convolutional learner of a few channels on the tiny glyphs."""

from pathlib import Path

from tests.helpers import tiny

CONVOLUTIONS = {
    "learner": "conv-4",
    "hidden_sizes": [4, 4, 4, 4],
    "outer_steps": 4,
    "validate_every": 2,
    "validation_episodes": 6,
    "test_episodes": 8,
}


def write_benchmark(registry: Path) -> None:
    """The benchmark `tiny-conv`."""
    benchmark = tiny.read("benchmarks/glyphs-5way.yaml")
    benchmark.update(id="tiny-conv", dataset="tiny-glyphs")
    for key, value in (tiny.PROTOCOL | CONVOLUTIONS).items():
        benchmark["protocol"][key] = {"value": value, "source": "chosen: for tests"}
    tiny.write_entry(registry, "benchmarks", benchmark)
