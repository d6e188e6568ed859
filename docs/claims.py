"""A verdict on each claim of the paper, computed from records and the registry.

If both methods have three seeds, a verdict is over seeds. With fewer seeds, it is about the trained weights alone, and
a difference must be larger than other methods' variation between seeds, where that is known. Without a record, a claim
is not tested.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from findings import BENCHMARK, Numbers
from many_steps import kept_gradient

from norml.statistics import Interval, interval_95
from norml_cli.registry.resolving import Registry, n_features
from norml_cli.reporting.formats import percent
from norml_cli.reporting.sheets import Grid, Sheet, to_markdown
from norml_cli.results.comparisons import ENOUGH_SEEDS, Comparison

HOLDS, FAILS, INSIDE, LEVEL, UNTESTED = "holds", "fails", "within seed variation", "not significant", "not tested"
HOLDS_ONCE, FAILS_ONCE = f"{HOLDS} for these weights", f"{FAILS} for these weights"  # fewer than three seeds
OTHER = "another backbone than the paper's"
CONSTANT, GLOBAL, LAYERWISE = "maml-constant-lr", "maml-global-lr", "maml-layerwise-lr"
ZERO_BOTH, ZERO_CELL, ZERO_HIDDEN = "norml-zero-hidden-zero-cell", "norml-zero-cell", "norml-zero-hidden"
SHOTS = (1, 5)
PAPERS_BACKBONE = "mtl-2019"
FEATURES = "mini-imagenet-5way-42px"
WIDTHS = (1, 64)  # factors of the learner's hidden layers
LINEAR = 1.05  # chosen: largest power that counts as linear, because smaller terms still matter at that width
MANY_STEPS = (20, 50, 100)


PAPER_SAYS = {
    "Gates beat learned rates": 'sec. 5.2: "a significant improvement when compared to using constant, learnable, and '
    'per-layer learnable learning rates"',
    "Memory of earlier update steps": 'sec. 5.2: "The importance of being able to dynamically adapt the learning rate '
    'using prior update information, is confirmed"',
    "Without memory NORML is MAML with a constant rate": 'sec. 5.2: without it NORML "ends up performing the same as '
    'MAML with a constant learning rate"',
    "Memory of other examples": 'abstract: "effective weight updates using information from previous data-points"',
    "Many update steps": 'sec. 2.3: the LSTM allows "gradients to effectively flow through a large number of update '
    'steps"',
    "Under five times the parameters": 'sec. 4: the meta-learner requires "less than 5 times the number of parameters '
    'used by the learner"',
    "Linear growth": "abstract: the meta-learner's parameters increase \"linearly relative to the number of learner "
    'parameters"',
    "Table 2's accuracies": "sec. 5.2, Table 2: NORML reaches 90.3% at 1 shot and 97.2% at 5",
    "Table 1's accuracies": "sec. 5.1, Table 1: NORML reaches 60.2% at 1 shot and 74.1% at 5 on mini-ImageNet",
}


@dataclass(frozen=True)
class Evidence:
    """A comparison that a claim depends on. seeds: common seeds; '' if no runs are involved."""

    what: str
    paper: str
    ours: str
    seeds: str
    verdict: str


@dataclass(frozen=True)
class Claim:
    """A claim of the paper with its evidence."""

    title: str
    says: str
    evidence: tuple[Evidence, ...]

    @property
    def verdict(self) -> str:
        """The verdict over all evidence: 'holds', 'holds in 2 of 4; 3 not tested', 'within seed variation', ..."""
        found = [each.verdict for each in self.evidence if each.verdict not in {UNTESTED, OTHER}]
        untested = sum(each.verdict == UNTESTED for each in self.evidence)
        if not found:
            return UNTESTED
        known = (HOLDS, FAILS, HOLDS_ONCE, FAILS_ONCE, INSIDE, LEVEL)
        counts = {verdict: found.count(verdict) for verdict in known if verdict in found}
        if len(counts) == 1:
            parts = list(counts)
        else:
            parts = [f"{verdict} in {count} of {len(found)}" for verdict, count in counts.items()]
        return "; ".join([*parts, *([f"{untested} not tested"] if untested else [])])


def claims(registry: Registry, numbers: Numbers) -> list[Claim]:
    """The paper's claims, in a fixed order."""
    parts = (_gates, _gates_at_equal_work, _gates_under_the_second_test, _gates_on_features)
    evidence: dict[str, Iterable[Evidence]] = {
        "Gates beat learned rates": itertools.chain.from_iterable(part(numbers) for part in parts),
        "Memory of earlier update steps": _memory_of_steps(numbers),
        "Without memory NORML is MAML with a constant rate": _without_memory(numbers),
        "Memory of other examples": _memory_of_examples(numbers),
        "Many update steps": _many_steps(numbers),
        "Under five times the parameters": _parameters(registry),
        "Linear growth": _growth(registry),
        "Table 2's accuracies": _accuracies(numbers),
        "Table 1's accuracies": _table_1(numbers),
    }
    return [Claim(title, PAPER_SAYS[title], tuple(found)) for title, found in evidence.items()]


