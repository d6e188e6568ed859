"""Write the pages of docs/reference and the generated parts of other pages: `nox -s docs`; --check only compares.

Sources: the commands' declarations, as in `--help`; the models that check entries and records; the keys of CSV files;
the library's docstrings. In other pages the text between `<!-- made: NAME -->` and `<!-- end -->` comes from records. A
test checks that all pages are up to date.
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
MADE = "<!-- made by `nox -s docs` from texts in the code; edit those instead -->"

COMMANDS_HEAD = """\
`norml COMMAND --help` prints the same, with examples. For bad input a command prints one line to standard error and
exits with code 2. A training that is stopped by Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 exits with code 130; the same
command goes on.

With `--json`, standard output is one JSON document, the result. Progress goes to standard error, one JSON object per
line:

- `{"event": "progress", "title", "phase", "done", "total", "per_s", "seconds_left"}`, at most once a second. Trainings
  add `loss` and `validation`, the last accuracy on meta-validation.
- `{"event": "line", "line"}` for each line that a terminal would show.

`--quiet` leaves both out. Errors are always plain lines. `norml --install-completion` installs the shell's completion
of commands, options and ids. `NO_COLOR` switches colours off.
"""

KEYS_HEAD = """\
The first tables list the values that entries declare, each as `{value: ..., source: ...}`. `--set KEY=VALUE` changes
them for one run. Keys with a default may be left out. The last tables list the keys of the entries themselves. Each
entry is a YAML file.
"""

FORMATS_HEAD = """\
`--format csv` and `--format json` have the same values and keys, with fractions to 12 digits. CSV joins lists by spaces
(numbers) or ` | ` (texts) and leaves missing values empty; JSON has `null`. JSON has the rows under the name in
brackets, next to `half_width_formula`. The JSON of a table also has `table`, `title`, `citation`, `reference` and
`second_test`.
"""

RECORDS_HEAD = """\
Each run has a file `results/<benchmark>/<K>-shot/<method>/seed-<n>.json` in UTF-8. `digest` is the SHA-256 of the JSON
of all other keys, sorted and without spaces. Reading a record that contradicts itself is an error. A trial of a study
has the same keys without a meta-test. It is in `results/studies/<study>/<K>-shot/<method>/`, named after its changed
values (`inner_lr=0.2,gate_scale=4.0-seed-0.json`). `results/other-protocols/NAME/` is a separate results folder for
runs with other than the declared values. Tables leave it out; `--results` shows it.
"""


EVALUATIONS_HEAD = """\
`norml evaluate` writes a file for each test protocol, next to the run's `seed-<n>.json` and named after the changed
values: `seed-<n>-evaluations/queries_per_class=15,rotations=none.json`. It has a `digest`, as records do, and the
run's digest. So an evaluation of weights that have been replaced is an error.
"""

CARDS_HEAD = """\
`norml export` writes a run's weights as `seed-<n>.safetensors` and their description as `seed-<n>.card.json`, with a
`digest`. You can publish both with the record. `verify`, `inspect` and `evaluate` read them if the run's own
`seed-<n>.weights` is missing. They check the file's SHA-256 and that the card belongs to the run.
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
    """An argument or option, as declared in `app`."""

    info: Any  # what typer.Argument or typer.Option made
    key: str
    annotation: Any
    default: Any

    @property
    def is_argument(self) -> bool:
        """Whether it is positional."""
        return isinstance(self.info, type(typer.Argument()))

    @property
    def name(self) -> str:
        """An argument's name in the line of usage; in brackets if it may be left out."""
        name = self.info.metavar or self.key.strip("_").upper()
        return name if self.default is inspect.Parameter.empty else f"[{name}]"

    @property
    def usage(self) -> str:
        """Its names and, for an option, its value."""
        if self.is_argument:
            return f"`{self.name}`"
        declared = [self.info.default, *(self.info.param_decls or ())]  # typer keeps the first name as a default
        names = ", ".join(f"`{name}`" for names in declared if isinstance(names, str) for name in names.split("/"))
        takes = {self.annotation, *typing.get_args(self.annotation)}
        return names if bool in takes else f"{names} {self.info.metavar or ('N' if int in takes else 'TEXT')}"

    @property
    def meaning(self) -> str:
        """Its help, with its default if the help does not say it."""
        says = self.default not in (None, False, inspect.Parameter.empty) and "default" not in self.info.help.lower()
        default = f" Default: {self.default}." if says else ""
        return f"{self.info.help}{default}"


def _parameters(callback: Any) -> Iterator[Parameter]:
    hints = typing.get_type_hints(callback, include_extras=True)
    for key, parameter in inspect.signature(callback).parameters.items():
        annotation, info = typing.get_args(hints[key])
        yield Parameter(info, key, annotation, parameter.default)


def keys_page() -> str:
    """All values and keys of entries."""
    lines = ["# Keys", "", MADE, "", KEYS_HEAD]
    lines += ["## protocol", "", Protocol.__doc__ or "", "", *_table(Protocol)]
    for algorithm, rule in RULES.items():
        lines += [f"## rule of algorithm: {algorithm}", "", rule.__doc__ or "", "", *_table(rule)]
    lines += ["## recipe", "", Recipe.__doc__ or "", "", *_table(Recipe)]
    for title, model in ENTRIES.items():
        lines += [f"## {title}", "", inspect.getdoc(model) or "", "", *_entry_table(model)]
    return "\n".join(lines)


def formats_page() -> str:
    """The keys of CSV, JSON and records."""
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
    """A row per key; the keys of a part follow it, with its name as prefix."""
    for key, field in model.model_fields.items():
        parts = [kind for kind in (field.annotation, *typing.get_args(field.annotation)) if _is_part(kind)]
        meaning = field.description or (inspect.getdoc(parts[0]) if parts else "") or ""
        several = "[]" if typing.get_origin(field.annotation) is list else ""
        yield f"| `{prefix}{key}{several}` | {_cell(meaning)} |"
        if parts and not issubclass(parts[0], RunSpec):  # keys.md has the keys of a spec
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
    """The keys of an entry; required keys are marked."""
    yield "| key | required | meaning |"
    yield "| --- | --- | --- |"
    for key, field in model.model_fields.items():
        yield f"| `{key}` | {'yes' if field.is_required() else ''} | {_cell(field.description or '')} |"
    yield ""


def _values(schema: Mapping[str, Any]) -> str:
    """A key's values in words, from pydantic's JSON schema."""
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
    """The commands, one line each, by panels of `norml --help`."""
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
    """`text` with new content between each pair of marks `<!-- made: NAME -->` ... `<!-- end -->`."""
    pattern = re.compile(r"(<!-- made: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n\n{found[3]}", text)


REFERENCE = {
    "commands": commands_page,
    "keys": keys_page,
    "formats": formats_page,
    "library": lambda: library_page(MADE),
}


def pages() -> Iterator[tuple[Path, str]]:
    """Each page that is generated, completely or in part, and its text."""
    for name, page in REFERENCE.items():
        yield HERE / "reference" / f"{name}.md", page()
    for path in [HERE.parent / "README.md", *sorted(HERE.rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if "<!-- made: " in text:
            yield path, with_blocks(text)


def main() -> None:
    """Write the pages; with --check, exit with 1 if one is out of date."""
    stale = []
    for path, text in pages():
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"{', '.join(stale)}: out of date; run `nox -s docs`")


if __name__ == "__main__":
    main()
