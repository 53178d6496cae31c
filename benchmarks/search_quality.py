"""Strategies replayed on recorded pools: test score of the chosen merge against what was spent, over seeds.

    python -m benchmarks.search_quality [--pools demo demo_ties] [--seeds 20] [--coverage 500]

A replay sees some documents of each task, and is judged by those that it did not see. In the world `finite` it chooses
among the recorded merges; in `continuous` it chooses weights freely, and an emulator answers. Spending is counted in
item evaluations: `100 x 80` is 100 merges on 80 items a task. Other tables: error and rank correlation of merges that
were not run, beside what a score without noise would reach; the certificate's bound against the best merge.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from benchmarks.pools import RecordedPool, load_pool
from benchmarks.pools.emulator import PoolEmulator
from benchmarks.replays.ceilings import RankedError, average_errors, compare_scores, measure_ceiling
from benchmarks.replays.coverage import CoverageCount, count_coverage
from benchmarks.replays.proposer import ReplayProposer
from benchmarks.replays.strategies import STRATEGIES, list_missing
from benchmarks.replays.worlds import ContinuousWorld, FiniteWorld, ReplayWorld, SeenItems
from benchmarks.tiny import parse_options
from scipy.stats import t

from aftermix.runs.trials import Point, Trial
from aftermix.seeds import generator

POINTS = 100.0
BUDGETS = ((100, 0.4), (40, 0.4), (20, 0.4), (10, 0.4), (20, 0.2), (12, 0.33))
"""Merges, and share of the documents that a replay sees."""
REFERENCE = ("tpe", 100, 0.4)
MOST = {"response": 40, "optuna gp": 20}
"""Merges up to which a strategy is replayed whose own time grows with their cube."""
QUARTER = 0.25
PARTS = ("predictions", "coverage", "finite", "continuous")

OpenWorld = Callable[[SeenItems], ReplayWorld]
Budget = tuple[str, int, float]
"""Strategy, merges, share of the documents."""


def replay_budgets(
    open_world: OpenWorld,
    pool: RecordedPool,
    seeds: int,
    budgets: Sequence[tuple[int, float]],
    strategies: Sequence[str],
) -> dict[Budget, np.ndarray]:
    """Test score of the winner minus that of the base, in points, over the seeds."""
    gains: dict[Budget, list[float]] = {}
    strategies = [name for name in strategies if name not in list_missing()]
    for seed in range(seeds):
        unseen = SeenItems.draw(pool, max(share for _, share in BUDGETS), seed=seed)
        for runs, share in budgets:
            items = SeenItems.draw(pool, share, seed=seed).judge_by(unseen)
            for name in strategies:
                if runs <= MOST.get(name, runs):
                    gain = replay_once(open_world(items), name, runs, seed)
                    gains.setdefault((name, runs, share), []).append(gain)
    return {key: np.array(values) for key, values in gains.items()}


def replay_once(world: ReplayWorld, name: str, runs: int, seed: int) -> float:
    """Points over the base on the documents that judge."""
    with contextlib.redirect_stderr(io.StringIO()):  # the product says where it falls back to TPE
        winner = STRATEGIES[name](world, runs, seed)
    base = world.place(Point(dict.fromkeys(world.pool.vectors, 0.0)), [])
    ours, theirs = world.judge([winner, base])
    return POINTS * float(ours - theirs)


def print_budgets(pool: RecordedPool, world: str, gains: dict[Budget, np.ndarray]) -> None:
    """The table of strategies and budgets, each held against the reference by pairs of seeds."""
    items = round(np.mean([task.items for task in pool.tasks.values()]))
    held = REFERENCE if REFERENCE in gains else next(iter(gains))
    most = pool.merges if world == "finite" else REFERENCE[1]
    reference, whole = gains[held], min(REFERENCE[1], most) * REFERENCE[2]
    print(f"\n{pool.name}, {world} world: points over the base on unseen documents, {len(reference)} seeds;")
    merges = min(held[1], most)
    print(f"90 % interval of the paired difference from {held[0]}, {merges} merges on {round(held[2] * items)} items")
    for name, package in list_missing().items():
        print(f"{name} is LEFT OUT: the package {package} is not installed (pip install -e '.[benchmarks]')")

    print("\n| strategy | merges x items a task | of the positions | points over the base | difference |")
    print("|---|---|---|---|---|")
    for (name, runs, share), values in sorted(
        gains.items(), key=lambda entry: (list(STRATEGIES).index(entry[0][0]), -entry[0][1] * entry[0][2])
    ):
        low, mean, high = compute_interval(values - reference)
        merges = min(runs, most)
        print(
            f"| {name} | {merges} x {round(share * items)} | {merges * share / whole:.2f} | {values.mean():.2f} | "
            f"{mean:+.2f} [{low:.2f}, {high:.2f}] |",
            flush=True,
        )


def compute_interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Ends and middle of the 90 % interval of a mean, by Student's distribution."""
    mean, count = float(differences.mean()), len(differences)
    error = float(differences.std(ddof=1)) / np.sqrt(count) if count > 1 else 0.0
    width = float(t.ppf(0.95, max(count - 1, 1))) * error
    return mean - width, mean, mean + width


