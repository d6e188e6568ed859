"""Write the pages of docs/reference and the made parts of other pages: `nox -s docs`; --check: compare only.

Commands come from the declarations that `--help` prints, keys and formats from the models that check entries and
records and from the tables that write CSV, the library from its docstrings. In other pages the text between
`<!-- made: NAME -->` and `<!-- end -->` comes from records. None can drift: a test of the default suite compares.
"""

import inspect
import json
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import headline
import scaling
import speed_tables
import typer
from library_page import library_page

from norml_cli.app.main import app
from norml_cli.registry.entries import (
    RULES,
    BenchmarkEntry,
    Column,
    DatasetEntry,
    FileSplit,
    Method,
    RecipeEntry,
    Row,
    SecondTest,
    SeededSplit,
    SourceSplit,
    TableEntry,
)
from norml_cli.registry.protocol import Protocol, Recipe
from norml_cli.registry.sourced import Model
from norml_cli.registry.specs import RunSpec
from norml_cli.reporting.comparison_sheets import COMPARISON_KEYS
from norml_cli.reporting.lists import RUN_KEYS, TRIAL_KEYS
from norml_cli.reporting.protocol_sheets import PROTOCOL_KEYS
from norml_cli.reporting.table_sheet import CELL_KEYS
from norml_cli.results.evaluations import Card, EvaluationRecord
from norml_cli.results.records import RunRecord
from norml_cli.terminal.usage import PANELS

HERE = Path(__file__).parent
MADE = "<!-- made by `nox -s docs`; edit the code's own words instead -->"

COMMANDS_HEAD = """\
`norml COMMAND --help` prints the same, with examples. Bad input is one line on standard error and exit code 2. A
training that Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 stopped leaves with 130; started again, it goes on.

With `--json` a command's standard output is its result alone, one JSON document. What it says on its way goes to
standard error, a JSON object a line: `{"event": "progress", "title", "phase", "done", "total", "per_s",
"seconds_left"}`, with `loss` and `validation` (the last accuracy on meta-validation) where there are any, at most once
a second; and `{"event": "line", "line"}` for lines that a person would see. `--quiet` leaves these out. An error is a
plain line there, in any mode.
`norml --install-completion` lets the shell complete commands, options and ids. `NO_COLOR` is respected.
"""

KEYS_HEAD = """\
First the values that entries declare, each as `{value: ..., source: ...}`; `--set KEY=VALUE` changes them for one run.
Keys with a default may be left out. Below: the keys of the entries themselves, one YAML file each.
"""

FORMATS_HEAD = """\
`--format csv` and `--format json` give the same values under the same keys, fractions to 12 digits. In CSV a list
is joined by spaces (numbers) or ` | ` (texts), and what is not there is empty; in JSON it is `null`. JSON holds the
rows under the name in brackets, beside `half_width_formula`, and a table's `table`, `title`, `citation`, `reference`
and `second_test`.
"""

RECORDS_HEAD = """\
One file a run, `results/<benchmark>/<K>-shot/<method>/seed-<n>.json`, in UTF-8. `digest` is the SHA-256 of the JSON of
all other keys, keys sorted, without spaces. A record that contradicts itself is refused. A study's trials hold the same
without a meta-test, in `results/studies/<study>/<K>-shot/<method>/`, named by what they vary
(`inner_lr=0.2,gate_scale=4.0-seed-0.json`). `results/other-protocols/NAME/` keeps runs of a table by other values than
the declared ones: a results folder of its own, which the table leaves out and `--results` shows.
"""


EVALUATIONS_HEAD = """\
`norml evaluate` writes one file for each protocol that it evaluates a run's weights by, named by what it changes:
`seed-<n>-evaluations/queries_per_class=15,rotations=none.json`, beside the run's `seed-<n>.json`. It carries a `digest`
as records do, and names that of the run: an evaluation of weights that were replaced since is refused.
"""

CARDS_HEAD = """\
`norml export` writes a run's weights as `seed-<n>.safetensors` and what is said of them as `seed-<n>.card.json`, with a
`digest`. Both may be published beside the record; `verify`, `inspect` and `evaluate` read them where the run's own
`seed-<n>.weights` is missing, and refuse a file whose SHA-256 is not the card's, and the card of another run.
"""


