"""`norml sweep`: methods x benchmarks x shots x seeds, side by side."""

from collections.abc import Sequence

from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.reporting.lists import render_runs
from norml_cli.results.store import Results, read_record
from norml_cli.terminal.output import Output, print_text
from norml_cli.training.cells import Asked, carry_out


def sweep(registry: Registry, items: Sequence[Resolved], asked: Asked, console: Output) -> int:
    """Run each of `items` with each of its seeds that has no record, and list them; an exit code, as of `carry_out`.

    Raises UserError before anything starts.
    """
    code = carry_out(registry, "sweep", items, asked, console)
    if code == 0 and not asked.dry_run and not console.as_json:
        places = [Results(asked.results).run_path(item.spec, seed) for item in items for seed in asked.seeds]
        runs = [(path, read_record(path)) for path in places]
        print_text(render_runs(registry, runs, "rich", width=console.width), console)
    return code
