"""What episodes cost: drawing them beside an outer step, and evaluating the test episodes."""

from functools import partial
from statistics import median

import torch

from norml.episodes import EpisodeIndices, ExamplePool, sample_indices
from norml.evaluation import correct_counts
from norml.meta_training import MetaLearner
from norml_cli.results.speed import SpeedSection
from norml_cli.training.build import generator_for
from tests.benchmarks.bench import Bench
from tests.benchmarks.cost import step_of
from tests.benchmarks.record import measured
from tests.benchmarks.workloads import MAML, NORML, Workload, from_registry, made_pool

POOL = {"n_classes": 1100, "n_examples": 20, "size_px": 28}  # Omniglot's meta-train classes
TEST_EPISODES, QUICK_TEST_EPISODES = 10_000, 320
BETWEEN_LOOKS = 320  # episodes, as `norml run` looks at its display


def sampling(bench: Bench) -> SpeedSection:
    """Drawing and gathering a meta-batch, beside the outer step that it feeds."""
    bench.progress.at("sampling, making a pool of random images")
    pool = made_pool(**POOL, device=bench.device)
    generator = generator_for("training episodes", 0, bench.device)
    rows = []
    for workload in bench.workloads:

        def drawn(workload: Workload = workload) -> object:
            indices = drawn_episodes(pool, workload, workload.meta_batch_size, generator)
            return pool.gather(indices, k_shot=workload.k_shot)

        calls = {"sampling": drawn} | {method: step_of(bench.device, method, workload) for method in (MAML, NORML)}
        seconds = bench.interleaved(f"sampling, {workload.title}, turns", calls, rounds=9, measured=3)
        sampling_s = median(seconds["sampling"])
        for part, spent in seconds.items():
            labels = {"shots/queries": workload.title, "part": part}
            share = {} if part == "sampling" else {"share_of_sampling": sampling_s / (sampling_s + median(spent))}
            rows.append(measured(labels, spent, **share))
    return SpeedSection(
        name="sampling",
        title=f"drawing a meta-batch of episodes, and the outer step that it feeds, {bench.workloads[0].size}",
        settings={
            "pool": "{n_classes} x {n_examples} x {size_px} x {size_px}, 4 turns".format(**POOL),
            "share of sampling": "sampling / (sampling + outer step)",
        },
        measurements=rows,
    )


def evaluation(bench: Bench) -> SpeedSection:
    """The meta-test of one trained meta-learner."""
    workload, n_episodes = Workload(1, 1), bench.choose(QUICK_TEST_EPISODES, TEST_EPISODES)
    bench.progress.at("evaluation, making a pool of random images")
    pool = made_pool(**POOL, device=bench.device)
    meta_learner = from_registry(MAML, workload, device=bench.device)
    spent = [_evaluation_s(bench, meta_learner, pool, workload, n_episodes) for _ in range(bench.choose(1, 3))]
    return SpeedSection(
        name="evaluation",
        title=f"{n_episodes:,} test episodes, 20-way, 1 shot, 1 query",
        measurements=[
            measured({"method": MAML, "episodes": n_episodes}, spent, episodes_per_s=n_episodes / median(spent))
        ],
    )


def _evaluation_s(
    bench: Bench, meta_learner: MetaLearner, pool: ExamplePool, workload: Workload, n_episodes: int
) -> float:
    episodes = drawn_episodes(pool, workload, n_episodes, generator_for("test episodes", 0, bench.device))
    query_logits = partial(meta_learner, inner_steps=workload.inner_steps)
    spent = 0.0
    for start in range(0, n_episodes, BETWEEN_LOOKS):
        part = episodes[start : start + BETWEEN_LOOKS]
        spent += bench.once(lambda part=part: correct_counts(query_logits, pool, part, k_shot=workload.k_shot))
        bench.progress.at("evaluation, episodes", min(start + BETWEEN_LOOKS, n_episodes), n_episodes)
    return spent


def drawn_episodes(
    pool: ExamplePool, workload: Workload, n_episodes: int, generator: torch.Generator
) -> EpisodeIndices:
    """So many episodes of the workload's shape."""
    return sample_indices(
        n_classes=pool.n_classes,
        n_examples=pool.n_examples,
        n_way=workload.n_way,
        examples_per_class=workload.k_shot + workload.n_query,
        rotations=pool.rotations,
        n_episodes=n_episodes,
        generator=generator,
    )
