"""NORML and MAML at equal work: meta-validation accuracy by core-seconds and by multiplications."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from findings import BENCHMARK, Numbers
from speed_tables import Kept

from norml_cli.reporting.drawings import Axes, draw_lines
from norml_cli.reporting.html import Picture
from norml_cli.reporting.sheets import Grid, Sheet, to_markdown
from norml_cli.results.records import RunRecord

MAML = ("maml-constant-lr", "maml-global-lr", "maml-layerwise-lr")
METHODS = (*MAML, *(f"{method}-equal-work" for method in MAML), "norml")
SHOTS = (1, 5)
UNITS = {
    "core-seconds": "core-seconds of training",
    "multiplications": "times the multiplications of an outer step of MAML",
}


@dataclass(frozen=True)
class Course:
    """A method's learning curve by work: points (work, accuracy in percent)."""

    title: str
    points: Sequence[tuple[float, float]]

    def after(self, work: float) -> float | None:
        """The accuracy of the last meta-validation within this work; None if there is none yet."""
        return next((accuracy for done, accuracy in reversed(self.points) if done <= work), None)


def courses(numbers: Numbers, shots: int, unit: str) -> list[Course]:
    """The courses of all methods whose record has that unit of work."""
    found = []
    for method in METHODS:
        step = _work_of_a_step(numbers, method, shots, unit)
        run = numbers.run_on_a_core(method, shots) if unit == "core-seconds" else numbers.first_run(method, shots)
        if step is not None and run is not None:
            points = [(point.step * step, 100 * point.validation_accuracy) for point in run.curve]
            found.append(Course(numbers.title(method), points))
    return found


def _work_of_a_step(numbers: Numbers, method: str, shots: int, unit: str) -> float | None:
    if unit == "multiplications":
        return 1.0 if method.startswith("maml") else norml_multiplications(numbers, shots)
    run = numbers.run_on_a_core(method, shots)
    return None if run is None else seconds_of_a_step(run)


def seconds_of_a_step(run: RunRecord) -> float:
    """Training time per outer step, without validation and compiling."""
    return run.cost.training_s / run.spec.protocol.outer_steps


def norml_multiplications(numbers: Numbers, shots: int) -> float:
    """Multiplications of an outer step of NORML relative to MAML, as the benchmark counted them."""
    cell, queries = numbers.value("norml", shots, "cell_size"), numbers.value("norml", shots, "queries_per_class")
    [times] = {
        measured.derived["times multiplications"]
        for measured in Kept.of("methods").section.measurements
        if measured.labels["shots/queries"] == f"{shots}/{queries}"
        and str(measured.labels["method"]).startswith(f"norml, cell size {cell}")
    }
    return times


def work_markdown(numbers: Numbers) -> str:
    """A table of all methods after the work of the shortest run, in both units."""
    shown, rows = (*MAML, "norml"), []
    for shots in SHOTS:
        for unit, label in UNITS.items():
            found = {course.title: course for course in courses(numbers, shots, unit)}
            of_shown = [found.get(numbers.title(method)) for method in shown]
            work = min((course.points[-1][0] for course in of_shown if course is not None), default=0.0)
            none = "not on one core" if unit == "core-seconds" else "no record"
            rows.append([f"{shots}-shot", f"{work:,.0f} {label}", *(_after(course, work, none) for course in of_shown)])
    return to_markdown(Sheet(Grid(["shots", "after", *map(numbers.title, shown)], rows, n_left=2))).rstrip()


def _after(course: Course | None, work: float, none: str) -> str:
    accuracy = None if course is None else course.after(work)
    return none if accuracy is None else f"{accuracy:.1f}"


def work_pictures(numbers: Numbers) -> Iterator[Picture]:
    """A picture for each number of shots and unit for which NORML's work is known."""
    order = [numbers.title(method) for method in METHODS]
    for shots in SHOTS:
        for unit, label in UNITS.items():
            found = courses(numbers, shots, unit)
            if numbers.title("norml") in {course.title for course in found}:
                title = f"{BENCHMARK}, {shots}-shot: learning curves by {unit}"
                lines = {course.title: course.points for course in found}
                axes = Axes(label, "meta-validation accuracy in percent")
                yield Picture(f"equal-work-{shots}-shot-{unit}", draw_lines(lines, title, axes, order=order), title)