def claims_markdown(registry: Registry, numbers: Numbers) -> str:
    """The claims with their verdicts and evidence."""
    found = claims(registry, numbers)
    rows = [[claim.title, claim.says, claim.verdict] for claim in found]
    parts = [to_markdown(Sheet(Grid(["claim", "the paper", "verdict"], rows, words=[1, 2])))]
    for claim in found:
        rows = [[each.what, each.paper, each.ours, each.seeds, each.verdict] for each in claim.evidence]
        grid = Grid(["what", "paper", "ours", "seeds", "verdict"], rows, words=[4])
        parts.append(f"### {claim.title}: {claim.verdict}\n\n{claim.says}\n\n{to_markdown(Sheet(grid))}")
    return "\n".join(parts).rstrip("\n")


# ----------------------------------------------------------------------------------------------------------- evidence


def _gates(numbers: Numbers) -> Iterator[Evidence]:
    for shots in SHOTS:
        yield from (_ahead(numbers, "norml", other, BENCHMARK, shots) for other in (CONSTANT, GLOBAL, LAYERWISE))


def _gates_at_equal_work(numbers: Numbers) -> Iterator[Evidence]:
    for shots in SHOTS:
        for other in (CONSTANT, GLOBAL, LAYERWISE):
            yield _ahead(numbers, "norml", f"{other}-equal-work", BENCHMARK, shots)


def _gates_under_the_second_test(numbers: Numbers) -> Iterator[Evidence]:
    """Paired differences in the second test; variation between seeds comes from methods evaluated in that test."""
    for shots in SHOTS:
        second, title = numbers.second("norml", shots), numbers.second_title
        what = f"NORML - {numbers.title(CONSTANT)}, {shots}-shot, {title}"
        difference = second.minus_reference if second else None
        if second is None or difference is None:
            yield Evidence(what, "-", "no record", "0", UNTESTED)
            continue
        n_seeds = len(second.seed_differences)
        if n_seeds >= ENOUGH_SEEDS:
            over_seeds = interval_95(second.seed_differences)
            verdict = _sign(over_seeds.mean) if _excludes_zero(over_seeds) else INSIDE
        else:
            need = numbers.least_second_difference(shots, n_seeds)
            verdict = _for_these_weights(difference.mean, need, significant=_excludes_zero(difference))
        ours = percent(difference.mean, difference.half_width, sign="+")
        yield Evidence(what, "-", ours, str(n_seeds), verdict)


def _gates_on_features(numbers: Numbers) -> Iterator[Evidence]:
    """In Table 1 the learner has one layer, so a rate for each layer is one learned rate."""
    for benchmark, learned in ((FEATURES, GLOBAL), (f"{FEATURES}-one-by-one", LAYERWISE)):
        for shots in SHOTS:
            yield from (_ahead(numbers, "norml", other, benchmark, shots) for other in (CONSTANT, learned))


def _memory_of_steps(numbers: Numbers) -> Iterator[Evidence]:
    for benchmark in (BENCHMARK, FEATURES):
        for shots in SHOTS:
            for other in (ZERO_BOTH, ZERO_CELL, ZERO_HIDDEN):
                yield _ahead(numbers, "norml", other, benchmark, shots)
    yield _ahead(numbers, "norml", "static-gates", BENCHMARK, 1)


def _without_memory(numbers: Numbers) -> Iterator[Evidence]:
    for benchmark in (BENCHMARK, FEATURES):
        for shots in SHOTS:
            yield _same(numbers, ZERO_BOTH, CONSTANT, benchmark, shots)


def _memory_of_examples(numbers: Numbers) -> Iterator[Evidence]:
    for cell in ("norml-batch-shared", "norml-flattened"):
        yield _ahead(numbers, cell, f"{cell}-zero-hidden-zero-cell", BENCHMARK, 1)
    for benchmark in ("mini-imagenet-5way", FEATURES):
        for shots in SHOTS:
            yield _ahead(numbers, "norml", ZERO_BOTH, f"{benchmark}-one-by-one", shots)


