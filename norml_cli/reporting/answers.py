"""A learner's predictions for images: the class of each and the probability of every class, in all formats."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from norml_cli.reporting.formats import require_format, sheet_text, to_csv, to_json
from norml_cli.reporting.html import rendered
from norml_cli.reporting.sheets import CellText, Grid, Sheet

MOST_COLUMNS = 10  # chosen: a printed table has a column per class up to this many classes


@dataclass(frozen=True)
class Answers:
    """Predicted probabilities in 0..1 of `classes`, a row for each image of `files`.

    about: what the predictions depend on, in words. thumbnails: a PNG of each file. examples: thumbnails of each
    class's labelled images.
    """

    about: Mapping[str, str]
    classes: Sequence[str]
    files: Sequence[str]
    probabilities: Sequence[Sequence[float]]
    thumbnails: Sequence[bytes] = ()
    examples: Sequence[Sequence[bytes]] = ()

    def best(self, row: Sequence[float]) -> int:
        """The index of the likeliest class, the first if there are several."""
        return max(range(len(row)), key=row.__getitem__)


def render_answers(answers: Answers, format_: str, *, width: int) -> str:
    """`answers` as rich, Markdown, LaTeX, CSV or JSON. Raises UserError for an unknown format."""
    require_format(format_)
    if format_ == "csv":
        keys = ["file", "class", "probability", *(f"p_{name}" for name in answers.classes)]
        return to_csv(keys, [dict(zip(keys, row, strict=True)) for row in _values(answers)])
    if format_ == "json":
        return to_json(_document(answers))
    return sheet_text(_sheet(answers), format_, width)


def _values(answers: Answers) -> list[list[Any]]:
    return [
        [file, answers.classes[best := answers.best(row)], row[best], *row]
        for file, row in zip(answers.files, answers.probabilities, strict=True)
    ]


def _document(answers: Answers) -> dict[str, Any]:
    images = [
        {"file": file, "class": name, "probabilities": dict(zip(answers.classes, row, strict=True))}
        for file, name, _, *row in _values(answers)
    ]
    return {**answers.about, "classes": answers.classes, "images": images}


def _sheet(answers: Answers) -> Sheet:
    narrow = Grid(
        ["file", "class", "probability"],
        [[file, name, _percent(p)] for file, name, p, *_ in _values(answers)],
        n_left=2,
    )
    footer = [
        "probability: the learner's probability of this class, in percent",
        *(f"{key}: {text}" for key, text in answers.about.items()),
    ]
    if len(answers.classes) > MOST_COLUMNS:
        return Sheet(narrow, footer=footer)
    rows = [
        [file, name, *(CellText(_percent(p), best=answers.classes[n] == name) for n, p in enumerate(row))]
        for file, name, _, *row in _values(answers)
    ]
    wide = Grid(["file", "class", *answers.classes], rows, n_left=2)
    return Sheet(wide, [narrow], footer, bold="probability of the predicted class")


def _percent(p: float) -> str:
    return f"{100 * p:.1f}"


def answers_page(answers: Answers) -> str:
    """A self-contained HTML page with thumbnails, without scripts."""
    rows = [
        {
            "file": file,
            "class": name,
            "percent": _percent(p),
            "picture": _address(thumbnail),
            "others": [
                (answers.classes[n], _percent(row[n])) for n in sorted(range(len(row)), key=lambda n: -row[n])[1:4]
            ],
        }
        for (file, name, p, *row), thumbnail in zip(_values(answers), answers.thumbnails, strict=True)
    ]
    examples = {
        name: [_address(picture) for picture in of_class]
        for name, of_class in zip(answers.classes, answers.examples, strict=True)
    }
    return rendered("answers.html.jinja", about=answers.about, rows=rows, examples=examples)


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