def commands_page() -> str:
    """Every command with its arguments and options."""
    lines = ["# Commands", "", MADE, "", COMMANDS_HEAD]
    for command in app.registered_commands:
        parameters = list(_parameters(command.callback))
        usage = " ".join([f"norml {command.name}", *(p.name for p in parameters if p.is_argument), "[OPTIONS]"])
        lines += [f"## norml {command.name}", "", inspect.getdoc(command.callback) or "", "", f"    {usage}", ""]
        lines += [
            "| word | meaning |",
            "| --- | --- |",
            *(f"| {p.usage} | {_cell(p.meaning)} |" for p in parameters),
            "",
        ]
    return "\n".join(lines)


@dataclass(frozen=True)
class Parameter:
    """One argument or option, as its declaration in `app` says."""

    info: Any  # what typer.Argument or typer.Option made
    key: str
    annotation: Any
    default: Any

    @property
    def is_argument(self) -> bool:
        """Whether it is told by its place."""
        return isinstance(self.info, type(typer.Argument()))

    @property
    def name(self) -> str:
        """An argument's name in the line of usage; in brackets if it may be left out."""
        name = self.info.metavar or self.key.strip("_").upper()
        return name if self.default is inspect.Parameter.empty else f"[{name}]"

    @property
    def usage(self) -> str:
        """Its names, and what an option takes."""
        if self.is_argument:
            return f"`{self.name}`"
        declared = [self.info.default, *(self.info.param_decls or ())]  # typer keeps the first name as a default
        names = ", ".join(f"`{name}`" for names in declared if isinstance(names, str) for name in names.split("/"))
        takes = {self.annotation, *typing.get_args(self.annotation)}
        return names if bool in takes else f"{names} {self.info.metavar or ('N' if int in takes else 'TEXT')}"

    @property
    def meaning(self) -> str:
        """Its help, and its default where the help says nothing of it."""
        says = self.default not in (None, False, inspect.Parameter.empty) and "default" not in self.info.help.lower()
        default = f" Default: {self.default}." if says else ""
        return f"{self.info.help}{default}"


def _parameters(callback: Any) -> Iterator[Parameter]:
    hints = typing.get_type_hints(callback, include_extras=True)
    for key, parameter in inspect.signature(callback).parameters.items():
        annotation, info = typing.get_args(hints[key])
        yield Parameter(info, key, annotation, parameter.default)


def keys_page() -> str:
    """Every value that an entry may declare and that decides a number."""
    lines = ["# Keys", "", MADE, "", KEYS_HEAD]
    lines += ["## protocol", "", Protocol.__doc__ or "", "", *_table(Protocol)]
    for algorithm, rule in RULES.items():
        lines += [f"## rule of algorithm: {algorithm}", "", rule.__doc__ or "", "", *_table(rule)]
    lines += ["## recipe", "", Recipe.__doc__ or "", "", *_table(Recipe)]
    for title, model in ENTRIES.items():
        lines += [f"## {title}", "", inspect.getdoc(model) or "", "", *_entry_table(model)]
    return "\n".join(lines)


def formats_page() -> str:
    """What scripts read: the keys of CSV and JSON, and those of a record."""
    lines = ["# What scripts read", "", MADE, "", FORMATS_HEAD]
    for title, keys in SCRIPTS.items():
        rows = [f"| `{key}` | {_cell(meaning)} |" for key, meaning in keys.items()]
        lines += [f"## {title}", "", "| key | meaning |", "| --- | --- |", *rows, ""]
    documents: list[tuple[str, str, type[Model]]] = [
        ("a run's record", RECORDS_HEAD, RunRecord),
        ("an evaluation's record", EVALUATIONS_HEAD, EvaluationRecord),
        ("the card of published weights", CARDS_HEAD, Card),
    ]
    for title, head, model in documents:
        lines += [f"## {title}", "", head, "| key | meaning |", "| --- | --- |", *_record_rows(model, ""), ""]
    return "\n".join(lines)


def _record_rows(model: type[Model], prefix: str) -> Iterator[str]:
    """A row a key; those of a part stand below it, with its name before theirs."""
    for key, field in model.model_fields.items():
        parts = [kind for kind in (field.annotation, *typing.get_args(field.annotation)) if _is_part(kind)]
        meaning = field.description or (inspect.getdoc(parts[0]) if parts else "") or ""
        several = "[]" if typing.get_origin(field.annotation) is list else ""
        yield f"| `{prefix}{key}{several}` | {_cell(meaning)} |"
        if parts and not issubclass(parts[0], RunSpec):  # what a spec holds is in keys.md
            yield from _record_rows(parts[0], f"{prefix}{key}{several}.")


