"""Diverging trainings: which loop diverged, what to change, and a note that prevents the same training again.

The note is next to the checkpoint, which keeps the last finite weights.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from norml.adapted import Adapted
from norml.episodes import EpisodeBatch
from norml.learner import cross_entropy
from norml.meta_training import MetaLearner
from norml_cli.files.atomic import write_atomically
from norml_cli.files.errors import UserError, counted
from norml_cli.files.json_files import read_json

MOST_POINTS = 9  # evaluations of the support loss along the inner loop, each with its own adaptation
GROWN = 10.0  # chosen: guessing among N classes has loss log N; ten times that cannot come from the inner loop


class Diverged(UserError):  # noqa: N818 - as Stopped: what happened
    """The loss or the weights are no longer finite."""


def require_finite(module: torch.nn.Module, name: str, when: str, advice: str) -> None:
    """Raise Diverged if a weight is not finite. Such weights never reach a checkpoint or a record."""
    for key, value in module.state_dict().items():
        if not torch.isfinite(value).all():
            raise Diverged(f"{name}: the weights {key} are not finite after {when}; {advice}")


@torch.no_grad()
def diverging_loop(meta_learner: MetaLearner, batch: EpisodeBatch, inner_steps: int) -> str:
    """Which loop diverged and what to change, found from the support loss along this batch's inner loop."""
    points = min(MOST_POINTS, inner_steps + 1)
    steps = sorted({round(point * inner_steps / max(1, points - 1)) for point in range(points)})
    losses = [_support_loss(meta_learner, batch, step) for step in steps]
    n_way = int(batch.support_y.max()) + 1
    if not losses[0] < GROWN * math.log(max(2, n_way)):
        return (
            f"the outer loop diverges: the support loss is {losses[0]:.3g} before any inner step, so the initial "
            "weights have grown; lower outer_lr with --set, or set gradient_clip"
        )
    worst = next((at for at, loss in zip(steps, losses, strict=True) if not loss <= losses[0]), None)
    if worst is not None:
        found = losses[steps.index(worst)]
        return (
            f"the inner loop diverges: the weights are finite, but the support loss goes from {losses[0]:.3g} to "
            f"{found:.3g} within {counted(worst, 'inner step')}; lower inner_lr with --set"
        )
    return (
        f"the query loss diverges, but the inner loop does not (support loss {losses[0]:.3g} to {losses[-1]:.3g}); "
        "lower outer_lr with --set, or set gradient_clip"
    )


def rising(meta_learner: MetaLearner, batch: EpisodeBatch, inner_steps: int) -> str | None:
    """A warning if adaptation raises the support loss although all numbers are finite; None otherwise."""
    before, after = (_support_loss(meta_learner, batch, steps) for steps in (0, inner_steps))
    if after <= before:
        return None
    return (
        f"warning: {counted(inner_steps, 'inner step')} raise{'s' * (inner_steps == 1)} the support loss "
        f"from {before:.3g} to {after:.3g}; the inner loop "
        "diverges: lower inner_lr with --set, and do not trust these numbers"
    )


@torch.no_grad()
def _support_loss(meta_learner: MetaLearner, batch: EpisodeBatch, inner_steps: int) -> float:
    """Mean support loss over episodes and examples after `inner_steps` inner steps."""
    adapted: Adapted = meta_learner.adapt_and_query(batch, inner_steps, reversible=False)[0]
    return float(cross_entropy(adapted.logits(adapted.support_x), batch.support_y)[0].mean())


# ------------------------------------------------------------------------------------------------------------ the note


def write_note(path: Path, identity: Mapping[str, Any], error: Diverged) -> None:
    """Write a note that the training with this identity diverged."""
    content = json.dumps({**identity, "what": str(error)}, indent=2).encode()
    write_atomically(path, lambda file: file.write(content))


def refuse_if_diverged(path: Path, identity: Mapping[str, Any]) -> None:
    """Raise Diverged if there is a note that a training with this identity diverged, because it would again."""
    if not path.exists():
        return
    try:
        note = read_json(path)
        what = note.pop("what")
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"{path}: is not a readable note ({error}); delete it or start over with --force") from None
    if note == dict(identity):
        raise Diverged(f"{what}; the same values would diverge again: change them, or try again with --force")
