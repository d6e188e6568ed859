import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from norml_cli.files.errors import UserError
from norml_cli.files.yaml_files import parse_yaml
from norml_cli.registry.entries import Published
from norml_cli.registry.reading import KINDS, builtin_registry, read_registry
from norml_cli.results.store import read_record

FOLDER = builtin_registry()
FILES = sorted(FOLDER.glob("*/*.yaml"))

# A source names a place that can be looked up, or says that and why this project chose.
PLACE = re.compile(
    r"""
      ^chosen:\ \S                                    # chosen: why
    | ^paper\ (sec\.|eq\.|eqs|section|Algorithm)\ ?\d # the NORML paper
    | \b(19|20)\d\d\b                                 # a citation with its year
    | ^[\w.-]+/[\w.-]+\ [\w./-]+\.\w+:\d+             # owner/repository file:line
    """,
    re.VERBOSE,
)

METHODS = {
    "maml-constant-lr",
    "maml-global-lr",
    "maml-layerwise-lr",
    "norml",
    "norml-zero-cell",
    "norml-zero-hidden",
    "norml-zero-hidden-zero-cell",
}

FROZEN = {"nearest-centroid", "cosine-classifier", "logistic-regression"}

TABLE_2 = {  # as the paper prints it
    "MAML (constant lr)": ("86.3", "95.7"),
    "MAML (global lr)": ("86.5", "95.7"),
    "MAML (layer-wise lr)": ("87.1", "96.0"),
    "NORML (zero hidden & zero cell)": ("86.3", "95.7"),
    "NORML (zero cell)": ("86.3", "95.7"),
    "NORML (zero hidden)": ("87.9", "96.5"),
    "NORML": ("90.3", "97.2"),
}

TABLE_1 = {
    "Matching network (Vinyals et al. (2016))": ("43.56 +- 0.84", "55.31 +- 0.73"),
    "Meta-learner LSTM (Ravi & Larochelle (2017))": ("43.44 +- 0.77", "60.60 +- 0.71"),
    "MAML (Finn et al. (2017))": ("48.70 +- 1.84", "63.11 +- 0.92"),
    "LLAMA (Grant et al. (2018))": ("49.40 +- 1.83", None),
    "REPTILE (Nichol et al. (2018))": ("49.97 +- 0.32", "65.99 +- 0.58"),
    "PLATIPUS (Finn et al. (2018))": ("50.13 +- 1.86", None),
    "SNAIL (Mishra et al. (2017))": ("55.71 +- 0.99", "68.88 +- 0.92"),
    "(Gidaris & Komodakis (2018))": ("56.20 +- 0.86", "73.00 +- 0.64"),
    "(Bauer et al. (2018))": ("56.30 +- 0.40", "73.90 +- 0.30"),
    "(Munkhdalai et al. (2017))": ("57.10 +- 0.70", "70.04 +- 0.63"),
    "(Zhou et al. (2018))": ("58.49 +- 0.91", "71.28 +- 0.69"),
    "(Qiao et al. (2017))": ("59.60 +- 0.41", "73.74 +- 0.19"),
    "NORML": ("60.2 +- 0.91", "74.1 +- 0.71"),
}


@pytest.fixture(scope="module")
def registry():
    return read_registry([FOLDER])


