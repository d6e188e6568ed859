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


def _shared_home(factory: pytest.TempPathFactory) -> Path:
    home = factory.getbasetemp() / "home"
    home.mkdir(exist_ok=True)
    return home
