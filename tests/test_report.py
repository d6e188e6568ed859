"""The report's verdicts and tables, on made records of the real benchmarks: four episodes each."""

import importlib
import math
from pathlib import Path

import pytest

from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.results.comparisons import compare
from norml_cli.results.store import Results
from tests.helpers.made_records import write_evaluation, written_run

ROOT = Path(__file__).parents[1]
CONSTANT, ZERO_BOTH = "maml-constant-lr", "norml-zero-hidden-zero-cell"


@pytest.fixture
def docs(monkeypatch):
    """The modules that make the report."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module


@pytest.fixture
def registry():
    return read_registry([builtin_registry()])


@pytest.fixture
def write(registry, tmp_path):
    """Writes the runs of a method, one a seed, by the answers right of 20 in each of four episodes."""

    def runs(method, *by_seed, benchmark="omniglot-20way", shots=1, **changed):
        settings = {"benchmark": benchmark, "shots": shots, "test_episodes": 4, **changed}
        return [
            written_run(tmp_path, registry, method, correct, seed, **settings) for seed, correct in enumerate(by_seed)
        ]

    return runs


@pytest.fixture
def numbers(docs, registry, tmp_path):
    return lambda: docs("findings").Numbers(registry, Results(tmp_path))


def evidence(docs, numbers, what):
    claims = docs("claims").claims(numbers._registry, numbers)
    [found] = [each for claim in claims for each in claim.evidence if each.what == what]
    return found


def test_with_three_seeds_each_a_verdict_is_over_seeds(docs, write, numbers):
    write(CONSTANT, [10, 10, 11, 10], [10, 11, 10, 10], [11, 10, 10, 10])
    write("norml", [12, 12, 13, 12], [12, 13, 12, 12], [13, 12, 12, 13])
    write(ZERO_BOTH, [11, 12, 12, 13], [13, 13, 13, 13], [10, 12, 12, 12])
    found = numbers()
    ahead = evidence(docs, found, "NORML - MAML (constant lr), 1-shot")
    assert (ahead.paper, ahead.seeds, ahead.verdict) == ("+4.0", "3", "holds")
    memory = evidence(docs, found, "NORML - NORML (zero hidden & zero cell), 1-shot")
    assert (memory.seeds, memory.verdict) == ("3", "within seed variation")
    same = evidence(docs, found, "NORML (zero hidden & zero cell) - MAML (constant lr), 1-shot")
    assert same.verdict == "not significant"  # after the correction; never that they are the same


def test_with_fewer_seeds_a_difference_must_exceed_the_scatter_of_other_rows(docs, write, numbers):
    """MAML's two seeds: 0.5 and 0.55, so s = 0.05 / sqrt(2), t(0.975, 1) = 12.706: two rows must differ by 0.635."""
    write(CONSTANT, [10, 10, 10, 10], [11, 11, 11, 11])
    write("norml", [20, 19, 20, 20])
    found = numbers()
    assert float(found.needed(1)) == pytest.approx(63.53, abs=0.01)
    assert found.scattering(1) == ["MAML (constant lr)"]
    ahead = evidence(docs, found, "NORML - MAML (constant lr), 1-shot")
    assert (ahead.ours, ahead.seeds, ahead.verdict) == ("+48.75 ± 3.98", "1", "within seed variation")
    alike = [[12, 12, 12, 12], [12, 12, 12, 12]]
    write("maml-global-lr", *alike, alike[0])
    found = numbers()  # s = 0.05 / sqrt(6), t(0.975, 3) = 3.182
    assert float(found.needed(1)) == pytest.approx(100 * 3.182 * 0.05 / math.sqrt(6) * math.sqrt(2), abs=0.01)
    assert evidence(docs, found, "NORML - MAML (constant lr), 1-shot").verdict == "holds for these weights"


