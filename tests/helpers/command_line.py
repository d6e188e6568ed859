"""The command line called in this process: as a user types it, without the seconds of another torch import."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from norml_cli.app.main import main

PYTHONS_INSIDES = re.compile(r"Traceback|<\w[\w.]* [^>]*(?: at 0x|=)|<class '|\bNoneType\b|\bobject has no attribute\b")


@dataclass
class Shell:
    """A user's shell: a cache folder, a working folder and a registry of tiny entries."""

    folder: Path
    registry: Path
    home: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def norml(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of `norml ARGUMENTS` with the tiny registry."""
        self.capsys.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["norml", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = self.capsys.readouterr()
        assert not PYTHONS_INSIDES.search(err), err  # of any command in any test
        code = left.value.code
        return (0 if code is None else int(code)), out, err

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """The same in a process of its own, to be signalled, also where this one is deaf to SIGHUP (nohup)."""
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "norml_cli", *arguments],
                cwd=self.folder,
                env=os.environ | {"OMP_NUM_THREADS": "1"},  # as conftest.py sets in this process: equal sums
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        finally:
            signal.signal(signal.SIGHUP, before)
