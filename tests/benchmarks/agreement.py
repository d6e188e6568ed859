"""Do the engines compute the same thing? Their meta-gradients of one learner on the same episodes, in float64.

In float32 two exact engines differ by percents wherever an inner step amplifies rounding, so nothing could be told
from a difference there.
"""

import torch

from norml.learner import Learner
from tests.benchmarks.engines import Engine, Ours, Tensors
from tests.benchmarks.workloads import Workload, made_episodes

TOLERANCE = 1e-8  # chosen: far above float64 rounding through five inner steps, far below any error of a formula
SMALL = 1e-4  # a gradient smaller than this share of the whole is held against this share (a bias before batch norm: 0)


class DisagreementError(Exception):
    """Two engines that are to be timed against each other compute different things."""


def relative_error(gradient: Tensors, reference: Tensors) -> float:
    """The largest error of one parameter's gradient, relative to that gradient's norm. Raises if one is missing."""
    if gradient.keys() != reference.keys():
        raise DisagreementError(f"gradients of different parameters: {sorted(gradient.keys() ^ reference.keys())}")
    whole = torch.stack([value.norm() for value in reference.values()]).norm()
    sizes = {name: value.norm().clamp(min=SMALL * whole) for name, value in reference.items()}
    return max(((gradient[name] - reference[name]).norm() / size).item() for name, size in sizes.items())


def errors_against_ours(
    engines: list[type[Engine]], learner: Learner, workload: Workload, *, inner_lr: float
) -> dict[str, float]:
    """Relative error of each other engine's meta-gradient against ours; `learner` must be in float64."""
    device = learner.weights[0].device
    batch = made_episodes(workload, device=device, dtype=torch.float64)
    settings = {"inner_lr": inner_lr, "inner_steps": workload.inner_steps}
    ours = Ours(learner, **settings).meta_gradient(batch)
    others = [engine for engine in engines if engine is not Ours]
    return {other.title: relative_error(other(learner, **settings).meta_gradient(batch), ours) for other in others}


def require_agreement(errors: dict[str, float]) -> None:
    """Raise DisagreementError if an error is above the tolerance, or not a number."""
    wrong = [f"{title} ({error:.1e})" for title, error in errors.items() if not error <= TOLERANCE]
    if wrong:
        raise DisagreementError(
            f"meta-gradients differ from norml's by more than {TOLERANCE:.0e}: {', '.join(wrong)}; nothing was timed"
        )
