"""Sheets as LaTeX tables. Numbers use siunitx's S columns, which align decimal points.

A column such as '89.07 ± 0.15*' becomes up to four LaTeX columns: mean, plus-minus, half-width and marks.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from norml_cli.reporting.sheets import CellText, Grid, Sheet, plain_text

_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "[": "{[}",  # LaTeX would read a bare one after \\ as an option
    "*": "{*}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
}

_NUMBER = re.compile(  # '-3.15', '89.07 ± 0.15', '+1.91 ± 0.15*', '92.55 ± 0.07 (a)'
    r"(?P<mean>[+-]?\d+(?:\.\d+)?)(?: ± (?P<spread>\d+(?:\.\d+)?))?(?P<star>\*)?(?: (?P<mark>\([a-z, ]+\)))?"
)
_TEX_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # graphicx: shrinks, never grows


def to_latex(sheet: Sheet) -> str:
    """A table environment that fits the text width; the document needs booktabs, graphicx and siunitx."""
    grid = sheet.wide
    columns = [_Column.of(column, left=grid.is_left(n)) for n, column in enumerate(zip(*grid.rows, strict=True))]
    columns = columns or [_Column("l" if grid.is_left(n) else "r", 1, ()) for n in range(len(grid.headers))]
    title = re.sub(r"^Table \d+: ", "", grid.title)  # LaTeX numbers tables itself
    headers = _row(column.header(header) for column, header in zip(columns, grid.headers, strict=True))
    notes = [rf"{_tex(line)}\par" for line in sheet.lines]
    lines = [
        *(r"% needs \usepackage{booktabs, graphicx, siunitx}", r"\begin{table}", r"\centering"),
        r"\sisetup{detect-weight, retain-explicit-plus}",
        *([rf"\caption{{{_tex(title)}}}"] if title else []),
        *(_TEX_FIT, rf"\begin{{tabular}}{{{''.join(column.alignment for column in columns)}}}", r"\toprule"),
        *(*_groups(grid, columns), headers, r"\midrule"),
        *map(_row, zip(*(column.cells for column in columns), strict=True)),
        *(r"\bottomrule", r"\end{tabular}}"),
        *([r"\par\medskip{\raggedright\footnotesize", *notes, "}"] if notes else []),
        r"\end{table}",
        *(f"% {hint}" for hint in sheet.hints),
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Column:
    """A column of a grid as `span` LaTeX columns; `cells` has the text of each cell over all of them."""

    alignment: str
    span: int
    cells: Sequence[str]

    @classmethod
    def of(cls, cells: Sequence[str | CellText], *, left: bool) -> "_Column":
        numbers = [_NUMBER.fullmatch(plain_text(cell)) for cell in cells]
        matches = [match for match in numbers if match]
        if left or not matches:
            return cls("l" if left else "r", 1, [_text(cell) for cell in cells])
        parts = [part for part in ("spread", "mark") if any(_part(match, part) for match in matches)]
        alignment = f"S[table-format={_format([match['mean'] for match in matches])}]"
        if "spread" in parts:
            spreads = [match["spread"] for match in matches if match["spread"]]
            alignment += rf"@{{\,}}c@{{\,}}S[table-format={_format(spreads)}]"
        alignment += "@{}l" * ("mark" in parts)
        span = 1 + 2 * ("spread" in parts) + ("mark" in parts)
        texts = [
            _number(match, parts, best=_is_best(cell)) if match else _aside(cell, span)
            for cell, match in zip(cells, numbers, strict=True)
        ]
        return cls(alignment, span, texts)

    def header(self, text: str) -> str:
        return rf"\multicolumn{{{self.span}}}{{c}}{{{_tex(text)}}}" if self.alignment[0] == "S" else _tex(text)


def _part(match: re.Match[str], part: str) -> str:
    """The half-width or the marks of a number as LaTeX; star and letters share a column."""
    if part == "spread":
        return rf"$\pm$ & {match['spread']}" if match["spread"] else ""
    return "".join(rf"\textsuperscript{{{_tex(match[kind])}}}" for kind in ("star", "mark") if match[kind])


def _number(match: re.Match[str], parts: Sequence[str], *, best: bool) -> str:
    empty = {"spread": " & ", "mark": ""}
    texts = [rf"\bfseries {match['mean']}" if best else match["mean"]]
    return " & ".join([*texts, *(_part(match, part) or empty[part] for part in parts)])


def _format(numbers: Iterable[str]) -> str:
    """The table-format of siunitx that fits all `numbers`: '+2.2'."""
    halves = [number.lstrip("+-").partition(".") for number in numbers]
    sign = "+" * any(number[0] in "+-" for number in numbers)
    decimals = max(len(after) for _, _, after in halves)
    return f"{sign}{max(len(before) for before, _, _ in halves)}{f'.{decimals}' * (decimals > 0)}"


def _aside(cell: str | CellText, span: int) -> str:
    """A cell that is not a plain number: words and dashes are centred, texts with digits are right-aligned."""
    place = "r" if re.search(r"\d", plain_text(cell)) else "c"
    return rf"\multicolumn{{{span}}}{{{place}}}{{{_text(cell)}}}"


def _row(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _groups(grid: Grid, columns: Sequence[_Column]) -> list[str]:
    if not grid.groups:
        return []
    cells, rules, first, number = [], [], 1, 0
    for title, n_headers in grid.groups:
        span = sum(column.span for column in columns[number : number + n_headers])
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{_tex(title)}}}")
        rules += [rf"\cmidrule(lr){{{first}-{first + span - 1}}}"] if title else []
        first, number = first + span, number + n_headers
    return [_row(cells), "".join(rules)]


def _text(cell: str | CellText) -> str:
    text = _tex(plain_text(cell))
    return rf"\textbf{{{text}}}" if _is_best(cell) else text


def _is_best(cell: str | CellText) -> bool:
    return isinstance(cell, CellText) and cell.best


def _tex(text: str) -> str:
    """`text` escaped for LaTeX; keeps double hyphens, and turns a hyphen before a number into a minus."""
    escaped = "".join(_TEX.get(character, character) for character in text).replace("--", "-{}-")
    return re.sub(r"^-(?=\d)", "$-$", escaped)
