"""`norml status`: list the trainings that are running, paused or finished."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from norml_cli.files.errors import counted
from norml_cli.files.suggestions import suggested
from norml_cli.registry.recipes import backbones_folder
from norml_cli.results.records import Record
from norml_cli.results.store import Results
from norml_cli.terminal.output import name_left_out, print_line
from norml_cli.terminal.progress import duration
from norml_cli.terminal.status_files import Unfinished, find_unfinished

NEWEST = 10  # finished trainings that the text shows; `norml report` lists every run


def status(*, results: Path, console: Console, as_json: bool) -> None:
    """Print every training under `results`, and the pretrainings in the cache folder. Names damaged files.

    Raises UserError for a missing folder.
    """
    Results(results).require_folder()
    unfinished, damaged = find_unfinished(results, backbones_folder())
    items, faults = _finished(Results(results))
    name_left_out([*damaged, *faults])
    finished = sorted(items, key=lambda item: item["created"], reverse=True)
    if as_json:
        console.print_json(data={"unfinished": [_values(found) for found in unfinished], "finished": finished})
        return
    if not unfinished and not finished and not faults:
        print_line(f"no trainings yet; start one with `{suggested('norml run METHOD')}`", console)
    if unfinished:
        _print_unfinished(unfinished, console)
    for item in finished[:NEWEST]:
        made = f"{counted(item['steps'], 'step')}, {item['created']}"
        line = Text(f"finished  {item['title']}: {item['reached']} ({made})")
        console.print(line, highlight=False, soft_wrap=not console.is_terminal)
    if len(finished) > NEWEST:
        print_line(f"finished  {len(finished) - NEWEST:,} earlier (--json lists them)", console)


def _print_unfinished(unfinished: list[Unfinished], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("state", "what", "how far", "speed", "left", "so far"):
        table.add_column(column, overflow="fold")
    for found in unfinished:
        table.add_row(found.state, *_unfinished_cells(found))
    console.print(table, highlight=False)
    for command in dict.fromkeys(f.status.command for f in unfinished if f.state == "paused"):
        print_line(f"to resume: {command}", console)


def _values(found: Unfinished) -> dict[str, Any]:
    known = found.status.model_dump(mode="json", exclude={"process"})
    return {"state": found.state, "path": str(found.path), **known}


def _unfinished_cells(found: Unfinished) -> tuple[str, str, str, str, str]:
    status = found.status
    running = found.state == "running"
    far = f"{status.phase} {status.done:,}/{status.total:,}"
    speed = f"{status.per_s:.1f}/s" if running and status.per_s else ""
    left = duration(status.seconds_left) if running and status.seconds_left is not None else ""
    loss = [f"loss {status.loss:.3f}"] if status.loss is not None else []
    validation = [f"meta-val {100 * status.validation:.1f}%"] if status.validation is not None else []
    return status.title, far, speed, left, ", ".join(loss + validation)


def _finished(results: Results) -> tuple[list[dict[str, Any]], list[str]]:
    """Runs with their meta-test accuracy, trials and pretrainings with their accuracy on meta-validation.

    The second list has a line for each unreadable record.
    """
    items = []
    runs, trials, backbones = results.scan_runs(intervals=False), results.scan_trials(), results.scan_pretrainings()
    for path, run in runs.records:
        reached = f"meta-test {100 * run.accuracy.mean:.2f}%"
        items.append(_item(path, run.spec.title(run.changed, run.seed), run.spec.protocol.outer_steps, reached, run))
    for path, trial in trials.records:
        title = f"{trial.study}: {trial.spec.title(trial.changed, trial.seed)}"
        reached = f"meta-val {100 * trial.best.validation_accuracy:.2f}%"
        items.append(_item(path, title, trial.spec.protocol.outer_steps, reached, trial))
    for path, backbone in backbones.records:
        shots, best = next(iter(backbone.nearest_centroid.items()))
        reached = f"{shots}-shot nearest centroid, meta-val {100 * best.mean:.2f}%"
        title = f"{backbone.spec.recipe}, seed {backbone.seed}"
        items.append(_item(path, title, backbone.spec.values.steps, reached, backbone))
    return items, [fault for scan in (runs, trials, backbones) for fault in scan.faults]


def _item(path: Path, title: str, steps: int, reached: str, record: Record) -> dict[str, Any]:
    return {"path": str(path), "title": title, "steps": steps, "reached": reached, "created": record.created}
