"""`norml reproduce` and `norml sweep`: the runs of a table, or of methods at several places, that are missing."""

from collections.abc import Sequence

from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.reporting.lists import render_runs
from norml_cli.reporting.table_sheet import render_table
from norml_cli.results.evaluated import Evaluations
from norml_cli.results.missing import runs_of
from norml_cli.results.store import Results, read_record
from norml_cli.results.tables import benchmarks_of, build_table
from norml_cli.terminal.output import Output, print_text
from norml_cli.training.cells import Asked, carry_out


def reproduce(registry: Registry, table_id: str, asked: Asked, console: Output) -> int:
    """Run what the table `table_id` still lacks, and print it once it is whole; an exit code, as of `carry_out`.

    Raises UserError before anything starts.
    """
    table = registry.table(table_id)
    code = carry_out(registry, table.id, runs_of(registry, table), asked, console)
    if code == 0 and not asked.dry_run and not console.as_json:
        places, results = benchmarks_of(table), Results(asked.results)
        runs = results.runs(places)
        evaluations = Evaluations(runs, results.scan_evaluations(places).records)
        built = build_table(registry, table, [record for _, record in runs], evaluations)
        print_text(render_table(built, "rich", width=console.width), console)
    return code


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
