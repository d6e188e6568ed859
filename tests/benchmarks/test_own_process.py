"""Engines in processes of their own."""

import pytest
import torch
from engines import Engine, Ours
from own_process import OwnProcess
from workloads import Workload

from norml_cli.errors import UserError

SMALL = Workload(1, 1, meta_batch_size=2, inner_steps=1)


class Failing(Engine):
    """An engine that cannot be made."""

    title = "failing"

    def __init__(self, *_: object, **__: object) -> None:
        raise RuntimeError("no such library")


def test_steps_are_taken_in_another_process_which_ends():
    with OwnProcess(Ours, SMALL, torch.device("cpu")) as process:
        process.step()
        process.step()
        assert process._process.is_alive()
    assert process._process.exitcode == 0


def test_an_engine_that_fails_is_named():
    with pytest.raises(UserError, match="failing: failed in its process"):
        OwnProcess(Failing, SMALL, torch.device("cpu"))
