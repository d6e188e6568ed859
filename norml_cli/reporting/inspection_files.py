"""Write an inspection: numbers as CSV and JSON, charts as PNG and SVG."""

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from norml.inspection import QUANTILES, GateSummary, LayerSummary, quantile_places
from norml.statistics import Interval
from norml_cli.files.atomic import write_together
from norml_cli.files.companions import INSPECTED
from norml_cli.reporting.drawings import BLUE, GREY, ORANGE
from norml_cli.reporting.formats import to_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNALS = {"delta": "gates of delta", "h": "gates of h"}


@dataclass(frozen=True)
class Inspection:
    """Results of an inspection.

    accuracies: after 0, 1, ... inner steps. freezing: accuracy by case. inner_steps: T of the record. meta_gradients:
    norms for each episode, by number of inner steps (0..T) and layer.
    """

    title: str
    about: Mapping[str, Any]
    inner_lr: float
    inner_steps: int
    layers: Sequence[LayerSummary]
    accuracies: Sequence[Interval]
    freezing: Mapping[str, Interval]
    meta_gradients: Sequence[Sequence[Sequence[float]]]

    @property
    def n_layers(self) -> int:
        """L: number of layers."""
        return 1 + max(summary.layer for summary in self.layers)

    @property
    def has_gates(self) -> bool:
        """Whether the rule has gates."""
        return any(summary.delta_gate is not None for summary in self.layers)

    def of_layer(self, layer: int) -> list[LayerSummary]:
        """The summaries of one layer, by inner step."""
        return [summary for summary in self.layers if summary.layer == layer]


def write_inspection(folder: Path, inspection: Inspection) -> list[Path]:
    """Write all files or none; return their paths. Raises UserError if the folder cannot be written."""
    tables = {
        "layers.csv": _layer_rows(inspection),
        "neurons.csv": _neuron_rows(inspection),
        "accuracy-by-step.csv": [{"inner_steps": t, **_values(a)} for t, a in enumerate(inspection.accuracies)],
        "meta-gradient-by-step.csv": _meta_gradient_rows(inspection),
        "freezing.csv": [{"case": case, **_values(a)} for case, a in inspection.freezing.items()],
    }
    if inspection.has_gates:
        tables["gates.csv"] = _gate_rows(inspection)
    everything = {"about": dict(inspection.about)} | {
        name.removesuffix(".csv").replace("-", "_"): rows for name, rows in tables.items() if name != "neurons.csv"
    }
    contents = {folder / name: to_csv(list(rows[0]), rows).encode() for name, rows in tables.items()}
    for name, draw in _pictures(inspection).items():
        contents |= _drawn(folder / name, draw, inspection)
    # Last: until it is there, an older one does not fit the record, so a mixture of both is never shown.
    contents[folder / INSPECTED] = f"{json.dumps(everything, indent=2)}\n".encode()
    write_together(contents)
    return list(contents)


# ------------------------------------------------------------------------------------------------------------ numbers


def _values(accuracy: Interval) -> dict[str, float]:
    return {"accuracy": accuracy.mean, "half_width": accuracy.half_width, "episodes": accuracy.n}


def _place(summary: LayerSummary) -> dict[str, Any]:
    """Layer and inner step, counted from 1."""
    return {"layer": summary.layer + 1, "inner_step": summary.step + 1}


def _layer_rows(inspection: Inspection) -> list[dict[str, Any]]:
    return [
        {
            **_place(s),
            "inner_lr": inspection.inner_lr,
            "effective_rate": s.rate,
            "cosine_to_gradient": None if math.isnan(s.cosine) else s.cosine,
        }
        for s in inspection.layers
    ]


def _neuron_rows(inspection: Inspection) -> list[dict[str, Any]]:
    return [
        {**_place(s), "neuron": neuron + 1, "effective_rate": rate}
        for s in inspection.layers
        for neuron, rate in enumerate(s.neuron_rates.tolist())
        if math.isfinite(rate)  # not finite: no gradient reached the neuron
    ]


def _meta_gradient_rows(inspection: Inspection) -> list[dict[str, Any]]:
    return [
        {"inner_steps": t, "layer": layer + 1, "mean": sum(norms) / len(norms), **_named(_quantiles(norms))}
        for t, by_layer in enumerate(inspection.meta_gradients)
        for layer, norms in enumerate(by_layer)
    ]