def test_without_any_second_seed_a_verdict_is_about_the_weights(docs, write, numbers):
    write(CONSTANT, [10, 10, 11, 10])
    write("norml", [10, 11, 10, 10])
    write(ZERO_BOTH, [7, 8, 7, 7])
    found = numbers()
    assert evidence(docs, found, "NORML - MAML (constant lr), 1-shot").verdict == "not significant"
    ahead = evidence(docs, found, "NORML - NORML (zero hidden & zero cell), 1-shot")
    assert ahead.verdict == "holds for these weights"
    differ = evidence(docs, found, "NORML (zero hidden & zero cell) - MAML (constant lr), 1-shot")
    assert differ.verdict == "fails for these weights"
    with pytest.raises(ValueError, match="say something else"):
        found.needed(1)


def test_what_has_no_record_is_not_tested_and_a_claim_says_how_much_is(docs, write, numbers):
    claims = docs("claims")
    write(CONSTANT, [10, 10, 10, 10], shots=1)
    write("norml", [12, 12, 12, 12], [12, 12, 12, 12], shots=1)
    write("norml", [60] * 4, shots=5)
    found = {claim.title: claim for claim in claims.claims(numbers()._registry, numbers())}
    for title in ("Memory of other examples", "Many update steps", "Table 1's accuracies"):
        assert found[title].verdict == "not tested"
        assert {each.ours for each in found[title].evidence} == {"no record"}
    assert found["Table 2's accuracies"].verdict == "fails for these weights; 2 not tested"
    assert found["Gates beat learned rates"].verdict == "holds for these weights; 21 not tested"
    assert found["Linear growth"].verdict == "holds"


def test_a_verdict_over_mixed_evidence_counts_it(docs):
    claims = docs("claims")

    def verdict(*found):
        return claims.Claim("", "", tuple(claims.Evidence("", "", "", "", each) for each in found)).verdict

    assert verdict(claims.HOLDS, claims.HOLDS) == "holds"
    assert verdict(claims.HOLDS, claims.FAILS, claims.UNTESTED) == "holds in 1 of 2; fails in 1 of 2; 1 not tested"
    assert verdict(claims.INSIDE, claims.UNTESTED) == "within seed variation; 1 not tested"
    assert verdict(claims.OTHER, claims.UNTESTED) == verdict(claims.OTHER) == "not tested"


def test_another_backbone_than_the_papers_decides_nothing(docs, write, numbers):
    write("norml", [60, 60, 61, 60], benchmark="mini-imagenet-5way-narrow")  # of 75: above 60.2%
    write("norml", [10] * 4)
    write("norml", [10] * 4, shots=5)
    found = evidence(docs, numbers(), "NORML, resnet12-narrow features, 1-shot")
    assert (found.paper, found.verdict) == ("60.2 ± 0.91", "another backbone than the paper's")


def test_gates_under_the_second_test_are_paired_and_need_seeds_too(docs, write, numbers, registry):
    strict = {"queries_per_class": 15, "rotations": "none"}
    maml = write(CONSTANT, [10, 10, 10, 10], [10, 10, 10, 10])
    norml = write("norml", [12, 12, 12, 12])
    for run, correct in zip(maml, ([200, 210, 205, 200], [201, 210, 205, 200]), strict=True):
        write_evaluation(registry, run, correct, **strict)
    write_evaluation(registry, norml[0], [230, 240, 235, 229], **strict)
    found = evidence(docs, numbers(), "NORML - MAML (constant lr), 1-shot, not rotated, 15 queries")
    assert (found.ours, found.seeds, found.verdict) == ("+9.92 ± 0.27", "1", "holds for these weights")
    for seed, correct in enumerate(([231, 239, 235, 230], [229, 241, 236, 229]), start=1):
        ran = write("norml", *[[12, 12, 12, 12]] * 3)[seed]
        write_evaluation(registry, ran, correct, **strict)
    third = write(CONSTANT, *[[10, 10, 10, 10]] * 3)[2]
    write_evaluation(registry, third, [202, 210, 204, 200], **strict)
    found = evidence(docs, numbers(), "NORML - MAML (constant lr), 1-shot, not rotated, 15 queries")
    assert (found.seeds, found.verdict) == ("3", "holds")


