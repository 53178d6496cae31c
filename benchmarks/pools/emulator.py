"""An emulator of a recorded pool: what every item would answer to any weights, for replays that choose freely.

    from benchmarks.pools.emulator import PoolEmulator
    emulator = PoolEmulator.fit(load_pool("demo"))
    answers = emulator.answer(weights)["continue_ja"]  # loglikelihood_MR, score_MN

    python -m benchmarks.pools.emulator [demo ...]     # the error of leaving one merge out

Each request's log-likelihood is a polynomial of degree 3 in the weights with all products (in the vectors' shares, for
a method that divides by the sum of the weights), fitted by ridge regression on all merges. It is no Gaussian process,
so that a replay does not flatter a search that uses one. The penalty, and how much more it weighs on terms of a higher
degree, are chosen by leaving one merge out and are the same for all requests.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from benchmarks.pools import FOLDER, RecordedPool, RecordedTask, load_pool
from benchmarks.pools.coordinates import find_recorded, find_smooth, shape_weights
from benchmarks.tiny import parse_options
from numpy.polynomial import legendre
from scipy.stats import spearmanr

DEGREE = 3
PENALTIES = np.logspace(-6, 1, 15)
GROWTHS = np.logspace(0, 4, 9)
"""Factor between the penalties of one degree and the next."""

# M merges, V vectors, N items, R requests, P terms


@dataclass(frozen=True)
class EmulatedTask:
    """Answers of one task to M merges."""

    loglikelihood_MR: np.ndarray
    score_MN: np.ndarray
    """0 or 1 where there are choices; of written answers an expectation between them."""


@dataclass(frozen=True)
class EmulatorError:
    """Errors for a merge that the emulator has not seen."""

    margin_nats: float
    """Median over items of the root mean square error of log-likelihoods, their mean over an item's choices taken off;
    of written answers, of the reference answer's."""
    explained: float
    """Median over items of the part of that quantity's variance over the merges that is predicted."""
    points: float
    """Root mean square error of the mean score over the tasks, in points."""
    bias: float
    """Mean error of it, in points."""
    rank: float
    """Spearman correlation of predicted and measured mean scores."""


@dataclass(frozen=True)
class Penalty:
    """Ridge penalty `first * growth^(degree - 1)`; the constant has none."""

    first: float
    growth: float


@dataclass(frozen=True)
class TermMatrix:
    """The terms at some weights, and the degree of each."""

    values_MP: np.ndarray
    degrees_P: np.ndarray


@dataclass(frozen=True)
class PoolEmulator:
    """Polynomials of all requests and, where answers are written, of all scores."""

    pool: RecordedPool
    penalty: Penalty
    coefficients: Mapping[str, np.ndarray]
    """By task, (terms, requests) or, where answers are written, (terms, requests + items)."""
    error: EmulatorError

    @staticmethod
    def fit(pool: RecordedPool) -> PoolEmulator:
        """Fit all merges of the pool; the penalty is that with the least squared error of merges left out."""
        smooth_M = find_smooth(pool, pool.weights_MV)
        terms = build_terms(shape_weights(pool, pool.weights_MV[smooth_M]))
        outputs = {name: stack_outputs(task)[smooth_M] for name, task in pool.tasks.items()}
        penalty = choose_penalty(terms, np.concatenate(list(outputs.values()), axis=1))

        coefficients = {name: solve(terms, values_MR, penalty) for name, values_MR in outputs.items()}
        unseen = {
            name: read_outputs(pool.tasks[name], leave_out(terms, values_MR, penalty))
            for name, values_MR in outputs.items()
        }
        return PoolEmulator(pool, penalty, coefficients, measure_error(pool, unseen, smooth_M))

    def answer(self, weights_MV: np.ndarray) -> dict[str, EmulatedTask]:
        """Answers of every task to merges at `weights_MV`, meant for [0, 1]^V.

        Recorded merges that stand for themselves (:func:`~.coordinates.find_smooth`) answer as they were measured.
        """
        rows_MV = np.atleast_2d(weights_MV)
        terms_MP = build_terms(shape_weights(self.pool, rows_MV)).values_MP
        recorded_M = np.where(find_smooth(self.pool, rows_MV), -1, find_recorded(self.pool, rows_MV))
        known_M = recorded_M >= 0

        answers = {}
        for name, task in self.pool.tasks.items():
            values_MR = terms_MP @ self.coefficients[name]
            values_MR[known_M] = stack_outputs(task)[recorded_M[known_M]]
            answers[name] = read_outputs(task, values_MR)
        return answers


def build_terms(weights_MV: np.ndarray) -> TermMatrix:
    """Products of Legendre polynomials of the weights on [0, 1], of total degree up to three; first the constant."""
    each_MVP = legendre.legvander(2 * weights_MV.astype(np.float64) - 1, DEGREE)
    vectors = range(weights_MV.shape[1])
    chosen = [each for each in product(range(DEGREE + 1), repeat=len(vectors)) if sum(each) <= DEGREE]
    values_MP = np.stack([np.prod([each_MVP[:, v, d[v]] for v in vectors], axis=0) for d in chosen], axis=1)
    return TermMatrix(values_MP, np.array([sum(each) for each in chosen]))


