"""`norml` in which one rank is killed, the first time that torchrun starts it: the rank and the step are told.

    torchrun --max-restarts 1 ... -m tests.scale.dying RANK STEP run norml ...

Checkpoints are written after every step.
"""

import os
import signal
import sys

import torch
from typing_extensions import override

from norml_cli.__main__ import main
from norml_cli.training import loop
from norml_cli.training.run import Run

RANK, STEP = (int(word) for word in sys.argv[1:3])
KILLED = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and int(os.environ["RANK"]) == RANK
take_step = Run._take_step


@override
def _take_step(run: Run, step: int) -> torch.Tensor:
    if KILLED and step == STEP:
        os.kill(os.getpid(), signal.SIGKILL)
    return take_step(run, step)


if __name__ == "__main__":
    Run._take_step = _take_step  # type: ignore[method-assign]
    loop.CHECKPOINT_EVERY_S = 0.0  # type: ignore[misc]
    sys.argv[1:] = sys.argv[3:]
    main()