def _named(quantiles: Sequence[float]) -> dict[str, float]:
    return {f"q{round(100 * q):02}": value for q, value in zip(QUANTILES, quantiles, strict=True)}


def _gate_rows(inspection: Inspection) -> list[dict[str, Any]]:
    rows = []
    for summary in inspection.layers:
        for signal, gate in _gates(summary).items():
            others = {key: value for key, value in vars(gate).items() if key != "quantiles"}
            rows.append({**_place(summary), "signal": signal, **_named(gate.quantiles), **others})
    return rows


def _gates(summary: LayerSummary) -> dict[str, GateSummary]:
    gates = {"delta": summary.delta_gate, "h": summary.h_gate}
    return {signal: gate for signal, gate in gates.items() if gate is not None}


# ----------------------------------------------------------------------------------------------------------- pictures


def _pictures(inspection: Inspection) -> dict[str, Callable[["Figure", Inspection], None]]:
    pictures: dict[str, Callable[[Figure, Inspection], None]] = {
        "effective-rates": _draw_rates,
        "accuracy-by-step": _draw_accuracies,
        "meta-gradient-by-step": _draw_meta_gradients,
        "freezing": _draw_freezing,
    }
    return {"gates": _draw_gates, "gates-and-loss": _draw_reactions, **pictures} if inspection.has_gates else pictures


def _drawn(path: Path, draw: Callable[["Figure", Inspection], None], inspection: Inspection) -> dict[Path, bytes]:
    """The chart as PNG and SVG; equal numbers give equal bytes."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second to import
    from matplotlib.figure import Figure  # noqa: PLC0415 - as matplotlib

    made = {}
    with mpl.rc_context({"svg.hashsalt": path.name, "font.size": 8}):
        figure = Figure(layout="constrained")
        draw(figure, inspection)
        figure.suptitle(inspection.title, fontsize=9)
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, format=suffix[1:], dpi=150, metadata=metadata)
            made[path.with_suffix(suffix)] = content.getvalue()
    return made


def _draw_gates(figure: "Figure", inspection: Inspection) -> None:
    """A panel per layer and signal: median, middle half and middle 90% of the gates over inner steps."""
    figure.set_size_inches(1 + 1.7 * inspection.n_layers, 4)
    panels = figure.subplots(2, inspection.n_layers, sharex=True, sharey=True, squeeze=False)
    for row, (signal, title) in enumerate(SIGNALS.items()):
        panels[row, 0].set_ylabel(title)
        for layer in range(inspection.n_layers):
            quantiles = [_gates(s)[signal].quantiles for s in inspection.of_layer(layer)]
            _draw_bands(panels[row, layer], quantiles)
            panels[row, layer].axhline(1, color=GREY, linewidth=0.8, linestyle="--")
            panels[0, layer].set_title(f"layer {layer + 1}", fontsize=8)
    figure.supxlabel("inner step (dashed: 1, a plain gradient step; bands: middle half and middle 90%)", fontsize=8)


def _draw_bands(panel: "Axes", quantiles: Sequence[Sequence[float]], *, first: int = 1) -> None:
    steps = range(first, first + len(quantiles))
    low, lower, middle, upper, high = zip(*quantiles, strict=True)
    panel.fill_between(steps, low, high, color=BLUE, alpha=0.15, linewidth=0)
    panel.fill_between(steps, lower, upper, color=BLUE, alpha=0.3, linewidth=0)
    panel.plot(steps, middle, color=BLUE, marker=".")
    _count_steps(panel)


def _count_steps(panel: "Axes") -> None:
    """Label the axis of inner steps with whole numbers only."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - as matplotlib

    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_reactions(figure: "Figure", inspection: Inspection) -> None:
    """Mean gates of correctly and wrongly classified examples, and the correlation of gates with the loss."""
    figure.set_size_inches(1 + 1.7 * inspection.n_layers, 5)
    panels = figure.subplots(3, inspection.n_layers, sharex=True, sharey="row", squeeze=False)
    nan = float("nan")
    for layer in range(inspection.n_layers):
        gates = [_gates(s) for s in inspection.of_layer(layer)]
        steps = range(1, len(gates) + 1)
        for row, signal in enumerate(SIGNALS):
            for key, label, colour in (("when_right", "right", BLUE), ("when_wrong", "wrong", ORANGE)):
                means = [nan if getattr(g[signal], key) is None else getattr(g[signal], key) for g in gates]
                panels[row, layer].plot(steps, means, color=colour, marker=".", label=label)
            correlations = [nan if g[signal].loss_correlation is None else g[signal].loss_correlation for g in gates]
            panels[2, layer].plot(steps, correlations, color=(BLUE, GREY)[row], marker=".", label=f"of {signal}")
        panels[0, layer].set_title(f"layer {layer + 1}", fontsize=8)
        _count_steps(panels[2, layer])
    for row, label in enumerate(("mean gate of delta", "mean gate of h", "correlation with loss")):
        panels[row, 0].set_ylabel(label)
        panels[row, 0].legend(fontsize=7)
    figure.supxlabel("inner step (right, wrong: how the learner classifies the example before the step)", fontsize=8)


