"""Calls in processes of their own."""

import os
from pathlib import Path

import pytest
import torch

from norml_cli.files.errors import UserError
from tests.benchmarks.own_process import OwnProcess

CPU = torch.device("cpu")


def writing(_device: torch.device, path: Path):
    return lambda: path.write_text(str(os.getpid()))


def failing(_device: torch.device):
    raise RuntimeError("no such library")


def test_calls_are_made_in_another_process_which_ends(tmp_path: Path):
    with OwnProcess("writing", writing, CPU, tmp_path / "who") as process:
        process()
        assert int((tmp_path / "who").read_text()) == process._process.pid != os.getpid()
        assert process._process.is_alive()
    assert process._process.exitcode == 0


def test_what_fails_is_named():
    with pytest.raises(UserError, match="failing: failed in its process"):
        OwnProcess("failing", failing, CPU)
