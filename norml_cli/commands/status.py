"""`norml status`: what is running, what waits to be taken up, what has finished."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from norml_cli.files.atomic import home
from norml_cli.results.store import find_pretrainings, find_records, find_studies
from norml_cli.terminal.progress import duration
from norml_cli.terminal.status_files import Found, find_unfinished

NEWEST = 10  # finished trainings that a person is shown; `norml report` lists every run


def status(*, results: Path, console: Console, as_json: bool) -> None:
    """Print every training under `results`, and the pretrainings beside the caches. Raises UserError."""
    unfinished = [*find_unfinished(results), *find_unfinished(home() / "backbones")]
    finished = sorted(_finished(results), key=lambda item: item["created"], reverse=True)
    if as_json:
        console.print_json(data={"unfinished": [_values(found) for found in unfinished], "finished": finished})
        return
    if not unfinished and not finished:
        _say(console, "nothing is running, paused or finished; `norml run METHOD` makes a run")
    if unfinished:
        _print_unfinished(unfinished, console)
    for item in finished[:NEWEST]:
        _say(console, f"finished  {item['title']}: {item['reached']} ({item['steps']:,} steps, {item['created']})")
    if len(finished) > NEWEST:
        _say(console, f"finished  {len(finished) - NEWEST:,} earlier (--json lists them)")


def _print_unfinished(unfinished: list[Found], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("state", "what", "how far", "speed", "left", "so far"):
        table.add_column(column, overflow="fold")
    for found in unfinished:
        table.add_row(found.state, *_unfinished_cells(found))
    console.print(table, highlight=False)
    for command in dict.fromkeys(f.status.command for f in unfinished if f.state == "paused" and f.status):
        _say(console, f"goes on with: {command}")


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def _values(found: Found) -> dict[str, Any]:
    known = {} if found.status is None else found.status.model_dump(mode="json", exclude={"process"})
    return {"state": found.state, "path": str(found.path), **known}


def _unfinished_cells(found: Found) -> tuple[str, str, str, str, str]:
    status = found.status
    if status is None:
        return str(found.path), "not known", "", "", ""
    running = found.state == "running"
    far = f"{status.phase} {status.done:,}/{status.total:,}"
    speed = f"{status.per_s:.1f}/s" if running and status.per_s else ""
    left = duration(status.seconds_left) if running and status.seconds_left is not None else ""
    loss = [f"loss {status.loss:.3f}"] if status.loss is not None else []
    validation = [f"meta-val {100 * status.validation:.1f}%"] if status.validation is not None else []
    return status.title, far, speed, left, ", ".join(loss + validation)


def _finished(results: Path) -> list[dict[str, Any]]:
    """Runs with their meta-test accuracy; trials and pretrainings with what they reach on meta-validation."""
    found = []
    for path, run in find_records(results):
        reached = f"meta-test {100 * run.accuracy.mean:.2f}%"
        found.append(_item(path, run.spec.title(run.changed, run.seed), run.spec.protocol.outer_steps, reached, run))
    for path, trial in find_studies(results):
        title = f"{trial.study}: {trial.spec.title(trial.changed, trial.seed)}"
        reached = f"meta-val {100 * trial.best.validation_accuracy:.2f}%"
        found.append(_item(path, title, trial.spec.protocol.outer_steps, reached, trial))
    for path, backbone in find_pretrainings(results):
        shots, best = next(iter(backbone.nearest_centroid.items()))
        reached = f"{shots}-shot nearest centroid, meta-val {100 * best.mean:.2f}%"
        title = f"{backbone.spec.recipe}, seed {backbone.seed}"
        found.append(_item(path, title, backbone.spec.values.steps, reached, backbone))
    return found


def _item(path: Path, title: str, steps: int, reached: str, record: Any) -> dict[str, Any]:
    return {"path": str(path), "title": title, "steps": steps, "reached": reached, "created": record.created}
