"""How a command parses its words and prints its help: short metavars, panels, examples, each option given once."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.theme import Theme
from typer.core import TyperCommand, TyperGroup
from typing_extensions import override

from norml_cli.files.errors import UserError
from norml_cli.files.suggestions import remember_places

PLACES = {"PATH", "DIR", "FILE", "RECORD", "RECORD..."}  # metavars of files and folders
_STYLES = {"help.title": "bold", "help.name": "bold cyan", "help.code": "bold"}  # of the groups named below


class _Highlighter(RegexHighlighter):
    base_style = "help."
    highlights: ClassVar = [
        r"(?m)^(?P<title>[A-Z]\w+:)",
        r"(?m)^  (?P<name>[a-z][\w-]+)(?=  )",
        r"(?<![\w-])(?P<name>--?[a-z][\w-]*)",
        r"(?P<code>`[^`]+`)",
        r"(?m)^  (?P<code>norml .*)$",
    ]


def coloured(text: str) -> str:
    """Help `text` in Rich's styles if standard output is a terminal; else unchanged."""
    console = Console(theme=Theme(_STYLES))
    if not console.is_terminal:
        return text
    with console.capture() as captured:
        console.print(_Highlighter()(text), soft_wrap=True, end="")
    return captured.get()


PANELS = ("Data", "Runs", "Results", "Registry", "Upkeep")  # in the order of the work


class Panels(TyperGroup):
    """Help that lists the commands by panel."""

    @override
    def get_help(self, ctx: Any) -> str:
        return coloured(super().get_help(ctx))

    @override
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands: list[Any] = [self.get_command(ctx, name) for name in self.list_commands(ctx)]
        longest = max(len(each.name) for each in commands)
        for panel in PANELS:
            with formatter.section(panel):
                of_panel = [each for each in commands if each.rich_help_panel == panel]
                formatter.write_dl([(f"{each.name:{longest}}", each.get_short_help_str(limit=80)) for each in of_panel])


class Command(TyperCommand):
    """A command whose help shows what each option takes, and ends with examples (`epilog`, one per line)."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words. Raises UserError for an empty word, and for an option given twice that takes one value."""
        values, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for each in given:
            _refuse_empty(each, values.get(each.name))
        once = Counter(each.opts[0] for each in given if _is_option(each) and not each.multiple)
        for option, times in once.items():
            if times > 1:
                raise UserError(f"{option}: given {'twice' if times == 2 else f'{times} times'}; give it once")  # noqa: PLR2004 - twice
        return super().parse_args(ctx, args)

    @override
    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises UserError if the working folder was deleted: torch would end the process."""
        try:
            Path.cwd()
        except FileNotFoundError:
            raise UserError("the working folder does not exist any more; change to another folder") from None
        remember_places(ctx.params)
        return super().invoke(ctx)

    @override
    def get_help(self, ctx: Any) -> str:
        return coloured(super().get_help(ctx))

    @override
    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*(_word(each) for each in self.params if not _is_option(each)), "[OPTIONS]"]

    @override
    def format_options(self, ctx: Any, formatter: Any) -> None:
        parameters: list[Any] = list(self.get_params(ctx))
        rows = {
            "Arguments": [(each.metavar, each.help) for each in parameters if not _is_option(each)],
            "Options": [(_names(each), each.help or "") for each in parameters if _is_option(each)],
        }
        for title, lines in rows.items():
            if lines:
                with formatter.section(title):
                    formatter.write_dl(lines)

    @override
    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def _refuse_empty(parameter: Any, value: Any) -> None:
    """Raises UserError for an empty word, which as a path would mean the working folder, and for the path '-'."""
    texts = value if isinstance(value, list | tuple) else [value]
    name = max(parameter.opts, key=len) if _is_option(parameter) else parameter.metavar
    if "" in texts:
        raise UserError(f"{name}: is empty; give it a value, or leave it out")
    if "-" in texts and parameter.metavar in PLACES:
        raise UserError(f"{name} -: standard input and output are not supported here; name a file")


def _is_option(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "option")


def _word(argument: Any) -> str:
    return str(argument.metavar) if argument.required else f"[{argument.metavar}]"


def _names(option: Any) -> str:
    names = ", ".join(sorted(option.opts, key=len)) + "".join(f" / {name}" for name in option.secondary_opts)
    return f"{names} {option.metavar}" if option.metavar else names


class ReportCommand(Command):
    """`--table` without a value means every table: typer has no optional values. `--results` takes several folders."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = spread(args, {"--results"})
        pairs = zip(args, [*args, "--"][1:], strict=True)
        return super().parse_args(ctx, ["--table=every" if a == "--table" and b[:1] == "-" else a for a, b in pairs])


class SeveralCommand(Command):
    """Some options take several words: `--seeds 0 1 2` means `--seeds 0 --seeds 1 --seeds 2`."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        several = {"--seeds", "--shots", "--benchmark", "--grid"}
        return super().parse_args(ctx, spread(args, several))


def spread(words: list[str], options: Collection[str]) -> list[str]:
    """Rewrite `--seeds 0 1` to `--seeds 0 --seeds 1`: each of `options` takes every word up to the next option."""
    spread_out, option = list[str](), ""
    for word, before in zip(words, ["", *words], strict=False):
        option = "" if word.startswith("-") else before if before in options else option
        spread_out += [option, word] if option and before != option else [word]
    return spread_out