def print_predictions(pool: RecordedPool, seeds: int, sizes: Sequence[int]) -> None:
    """Error and rank correlation of the predicted score of merges that were not run, over all and the better half."""
    print(f"\n{pool.name}: merges never run, predicted from others, on all items; mean of {seeds} designs")
    print("\n| runs | rank correlation | error, points | better half: correlation | error |\n|---|---|---|---|---|")
    world = FiniteWorld(pool, SeenItems.draw(pool, 1.0, seed=0))
    for name, choose in {"first design": take_first_design, "scattered": take_scattered}.items():
        for runs in sizes:
            errors = [predict_others(world, choose(world, runs, seed)) for seed in range(seeds)]
            print_error(f"{runs}, {name}", average_errors(errors))
    print_error("score without noise", measure_ceiling(world))


def take_first_design(world: FiniteWorld, runs: int, seed: int) -> tuple[ReplayProposer, list[Trial]]:
    """A search of so many runs, all of the product's first design."""
    proposer = ReplayProposer.open(world, runs, seed, startup=runs)
    return proposer, proposer.run_all()


def take_scattered(world: FiniteWorld, runs: int, seed: int) -> tuple[ReplayProposer, list[Trial]]:
    """Base and single vectors apart, merges in random order: as good a sample of the others as there is."""
    proposer, trials = ReplayProposer.open(world, runs, seed), []
    inner = [merge for merge in world.list_reachable() if np.count_nonzero(world.weights[merge]) > 1]
    for merge in generator(seed, "replay scattered").permutation(inner)[:runs].tolist():
        proposer.take(merge, trials, origin="startup")
    return proposer, trials


def predict_others(world: FiniteWorld, taken: tuple[ReplayProposer, list[Trial]]) -> RankedError:
    """Predictions of the merges that were not taken."""
    proposer, trials = taken
    fitted = proposer.fit(trials)
    assert fitted is not None
    others = np.setdiff1d(world.list_reachable(), proposer.taken).tolist()
    located = world.coordinates.locate([world.read_point(merge).weights for merge in others])
    expected = np.mean(list(fitted.model.predict(located).values()), axis=0)
    return compare_scores(expected, world.score(others))


def print_error(name: str, error: RankedError) -> None:
    """One row of the table of predictions."""
    print(
        f"| {name} | {error.rho:.2f} | {error.points:.2f} | {error.rho_better:.2f} | {error.points_better:.2f} |",
        flush=True,
    )


def print_coverage(pool: RecordedPool, world: str, runs: int, found: CoverageCount) -> None:
    """How often no merge beats the winner by more than the bound, over all documents of the pool."""
    place = f"{pool.name}, {world} world: the bound of {runs} merges on a quarter of the documents"
    alone = f"in {found.held_certified:.1%} without the {found.refused} in which the product gives none"
    bounds = f"{found.bound:.2f} points, items fixed {found.bound_items_fixed:.2f}, trivial {found.trivial:.2f}"
    gains = f"{found.gain:.2f} points better in the mean, {found.gain_quantile:.2f} or less in 95 %"
    print(f"\n{place} holds in {found.held:.1%} of {found.replays} replays, {alone};")
    print(f"mean bound {bounds}; the best merge was {gains}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pools", nargs="+", default=["demo"], help="names, or paths of files")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--coverage", type=int, default=500, help="replays of the certificate in the finite world")
    parser.add_argument("--emulated-coverage", type=int, default=50, help="the same in the continuous world")
    parser.add_argument("--runs", type=int, nargs="+", default=[8, 12, 16], help="merges that predict the others")
    options = parse_options(parser, lambda _: {"seeds": 2, "coverage": 2, "emulated_coverage": 1, "runs": [8]})
    budgets = BUDGETS if options.tiny is None else ((8, 0.4), (6, 0.4))
    certified = 12 if options.tiny is None else 8

    for name in options.pools:
        pool = load_pool(Path(name) if name.endswith(".safetensors") else name)
        emulator = PoolEmulator.fit(pool)
        worlds: dict[str, OpenWorld] = {
            "finite": lambda items, pool=pool: FiniteWorld(pool, items),
            "continuous": lambda items, pool=pool, emulator=emulator: ContinuousWorld(pool, items, emulator),
        }
        if "predictions" in options.parts:
            print_predictions(pool, options.seeds, options.runs)
        for world, replays in (("finite", options.coverage), ("continuous", options.emulated_coverage)):
            if "coverage" in options.parts and replays:
                found = count_coverage(pool, worlds[world], replays, certified, share=QUARTER)
                print_coverage(pool, world, certified, found)
        for world, open_world in worlds.items():
            if world in options.parts:
                print_budgets(pool, world, replay_budgets(open_world, pool, options.seeds, budgets, options.strategies))


if __name__ == "__main__":
    main()
