import shutil
from pathlib import Path

import pytest

from tests.helpers.command_line import Shell
from tests.helpers.tiny import write_registry


@pytest.fixture
def shell(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """A fresh working folder with the tiny registry; caches are shared by the tests of a session."""
    home = _shared_home(tmp_path_factory)
    folder = tmp_path_factory.mktemp("work")
    registry = write_registry(folder / "registry")
    monkeypatch.setenv("NORML_HOME", str(home))
    monkeypatch.setenv("NORML_REGISTRY", str(registry))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(folder)
    return Shell(folder, registry, home, capsys, monkeypatch)


@pytest.fixture
def record(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a run of NORML on `tiny-5way`, trained once for the tests of this process and copied for each."""
    kept = tmp_path_factory.getbasetemp() / "run-of-norml"
    if not kept.exists():
        assert shell.norml("run", "norml", "--benchmark", "tiny-5way")[0] == 0
        shutil.copytree(shell.results, kept)
    else:
        shutil.copytree(kept, shell.results)
    return Path("results/tiny-5way/1-shot/norml/seed-0.json")


def _shared_home(factory: pytest.TempPathFactory) -> Path:
    home = factory.getbasetemp() / "home"
    home.mkdir(exist_ok=True)
    return home
