"""Many inner steps: accuracy by number of steps, and the norm of the meta-gradient through them."""

import math
from collections.abc import Iterator

from findings import Numbers

from norml_cli.reporting.drawings import Axes, draw_lines
from norml_cli.reporting.html import Picture
from norml_cli.reporting.sheets import Grid, Sheet, to_markdown

STUDY = "many-steps"  # trials at other products of inner rate and steps
METHODS = ("maml-constant-lr", "maml-layerwise-lr", "norml-zero-cell", "norml")
STEPS = (5, 10, 20, 50, 100)


def benchmark_of(steps: int) -> str:
    """The benchmark with `steps` inner steps."""
    return f"omniglot-5way-{steps}-steps"


def kept_gradient(numbers: Numbers, method: str, steps: int) -> float | None:
    """Norm of the meta-gradient before the first inner step, divided by that after the last; None if not inspected."""
    norms = numbers.meta_gradients(method, benchmark_of(steps), 1)
    return norms[0] / norms[-1] if norms else None


def many_steps_markdown(numbers: Numbers) -> str:
    """A table of meta-validation accuracies by inner steps, at inner_lr x inner_steps = 1 and at the best product."""
    if all(numbers.validated(method, benchmark_of(steps)) is None for method in METHODS for steps in STEPS):
        return "These runs do not exist yet. `norml reproduce table-many-steps` makes them."
    rows = []
    for steps in STEPS:
        equal = [numbers.validated(method, benchmark_of(steps)) for method in METHODS]
        tuned = [numbers.tuned(STUDY, method, benchmark_of(steps)) for method in METHODS]
        rows.append([str(steps), *(_text(a, b) for a, b in zip(equal, tuned, strict=True))])
    grid = Grid(["inner steps", *(numbers.title(method) for method in METHODS)], rows, n_left=0)
    says = "best meta-validation accuracy in percent: with inner_lr x inner_steps = 1 / with the best product"
    return to_markdown(Sheet(grid, footer=[f"{says} of study {STUDY}"])).rstrip()


def _text(equal: float | None, tuned: float | None) -> str:
    texts = ["no record" if value is None else f"{100 * value:.1f}" for value in (equal, tuned)]
    return texts[0] if texts[0] == texts[1] == "no record" else " / ".join(texts)


def many_steps_pictures(numbers: Numbers) -> Iterator[Picture]:
    """Pictures of accuracy by inner steps, and of the meta-gradient by step in the longest inspected adaptation."""
    order = [numbers.title(method) for method in METHODS]
    accuracies = {
        numbers.title(method): [
            (float(steps), 100 * found)
            for steps in STEPS
            if (found := numbers.validated(method, benchmark_of(steps))) is not None
        ]
        for method in METHODS
    }
    drawn = {title: points for title, points in accuracies.items() if points}
    if drawn:
        axes = Axes("inner steps, at inner_lr x inner_steps = 1", "meta-validation accuracy in percent", log="x")
        title = "Omniglot 5-way, 1-shot: many inner steps"
        yield Picture("many-steps-accuracy", draw_lines(drawn, title, axes, order=order, marker="o"), title)
    yield from _gradient_picture(numbers, order)


def _gradient_picture(numbers: Numbers, order: list[str]) -> Iterator[Picture]:
    for steps in reversed(STEPS):
        norms = {m: numbers.meta_gradients(m, benchmark_of(steps), 1) for m in METHODS}
        lines = {
            numbers.title(method): [(float(t), value) for t, value in enumerate(found) if math.isfinite(value)]
            for method, found in norms.items()
            if found
        }
        if lines:
            axes = Axes("weights after this many inner steps", "norm of the meta-gradient", log="y")
            title = f"Omniglot 5-way, 1-shot: the meta-gradient through {steps} inner steps"
            yield Picture("many-steps-gradient", draw_lines(lines, title, axes, order=order), title)
            return
