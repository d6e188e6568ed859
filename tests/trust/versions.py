"""With what a campaign was run."""

import platform

import filelock
import h5py
import torch

from norml_cli import __version__
from norml_cli.training.provenance import git_state


def versions() -> dict[str, str]:
    """Of norml and what its files go through, and the commit."""
    state = git_state()
    return {
        "norml": __version__,
        "commit": f"{state.commit}{' with changes' if state.dirty else ''}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
        "filelock": filelock.__version__,
        "system": f"{platform.system()} ({platform.machine()})",
    }
