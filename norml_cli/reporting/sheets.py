"""Sheets: grids of texts with lines below them, as plain text and Markdown, whatever the texts mean."""

import io
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_GAP = 3  # blanks between two columns
_LONGEST_WORD = 28  # chosen: longer words, such as URLs, are cut first where there is no room
_NARROWEST = 20  # chosen: below this width use 80; terminals that do not know their width say 0


@dataclass(frozen=True)
class CellText:
    """A text in bold (`best`), or with a link on an HTML page (`link`)."""

    text: str
    best: bool = False
    link: str = ""


@dataclass(frozen=True)
class Grid:
    """Rows of texts under headers.

    groups: (title, number of headers) of the groups above the headers, which cover all headers; a title may be ''.
    n_left, words: the first `n_left` columns and the columns `words` are left-aligned and may wrap between words; the
    others hold numbers.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str | CellText]]
    groups: Sequence[tuple[str, int]] = ()
    n_left: int = 1
    title: str = ""
    words: Collection[int] = ()

    def full_headers(self, joint: str) -> list[str]:
        """Headers after their group's title."""
        if not self.groups:
            return list(self.headers)
        titles = [title for title, span in self.groups for _ in range(span)]
        return [
            f"{title}{joint}{header}" if title else header for title, header in zip(titles, self.headers, strict=True)
        ]

    def is_left(self, number: int) -> bool:
        """Whether a column holds words."""
        return number < self.n_left or number in self.words

    def columns(self) -> Iterator[list[str]]:
        """The texts of each column, its header first."""
        lines = [self.full_headers("\n"), *([plain_text(cell) for cell in row] for row in self.rows)]
        return (list(column) for column in zip(*lines, strict=True))


@dataclass(frozen=True)
class Sheet:
    """A grid, the same in narrower pieces, and the lines below it.

    hints: commands that the reader can run next. bold: the meaning of bold cells, shown in formats with bold type.
    """

    wide: Grid
    pieces: Sequence[Grid] = ()
    footer: Sequence[str] = ()
    hints: Sequence[str] = ()
    bold: str = ""

    @property
    def lines(self) -> list[str]:
        """The lines below the grid in formats with bold type."""
        return [*([f"bold: {self.bold}"] if self.bold else []), *self.footer]


def plain_text(cell: str | CellText) -> str:
    """The text of a cell."""
    return cell.text if isinstance(cell, CellText) else cell


def to_rich(sheet: Sheet, width: int) -> str:
    """Plain text within `width` columns, without cutting any text.

    Prints the wide grid if it fits, otherwise its pieces one below the other. Columns of words wrap. A grid that still
    does not fit is printed cell by cell. Hints never wrap, so that you can copy their commands.
    """
    width = width if width >= _NARROWEST else 80
    fits = _taken(_natural_widths(sheet.wide)) <= width
    grids = [sheet.wide] if fits or not sheet.pieces else sheet.pieces
    blocks = [_wrapped(sheet.wide.title, width)]
    for grid in grids:
        blocks += ["", _wrapped(grid.title, width)] if grid is not sheet.wide else []
        blocks.append(_grid_text(grid, width))
    text = "\n".join([*blocks, "", *(_wrapped(line, width) for line in sheet.footer), *sheet.hints])
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n") + "\n"


def to_markdown(sheet: Sheet) -> str:
    """A GitHub table and a list of its footer."""
    grid = sheet.wide
    rule = ["---" if grid.is_left(number) else "---:" for number in range(len(grid.headers))]
    lines = [f"**{_markdown(grid.title)}**", ""] if grid.title else []
    rows: list[Sequence[str | CellText]] = [grid.full_headers(" "), rule, *grid.rows]
    lines += [f"| {' | '.join(map(_markdown_cell, row))} |" for row in rows]
    below = [f"- {_markdown(line)}" for line in (*sheet.lines, *sheet.hints)]
    return "\n".join([*lines, *([""] if below else []), *below]) + "\n"


# --------------------------------------------------------------------------------------------------------- plain text


def _grid_text(grid: Grid, width: int) -> str:
    widths = _widths(grid, width)
    return _cell_by_cell(grid, width) if widths is None else _side_by_side(grid, widths)


def _side_by_side(grid: Grid, widths: Sequence[int]) -> str:
    console = Console(file=io.StringIO(), width=_taken(widths), color_system=None, legacy_windows=False)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, (header, width) in enumerate(zip(grid.full_headers("\n"), widths, strict=True)):
        table.add_column(
            Text(header), justify="left" if grid.is_left(number) else "right", width=width, overflow="fold"
        )
    for row in grid.rows:
        table.add_row(*(Text(plain_text(cell)) for cell in row))
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")


def _cell_by_cell(grid: Grid, width: int) -> str:
    """'header: text' lines, a paragraph per row, without empty cells."""
    headers = [f"{header}: " if header else "" for header in grid.full_headers(" ")]
    texts = [zip(headers, map(plain_text, row), strict=True) for row in grid.rows]
    paragraphs = ["\n".join(_wrapped(f"{header}{text}", width) for header, text in row if text) for row in texts]
    return "\n\n".join(paragraphs)


def _wrapped(line: str, width: int) -> str:
    return "\n".join(wrap(line, width, subsequent_indent="  ", break_on_hyphens=False))


def _taken(widths: Sequence[int]) -> int:
    """The width of columns side by side."""
    return sum(widths) + _GAP * (len(widths) - 1)


def _natural_widths(grid: Grid) -> list[int]:
    return [max(cell_len(line) for text in column for line in text.split("\n")) for column in grid.columns()]


def _widths(grid: Grid, width: int) -> list[int] | None:
    """Column widths that fit into `width` by wrapping the widest columns of words; None if there is no room.

    Words are cut only if there is no room for whole words.
    """
    whole = _narrowed(grid, width, sys.maxsize)
    return _narrowed(grid, width, _LONGEST_WORD) if whole is None else whole


def _narrowed(grid: Grid, width: int, longest: int) -> list[int] | None:
    """The same, where words of up to `longest` characters stay whole."""
    widths = _natural_widths(grid)
    least = [
        min(longest, max(cell_len(word) for text in column for word in (text.split() or [""])))
        if grid.is_left(number)
        else natural
        for number, (column, natural) in enumerate(zip(grid.columns(), widths, strict=True))
    ]
    while _taken(widths) > width:
        wraps = [number for number, natural in enumerate(widths) if natural > least[number]]
        if not wraps:
            return None
        widths[max(wraps, key=widths.__getitem__)] -= 1
    return widths


# ----------------------------------------------------------------------------------------------------------- Markdown


def _markdown(text: str) -> str:
    return text.replace("|", r"\|")


def _markdown_cell(cell: str | CellText) -> str:
    text = _markdown(plain_text(cell))
    return f"**{text}**" if isinstance(cell, CellText) and cell.best else text
