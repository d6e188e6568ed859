"""The files beside a record."""

import subprocess
import sys
from pathlib import Path

from norml_cli.files.companions import Companions


def test_a_cell_keeps_the_log_that_it_writes(tmp_path: Path):
    """Its sweep shows the end of this log if the cell fails after its record is there."""
    files = Companions(tmp_path / "seed-0.json")
    program = "import sys, pathlib, norml_cli.files.companions as c; print('one', flush=True); "
    program += "c.Companions(pathlib.Path(sys.argv[1])).tidy(); print('two')"
    with files.log.open("wb") as log:
        subprocess.run([sys.executable, "-c", program, str(files.path)], stdout=log, check=True)
    assert files.log.read_text() == "one\ntwo\n"
    files.tidy()
    assert not files.log.exists()
