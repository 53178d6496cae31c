"""Strategies replayed on recorded pools: test score of the chosen merge against what was spent, over seeds.

    python benchmarks/search_quality.py [--pools demo demo_ties] [--seeds 20] [--coverage 100]

A replay sees some documents of each task, chooses among the recorded merges, and is judged by the documents that it did
not see. Spending is counted in item evaluations: `100 x 80` is 100 merges on 80 items a task. Second table: error and
rank correlation of merges that were not run. Third: the certificate's bound against the best recorded merge.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from pools import RecordedPool, load_pool
from replays import STRATEGIES, ReplayedPool, SeenItems, certify_replay, fit_response, list_first_merges
from scipy.stats import spearmanr, t
from tiny import parse_options

POINTS = 100.0
BUDGETS = ((100, 0.4), (40, 0.4), (20, 0.4), (10, 0.4), (20, 0.2), (12, 0.33))
"""Merges, and share of the documents that a replay sees."""
REFERENCE = ("tpe", 100, 0.4)


def replay_budgets(pool: RecordedPool, seeds: int, budgets: Sequence[tuple[int, float]]) -> dict[tuple, np.ndarray]:
    """(strategy, merges, share) -> (seeds,) test score of the winner minus that of the base, in points."""
    gains: dict[tuple, list[float]] = {}
    for seed in range(seeds):
        for runs, share in budgets:
            items = SeenItems.draw(pool, share, seed=seed)
            replay = ReplayedPool(pool, items)
            judged = ReplayedPool(pool, SeenItems(items.search, _judge_items(pool, seed))).test_scores
            for name, search in STRATEGIES.items():
                if name == "response" and runs > 40:
                    continue
                winner = search(replay, min(runs, pool.merges), seed)[-1]
                gains.setdefault((name, runs, share), []).append(POINTS * float(judged[winner] - judged[0]))
    return {key: np.array(values) for key, values in gains.items()}


def _judge_items(pool: RecordedPool, seed: int) -> dict[str, np.ndarray]:
    """The documents that no budget of this seed sees, so that all are judged by the same."""
    most = max(share for _, share in BUDGETS)
    return dict(SeenItems.draw(pool, most, seed=seed).test)


def print_budgets(pool: RecordedPool, gains: dict[tuple, np.ndarray]) -> None:
    """The table of strategies and budgets, each held against the reference by pairs of seeds."""
    items = round(np.mean([task.items for task in pool.tasks.values()]))
    held = REFERENCE if REFERENCE in gains else next(iter(gains))
    reference, whole = gains[held], REFERENCE[1] * REFERENCE[2]
    print(f"\n{pool.name}: points over the base on unseen documents; 90 % interval of the paired difference from")
    print(f"{held[0]} with {held[1]} merges on {round(held[2] * items)} items a task")
    print(f"{'strategy':<14}{'merges x items':>16}{'spent':>8}{'gain':>8}{'difference':>12}  interval")
    for (name, runs, share), values in sorted(
        gains.items(), key=lambda entry: (entry[0][0], -entry[0][1] * entry[0][2])
    ):
        low, mean, high = compute_interval(values - reference)
        spent = f"{runs * share / whole:.2f}"
        print(
            f"{name:<14}{f'{runs} x {round(share * items)}':>16}{spent:>8}{values.mean():>8.2f}"
            f"{mean:>12.2f}  [{low:.2f}, {high:.2f}]"
        )


def compute_interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Ends and middle of the 90 % interval of a mean, by Student's distribution."""
    mean, count = float(differences.mean()), len(differences)
    error = float(differences.std(ddof=1)) / np.sqrt(count) if count > 1 else 0.0
    width = float(t.ppf(0.95, max(count - 1, 1))) * error
    return mean - width, mean, mean + width


def print_predictions(pool: RecordedPool, seeds: int, sizes: Sequence[int]) -> None:
    """Error and rank correlation of the predicted score of merges that were not run, over all and the better half."""
    print(f"\n{pool.name}: merges never run, predicted from others on all items (mean of {seeds} draws)")
    print(f"{'runs':>5}{'rho':>7}{'error':>7}{'rho, better half':>18}{'error':>7}")
    replay = ReplayedPool(pool, SeenItems.draw(pool, 1.0, seed=0))
    for runs in sizes:
        rows = []
        for seed in range(seeds):
            taken = list_first_merges(pool, runs, seed=seed)
            others = np.setdiff1d(np.arange(pool.merges), taken)
            predicted = fit_response(replay, taken, seed=seed).predict(replay.points.take(others))
            expected, found = np.mean(list(predicted.values()), axis=0), replay.whole_scores[others]
            better = found >= np.median(found)
            rows.append([measure for part in (slice(None), better) for measure in compare(expected[part], found[part])])
        rho, error, rho_better, error_better = np.mean(rows, axis=0)
        print(f"{runs:>5}{rho:>7.2f}{error:>7.2f}{rho_better:>18.2f}{error_better:>7.2f}")


def compare(expected: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Rank correlation, and error in points."""
    return float(spearmanr(expected, found).statistic), POINTS * float(np.sqrt(np.mean((expected - found) ** 2)))


def print_coverage(pool: RecordedPool, replays: int, runs: int) -> None:
    """How often the best recorded merge is within the bound of the winner, over all documents of the pool."""
    held, widths, trivial = [], [], []
    for seed in range(replays):
        replay = ReplayedPool(pool, SeenItems.draw(pool, 0.25, seed=seed))
        taken = list_first_merges(pool, runs, seed=seed)
        winner, certificate = certify_replay(replay, taken, seed=seed)
        held.append(replay.whole_scores.max() - replay.whole_scores[winner] <= certificate.bound)
        widths.append(POINTS * certificate.bound)
        trivial.append(POINTS * bound_trivially(replay, winner))
    print(
        f"\n{pool.name}: bound of {runs} merges on a quarter of the documents holds in {np.mean(held):.1%} of "
        f"{replays} replays; mean width {np.mean(widths):.2f} points, of the trivial bound {np.mean(trivial):.2f}"
    )


def bound_trivially(replay: ReplayedPool, winner: int) -> float:
    """What is known without a model: no score is above 1."""
    return 1.0 - float(replay.search_scores[winner])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pools", nargs="+", default=["demo"], help="names, or paths of files")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--coverage", type=int, default=100, help="replays of the certificate; 0 for none")
    parser.add_argument("--runs", type=int, nargs="+", default=[8, 12, 16, 24], help="merges that predict the others")
    options = parse_options(parser, lambda _: {"seeds": 2, "coverage": 2, "runs": [8]})
    budgets = BUDGETS if options.tiny is None else ((8, 0.4), (6, 0.4))

    for name in options.pools:
        pool = load_pool(name)
        print_predictions(pool, options.seeds, options.runs)
        if options.coverage:
            print_coverage(pool, options.coverage, max(options.runs[0], 12 if options.tiny is None else 8))
        print_budgets(pool, replay_budgets(pool, options.seeds, budgets))


if __name__ == "__main__":
    main()