def _many_steps(numbers: Numbers) -> Iterator[Evidence]:
    for steps in MANY_STEPS:
        for other in (CONSTANT, ZERO_CELL):
            yield _ahead(numbers, "norml", other, f"omniglot-5way-{steps}-steps", 1)
    for steps in MANY_STEPS:
        yield _survival(numbers, steps)


def _survival(numbers: Numbers, steps: int) -> Evidence:
    """Whether NORML's meta-gradient changes its norm less over the inner steps than MAML's."""
    what = f"norm of the meta-gradient before {steps} steps divided by that after them: NORML, MAML (constant lr)"
    left = [kept_gradient(numbers, method, steps) for method in ("norml", CONSTANT)]
    if left[0] is None or left[1] is None:
        return Evidence(what, "nearer 1", "no record", "0", UNTESTED)
    verdict = HOLDS_ONCE if abs(math.log(left[0])) < abs(math.log(left[1])) else FAILS_ONCE
    return Evidence(what, "nearer 1", f"{left[0]:.2g}, {left[1]:.2g}", "1", verdict)


def _accuracies(numbers: Numbers) -> Iterator[Evidence]:
    for shots in SHOTS:
        second = numbers.second("norml", shots)
        tests = {
            "as trained": (numbers.interval("norml", BENCHMARK, shots), numbers.n_seeds("norml", shots)),
            numbers.second_title: (second and second.accuracy, len(second.seeds) if second else 0),
        }
        paper = numbers.paper("norml", shots)
        for title, (interval, n_seeds) in tests.items():
            what = f"NORML, {shots}-shot, {title}"
            if interval is None:
                yield Evidence(what, paper, "no record", "0", UNTESTED)
                continue
            ours, verdict = percent(interval.mean, interval.half_width), _reached(interval, float(paper) / 100, n_seeds)
            yield Evidence(what, paper, ours, str(n_seeds), verdict)


def _table_1(numbers: Numbers) -> Iterator[Evidence]:
    """NORML on every backbone with full-support steps; only the paper's backbone decides the verdict."""
    for goal, entrants in numbers.goals("table-1", "norml"):
        paper = goal.published.text.replace("+-", "±")
        for entrant in entrants:
            backbone, shots = numbers.backbone(entrant.benchmark), int(goal.column.partition("-")[0])
            what = f"NORML, {backbone} features, {goal.column}"
            if entrant.accuracy is None:
                yield Evidence(what, paper, "no record", "0", UNTESTED)
                continue
            ours = percent(entrant.accuracy.mean, entrant.accuracy.half_width)
            n_seeds = numbers.n_seeds("norml", shots, entrant.benchmark)
            verdict = _reached(entrant.accuracy, goal.published.accuracy, n_seeds)
            yield Evidence(what, paper, ours, str(n_seeds), verdict if backbone == PAPERS_BACKBONE else OTHER)


def _reached(ours: Interval, paper: float, n_seeds: int) -> str:
    if abs(ours.mean - paper) <= ours.half_width:
        return LEVEL
    reached = ours.mean > paper
    if n_seeds < ENOUGH_SEEDS:
        return HOLDS_ONCE if reached else FAILS_ONCE
    return HOLDS if reached else FAILS


def _parameters(registry: Registry) -> Iterator[Evidence]:
    """Ratios of parameters of NORML as declared, computed from shapes."""
    for benchmark, shots in (
        (BENCHMARK, 1),
        (BENCHMARK, 5),
        ("mini-imagenet-5way", 1),
        ("mini-imagenet-5way-narrow", 1),
    ):
        for method in ("norml", ZERO_HIDDEN):
            counts = _counts(registry, method, benchmark, shots)
            ratio = counts["meta_learner"] / counts["learner"]
            cell = registry.resolve(method, benchmark, shots).spec.values_of(["cell_size"])["cell_size"]
            title = registry.method(method).title
            what = f"{title}, {benchmark}, {shots}-shot, cell of {cell}"
            yield Evidence(what, "< 5", f"{ratio:.2f} times", "", HOLDS if ratio < 5 else FAILS)  # noqa: PLR2004 - the claim