def _is_part(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Model)


def _table(model: type[Model]) -> Iterator[str]:
    yield "| key | values | meaning |"
    yield "| --- | --- | --- |"
    for key, value in model.model_json_schema()["properties"].items():
        default = f"; default {_literal(value['default'])}" if "default" in value else ""
        yield f"| `{key}` | {_cell(_values(value) + default)} | {_cell(value.get('description', ''))} |"
    yield ""


def _entry_table(model: type[Model]) -> Iterator[str]:
    """The keys of an entry itself; a key that must be there is marked."""
    yield "| key | required | meaning |"
    yield "| --- | --- | --- |"
    for key, field in model.model_fields.items():
        yield f"| `{key}` | {'yes' if field.is_required() else ''} | {_cell(field.description or '')} |"
    yield ""


def _values(schema: Mapping[str, Any]) -> str:
    """What a key takes, in words: a JSON schema as pydantic makes it."""
    if "anyOf" in schema:
        return " or ".join(_values(choice) for choice in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(_literal(value) for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        sizes = {schema.get("minItems"), schema.get("maxItems")}
        count = f"{schema['minItems']} of: " if len(sizes) == 1 and None not in sizes else "list of: "
        return count + _values(schema["items"])
    words = {"integer": "whole number", "number": "number", "boolean": "true, false", "string": "id", "null": "null"}
    return words[schema["type"]] + _range(schema)


def _range(schema: Mapping[str, Any]) -> str:
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    said = [f"{word} {schema[key]:,.15g}" for key, word in bounds.items() if key in schema]
    return f" {' '.join(said)}" if said else ""


def _literal(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


ENTRIES: dict[str, type[Model]] = {
    "a method's entry": Method,
    "a benchmark's entry": BenchmarkEntry,
    "a data set's entry": DatasetEntry,
    "splits, kind: seeded": SeededSplit,
    "splits, kind: files": FileSplit,
    "splits, kind: from-source": SourceSplit,
    "a recipe's entry": RecipeEntry,
    "a table's entry": TableEntry,
    "a table's column": Column,
    "a table's row": Row,
    "a table's second test": SecondTest,
}

SCRIPTS = {
    "norml report --table ID (cells)": CELL_KEYS,
    "norml report (runs)": RUN_KEYS,
    "norml study NAME (trials)": TRIAL_KEYS,
    "norml compare (comparisons)": COMPARISON_KEYS,
    "norml report --protocols (protocols)": PROTOCOL_KEYS,
}


def commands_table() -> str:
    """The commands, a line each, in the panels of `norml --help`."""
    group: Any = typer.main.get_command(app)
    lines = ["| panel | command | what it does |", "| --- | --- | --- |"]
    for panel in PANELS:
        of_panel = [each for each in group.commands.values() if each.rich_help_panel == panel]
        for number, each in enumerate(of_panel):
            summary = each.get_short_help_str(limit=80).rstrip(".")
            lines.append(f"| {panel if number == 0 else ''} | `norml {each.name}` | {summary} |")
    return "\n".join(lines)


BLOCKS = {"commands": commands_table, **headline.BLOCKS, **speed_tables.BLOCKS, **scaling.BLOCKS}


def with_blocks(text: str) -> str:
    """`text` with what stands between each pair of marks made again: `<!-- made: NAME -->` ... `<!-- end -->`."""
    pattern = re.compile(r"(<!-- made: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n\n{found[3]}", text)


REFERENCE = {
    "commands": commands_page,
    "keys": keys_page,
    "formats": formats_page,
    "library": lambda: library_page(MADE),
}


def pages() -> Iterator[tuple[Path, str]]:
    """Each page that is made, in whole or in part, and what it must hold."""
    for name, page in REFERENCE.items():
        yield HERE / "reference" / f"{name}.md", page()
    for path in [HERE.parent / "README.md", *sorted(HERE.rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if "<!-- made: " in text:
            yield path, with_blocks(text)


def main() -> None:
    """Write the pages, or with --check leave with 1 if one is not what would be written."""
    stale = []
    for path, text in pages():
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"{', '.join(stale)}: not what the code says; run `nox -s docs`")


if __name__ == "__main__":
    main()
