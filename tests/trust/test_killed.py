"""A few kills of each command; `nox -s trust` has hundreds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 4
COMMANDS = ["prepare", "pretrain", "run"]
SCRIPT = Path(__file__).with_name("kills.py")


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """In a process of its own, which has no threads and may fork."""
    folder = tmp_path_factory.mktemp("kills")
    arguments = [str(SCRIPT), "--kills", str(KILLS), "--seed", "1", "--record", str(folder)]
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
