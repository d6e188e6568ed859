"""Charts as SVG for light and dark backgrounds: our and published accuracies, learning curves.

Each picture has a style sheet with colour variables, so one file suits light pages, dark pages and print. Text stays
text.
"""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from norml_cli.reporting.colours import PAGE, light_and_dark
from norml_cli.results.records import CurvePoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Panel

# (light, dark): ink, then blue, orange, green, purple, yellow and grey: Okabe & Ito's colours for colour-blind readers,
# darker or lighter where their contrast would be below 3:1.
_COLOURS = [
    PAGE["ink"],
    ("#0072b2", "#56b4e9"),
    ("#b84e00", "#f08a3c"),
    ("#007a58", "#00b386"),
    ("#a8457f", "#e08fc0"),
    ("#8a6a00", "#e6b800"),
    ("#5b5f66", "#a3a8b0"),
]
BLUE, ORANGE, GREY = (_COLOURS[number][0] for number in (1, 2, 6))  # for pictures on white only
_DRAWN = [f"#0000{number:02x}" for number in range(1, len(_COLOURS) + 1)]  # placeholders, replaced in the SVG
INK, SERIES = _DRAWN[0], _DRAWN[1:]
_FAR = 20  # points below the best; chosen: methods that learn are closer together
_DASHES = ["-", "--", ":", "-."]
_WIDTH = 4.6  # inches; chosen: its text is still legible on a phone
_NAME_WIDTH = 36  # characters of a name in a line: longer lines leave no room for the intervals
_STYLE = "<style>svg{{{light}}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"


Curve = Sequence[CurvePoint]


@dataclass(frozen=True)
class Bar:
    """A method's accuracy and the paper's, each as (percent, half-width)."""

    title: str
    ours: tuple[float, float] | None
    paper: tuple[float, float] | None

    @property
    def highest(self) -> float:
        """The higher of the two accuracies."""
        return max(pair[0] for pair in (self.ours, self.paper) if pair)


def draw_accuracies(bars: Sequence[Bar], title: str) -> str:
    """Draw a row per method: our interval, and the paper's number as a diamond. Returns SVG.

    Methods far below the best are named below the chart, because they would squeeze the others together.
    """
    best = max(bar.highest for bar in bars)
    near = [bar for bar in bars if bar.highest > best - _FAR]
    names = [textwrap.fill(bar.title, _NAME_WIDTH) for bar in near]
    far = ", ".join(f"{bar.title} {bar.ours[0]:.1f}" for bar in bars if bar not in near and bar.ours)

    def draw(panel: "Panel") -> None:
        for offset, marker, colour, label in ((-0.16, "o", SERIES[0], "ours"), (0.16, "D", SERIES[1], "paper")):
            rows = [(row, pair) for row, bar in enumerate(near) if (pair := getattr(bar, label)) is not None]
            if rows:
                errors = [half_width for _, (_, half_width) in rows]
                places = [row + offset for row, _ in rows]
                means = [mean for _, (mean, _) in rows]
                panel.errorbar(
                    means, places, xerr=errors, fmt=marker, color=colour, markersize=5, capsize=3, label=label
                )
        panel.set_yticks(range(len(near)), names)
        panel.set_ylim(len(near) - 0.5, -0.5)
        panel.grid(axis="x", color=INK, alpha=0.15)
        aside = f"\n(off the scale: {far})" if far else ""
        panel.figure.supxlabel(f"accuracy in percent, with 95% intervals{aside}", fontsize=10)
        panel.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderpad=0, labelcolor=INK)

    row_height = max(0.32, 0.18 * max(name.count("\n") + 1 for name in names))
    return _svg(draw, title, height=1.35 + row_height * len(near))


@dataclass(frozen=True)
class Axes:
    """Labels of a picture's axes, and which axes are logarithmic."""

    x: str
    y: str
    log: str = ""  # "x", "y" or "xy"


Lines = Mapping[str, Sequence[tuple[float, float]]]
Bands = Mapping[str, Sequence[tuple[float, float, float]]]  # x, lowest, highest


def draw_curves(curves: Mapping[str, Sequence[Curve]], title: str, *, order: Sequence[str]) -> str:
    """Draw meta-validation accuracy over outer steps, a line per method, coloured by its place in `order`. Returns SVG.

    Several seeds of a method are drawn as their mean, with a band from the lowest to the highest.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    bands: dict[str, list[tuple[float, float, float]]] = {}
    for name, of_seeds in curves.items():
        points = _at_common_steps(of_seeds)
        lines[name] = [(step, fmean(accuracies)) for step, accuracies in points]
        if len(of_seeds) > 1:
            bands[name] = [(step, min(accuracies), max(accuracies)) for step, accuracies in points]
    axes = Axes("outer steps", "meta-validation accuracy, percent")
    return draw_lines(lines, title, axes, order=order, bands=bands)


def _at_common_steps(of_seeds: Sequence[Curve]) -> list[tuple[int, list[float]]]:
    """Steps at which all seeds were validated, each with the seeds' accuracies in percent."""
    seeds = [{point.step: 100 * point.validation_accuracy for point in curve} for curve in of_seeds]
    return [(step, [seed[step] for seed in seeds]) for step in sorted(set.intersection(*map(set, seeds)))]


def draw_lines(
    lines: Lines, title: str, axes: Axes, *, order: Sequence[str], marker: str = "", bands: Bands | None = None
) -> str:
    """Draw a line per name, coloured by its place in `order`, with its band if it has one. Returns SVG."""

    def draw(panel: "Panel") -> None:
        for name, points in lines.items():
            number = order.index(name)
            x, y = zip(*points, strict=True)
            style = _DASHES[number // len(SERIES) % len(_DASHES)]
            colour = SERIES[number % len(SERIES)]
            panel.plot(x, y, color=colour, linestyle=style, linewidth=1.5, marker=marker, markersize=4, label=name)
            if bands and name in bands:
                x, low, high = zip(*bands[name], strict=True)
                panel.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        _name_axes(panel, axes)
        panel.figure.legend(loc="outside lower left", ncols=2, frameon=False, labelcolor=INK, fontsize=9)

    return _svg(draw, title, height=3 + 0.12 * len(lines))


def _name_axes(panel: "Panel", axes: Axes) -> None:
    panel.grid(color=INK, alpha=0.15)
    panel.set_xlabel(axes.x)
    panel.set_ylabel(axes.y)
    for which in axes.log:
        getattr(panel, f"set_{which}scale")("log")
    if "x" not in axes.log:
        panel.locator_params(axis="x", nbins=5)  # more labels would overlap on a phone
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def _svg(draw: Callable[["Panel"], None], title: str, *, height: float) -> str:
    import matplotlib as mpl  # noqa: PLC0415 - takes a second to import
    from matplotlib.figure import Figure  # noqa: PLC0415 - as matplotlib

    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "norml", "font.size": 10, **dict.fromkeys(ink, INK)}
    with mpl.rc_context({**style, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0)
        panel = figure.subplots()
        panel.patch.set_alpha(0)
        draw(panel)
        panel.figure.suptitle(title, fontsize=11, x=0.01, ha="left")
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    return _with_variables(content.getvalue())


def _with_variables(svg: str) -> str:
    """Replace the placeholder colours by variables with a light and a dark value."""
    for number, colour in enumerate(_DRAWN):
        svg = svg.replace(colour, f"var(--c{number})")
    light, dark = light_and_dark({f"c{number}": pair for number, pair in enumerate(_COLOURS)})
    head, tag, rest = svg.partition("<defs>")
    return f"{head}{_STYLE.format(light=light, dark=dark)}{tag}{rest}"
