"""A few kills of each command; `nox -s trust` has hundreds."""

import json
import subprocess
import sys

import pytest

from norml_cli.files.companions import CHECKPOINT, DIVERGED, LOG, STATUS
from tests.helpers.command_line import Shell
from tests.trust.places import PREPARE_PHOTOS, PRETRAIN, RUN, contents

KILLS = 3
COMMANDS = ["prepare", "pretrain", "run"]
SCRIPT = ("-m", "tests.trust.kills")


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """In a process of its own, which has no threads and may fork."""
    folder = tmp_path_factory.mktemp("kills")
    arguments = [*SCRIPT, "--kills", str(KILLS), "--seed", "1", "--record", str(folder)]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    records = {command: folder / f"kills-{command}.json" for command in COMMANDS}
    assert all(record.exists() for record in records.values()), done.stderr
    return {command: json.loads(record.read_text())["count"] for command, record in records.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_command_started_again_ends_like_one_left_alone(counts: dict[str, dict], command: str):
    count = counts[command]
    assert count["wrong"] == []
    assert count["kills"] == KILLS
    assert count["equal_ends"] == count["ends_compared"] > 0


@pytest.mark.parametrize("suffix", [CHECKPOINT, DIVERGED, LOG, STATUS])
@pytest.mark.parametrize(
    ("command", "first"),
    [(RUN, ()), (PRETRAIN, (PREPARE_PHOTOS,)), (("study", "made", *RUN[1:], "--grid", "inner_lr=0.4"), ())],
    ids=["run", "pretrain", "study"],
)
def test_a_leftover_beside_a_finished_record_goes(
    shell: Shell, command: tuple[str, ...], first: tuple[tuple[str, ...], ...], suffix: str
):
    """As a kill between the record and the removal of what only an unfinished training needs leaves it."""
    for earlier in (*first, command):
        assert shell.norml(*earlier)[0] == 0
    finished = contents(shell.folder)
    (record,) = shell.results.rglob("*-0.json")
    places = [path.with_suffix(suffix) for path in (record, *shell.folder.rglob("*-0.weights"))]
    places[-1].write_bytes(b"left")
    assert shell.norml(*command)[0] == 0
    assert contents(shell.folder) == finished
    assert json.loads(shell.norml("status", "--json")[1])["unfinished"] == []
