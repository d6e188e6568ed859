"""The files beside a training's result that share its stem: checkpoint, weights, status and others. Torch-free.

For a run or a trial they lie beside its record. For a pretraining they lie beside its weights, in the cache folder.
"""

import glob
import os
from dataclasses import dataclass
from pathlib import Path

CHECKPOINT = ".checkpoint"  # a training resumes from it
WEIGHTS = ".weights"  # the best weights on meta-validation, once the training has finished
PUBLISHED = ".safetensors"  # the same weights, exported for others
CARD = ".card.json"  # which run the exported weights come from
STATUS = ".status"  # a training's progress, for `norml status`
DIVERGED = ".diverged"  # why a training diverged
FEATURES = ".features.h5"  # a pretrained backbone's features of every image
LOCK = ".lock"
PART = ".part"  # any of these files while it is written
EVALUATIONS = "-evaluations"  # after a record's stem: the folder of its evaluations
INSPECTION = "-inspection"  # the same, of its inspection
INSPECTED = "inspection.json"  # in a folder of `norml inspect`: which weights it shows, and most of its numbers
LOG = ".log"  # the output of a training in a sweep, kept until it finishes

_ONLY_WHILE_UNFINISHED = (CHECKPOINT, DIVERGED, STATUS)


@dataclass(frozen=True)
class Companions:
    """The companions of one training. `path` is its record, or any other of these files."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """The state that the training resumes from."""
        return self.path.with_suffix(CHECKPOINT)

    @property
    def weights(self) -> Path:
        """The trained weights."""
        return self.path.with_suffix(WEIGHTS)

    @property
    def published(self) -> Path:
        """The exported weights."""
        return self.path.with_suffix(PUBLISHED)

    @property
    def card(self) -> Path:
        """The description of the exported weights."""
        return self.path.with_suffix(CARD)

    @property
    def evaluations(self) -> Path:
        """The folder that `norml evaluate` writes to."""
        return self.path.with_name(f"{self.path.stem}{EVALUATIONS}")

    @property
    def status(self) -> Path:
        """The training's progress."""
        return self.path.with_suffix(STATUS)

    @property
    def diverged(self) -> Path:
        """Why the training diverged."""
        return self.path.with_suffix(DIVERGED)

    @property
    def log(self) -> Path:
        """The training's output, if it ran in a sweep."""
        return self.path.with_suffix(LOG)

    @property
    def inspection(self) -> Path:
        """The folder that `norml inspect` writes to."""
        return self.path.with_name(f"{self.path.stem}{INSPECTION}")

    def existing(self) -> list[Path]:
        """All companions that exist, without hidden files."""
        return sorted(path for path in self.path.parent.glob(f"{glob.escape(self.path.stem)}.*") if path.is_file())

    def tidy(self) -> None:
        """Remove what only an unfinished training needs, and its log. Call this when the result exists."""
        self.start_over()
        if not _is_own_output(self.log):
            self.log.unlink(missing_ok=True)

    def start_over(self) -> None:
        """Discard an unfinished training (--force). A finished result stays until the new one replaces it."""
        for suffix in _ONLY_WHILE_UNFINISHED:
            self.path.with_suffix(suffix).unlink(missing_ok=True)


def _is_own_output(path: Path) -> bool:
    """Whether this process prints into the file at `path`. A sweep reads that file if its cell fails later."""
    try:
        return os.path.samestat(os.fstat(1), path.stat())
    except OSError:  # no such file, or no standard output
        return False


def lock_path(target: Path) -> Path:
    """The hidden lock file of `target` and of all files that share its stem."""
    return target.with_name(f".{target.stem}{LOCK}")
