"""`norml sweep`: make the missing runs of several methods, benchmarks, shots, seeds and settings."""

from collections.abc import Sequence

from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.reporting.lists import render_runs
from norml_cli.results.missing import grid_name, plan_runs
from norml_cli.results.store import Results, read_record
from norml_cli.sweeps.cells import Asked
from norml_cli.sweeps.sweep import carry_out
from norml_cli.terminal.output import Output, print_text


def sweep(registry: Registry, items: Sequence[Resolved], asked: Asked, console: Output) -> int:
    """Make the missing runs of `items` with every seed, then list all runs. Returns the exit code.

    Raises UserError before anything starts.
    """
    results = Results(asked.results)
    outcome = carry_out(registry, "sweep", plan_runs(results, items, asked.seeds), asked, console)
    console.result(outcome.result)
    if outcome.code == 0 and not asked.dry_run and not console.as_json:
        places = [results.run_path(item.spec, seed, grid_name(item)) for item in items for seed in asked.seeds]
        runs = [(path, read_record(path)) for path in places]
        print_text(render_runs(registry, runs, "rich", width=console.width), console)
    return outcome.code