def sources(value: Any) -> Iterator[str]:
    """Every `source` of nested data."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from [item] if key == "source" else sources(item)
    elif isinstance(value, list):
        for item in value:
            yield from sources(item)


def published_numbers(value: Any) -> Iterator[Published]:
    if isinstance(value, Published):
        yield value
    elif isinstance(value, BaseModel):
        for key in type(value).model_fields:
            yield from published_numbers(getattr(value, key))
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from published_numbers(item)


def test_every_yaml_file_is_tested_here():
    assert set(FILES) == {path for path in FOLDER.rglob("*") if path.suffix in {".yaml", ".yml"}}
    assert {path.parent.name for path in FILES} == set(KINDS)


def test_the_methods_of_the_ablation_are_declared(registry):
    assert set(registry.methods) >= METHODS
    assert {path.stem for path in FILES if path.parent.name == "methods"} == set(registry.methods)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_entry(registry, path: Path):
    data = parse_yaml(path.read_text(encoding="utf-8"))
    entry = getattr(registry, path.parent.name)[path.stem]
    assert entry.id == path.stem
    assert [source for source in sources(data) if not PLACE.search(source)] == []
    assert all(0 <= number.accuracy <= 1 for number in published_numbers(entry))
    assert all(number.half_width is None or 0 <= number.half_width <= 1 for number in published_numbers(entry))


@pytest.mark.parametrize("kind", ["methods", "benchmarks", "datasets", "recipes"])
def test_values_that_decide_numbers_have_sources(kind):
    """The walk that `test_entry` relies on finds something to check."""
    for path in FILES:
        data = parse_yaml(path.read_text(encoding="utf-8"))
        if path.parent.name == kind and "like" not in data:  # which may change its data set alone
            assert list(sources(data))


@pytest.mark.parametrize("source", ["", "chosen:", "paper", "paper sec. five", "Finn et al.", "main.py", "as usual"])
def test_source_that_names_no_place_is_found(source):
    assert not PLACE.search(source)


@pytest.mark.parametrize(("table_id", "printed"), [("table-1", TABLE_1), ("table-2", TABLE_2)])
def test_table_is_the_papers(registry, table_id, printed):
    table = registry.table(table_id)
    assert [column.title for column in table.columns] == ["1-shot", "5-shot"]
    found = {
        row.title: tuple(row.published[key].text if key in row.published else None for key in ("1-shot", "5-shot"))
        for row in table.rows
        if row.published
    }
    assert found == printed
    assert list(found) == list(printed)


def test_the_recipes_of_both_papers_are_declared(registry):
    """What research has on them: Sun et al. (2019) and Tian et al. (2020)."""
    mtl, rfs = (registry.recipe(id_).values for id_ in ("mtl-2019", "rfs-2020"))
    assert (mtl.widths, mtl.optimiser, mtl.learning_rate, mtl.batch_size) == ([64, 128, 256, 512], "adam", 0.001, 64)
    assert (mtl.drop_rate, mtl.drop_block_size, mtl.skip_batch_norm, mtl.flip) == (0.1, None, False, False)
    assert (mtl.steps, [drop * mtl.steps for drop in mtl.lr_drops], mtl.lr_factor) == (10_000, [5_000], 0.5)
    assert (rfs.widths, rfs.optimiser, rfs.learning_rate, rfs.batch_size) == ([64, 160, 320, 640], "sgd", 0.05, 64)
    assert (rfs.momentum, rfs.weight_decay, rfs.drop_rate, rfs.drop_block_size) == (0.9, 5e-4, 0.1, 5)
    assert (rfs.steps / 600, [drop * rfs.steps / 600 for drop in rfs.lr_drops], rfs.lr_factor) == (100, [60, 80], 0.1)
    assert (rfs.crop_padding_px, rfs.colour_jitter, rfs.flip) == (8, 0.4, True)
    assert [round(255 * mean, 3) for mean in rfs.pixel_mean] == [120.396, 115.594, 104.540]
    assert [round(255 * std, 3) for std in rfs.pixel_std] == [70.682, 68.276, 72.545]


def test_table_1_holds_frozen_features_beside_what_is_meta_learned_on_them(registry):
    """For each recipe, under the recipe's name; and one by one, what tells the worth of NORML's memory."""
    found: dict[str, set[str]] = {}
    one_by_one: dict[str, set[str]] = {}
    for row in registry.table("table-1").rows:
        if row.method is not None:
            benchmark = registry.benchmark(row.benchmark or "mini-imagenet-5way")
            recipe = benchmark.protocol.backbone.value
            assert row.published or row.title.endswith(f", {recipe} features")
            order = benchmark.protocol.support_order.value
            assert (order == "one-by-one") == (", one by one, " in row.title)
            (found if order == "full" else one_by_one).setdefault(recipe, set()).add(row.method)
    methods = {"norml", "maml-constant-lr", *FROZEN}
    assert found == dict.fromkeys(["mtl-2019", "rfs-2020", "resnet12-42px", "resnet12-narrow"], methods)
    assert one_by_one == dict.fromkeys(found.keys() - {"resnet12-narrow"}, METHODS - {"maml-global-lr"})
    narrow = {row.method for row in registry.table("table-1-narrow").rows}
    assert narrow == {*METHODS, *FROZEN, "no-adaptation"}


def test_what_the_paper_states_of_mini_imagenet_is_declared(registry):
    """Section 5.1; and its Algorithm 1, which takes one example a step, where the entry says so. One is shortened."""
    of_features = [f"mini-imagenet-5way{recipe}" for recipe in ("", "-rfs", "-narrow", "-42px")]
    one_by_one = [f"mini-imagenet-5way{recipe}-one-by-one" for recipe in ("", "-rfs", "-42px")]
    for benchmark, shots in itertools.product([*of_features, *one_by_one], (1, 5)):
        protocol = registry.resolve("norml", benchmark, shots).spec.protocol
        assert protocol.support_order == ("one-by-one" if benchmark in one_by_one else "full")
        assert (protocol.inner_steps, protocol.meta_batch_size) == (10, 4)
        shortened = (benchmark, shots) == ("mini-imagenet-5way-42px-one-by-one", 5)
        assert protocol.outer_steps == (2_000 if shortened else 10_000)
        assert (protocol.n_way, protocol.queries_per_class, protocol.hidden_sizes) == (5, 15, [])


def test_episodes_of_42_pixel_features_hold_no_image_that_the_backbone_was_fitted_to(registry):
    looks = {("", 1): 100, ("", 5): 100, ("-one-by-one", 1): 40, ("-one-by-one", 5): 20}
    for (suffix, shots), n_looks in looks.items():
        spec = registry.resolve("norml", f"mini-imagenet-5way-42px{suffix}", shots).spec
        assert spec.protocol.training_examples == "held-out-from-pretraining"
        assert spec.protocol.outer_steps // spec.protocol.validate_every == n_looks
        assert spec.rule.cell_size == "layer-width"
    assert {row.method for row in registry.table("table-1-42px").rows} == {*METHODS, *FROZEN, "meta-sgd"}
    assert {row.method for row in registry.table("table-1-42px-one-by-one").rows} == METHODS - {"maml-global-lr"}


def test_maml_at_norml_s_work_is_maml_but_for_its_steps(registry):
    steps = {1: 51_000, 5: 43_000}
    for kind in ("constant", "global", "layerwise"):
        for shots, outer_steps in steps.items():
            longer, maml = (
                registry.resolve(method, "omniglot-20way", shots).spec
                for method in (f"maml-{kind}-lr-equal-work", f"maml-{kind}-lr")
            )
            protocol = maml.protocol.model_copy(update={"outer_steps": outer_steps})
            assert longer.model_copy(update={"method": maml.method}) == maml.model_copy(update={"protocol": protocol})


def test_the_work_of_norml_s_steps_is_that_of_the_records():
    """Of seeds 0 at 1 shot, both trained on one CPU core: 20,000 steps of NORML are 51,000 of MAML."""
    rates = []
    for method in ("maml-constant-lr", "norml"):
        record = read_record(FOLDER.parent / "results" / "omniglot-20way" / "1-shot" / method / "seed-0.json")
        assert record.threads == 1
        rates.append(record.cost.steps_per_s)
    assert round(20_000 * rates[0] / rates[1], -3) == 51_000


def test_many_inner_steps_move_as_far_and_differ_in_nothing_else(registry):
    specs = {
        int(column.title.split()[0]): registry.resolve("norml", column.benchmark, 1).spec.protocol
        for column in registry.table("table-many-steps").columns
    }
    assert list(specs) == [5, 10, 20, 50, 100]
    for steps, protocol in specs.items():
        assert (protocol.inner_steps, protocol.inner_steps_test) == (steps, steps)
        assert protocol.inner_lr * steps == pytest.approx(1)
        same = {"inner_steps": 5, "inner_steps_test": 5, "inner_lr": 0.2}
        assert protocol.model_copy(update=same) == specs[5]


def test_the_external_check_at_its_authors_own_rate(registry):
    spec = registry.resolve("maml-constant-lr", "omniglot-5way-finn", 1).spec
    assert (spec.protocol.inner_lr, spec.protocol.batch_norm_scale, spec.protocol.outer_steps) == (2.0, False, 60_000)
    assert registry.dataset(spec.dataset).resize.value == "nearest"


def test_ablation_tables_hold_every_method(registry):
    for table_id in ("table-2", "table-glyphs"):
        table = registry.table(table_id)
        assert {row.method for row in table.rows} == METHODS
        assert table.reference == "maml-constant-lr"
        assert all(row.title == registry.method(row.method).title for row in table.rows)


def test_every_method_runs_on_every_benchmark_except_comparisons_without_a_hidden_layer(registry):
    for method in registry.methods:
        for bench in registry.benchmarks.values():
            for shots in bench.shots:
                if registry.methods[method].algorithm == "comparison" and not bench.protocol.hidden_sizes.value:
                    with pytest.raises(UserError, match=r"hidden_sizes: is .., so there is nothing to meta-train"):
                        registry.resolve(method, bench.id, shots)
                    continue
                spec = registry.resolve(method, bench.id, shots).spec
                assert (spec.method, spec.benchmark, spec.shots) == (method, bench.id, shots)