def _growth(registry: Registry) -> Iterator[Evidence]:
    """The power of the learner's size with which the meta-learner grows when all hidden layers double."""
    for cell in ("layer-width", 64):
        powers = [_power(registry, times, cell) for times in WIDTHS]
        what = f"power of the learner's size, cell of {cell}, hidden layers {WIDTHS[0]} and {WIDTHS[1]} times as wide"
        said = " and ".join(f"{power:.2f}" for power in powers)
        yield Evidence(what, "1", said, "", HOLDS if powers[-1] <= LINEAR else FAILS)


def _power(registry: Registry, times: int, cell: object) -> float:
    counts = [_counts(registry, "norml", BENCHMARK, 1, times=each, cell_size=cell) for each in (times, 2 * times)]
    grown = {part: math.log(counts[1][part] / counts[0][part]) for part in ("learner", "meta_learner")}
    return grown["meta_learner"] / grown["learner"]


def _counts(
    registry: Registry, method: str, benchmark: str, shots: int, *, times: int = 1, **values: object
) -> dict[str, int]:
    """Numbers of parameters of learner and meta-learner, with hidden layers `times` as wide."""
    spec = registry.resolve(method, benchmark, shots).spec
    if times > 1 or values:
        sizes = [times * size for size in spec.protocol.hidden_sizes]
        spec = registry.resolve(method, benchmark, shots, {"hidden_sizes": sizes, **values}).spec
    counts = spec.parameter_counts(n_features(registry, spec))
    if counts is None:
        raise ValueError(f"{method} on {benchmark}: parameters cannot be counted from shapes")
    return counts


# ----------------------------------------------------------------------------------------------------------- verdicts


def _ahead(numbers: Numbers, a: str, b: str, benchmark: str, shots: int) -> Evidence:
    """Whether `a` is ahead of `b`."""
    pair = numbers.pair(a, b, benchmark, shots)
    return _compared(numbers, (a, b), (benchmark, shots), pair, verdict_of(numbers, pair) if pair else UNTESTED)


def _same(numbers: Numbers, a: str, b: str, benchmark: str, shots: int) -> Evidence:
    """Whether the two differ, which refutes that they are the same. No test can prove that they are the same."""
    pair = numbers.pair(a, b, benchmark, shots)
    found = verdict_of(numbers, pair) if pair else UNTESTED
    verdict = {HOLDS: FAILS, HOLDS_ONCE: FAILS_ONCE}.get(found, found)
    return _compared(numbers, (a, b), (benchmark, shots), pair, verdict)


def _compared(
    numbers: Numbers, methods: tuple[str, str], place: tuple[str, int], pair: Comparison | None, verdict: str
) -> Evidence:
    (a, b), (benchmark, shots) = methods, place
    where = f"{shots}-shot" if benchmark == BENCHMARK else f"{benchmark}, {shots}-shot"
    what = f"{numbers.title(a)} - {numbers.title(b)}, {where}"
    paper = numbers.paper_difference(a, b, shots) if benchmark == BENCHMARK else "-"
    if pair is None:
        return Evidence(what, paper, "no record", "0", UNTESTED)
    interval = pair.over_episodes.interval
    n_seeds = len(pair.over_episodes.seeds)
    return Evidence(what, paper, percent(interval.mean, interval.half_width, sign="+"), str(n_seeds), verdict)


def verdict_of(numbers: Numbers, pair: Comparison) -> str:
    """Whether `pair.a` is ahead: over seeds if both have three, otherwise for these weights."""
    over_seeds, over_episodes = pair.over_seeds, pair.over_episodes
    if over_seeds is not None and over_seeds.enough:
        if over_seeds.settled:
            return _sign(over_seeds.interval.mean)
        alone = abs(over_seeds.interval.mean) > over_seeds.interval.half_width  # without regard to the other pairs
        return LEVEL if alone else INSIDE
    need = numbers.least_difference(pair.benchmark, pair.shots, len(over_episodes.seeds))
    return _for_these_weights(over_episodes.interval.mean, need, significant=pair.for_new_classes.settled)


def _for_these_weights(mean: float, need: float | None, *, significant: bool) -> str:
    """The verdict on fewer than three seeds. need: limit from other methods' seeds; None if none has several."""
    if need is not None and abs(mean) < need:
        return INSIDE
    if not significant:
        return LEVEL
    return HOLDS_ONCE if mean > 0 else FAILS_ONCE


def _sign(mean: float) -> str:
    return HOLDS if mean > 0 else FAILS


def _excludes_zero(interval: Interval) -> bool:
    return abs(interval.mean) > interval.half_width
