"""Look at recorded pools: scores of base, single vectors and uniform merge, and how quadratic log-likelihoods are.

    python -m benchmarks.pools.check [demo ...]

For the right choice of each item (its reference answer, where answers are written), the log-likelihood over all merges
is fitted by a linear and by a quadratic function of the weights (of a method that divides by their sum: of the vectors'
shares); printed is the R2 that is adjusted for the number of terms, in the median over items and at the lowest tenth.
"""

from __future__ import annotations

import argparse
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from benchmarks.pools import FOLDER, RecordedPool, RecordedTask, load_pool
from benchmarks.pools.coordinates import find_smooth, shape_weights
from benchmarks.tiny import parse_options

DEGREES = {"linear": 1, "quadratic": 2}

# M merges, V vectors, N items, P terms


def build_terms(weights_MV: np.ndarray, degree: int) -> np.ndarray:
    """The constant and all products of up to `degree` weights, (merges, terms)."""
    vectors = range(weights_MV.shape[1])
    products = [chosen for size in range(degree + 1) for chosen in combinations_with_replacement(vectors, size)]
    return np.stack([weights_MV[:, chosen].prod(axis=1) for chosen in products], axis=1)


def measure_fit(weights_MV: np.ndarray, values_MN: np.ndarray, degree: int) -> np.ndarray:
    """Adjusted R2 of each column of `values_MN` as a polynomial in the weights; NaN with too few merges."""
    terms_MP = build_terms(weights_MV.astype(np.float64), degree)
    merges, terms = terms_MP.shape
    if merges <= terms:
        return np.full(values_MN.shape[1], np.nan)

    fitted_MN = terms_MP @ np.linalg.lstsq(terms_MP, values_MN, rcond=None)[0]
    residual_N = ((values_MN - fitted_MN) ** 2).sum(axis=0) / (merges - terms)
    total_N = ((values_MN - values_MN.mean(axis=0)) ** 2).sum(axis=0) / (merges - 1)
    return 1 - residual_N / total_N


def read_answers(task: RecordedTask) -> np.ndarray:
    """Log-likelihood of the right choice of each item, (merges, items) float64."""
    return task.loglikelihood_MR[:, task.offsets[:-1] + task.gold_N].astype(np.float64)


def list_rows(pool: RecordedPool) -> list[tuple[str, np.ndarray]]:
    """Names and scores (%, by task) of the merges that everybody tries, and of the best and the median measured one."""
    scores_MT = 100 * pool.compute_scores()
    names = ["base", *pool.vectors, "each at 1/k", "each at 0.5"]
    rows = list(zip(names, scores_MT, strict=False))
    order = np.argsort(scores_MT.mean(axis=1), kind="stable")
    return [*rows, ("best of all", scores_MT[order[-1]]), ("median of all", scores_MT[order[len(order) // 2]])]


def print_pool(pool: RecordedPool) -> None:
    """One pool's tables."""
    print(f"\n{pool.name}: {pool.merges} merges by {pool.method}, {pool.facts['machine']}\n")
    print("| merge | " + " | ".join(["mean", *pool.tasks]) + " |")
    print("|---" * (len(pool.tasks) + 2) + "|")
    for name, scores_T in list_rows(pool):
        print(f"| {name} | " + " | ".join(f"{score:.1f}" for score in (scores_T.mean(), *scores_T)) + " |")

    means_M = pool.compute_scores().mean(axis=1)
    print(f"\nabove the base: {100 * np.mean(means_M[1:] > means_M[0]):.0f} % of the merges")
    rows_M = find_smooth(pool, pool.weights_MV)
    shaped_MV = shape_weights(pool, pool.weights_MV[rows_M])
    for name, degree in DEGREES.items():
        fits = [measure_fit(shaped_MV, read_answers(task)[rows_M], degree) for task in pool.tasks.values()]
        by_task = ", ".join(f"{task} {np.median(fit):.3f}" for task, fit in zip(pool.tasks, fits, strict=True))
        together = np.concatenate(fits)
        print(
            f"{name}: adjusted R2 {np.median(together):.3f}, lowest tenth {np.quantile(together, 0.1):.3f}; {by_task}"
        )


def main() -> None:
    """Print the pools that were named, or all that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="*", metavar="NAME", help="names or files (default: all beside this one)")
    parse = parse_options(parser, lambda _: {})
    names = parse.pools or sorted(file.stem for file in FOLDER.glob("*.safetensors"))
    for name in names[:1] if parse.tiny else names:
        print_pool(load_pool(Path(name) if name.endswith(".safetensors") else name))


if __name__ == "__main__":
    main()