def _draw_rates(figure: "Figure", inspection: Inspection) -> None:
    """Effective learning rates of neurons over inner steps, by layer, with inner_lr as a dashed line."""
    figure.set_size_inches(1 + 1.7 * inspection.n_layers, 2.6)
    panels = figure.subplots(1, inspection.n_layers, sharex=True, sharey=True, squeeze=False)[0]
    for layer, panel in enumerate(panels):
        _draw_bands(panel, [_quantiles(s.neuron_rates.tolist()) for s in inspection.of_layer(layer)])
        panel.axhline(inspection.inner_lr, color=ORANGE, linewidth=0.8, linestyle="--")
        panel.set_title(f"layer {layer + 1}", fontsize=8)
    panels[0].set_ylabel("effective learning rate")
    figure.supxlabel("inner step (bands: over neurons; dashed: inner_lr, MAML's fixed rate)", fontsize=8)


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    ordered = sorted(value for value in values if math.isfinite(value)) or [float("nan")]
    return tuple(ordered[place] for place in quantile_places(len(ordered)))


def _draw_accuracies(figure: "Figure", inspection: Inspection) -> None:
    figure.set_size_inches(4.5, 3)
    panel = figure.subplots()
    means = [100 * accuracy.mean for accuracy in inspection.accuracies]
    errors = [100 * accuracy.half_width for accuracy in inspection.accuracies]
    panel.errorbar(range(len(means)), means, yerr=errors, color=BLUE, marker=".", capsize=2)
    panel.axvline(inspection.inner_steps, color=GREY, linewidth=0.8, linestyle="--")
    panel.set_xlabel("inner steps (dashed: the method's number of steps)")
    panel.set_ylabel("meta-validation accuracy in percent")
    _count_steps(panel)


def _draw_meta_gradients(figure: "Figure", inspection: Inspection) -> None:
    """A panel per layer: norms of the derivative by the weights after each inner step, on a logarithmic axis."""
    figure.set_size_inches(1 + 1.7 * inspection.n_layers, 2.6)
    panels = figure.subplots(1, inspection.n_layers, sharex=True, sharey=True, squeeze=False)[0]
    for layer, panel in enumerate(panels):
        _draw_bands(panel, [_quantiles(by_layer[layer]) for by_layer in inspection.meta_gradients], first=0)
        panel.set_yscale("log")
        panel.set_title(f"layer {layer + 1}", fontsize=8)
    panels[0].set_ylabel("norm of the derivative of\nthe query loss by the weights")
    figure.supxlabel("weights after this many inner steps (bands: over episodes)", fontsize=8)


def _draw_freezing(figure: "Figure", inspection: Inspection) -> None:
    figure.set_size_inches(5, 0.8 + 0.35 * len(inspection.freezing))
    panel = figure.subplots()
    means = [100 * accuracy.mean for accuracy in inspection.freezing.values()]
    errors = [100 * accuracy.half_width for accuracy in inspection.freezing.values()]
    panel.barh(list(inspection.freezing), means, xerr=errors, color=BLUE, alpha=0.7)
    panel.invert_yaxis()
    panel.set_xlabel("meta-validation accuracy in percent")
