"""Grids of finished texts -> rich, Markdown and LaTeX. Nothing here knows what the texts mean."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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

_NUMBER = re.compile(  # '-3.15', '89.07 ± 0.15', '+1.91 ± 0.15*', '92.55 ± 0.07 (a)'
    r"(?P<sign>[+-])?(?P<whole>\d+)(?P<decimals>\.\d+)?"
    r"(?: ± (?P<spread_whole>\d+)(?P<spread_decimals>\.\d+))?(?P<star>\*)?(?P<mark> \([a-z, ]+\))?"
)
_TEX_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # graphicx: shrinks, never grows


@dataclass(frozen=True)
class Figure:
    """A text that stands out from its neighbours (`best`), or that leads somewhere on a page (`link`)."""

    text: str
    best: bool = False
    link: str = ""


@dataclass(frozen=True)
class Grid:
    """Rows of texts under headers; `groups` (title, number of headers) stand above the headers and cover them all.

    A group without a title leaves its headers as they are. The first `n_left` columns are aligned left.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str | Figure]]
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
    """A grid, the same in narrower pieces, and the lines below it; `hints` say what to do, and are no part of it."""

    wide: Grid
    pieces: Sequence[Grid] = ()
    footer: Sequence[str] = ()
    hints: Sequence[str] = ()


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
    if lines := [*page.footer, *page.hints]:
        console.print(Text("\n" + "\n".join(lines)))
    assert isinstance(console.file, io.StringIO)  # noqa: S101 - made above
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).strip("\n") + "\n"


def to_markdown(page: Page) -> str:
    """A GitHub table and a list of its footer."""
    grid = page.wide
    rule = ["---" if number < grid.n_left else "---:" for number in range(len(grid.headers))]
    lines = [f"**{_markdown(grid.title)}**", ""] if grid.title else []
    rows: list[Sequence[str | Figure]] = [grid.full_headers(" "), rule, *grid.rows]
    lines += [f"| {' | '.join(map(_markdown_cell, row))} |" for row in rows]
    below = [f"- {_markdown(line)}" for line in (*page.footer, *page.hints)]
    return "\n".join([*lines, *([""] if below else []), *below]) + "\n"


def to_latex(page: Page) -> str:
    """A table environment, no wider than the text; the document needs the packages booktabs and graphicx."""
    grid = page.wide
    alignment = "l" * grid.n_left + "r" * (len(grid.headers) - grid.n_left)
    columns = [_tex_column(column, left=n < grid.n_left) for n, column in enumerate(zip(*grid.rows, strict=True))]
    body = [_tex_row(map(_tex, grid.headers)), r"\midrule", *map(_tex_row, zip(*columns, strict=True))]
    head = [r"% needs \usepackage{booktabs, graphicx}", r"\begin{table}", r"\centering"]
    title = re.sub(r"^Table \d+: ", "", grid.title)  # LaTeX has its own count
    caption = [rf"\caption{{{_tex(title)}}}"] if title else []
    open_ = [_TEX_FIT, rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"]
    close = [r"\bottomrule", r"\end{tabular}}"]
    notes = [rf"{_tex(line)}\par" for line in page.footer]
    footer = [r"\par\medskip{\raggedright\footnotesize", *notes, "}"] if notes else []
    hints = [f"% {line}" for line in page.hints]
    lines = [*head, *caption, *open_, *_tex_groups(grid), *body, *close, *footer, r"\end{table}", *hints]
    return "\n".join(lines) + "\n"


def _rich_table(grid: Grid) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, header in enumerate(grid.full_headers("\n")):
        left = number < grid.n_left
        table.add_column(Text(header), justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(plain_text(cell)) for cell in row))
    return table


def _markdown(text: str) -> str:
    return text.replace("|", r"\|")


def _markdown_cell(cell: str | Figure) -> str:
    text = _markdown(plain_text(cell))
    return f"**{text}**" if _is_best(cell) else text


def _tex_row(row: Iterable[str]) -> str:
    return f"{' & '.join(row)} \\\\"


def _tex_column(cells: Sequence[str | Figure], *, left: bool) -> list[str]:
    """A column's cells; its numbers are padded to equal widths, so that their points stand below each other."""
    numbers = {n: match for n, cell in enumerate(cells) if (match := _NUMBER.fullmatch(plain_text(cell)))}
    if left or not numbers:
        return [_tex_text(cell) for cell in cells]
    widest = {part: max((match[part] or "" for match in numbers.values()), key=len) for part in _NUMBER.groupindex}
    padded = {n: _tex_number(match, widest, best=_is_best(cells[n])) for n, match in numbers.items()}
    return [padded.get(n) or _tex_aside(cell) for n, cell in enumerate(cells)]


def _tex_number(match: re.Match[str], widest: Mapping[str, str], *, best: bool) -> str:
    """`match` with room for what others of its column have: digits before and behind the points, +-, a mark."""

    def room(part: str) -> str:
        missing = widest[part][len(match[part] or "") :]
        return rf"\phantom{{{missing}}}" if missing else ""

    mean = f"{match['whole']}{match['decimals'] or ''}"
    shown = rf"\mathbf{{{mean}}}" if best else mean
    spread = rf" \pm {room('spread_whole')}{match['spread_whole']}{match['spread_decimals']}{room('spread_decimals')}"
    if match["spread_whole"] is None:
        spread = (
            rf"\phantom{{{{}} \pm {widest['spread_whole']}{widest['spread_decimals']}}}"
            if widest["spread_whole"]
            else ""
        )
    star = rf"^{{{match['star']}}}" if match["star"] else (r"\phantom{^{*}}" if widest["star"] else "")
    mark = rf"\textsuperscript{{{_tex(match['mark'].strip())}}}" if match["mark"] else ""
    if widest["mark"] and not mark:
        mark = rf"\phantom{{\textsuperscript{{{_tex(widest['mark'].strip())}}}}}"
    return f"${match['sign'] or ''}{shown}{room('decimals')}{spread}{star}${mark}"


def _tex_aside(cell: str | Figure) -> str:
    """Words and dashes among numbers stand in the middle."""
    text = _tex_text(cell)
    return text if re.search(r"\d", text) else rf"\multicolumn{{1}}{{c}}{{{text}}}"


def _tex_text(cell: str | Figure) -> str:
    return rf"\textbf{{{_tex(plain_text(cell))}}}" if _is_best(cell) else _tex(plain_text(cell))


def _is_best(cell: str | Figure) -> bool:
    return isinstance(cell, Figure) and cell.best


def plain_text(cell: str | Figure) -> str:
    """What a cell says."""
    return cell.text if isinstance(cell, Figure) else cell


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