def choose_penalty(terms: TermMatrix, values_MR: np.ndarray) -> Penalty:
    """The penalty with the least squared error over merges left out."""
    # Errors over all columns depend on the products of merges alone, which are few.
    inner_MM = values_MR @ values_MR.T
    choices = [Penalty(float(first), float(growth)) for first in PENALTIES for growth in GROWTHS]
    losses = []
    for choice in choices:
        residual_MM = build_left_out(terms, choice)
        losses.append(np.sum((residual_MM @ inner_MM) * residual_MM))
    return choices[int(np.argmin(losses))]


def solve(terms: TermMatrix, values_MR: np.ndarray, penalty: Penalty) -> np.ndarray:
    """Ridge coefficients, (terms, columns of `values_MR`)."""
    return _invert(terms, penalty) @ (terms.values_MP.T @ values_MR)


def leave_out(terms: TermMatrix, values_MR: np.ndarray, penalty: Penalty) -> np.ndarray:
    """What the fit to all other merges predicts for each, (M, R)."""
    return values_MR - build_left_out(terms, penalty) @ values_MR


def build_left_out(terms: TermMatrix, penalty: Penalty) -> np.ndarray:
    """(M, M), which makes the errors of merges left out of values: `(1 - S) / (1 - leverage)` with the smoother S."""
    smoother_MM = terms.values_MP @ _invert(terms, penalty) @ terms.values_MP.T
    return (np.eye(len(smoother_MM)) - smoother_MM) / (1 - np.diag(smoother_MM))[:, None]


def _invert(terms: TermMatrix, penalty: Penalty) -> np.ndarray:
    ridge_P = np.where(terms.degrees_P > 0, penalty.first * penalty.growth ** (terms.degrees_P - 1.0), 0.0)
    return np.linalg.inv(terms.values_MP.T @ terms.values_MP + np.diag(ridge_P))


def stack_outputs(task: RecordedTask) -> np.ndarray:
    """Log-likelihoods of all requests, and behind them the scores where these do not follow from them."""
    if task.kind == "multiple_choice":
        return task.loglikelihood_MR.astype(np.float64)
    return np.concatenate([task.loglikelihood_MR, task.score_MN], axis=1, dtype=np.float64)


def read_outputs(task: RecordedTask, values_MR: np.ndarray) -> EmulatedTask:
    """The other way: a task's answers from outputs as :func:`stack_outputs` stacks them."""
    requests = len(task.length_R)
    if task.kind != "multiple_choice":
        return EmulatedTask(values_MR[:, :requests], values_MR[:, requests:].clip(0, 1))

    per_unit_MR = values_MR / task.length_R
    spans = zip(task.offsets[:-1], task.offsets[1:], task.gold_N, strict=True)
    right = [per_unit_MR[:, start:end].argmax(axis=1) == gold for start, end, gold in spans]
    return EmulatedTask(values_MR, np.stack(right, axis=1).astype(np.float64))


def measure_error(pool: RecordedPool, predicted: Mapping[str, EmulatedTask], rows_M: np.ndarray) -> EmulatorError:
    """Errors of predictions for those of the pool's own merges that `rows_M` has."""
    rms, explained = [], []
    for name, task in pool.tasks.items():
        true_MR = center(task, task.loglikelihood_MR[rows_M])
        wrong_MR = center(task, predicted[name].loglikelihood_MR) - true_MR
        wrong_N = np.add.reduceat(np.square(wrong_MR).mean(axis=0), task.offsets[:-1])
        spread_N = np.add.reduceat(true_MR.var(axis=0), task.offsets[:-1])
        rms.append(np.sqrt(wrong_N / np.diff(task.offsets)))
        explained.append(1 - wrong_N / spread_N)

    true_M = 100 * pool.compute_scores()[rows_M].mean(axis=1)
    told_M = 100 * np.mean([predicted[name].score_MN.mean(axis=1) for name in pool.tasks], axis=0)
    return EmulatorError(
        margin_nats=float(np.median(np.concatenate(rms))),
        explained=float(np.median(np.concatenate(explained))),
        points=float(np.sqrt(np.mean((told_M - true_M) ** 2))),
        bias=float(np.mean(told_M - true_M)),
        rank=float(spearmanr(told_M, true_M)[0]),
    )


def center(task: RecordedTask, values_MR: np.ndarray) -> np.ndarray:
    """`values_MR` minus their mean over the choices of each item; as they are where an item has one request."""
    if task.kind != "multiple_choice":
        return values_MR.astype(np.float64)
    counts_N = np.diff(task.offsets)
    mean_MN = np.add.reduceat(values_MR.astype(np.float64), task.offsets[:-1], axis=1) / counts_N
    return values_MR - np.repeat(mean_MN, counts_N, axis=1)


def main() -> None:
    """Print the errors of the pools that were named, or of all that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="*", metavar="NAME", help="names or files (default: all beside this one)")
    options = parse_options(parser, lambda _: {})
    names = options.pools or sorted(file.stem for file in FOLDER.glob("*.safetensors"))

    print("| pool | merges | penalty, growth | margin, nats | explained | score, points | bias | rank |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names[:1] if options.tiny else names:
        fitted = PoolEmulator.fit(load_pool(Path(name) if name.endswith(".safetensors") else name))
        found, penalty = fitted.error, fitted.penalty
        print(
            f"| {fitted.pool.name} | {fitted.pool.merges} | {penalty.first:.2g}, {penalty.growth:.2g} | "
            f"{found.margin_nats:.3f} | "
            f"{found.explained:.3f} | {found.points:.2f} | {found.bias:+.2f} | {found.rank:.3f} |"
        )


if __name__ == "__main__":
    main()
