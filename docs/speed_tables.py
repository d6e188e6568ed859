"""The README's speed tables, from the records that `nox -s bench -- --only SECTION` keeps in results/speed/."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from norml_cli.reporting.sheets import Grid, Sheet, to_markdown
from norml_cli.results.speed import Measurement, SpeedRecord, SpeedSection, read_speed
from norml_cli.results.store import Results

RESULTS = Results(Path(__file__).parents[1] / "results")
WORK = "shots / queries"
ENGINES = ("norml", "torch.func, compiled", "torch.func", "TorchOpt MetaSGD", "higher")
CONVOLUTION_ENGINES = ("norml", "torch.func, compiled", "torch.func", "autograd, episode by episode")
OURS = "norml, compiled"
MAML, NORML = "maml-constant-lr", "norml"
AS_A_RUN = "norml run's"
TOLD_FROM = 0.2  # cores that others kept busy: what the bench calls too much (tests/benchmarks/load.py)


@dataclass(frozen=True)
class Kept:
    """One section of a speed record. `kept[labels]` is the measurement with these labels."""

    record: SpeedRecord
    section: SpeedSection

    @classmethod
    def of(cls, name: str) -> "Kept":
        """The section that `nox -s bench -- --only NAME` measured on the CPU."""
        record = read_speed(RESULTS.speed_path(f"cpu-{name}"))
        [section] = [each for each in record.sections if each.name == name]
        return cls(record, section)

    def __getitem__(self, labels: tuple[str, ...]) -> Measurement:
        """The measurement with these labels."""
        [found] = [each for each in self.section.measurements if tuple(each.labels.values()) == labels]
        return found

    def measured(self, **labels: str) -> list[Measurement]:
        """All measurements with these labels, whatever their other labels."""
        return [each for each in self.section.measurements if labels.items() <= each.labels.items()]

    def values(self, label: str) -> list[str]:
        """Every value of one label, in the order measured."""
        return list(dict.fromkeys(str(each.labels[label]) for each in self.section.measurements))

    def circumstances(self) -> str:
        """Machine, versions, date and repeats."""
        machine, torch = self.record.machine, self.record.versions["torch"]
        count = self.section.settings.get("threads", machine.threads)
        threads = f"{count} {'thread' if count == 1 else 'threads'}"
        repeats = len(self.section.measurements[0].repeats)
        said = f"Medians of {repeats} steps on {machine.cpu}, {machine.cores} cores, {threads}, torch {torch}"
        busy = self.section.others_busy_cores or 0.0
        beside = f"; other processes kept {busy:.1f} cores busy" if busy > TOLD_FROM else ""
        return f"{said}, {self.record.created[:10]}{beside}."


def median_of(measured: Measurement) -> float:
    """The median. Raises ValueError if nothing was measured."""
    if measured.median is None:
        raise ValueError(f"{measured.labels}: {measured.note}")
    return measured.median


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A Markdown table with a sentence below."""
    return "\n".join([to_markdown(Sheet(Grid(heads, rows))).rstrip(), *(["", note] if note else [])])


def peers() -> str:
    """An outer step of MAML: milliseconds of our compiled engine, and multiples of them for the other engines."""
    kept = Kept.of("peers")
    rows = []
    for work in kept.values("shots/queries"):
        ours = kept[work, OURS]
        ratios = [f"{median_of(kept[work, engine]) / median_of(ours):.2f}" for engine in ENGINES]
        share = f"{ours.derived['share of peak']:.0%}"
        rows.append([_spaced(work), f"{1000 * median_of(ours):.0f} ms", *ratios, share])
    heads = [WORK, OURS, *ENGINES, f"{OURS}: share of peak"]
    compiling = "; ".join(f"{engine}: {_compile_times(kept, engine)}" for engine in (OURS, "torch.func, compiled"))
    learner = f"Learner: {kept.section.settings['learner']}."
    return table(heads, rows, f"{kept.circumstances()} {learner} Time to compile, once: {compiling}.")


def _compile_times(kept: Kept, engine: str) -> str:
    times = [kept[work, engine].derived["compile s"] for work in kept.values("shots/queries")]
    return f"{min(times):.0f} to {max(times):.0f} s"


def methods() -> str:
    """Time of an outer step of NORML relative to MAML, beside the same ratio of multiplications."""
    kept = Kept.of("methods")
    names = kept.values("method")
    plain = [name for name in names if name.startswith(NORML) and f"{name}, compiled" in names]
    rows = []
    for work in kept.values("shots/queries"):
        row = [_spaced(work)]
        for name in plain:
            eager, compiled = kept[work, name].derived, kept[work, f"{name}, compiled"].derived
            numbers = (eager["times maml"], compiled["times maml"], eager["times multiplications"])
            row += [f"{number:.2f}" for number in numbers]
        rows.append(row)
    cells = [match[1] for name in plain if (match := re.search(r"cell size (\S+)", name))]
    heads = [WORK]
    heads += [f"cell of {cell}: {what}" for cell in cells for what in ("plain", "compiled", "multiplications")]
    return table(heads, rows, kept.circumstances())


def products() -> str:
    """Speed-up of an outer step by the library that `norml run` chooses for matrix products, over MKL."""
    kept = Kept.of("products")
    who = kept.section.settings[AS_A_RUN]
    rows = []
    for work in kept.values("shots/queries"):
        gains = [kept[work, method, AS_A_RUN].derived["times as fast"] for method in (MAML, NORML)]
        rows.append([_spaced(work), *(f"{gain:.2f}" for gain in gains)])
    return table([WORK, "MAML", "NORML"], rows, f"{kept.circumstances()} `norml run` multiplied by: {who}.")


def convolutions() -> str:
    """An outer step on convolutions, as `peers`; "-": not compiled in ten minutes."""
    kept = Kept.of("convolutions")
    rows = []
    for size in kept.values("size"):
        times = {str(each.labels["engine"]): median_of(each) for each in kept.measured(size=size)}
        ratios = [f"{times[engine] / times[OURS]:.2f}" if engine in times else "-" for engine in CONVOLUTION_ENGINES]
        rows.append([size, f"{1000 * times[OURS]:,.0f} ms", *ratios])
    return table(["problem, 1 shot", OURS, *CONVOLUTION_ENGINES], rows, kept.circumstances())


def _spaced(work: str) -> str:
    return work.replace("/", " / ")


BLOCKS: dict[str, Callable[[], str]] = {
    f"speed-{each.__name__}": each for each in (peers, methods, products, convolutions)
}
