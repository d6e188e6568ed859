"""Grids of finished texts -> rich, Markdown and LaTeX. Nothing here knows what the texts mean."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
    "[": "{[}",  # after the \\ that ends a row, a bare one would be an option
    "*": "{*}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
}


@dataclass(frozen=True)
class Grid:
    """Rows of texts under headers; `groups` (title, number of headers) stand above the headers and cover them all.

    A group without a title leaves its headers as they are. The first `n_left` columns are aligned left.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    groups: Sequence[tuple[str, int]] = ()
    n_left: int = 1
    title: str = ""

    def full_headers(self, joint: str) -> list[str]:
        """Headers with their group's title before them."""
        if not self.groups:
            return list(self.headers)
        titles = [title for title, span in self.groups for _ in range(span)]
        return [
            f"{title}{joint}{header}" if title else header for title, header in zip(titles, self.headers, strict=True)
        ]


@dataclass(frozen=True)
class Page:
    """A grid, the same in narrower pieces, and the lines below it."""

    wide: Grid
    pieces: Sequence[Grid] = ()
    footer: Sequence[str] = field(default=())


def to_rich(page: Page, width: int) -> str:
    """Plain text within `width` columns: the wide grid if it fits, else its pieces one below the other."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    wide = _rich_table(page.wide)
    unlimited = console.options.update(max_width=10_000)
    if page.wide.title:
        console.print(Text(page.wide.title))
    if console.measure(wide, options=unlimited).maximum <= width or not page.pieces:
        console.print(wide)
    else:
        for piece in page.pieces:
            console.print(Text(f"\n{piece.title}"))
            console.print(_rich_table(piece))
    if page.footer:
        console.print(Text("\n" + "\n".join(page.footer)))
    assert isinstance(console.file, io.StringIO)  # noqa: S101 - made above
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).strip("\n") + "\n"


def to_markdown(page: Page) -> str:
    """A GitHub table and a list of its footer."""
    grid = page.wide
    rule = ["---" if number < grid.n_left else "---:" for number in range(len(grid.headers))]
    lines = [f"**{_markdown(grid.title)}**", ""] if grid.title else []
    rows = [grid.full_headers(" "), rule, *grid.rows]
    lines += [f"| {' | '.join(_markdown(text) for text in row)} |" for row in rows]
    footer = ["", *(f"- {_markdown(line)}" for line in page.footer)] if page.footer else []
    return "\n".join([*lines, *footer]) + "\n"


def to_latex(page: Page) -> str:
    """A table environment; the document needs the package booktabs."""
    grid = page.wide
    alignment = "l" * grid.n_left + "r" * (len(grid.headers) - grid.n_left)
    body = [_tex_row(grid.headers), r"\midrule", *map(_tex_row, grid.rows)]
    head = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    caption = [rf"\caption{{{_tex(grid.title)}}}"] if grid.title else []
    open_, close = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"], [r"\bottomrule", r"\end{tabular}"]
    footer = [rf"\par\footnotesize {_tex(line)}" for line in page.footer]
    return "\n".join([*head, *caption, *open_, *_tex_groups(grid), *body, *close, *footer, r"\end{table}"]) + "\n"


def _rich_table(grid: Grid) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, header in enumerate(grid.full_headers("\n")):
        left = number < grid.n_left
        table.add_column(Text(header), justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table


def _markdown(text: str) -> str:
    return text.replace("|", r"\|")


def _tex_row(row: Sequence[str]) -> str:
    return f"{' & '.join(map(_tex, row))} \\\\"


def _tex_groups(grid: Grid) -> list[str]:
    if not grid.groups:
        return []
    cells, rules, first = [], [], 1
    for title, span in grid.groups:
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{_tex(title)}}}")
        rules += [rf"\cmidrule(lr){{{first}-{first + span - 1}}}"] if title else []
        first += span
    return [f"{' & '.join(cells)} \\\\", "".join(rules)]


def _tex(text: str) -> str:
    """Escaped; two hyphens stay two, and the hyphen before a number becomes a minus."""
    escaped = "".join(_TEX.get(character, character) for character in text).replace("--", "-{}-")
    return re.sub(r"^-(?=\d)", "$-$", escaped)
