"""What the public calls refuse: each error names the argument, what is expected and what came."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from norml import Adaptation, EpisodeBatch, EpisodeIndices, ExamplePool, MetaSgd, NodalLstm, meta_gradient
from norml.update_rules.meta_curvature import MetaCurvature
from norml.update_rules.static_gates import StaticGates

X = torch.zeros(3, 6, 5, dtype=torch.float64)
Y = torch.zeros(3, 6, dtype=torch.int64)


@pytest.fixture
def learner(make_meta_learner):
    """D = 5, N = 3, float64."""
    return make_meta_learner("norml")


@pytest.fixture
def indices():
    """One episode of two classes, of each the first two examples, none turned."""
    return EpisodeIndices(torch.tensor([[0, 1]]), torch.tensor([[[0, 1], [0, 1]]]), torch.tensor([[0, 0]]))


ADAPT = {
    "other D": ((X[..., :4], Y), ValueError, r"support_x must be \[E, S, D\] with D = 5.*, got \[3, 6, 4\]"),
    "no E": ((X[0], Y), ValueError, r"support_x must be \[E, S, D\], got \[6, 5\]"),
    "bytes": ((X.to(torch.uint8), Y), TypeError, "support_x must be torch.float64, as .* weights.*, got torch.uint8"),
    "another float": ((X.float(), Y), TypeError, "support_x must be torch.float64.*, got torch.float32"),
    "numpy": ((X.numpy(), Y), TypeError, r"support_x must be a torch.Tensor \[E, S, D\], got ndarray"),
    "a list of labels": ((X, Y.tolist()), TypeError, r"support_y must be a torch.Tensor \[E, S\], got list"),
    "no examples": ((X[:, :0], Y[:, :0]), ValueError, r"support_x must hold at least one example.*\[3, 0, 5\]"),
    "other S": ((X, Y[:, :5]), ValueError, r"support_y must be \[E, S\] = \[3, 6\], got \[3, 5\]"),
    "other E": ((X, Y[:2]), ValueError, r"support_y must be \[E, S\] = \[3, 6\], got \[2, 6\]"),
    "one-hot labels": ((X, Y[..., None]), ValueError, r"support_y must be \[E, S\], got \[3, 6, 1\]"),
    "float labels": ((X, Y.double()), TypeError, "support_y must be torch.int64, got torch.float64"),
    "labels from 1": ((X, Y + torch.arange(1, 4)[:, None]), ValueError, r"support_y must be in 0\.\.2,.*got 1\.\.3"),
    "negative labels": ((X, Y - 1), ValueError, r"support_y must be in 0\.\.2, .*N classes, got -1\.\.-1"),
    "another device": ((X.to("meta"), Y), ValueError, "support_x must be on cpu, as the learner is, got meta"),
    "labels elsewhere": ((X, Y.to("meta")), ValueError, "support_y must be on cpu, as x is, got meta"),
}


@pytest.mark.parametrize(("arguments", "error", "words"), ADAPT.values(), ids=ADAPT)
def test_adapt_refuses(arguments, error, words, learner):
    with pytest.raises(error, match=words):
        learner.adapt(*arguments, inner_steps=2)


@pytest.mark.parametrize("steps", [-1, 1.5, "3"])
def test_inner_steps_are_whole_and_not_negative(steps, learner, make_episodes):
    batch = make_episodes()
    for call in (
        lambda: learner.adapt(X, Y, steps),
        lambda: learner(batch, steps),
        lambda: meta_gradient(learner, batch, steps),
    ):
        with pytest.raises(ValueError, match=f"inner_steps must be a whole number from 0 on, got {steps}"):
            call()


QUERIES = {
    "other D": (X[..., :4], ValueError, r"query_x must be \[E, M, D\] with D = 5.*, got \[3, 6, 4\]"),
    "other E": (X[:2], ValueError, r"query_x must be \[E, M, D\] with E = 3, .*support sets.*, got \[2, 6, 5\]"),
    "one image": (X[0, 0], ValueError, r"query_x must be \[E, M, D\], got \[5\]"),
    "none": (X[:, :0], ValueError, "query_x must hold at least one example"),
    "bytes": (X.to(torch.uint8), TypeError, "query_x must be torch.float64, .*got torch.uint8"),
    "numpy": (X.numpy(), TypeError, r"query_x must be a torch.Tensor \[E, M, D\], got ndarray"),
}


@pytest.mark.parametrize(("query_x", "error", "words"), QUERIES.values(), ids=QUERIES)
def test_logits_refuse(query_x, error, words, learner):
    with pytest.raises(error, match=words):
        learner.adapt(X, Y, 1).logits(query_x)


def test_statistics_are_the_queries_or_the_support_sets(learner):
    with pytest.raises(ValueError, match="query_statistics must be 'query' or 'support', got 'both'"):
        learner.adapt(X, Y, 1).logits(X, query_statistics="both")


def test_logits_without_queries_are_refused(learner):
    with pytest.raises(ValueError, match="no queries are known; give query_x"):
        learner.adapt(X, Y, 1).logits()


def test_an_adaptation_has_no_fewer_rows_than_support_labels(learner):
    for labels in (Y.repeat(1, 2), Y[:, :0]):
        with pytest.raises(ValueError, match=r"support_y must be \[E, S\] with S in 1\.\.6, got \[3, "):
            Adaptation(learner.learner, learner.rule, learner.inner_loop, X, labels, inner_steps=1)


JOINED = {
    "other E": ({"query_x": X[:2], "query_y": Y[:2]}, ValueError, r"query_x must be .* E = 3, D = 5, .*\[2, 6, 5\]"),
    "other D": ({"query_x": X[..., 1:]}, ValueError, r"query_x must be .* E = 3, D = 5, .*got \[3, 6, 4\]"),
    "other M": ({"query_y": Y[:, 1:]}, ValueError, r"query_y must be \[E, M\] = \[3, 6\], got \[3, 5\]"),
    "another type": ({"query_x": X.float()}, TypeError, "query_x must be torch.float64, .*got torch.float32"),
    "float labels": ({"query_y": Y.float()}, TypeError, "query_y must be torch.int64, got torch.float32"),
    "numpy": ({"query_x": X.numpy()}, TypeError, "query_x must be a torch.Tensor .*, got ndarray"),
    "elsewhere": ({"query_x": X.to("meta")}, ValueError, "query_x must be on cpu, as support_x is, got meta"),
}


@pytest.mark.parametrize(("changed", "error", "words"), JOINED.values(), ids=JOINED)
def test_a_batch_is_not_joined_of(changed, error, words):
    with pytest.raises(error, match=words):
        EpisodeBatch.joined(**({"support_x": X, "support_y": Y, "query_x": X, "query_y": Y} | changed))


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ((X, Y, 0), ValueError, r"n_support = S must be in 1\.\.6, got 0"),
        ((X, Y, 7), ValueError, r"n_support = S must be in 1\.\.6, got 7"),
        ((X, Y[:, 1:], 3), ValueError, r"y must be \[E, S \+ M\] = \[3, 6\], got \[3, 5\]"),
        ((X.numpy(), Y, 3), TypeError, "x must be a torch.Tensor"),
    ],
)
def test_a_batch_goes_together(values, error, words):
    with pytest.raises(error, match=words):
        EpisodeBatch(*values)


def test_a_batch_goes_with_the_learner(learner, make_episodes):
    batch = make_episodes()
    of_four = dataclasses.replace(batch, y=torch.where(batch.y == 2, 3, batch.y))
    queries_of_four = EpisodeBatch.joined(batch.support_x, batch.support_y, batch.query_x, batch.query_y + 1)
    with pytest.raises(ValueError, match=r"support_y must be in 0\.\.2"):
        learner(of_four, 1)
    with pytest.raises(ValueError, match=r"query_y must be in 0\.\.2, .*got 1\.\.3"):
        meta_gradient(learner, queries_of_four, 1)
    with pytest.raises(ValueError, match=r"x must be \[E, S \+ M, D\] with D = 5"):
        learner(make_episodes(n_features=4), 1)


POOLS = {
    "floats": (torch.zeros(2, 2, 3, 3), ValueError, "images must be square uint8 .*got torch.float32"),
    "not square": (torch.zeros(2, 2, 3, 4, dtype=torch.uint8), ValueError, r"square uint8 .*got torch.uint8 \[2, 2, 3"),
    "three axes": (torch.zeros(2, 3, 3, dtype=torch.uint8), ValueError, r"images must be \[C, P.*\], got \[2, 3, 3\]"),
    "numpy": (np.zeros((2, 2, 3, 3), dtype=np.uint8), TypeError, "images must be a torch.Tensor .*got ndarray"),
}


@pytest.mark.parametrize(("images", "error", "words"), POOLS.values(), ids=POOLS)
def test_a_pool_is_not_made_of(images, error, words):
    with pytest.raises(error, match=words):
        ExamplePool.of_images(images, rotations=True)


def test_a_pool_of_features_takes_floats_of_three_axes():
    with pytest.raises(TypeError, match=r"features must be float \[C, P, D\], got torch.int64"):
        ExamplePool.of_features(torch.zeros(2, 3, 4, dtype=torch.int64), unit_length=True)
    with pytest.raises(ValueError, match=r"features must be \[C, P, D\], got \[2, 3\]"):
        ExamplePool.of_features(torch.zeros(2, 3), unit_length=True)


@pytest.mark.parametrize("part", ["classes", "examples", "turns"])
def test_indices_beyond_the_pool_are_refused(part, indices):
    """Class 2 of a pool of two would be class 0 in the next turn: rows that are there, and wrong."""
    pool = ExamplePool.of_images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), rotations=True)
    pool.gather(indices, k_shot=1)
    for change in (4, -1):
        with pytest.raises(ValueError, match=rf"indices.{part} must be in 0\.\."):
            pool.gather(dataclasses.replace(indices, **{part: getattr(indices, part) + change}), k_shot=1)


def test_turns_are_refused_by_a_pool_without_rotations(indices):
    pool = ExamplePool.of_images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), rotations=False)
    with pytest.raises(ValueError, match=r"indices.turns must be in 0\.\.0, the pool's quarter turns, got 1\.\.1"):
        pool.gather(dataclasses.replace(indices, turns=indices.turns + 1), k_shot=1)


@pytest.mark.parametrize("rule", [MetaCurvature, MetaSgd, partial(NodalLstm, n_support=2), StaticGates])
def test_sizes_in_place_of_layers_are_told(rule):
    with pytest.raises(TypeError, match=r"^layers must be a learner's `layers`, .*, got a sequence of int$"):
        rule((5, 4, 3))
