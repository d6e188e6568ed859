"""The files that lie beside a training's result and share its stem: who writes which, and when they go. Torch-free.

A run's or a trial's lie beside its record, a pretraining's beside its weights, which it keeps with the caches.
"""

import glob
from dataclasses import dataclass
from pathlib import Path

CHECKPOINT = ".checkpoint"  # a training that goes on from here
WEIGHTS = ".weights"  # the best on meta-validation, of a training that has finished
PUBLISHED = ".safetensors"  # the same weights for others, in a format that holds nothing but numbers
CARD = ".card.json"  # whose weights those are
STATUS = ".status"  # how far a training is, for `norml status`
DIVERGED = ".diverged"  # the note of a training whose numbers went wrong
FEATURES = ".features.h5"  # what a pretrained backbone makes of every image
LOCK = ".lock"
EVALUATIONS = "-evaluations"  # behind a record's stem: the folder of its weights under other protocols
LOG = ".log"  # what a training that ran beside others said, until it has finished

_OF_THE_UNFINISHED = (CHECKPOINT, DIVERGED, STATUS)


@dataclass(frozen=True)
class Companions:
    """Of the training whose record, or any other of these files, is `path`."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """Where it goes on from."""
        return self.path.with_suffix(CHECKPOINT)

    @property
    def weights(self) -> Path:
        """What it learned."""
        return self.path.with_suffix(WEIGHTS)

    @property
    def published(self) -> Path:
        """What it learned, for others."""
        return self.path.with_suffix(PUBLISHED)

    @property
    def card(self) -> Path:
        """What is said of the published weights."""
        return self.path.with_suffix(CARD)

    @property
    def evaluations(self) -> Path:
        """The folder of `norml evaluate`."""
        return self.path.with_name(f"{self.path.stem}{EVALUATIONS}")

    @property
    def status(self) -> Path:
        """How far it is."""
        return self.path.with_suffix(STATUS)

    @property
    def diverged(self) -> Path:
        """What went wrong."""
        return self.path.with_suffix(DIVERGED)

    @property
    def log(self) -> Path:
        """What it said, beside others."""
        return self.path.with_suffix(LOG)

    @property
    def inspection(self) -> Path:
        """The folder of `norml inspect`."""
        return self.path.with_name(f"{self.path.stem}-inspection")

    def existing(self) -> list[Path]:
        """All of them that are there, hidden ones apart."""
        return sorted(path for path in self.path.parent.glob(f"{glob.escape(self.path.stem)}.*") if path.is_file())

    def tidy(self) -> None:
        """The result is there: remove what only an unfinished training needs, such as a killed process leaves."""
        self.start_over()

    def start_over(self) -> None:
        """Drop what was begun (--force); a finished result stays until the new one takes its place."""
        for suffix in _OF_THE_UNFINISHED:
            self.path.with_suffix(suffix).unlink(missing_ok=True)


def lock_path(target: Path) -> Path:
    """The hidden file that writers of `target`, and of what shares its stem, take turns by."""
    return target.with_name(f".{target.stem}{LOCK}")