def test_weights_under_several_tests_are_paired_over_the_seeds_that_had_all_of_them(write, numbers, registry):
    maml = write(CONSTANT, [10, 10, 10, 10], [12, 12, 12, 12])
    norml = write("norml", [13, 13, 13, 13], [15, 14, 14, 13])
    write_evaluation(registry, maml[0], [8] * 4, rotations="none")
    for changed in ({"rotations": "none"}, {"queries_per_class": 15, "rotations": "none"}):
        many = 15 if "queries_per_class" in changed else 1
        write_evaluation(registry, maml[1], [9 * many] * 4, **changed)
        write_evaluation(registry, norml[1], [11 * many] * 4, **changed)
    assert numbers().tests("norml", CONSTANT, 1).splitlines() == [
        "| test (seed 1) | NORML | MAML (constant lr) | difference |",
        "| --- | ---: | ---: | ---: |",
        "| as trained: rotated classes, as many queries as shots | 70.0 | 60.0 | +10.00 ± 6.50 |",
        "| no rotations | 55.0 | 45.0 | +10.00 ± 0.00 |",
        "| no rotations, 15 queries per class | 55.0 | 45.0 | +10.00 ± 0.00 |",
    ]


def test_equal_work_goes_by_what_a_step_costs(docs, write, numbers):
    """Made runs: 20,000 steps in 10 s on two threads, one point at the end at 50%."""
    work = docs("equal_work")
    write(CONSTANT, [10] * 4)
    write("norml", [12] * 4)
    found = numbers()
    assert work.norml_multiplications(found, 1) == pytest.approx(3.41, abs=0.01)
    assert work.norml_multiplications(found, 5) == pytest.approx(1.96, abs=0.01)
    assert work.courses(found, 1, "core-seconds") == []  # not on one thread
    maml, norml = work.courses(found, 1, "multiplications")
    assert (maml.points, norml.points[0][1]) == ([(20_000, 50)], 50)
    assert norml.points[0][0] == pytest.approx(20_000 * 3.4137, rel=1e-4)
    course = work.Course("", [(10.0, 60.0), (20.0, 70.0)])
    assert [course.after(done) for done in (5, 10, 19, 25)] == [None, 60, 60, 70]


def test_the_many_steps_section_shows_equal_and_tuned_rates_and_gradient_norms(docs, write, numbers):
    many, place = docs("many_steps"), {"benchmark": "omniglot-5way-20-steps", "test_episodes": 4}
    (path, _), *_ = write("norml", [3] * 4, **place)
    table = many.many_steps_markdown(numbers())
    assert "| 20 | no record | no record | no record | 50.0 / no record |" in table
    folder = path.with_name("seed-0-inspection")
    folder.mkdir()
    rows = ["inner_steps,layer,mean", "0,1,3", "0,2,4", "1,1,6", "1,2,8"]
    (folder / "meta-gradient-by-step.csv").write_text("\n".join(rows))
    assert numbers().meta_gradients("norml", "omniglot-5way-20-steps", 1) == [5, 10]
    assert many.kept_gradient(numbers(), "norml", 20) == 0.5
    assert many.kept_gradient(numbers(), "norml", 50) is None
    names = [picture.name for picture in many.many_steps_pictures(numbers())]
    assert names == ["many-steps-accuracy", "many-steps-gradient"]


def test_pairs_are_adjusted_for_all_pairs_of_the_table_that_shows_them(write, numbers, registry):
    for number, kind in enumerate(("constant", "global", "layerwise")):
        write(f"maml-{kind}-lr-equal-work", [10 + number, 10, 11, 10], outer_steps=20_000)
    write("norml", [12, 12, 12, 13])
    found = numbers().pair("norml", "maml-constant-lr-equal-work", "omniglot-20way", 1)
    alone = compare(registry, ["norml", "maml-constant-lr-equal-work"], "omniglot-20way", 1, numbers().records)[0]
    assert found.over_episodes.interval == alone.over_episodes.interval
    assert found.over_episodes.adjusted_p > alone.over_episodes.adjusted_p
    back = numbers().pair("maml-constant-lr-equal-work", "norml", "omniglot-20way", 1)
    assert back.over_episodes.interval.mean == -found.over_episodes.interval.mean
    assert numbers().pair("norml", "static-gates", "omniglot-20way", 1) is None
