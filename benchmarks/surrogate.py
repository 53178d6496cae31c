"""The surrogate on the RegMix tables: rank correlations, error bars and times, medians over random draws.

    python benchmarks/surrogate.py [--draws 20] [--points 40] [--data tests/data/regmix]

Each draw takes so many of the 512 training mixtures and predicts the 256 test mixtures. Budgets: Spearman of the mean
loss (the mean of the 13 predictions) at least 0.90, of the Pile-CC loss at least 0.95.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits
from tiny import parse_options

from aftermix.mixture import Surrogate
from aftermix.mixture.simplex import check_simplex
from aftermix.mixture.surrogates.regressors import BLENDS, REGRESSORS, fit

TINY_LOSSES = ["pile_cc", "github"]


def table(path: Path) -> tuple[list[str], np.ndarray]:
    """Names and numbers of all columns but the index."""
    names = path.read_text(encoding="utf-8").splitlines()[0].split(",")[1:]
    return names, np.loadtxt(path, delimiter=",", skiprows=1)[:, 1:]


@dataclass(frozen=True)
class RegmixRuns:
    """Mixtures that RegMix trained on, a row each, and their losses by column: those to fit, and others."""

    labels: list[str]
    """Names of the losses."""
    mixtures: np.ndarray
    losses: np.ndarray
    other_mixtures: np.ndarray
    other_losses: np.ndarray

    @classmethod
    def read(cls, folder: Path, wanted: list[str] | None) -> RegmixRuns:
        """The tables in `folder`, of the `wanted` losses or all."""
        _, mixtures = table(folder / "train_mixture_1m.csv")
        names, losses = table(folder / "train_pile_loss_1m.csv")
        _, others = table(folder / "test_mixture_1m.csv")
        _, measured = table(folder / "test_pile_loss_1m.csv")
        labels = [name.removeprefix("metric/the_pile_").removesuffix("_val_loss") for name in names]
        wanted = wanted or labels
        columns = [labels.index(label) for label in wanted]
        return cls(wanted, mixtures, losses[:, columns], others, measured[:, columns])


def correlations(predicted: np.ndarray, measured: np.ndarray) -> list[float]:
    """Spearman of each column and of the mean over columns."""
    pairs = [*zip(predicted.T, measured.T, strict=True), (predicted.mean(axis=1), measured.mean(axis=1))]
    return [float(spearmanr(ours, theirs)[0]) for ours, theirs in pairs]


def alone(name: str, weights: np.ndarray, scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Predictions of one regressor for all columns."""
    rows, candidates = check_simplex(weights), check_simplex(others)
    with threadpool_limits(limits=1):
        return np.stack([fit(name, rows, column).predict(candidates) for column in scores.T], axis=1)


def print_ranks(found: dict[str, list[list[float]]], labels: list[str]) -> None:
    """A row for each regressor, and each loss as the chosen one predicts it; medians over the draws."""
    print("| regressor | mean loss | pile_cc | median of the losses | lowest of the losses |")
    for name, values in found.items():
        *each, mean_loss = np.median(values, axis=0)
        figures = (mean_loss, each[labels.index("pile_cc")], np.median(each), min(each))
        print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    medians = np.median(found["chosen"], axis=0)
    print("each loss:", {label: round(float(median), 3) for label, median in zip(labels, medians, strict=False)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--points", type=int, default=40)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "tests" / "data" / "regmix")
    parser.add_argument("--candidates", type=int, default=200_000)
    parser.add_argument("--losses", nargs="+", metavar="NAME", help="pile_cc and others; default: all 13")
    options = parse_options(parser, lambda _: {"draws": 1, "points": 18, "candidates": 1000, "losses": TINY_LOSSES})
    runs = RegmixRuns.read(options.data, options.losses)
    mixtures, losses, others, measured = runs.mixtures, runs.losses, runs.other_mixtures, runs.other_losses

    chosen: Counter[str] = Counter()
    found: dict[str, list[list[float]]] = {name: [] for name in ("chosen", *REGRESSORS, *BLENDS)}
    inside, seconds, direct = [], [], []
    for draw in range(options.draws):
        rows = np.random.default_rng(draw).choice(len(mixtures), options.points, replace=False)
        started = time.process_time()
        surrogate = Surrogate.fit(mixtures[rows], losses[rows], seed=draw, larger_is_better=False)
        seconds.append(time.process_time() - started)
        mean, std = surrogate.predict(others)
        chosen.update(surrogate.choice)
        found["chosen"].append(correlations(mean, measured))
        inside.append([np.mean(np.abs(measured - mean) < width * std) for width in (1.0, 1.96)])
        for name in (*REGRESSORS, *BLENDS):
            found[name].append(correlations(alone(name, mixtures[rows], losses[rows], others), measured))
        by_itself = Surrogate.fit(mixtures[rows], losses[rows].mean(axis=1, keepdims=True), seed=draw).mean(others)
        direct.append(spearmanr(by_itself[:, 0], measured.mean(axis=1))[0])
    print(f"{options.draws} draws of {options.points} points; median Spearman")
    print_ranks(found, runs.labels)
    print(f"the mean loss as one capability by itself: {np.median(direct):.3f}")
    print("chosen:", dict(chosen))
    print("measured within 1 and 1.96 standard deviations:", np.mean(inside, axis=0).round(3))
    draw = np.random.default_rng(0).dirichlet(np.full(mixtures.shape[1], 0.3), options.candidates)
    started = time.process_time()
    surrogate.predict(draw)
    taken = time.process_time() - started
    print(f"CPU seconds: fit {np.median(seconds):.1f}, {options.candidates} candidates {taken:.1f}")


if __name__ == "__main__":
    main()
