"""`norml reproduce`: make the missing runs of a table."""

from norml_cli.registry.resolving import Registry
from norml_cli.reporting.table_sheet import render_table
from norml_cli.results.evaluated import Evaluations
from norml_cli.results.missing import plan_runs, runs_of
from norml_cli.results.store import Results
from norml_cli.results.tables import benchmarks_of, build_table
from norml_cli.sweeps.cells import Asked
from norml_cli.sweeps.sweep import carry_out
from norml_cli.terminal.output import Output, print_text


def reproduce(registry: Registry, table_id: str, asked: Asked, console: Output) -> int:
    """Make the missing runs of the table `table_id`, then print it if it is complete. Returns the exit code.

    Raises UserError before anything starts.
    """
    table, results = registry.table(table_id), Results(asked.results)
    plan = plan_runs(results, runs_of(registry, table), asked.seeds)
    outcome = carry_out(registry, table.id, plan, asked, console)
    console.result(outcome.result)
    if outcome.code == 0 and not asked.dry_run and not console.as_json:
        places = benchmarks_of(table)
        runs, scan = results.runs(places), results.scan_evaluations(places)
        built = build_table(registry, table, [record for _, record in runs], Evaluations(runs, scan.records))
        print_text(render_table(built, "rich", width=console.width), console)
    return outcome.code
