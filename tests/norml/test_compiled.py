"""The compiled and the captured meta-gradient: one unbroken graph, and the numbers of the plain one."""

import shutil
from functools import partial

import pytest
import torch

from norml.adapted.metric_learner import MetricLearner, SupportComparison
from norml.episodes import EpisodeBatch
from norml.meta_training import CapturedMetaGradient, compiled_meta_gradient, meta_gradient, outer_step
from norml.objectives.multi_step import multi_step_gradient
from norml.objectives.reptile import reptile_gradient

CPU = torch.device("cpu")
TRACED = {
    "MAML, every setting": (
        "maml-layerwise-lr",
        {"recompute": True, "query_statistics": "support", "weight_form": "factored", "batch_norm_scale": False},
    ),
    "NORML": ("norml", {"weight_form": "factored"}),
    "Meta-SGD": ("meta-sgd", {}),
    "rates of each step": ("maml-per-step-lr", {}),
    "static gates": ("static-gates", {}),
    "Meta-Curvature": ("meta-curvature", {}),
    "T-net": ("t-net", {}),
    "NORML with rates": ("norml-layerwise-lr", {}),
    "ALFA": ("alfa", {}),
}
ONE_STEP_TELLS_ALL = {"meta-sgd", "static-gates", "meta-curvature", "t-net"}  # nothing is carried to a second one


@pytest.fixture(autouse=True)
def forget_compiled_graphs():
    """Each test compiles its own: nothing is kept for the next, which would count as compiling one function anew."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def in_single_precision(batch):
    return EpisodeBatch.joined(batch.support_x.float(), batch.support_y, batch.query_x.float(), batch.query_y)


def assert_same(found, expected, tolerance):
    """Hidden biases' gradients are rounding alone: the size of errors is that of the largest gradient."""
    (loss, accuracy, gradients), (expected_loss, expected_accuracy, expected_gradients) = found, expected
    torch.testing.assert_close(loss, expected_loss, rtol=tolerance, atol=0)
    assert accuracy == expected_accuracy
    largest = max(gradient.abs().max() for gradient in expected_gradients.values() if gradient.numel())
    for name in set(gradients) | set(expected_gradients):
        if name not in expected_gradients:  # the functional way back gives zeros where the tape gives none
            assert not gradients[name].any(), name
        else:
            assert ((gradients[name] - expected_gradients[name]).abs() <= tolerance * largest).all(), name


@pytest.mark.parametrize(("rule", "settings"), TRACED.values(), ids=TRACED)
def test_the_whole_meta_gradient_is_traced_as_one_graph_with_the_same_numbers(
    rule, settings, make_meta_learner, make_episodes
):
    """`fullgraph` raises where anything breaks the graph; `aot_eager` runs it without a C++ compiler."""
    batch, inner_steps = make_episodes(n_episodes=2), 1 if rule in ONE_STEP_TELLS_ALL else 2
    meta_learner = make_meta_learner(rule, sizes=(5, 4, 3), **settings)
    traced = torch.compile(meta_gradient, fullgraph=True, dynamic=False, backend="aot_eager")
    assert_same(traced(meta_learner, batch, inner_steps), meta_gradient(meta_learner, batch, inner_steps), 1e-12)
    with torch.no_grad():  # parameters are not burnt into the graph
        for parameter in meta_learner.parameters():
            parameter.mul_(1.1)
    assert_same(traced(meta_learner, batch, inner_steps), meta_gradient(meta_learner, batch, inner_steps), 1e-12)


@pytest.mark.parametrize("gradient", ["every step", "reptile"])
def test_other_gradients_are_traced_as_one_graph_with_the_same_numbers(gradient, make_meta_learner, make_episodes):
    step_weights = torch.tensor([0.4, 0.6]).double()
    plain = reptile_gradient if gradient == "reptile" else partial(multi_step_gradient, step_weights=step_weights)
    batch, meta_learner = make_episodes(n_episodes=2), make_meta_learner("maml-constant-lr", sizes=(5, 4, 3))
    traced = torch.compile(plain, fullgraph=True, dynamic=False, backend="aot_eager")
    assert_same(traced(meta_learner, batch, 2), plain(meta_learner, batch, 2), 1e-12)
    step_weights.copy_(torch.tensor([0.1, 0.9]))  # in place, as training changes them from step to step
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_same(traced(meta_learner, batch, 2), plain(meta_learner, batch, 2), 1e-12)


@pytest.mark.parametrize("compared_with", ["class-means", "examples"])
def test_comparisons_are_traced_as_one_graph_with_the_same_numbers(compared_with, make_meta_learner, make_episodes):
    body, batch = make_meta_learner("maml-constant-lr", sizes=(5, 4, 0)).learner, make_episodes(n_episodes=2)
    model = MetricLearner(body, SupportComparison(compared_with, "euclidean"), n_way=3)
    traced = torch.compile(meta_gradient, fullgraph=True, dynamic=False, backend="aot_eager")
    assert_same(traced(model, batch, 0), meta_gradient(model, batch, 0), 1e-12)


@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="compiling needs a C++ compiler (g++)"
)
def test_the_compiled_meta_gradient_trains_to_the_numbers_of_the_plain_one(
    make_meta_learner, make_episodes, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # compiles here and now, whatever was cached before
    batch = in_single_precision(make_episodes(n_episodes=2))
    plain, compiled = (make_meta_learner("maml-constant-lr", sizes=(5, 4, 3)).float() for _ in range(2))
    gradient = compiled_meta_gradient(CPU)
    assert_same(gradient(compiled, batch, 1), meta_gradient(plain, batch, 1), 1e-4)
    for meta_learner, of in ((plain, meta_gradient), (compiled, gradient)):
        optimizer = torch.optim.SGD(meta_learner.parameters(), lr=0.1)
        for _ in range(3):
            outer_step(meta_learner, optimizer, batch, inner_steps=1, gradient=of)
    for one, other in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def on_gpu(batch):
    return type(batch)(batch.x.cuda(), batch.y.cuda(), batch.n_support)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "norml", "meta-sgd"])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_captured_meta_gradient_trains_to_the_numbers_of_the_plain_one(
    rule, recompute, make_meta_learner, make_episodes
):
    """One CUDA graph, batch after batch, step after step."""
    batches = [on_gpu(in_single_precision(make_episodes(n_episodes=2, seed=seed))) for seed in range(3)]
    plain, captured = (make_meta_learner(rule, sizes=(5, 4, 3), recompute=recompute).float().cuda() for _ in range(2))
    gradient = CapturedMetaGradient()
    optimizers = [torch.optim.Adam(each.parameters(), lr=0.01, fused=True) for each in (plain, captured)]
    for batch in batches:
        assert_same(gradient(captured, batch, 2), meta_gradient(plain, batch, 2), 1e-4)
        outer_step(plain, optimizers[0], batch, inner_steps=2)
        outer_step(captured, optimizers[1], batch, inner_steps=2, gradient=gradient)
    for one, other in zip(captured.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
