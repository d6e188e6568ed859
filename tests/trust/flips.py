"""One flipped byte anywhere: refused with a clear line, or what is read is bit for bit what was there.

python -m tests.trust.flips --flips 500 --record results/trust/flips.json
"""

import argparse
import contextlib
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from norml_cli.data.cache import Cache, cache_path
from norml_cli.data.features import FeatureCache
from norml_cli.data.fixed_episodes import pretraining_requests
from norml_cli.data.splits import SPLITS
from norml_cli.files.errors import UserError
from norml_cli.registry.reading import load_registry
from norml_cli.registry.recipes import backbone_path, resolve_recipe
from norml_cli.registry.resolving import Registry
from norml_cli.registry.specs import PretrainSpec
from norml_cli.results.store import Results, read_pretraining, read_record
from norml_cli.training.checkpoints import read_checkpoint
from norml_cli.training.embedding import read_backbone
from norml_cli.training.pretraining import Pretraining
from tests.trust.places import PREPARE_PHOTOS, PRETRAIN, RUN_ON_FEATURES, flat, furnish, norml, working_in
from tests.trust.versions import versions

REMEDIES = ("norml prepare", "norml pretrain", "--force", "run it again", "run again", "out of the results folder")


@dataclass
class Count:
    """What flips of one kind of file came to."""

    bytes: int
    flips: int = 0
    refused: int = 0
    read_unchanged: int = 0
    wrong: list[str] = field(default_factory=list)  # what must not be: each with its place


@dataclass(frozen=True)
class Files:
    """A made data set with its cache, backbone, features, records and the checkpoint of a killed pretraining."""

    registry: Registry
    spec: PretrainSpec
    checkpoint: Path
    record: Path

    def kinds(self) -> dict[str, tuple[Path, Callable[[], Any]]]:
        """Each kind's file, and how its content is read before it is used."""
        return {
            "cache": (cache_path("made-mini"), lambda: self._cache_content(self._cache())),
            "features": (backbone_path(self.spec, 0, ".features.h5"), self._features),
            "checkpoint": (self.checkpoint, lambda: flat(read_checkpoint(self.checkpoint, {"seed": 0}))),
            "backbone weights": (backbone_path(self.spec, 0, ".weights"), self._backbone),
            "record": (self.record, lambda: read_record(self.record).model_dump()),
            "record of a pretraining": (
                Results(Path("results")).pretraining_path(self.spec, 0),
                lambda: read_pretraining(Results(Path("results")).pretraining_path(self.spec, 0)).model_dump(),
            ),
        }

    def _cache(self) -> Cache:
        return Cache.open(self.registry.datasets["made-mini"], self.registry.files["datasets", "made-mini"])

    def _cache_content(self, cache: Cache) -> Any:
        sets = [cache.episodes(request) for request in pretraining_requests(self.spec.values).values()]
        return (
            vars(cache) | {"path": None},
            [(cache.sizes(split), cache.class_names(split), cache.images(split).tobytes()) for split in SPLITS],
            [(episodes.hash(), episodes.classes.tobytes(), episodes.examples.tobytes()) for episodes in sets],
        )

    def _features(self) -> Any:
        features = FeatureCache.open(self.spec, 0, self._cache())
        return vars(features) | {"path": None}, [
            (features.sizes(split), features.class_names(split), features.features(split).tobytes()) for split in SPLITS
        ]

    def _backbone(self) -> Any:
        """As `norml run` on features, and as `norml pretrain` that makes them."""
        path = backbone_path(self.spec, 0, ".weights")
        backbone = read_backbone(path, self.spec, 0, self._cache(), torch.device("cpu"))
        return flat(dict(backbone.state_dict())), self._features()


def make_files(folder: Path) -> Files:
    """Every kind of file, in `folder`, which is the working folder."""
    furnish(folder)
    if norml(*PREPARE_PHOTOS) != 0:
        raise RuntimeError("the photographs were not prepared")
    killed = mock.patch.object(Pretraining, "keep_weights", side_effect=KeyboardInterrupt)
    with killed, contextlib.suppress(KeyboardInterrupt):
        norml(*PRETRAIN)
    (left,) = (folder / "home").rglob("*.checkpoint")
    checkpoint = left.replace(folder / "kept.checkpoint")
    if norml(*PRETRAIN) != 0 or norml(*RUN_ON_FEATURES) != 0:
        raise RuntimeError("the pretraining or the run on its features failed")
    registry = load_registry(None)
    spec = resolve_recipe(registry.recipe("made-recipe"), registry.datasets["made-mini"]).spec
    (record,) = (folder / "results" / "made-2way").rglob("*.json")
    return Files(registry, spec, checkpoint, record)


def flipped(path: Path, read: Callable[[], Any], flips: int, seed: int) -> Count:
    """What happens when, `flips` times, one random byte of `path` is another one."""
    data, whole = path.read_bytes(), read()
    count, draw = Count(bytes=len(data)), random.Random(f"{path.name}/{seed}")  # noqa: S311 - places, not secrets
    try:
        for _ in range(flips):
            place, change = draw.randrange(len(data)), draw.randrange(1, 256)
            path.write_bytes(data[:place] + bytes([data[place] ^ change]) + data[place + 1 :])
            count.flips += 1
            _judge(count, read, whole, f"byte {place} ^ {change}")
    finally:
        path.write_bytes(data)
    return count


def _judge(count: Count, read: Callable[[], Any], whole: Any, flip: str) -> None:
    try:
        found = read()
    except UserError as error:
        count.refused += 1
        if "\n" in str(error) or not any(remedy in str(error) for remedy in REMEDIES):
            count.wrong.append(f"{flip}: says {error}")
    except Exception as error:  # noqa: BLE001 - whatever else comes is what must not come
        count.wrong.append(f"{flip}: {type(error).__name__}: {error}")
    else:
        count.read_unchanged += found == whole
        if found != whole:
            count.wrong.append(f"{flip}: other data was read")


def campaign(folder: Path, flips: int, seed: int) -> dict[str, Count]:
    """Every kind of file with `flips` flips each."""
    with working_in(folder):
        kinds = make_files(folder).kinds()
        return {kind: flipped(path, read, flips, seed) for kind, (path, read) in kinds.items()}


def main() -> None:
    """Run the campaign and keep what it found; exits with 1 if any flip was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    with_versions = versions()  # of what runs, not of what stands there when it ends
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder), options.flips, options.seed)
    kinds = {kind: vars(count) for kind, count in found.items()}
    command = f"python -m tests.trust.flips --flips {options.flips} --seed {options.seed}"
    text = json.dumps({"command": command, "versions": with_versions, "kinds": kinds}, indent=2)
    print(text)  # noqa: T201 - a script
    if options.record is not None:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(f"{text}\n", encoding="utf-8")
    sys.exit(any(count.wrong for count in found.values()))


if __name__ == "__main__":
    main()
