"""Optimism of a search: how much better its winner looks than it is, over repetitions of what the search measured.

A repetition measures the same merges on as many documents, drawn anew from those that the tasks have:

    truth_t(n)  = S_t(n) + e_t(n) + d_t z_t(n)
    soft_t(n)   = S_t(n) + e_t(n) + sum_i (q_ti - p_ti) E_ti(n)
    metric_t(n) = truth_t(n) + sum_i (q_ti - p_ti) s_ti(n)

with `E_ti(n)` the expected metric of item i at measured merge n and `s_ti(n)` the metric that was measured there, `p`
the items' shares and `q` those of the drawn documents: one drawing moves both, and what documents favour in expectation
their answers favour more, which are more clear-cut.
`S_t(n)` is the score that the expectations give, drawn together by what their drawing explains; `e_t` the error that
the response leaves there, drawn jointly; `d_t` the merges' own deviation from the line of expectations, and `z` normal.
Search and select items are drawn each by themselves. The fitted response stands as it is: nothing is fitted in a
repetition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aftermix.response.surface.coordinates import Floats, Integers

# B repetitions, N measured merges, I items, K finalists

REPETITIONS = 200


@dataclass(frozen=True)
class SimulatedTask:
    """One task as its repetitions are drawn."""

    scores_N: Floats
    """The score of each merge, without what the drawing of the items has moved it by."""
    expected_NI: Floats
    metric_NI: Floats
    """The metric as it was measured."""
    shares_I: Floats
    documents_I: Integers
    error_NN: Floats
    """Root of the covariance of what the response leaves open at the merges."""
    degrees: float
    """Of Student's distribution, for that error."""
    own: float
    """Deviation of a merge's metric from what is expected of it, on whatever documents."""
    select_ratio: float
    """Select items over search items."""
    is_soft: bool
    """True if the search ranks merges by expected metrics, false if by the metric itself."""


@dataclass(frozen=True)
class RepeatedScores:
    """Scores of one task, or an objective, in all repetitions: each (B, N)."""

    truth: Floats
    ranked: Floats
    """On search items, as the search ranks them."""
    search: Floats
    """The metric on search items."""
    select: Floats
    """The metric on select items."""


@dataclass(frozen=True)
class ScoreOptimism:
    """Winner's score minus its true score over the repetitions."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class ProcedureOptimism:
    """Optimism on the items of both splits."""

    search: ScoreOptimism
    select: ScoreOptimism


@dataclass(frozen=True)
class ChoiceRule:
    """The way from scores to a winner: the best on search items, then of these the best on select items."""

    weights: Mapping[str, float]
    """Task -> weight in the objective."""
    floors: Mapping[str, float]
    """Task -> lowest acceptable score; merges that break floors less come first."""
    allowed_N: NDArray[np.bool_]
    """True for merges that may be chosen."""
    finalists: int
    """Merges that are measured on the select items."""


def simulate_optimism(
    tasks: Mapping[str, SimulatedTask], rule: ChoiceRule, rngs: Mapping[str, np.random.Generator]
) -> ProcedureOptimism:
    """The optimism of a choice by `rule`; each task draws from its own of `rngs`."""
    repeated = {name: _repeat_task(task, rngs[name]) for name, task in tasks.items()}
    truth, search, select = (_sum_tasks(repeated, rule.weights, field) for field in ("truth", "search", "select"))
    winners_B1 = choose_winners(repeated, rule)[:, None]

    true_B = np.take_along_axis(truth, winners_B1, axis=1)[:, 0]
    gains = [np.take_along_axis(values, winners_B1, axis=1)[:, 0] - true_B for values in (search, select)]
    return ProcedureOptimism(*(ScoreOptimism(float(gain.mean()), float(gain.std(ddof=1))) for gain in gains))


def choose_winners(repeated: Mapping[str, RepeatedScores], rule: ChoiceRule) -> Integers:
    """(B,) number of the merge that each repetition chooses; of equal ones the first."""
    order_BN = _order(repeated, rule, "ranked", closed_N=~rule.allowed_N)
    finalists_BK = order_BN[:, : min(rule.finalists, int(rule.allowed_N.sum()))]

    of_finalists = {
        name: RepeatedScores(*(np.take_along_axis(values, finalists_BK, axis=1) for values in _list_values(scores)))
        for name, scores in repeated.items()
    }
    best_B1 = _order(of_finalists, rule, "select")[:, :1]
    return np.take_along_axis(finalists_BK, best_B1, axis=1)[:, 0]


def _repeat_task(task: SimulatedTask, rng: np.random.Generator) -> RepeatedScores:
    merges = len(task.expected_NI)
    tails_B1 = np.sqrt(task.degrees / rng.chisquare(task.degrees, (REPETITIONS, 1)))
    score_BN = task.scores_N + tails_B1 * (rng.standard_normal((REPETITIONS, merges)) @ task.error_NN.T)
    truth_BN = score_BN + task.own * rng.standard_normal((REPETITIONS, merges))

    search_BI, select_BI = (_draw_shares(task, ratio, rng) - task.shares_I for ratio in (1.0, task.select_ratio))
    soft_BN = score_BN + search_BI @ task.expected_NI.T
    search_BN, select_BN = (truth_BN + moved_BI @ task.metric_NI.T for moved_BI in (search_BI, select_BI))
    return RepeatedScores(truth_BN, soft_BN if task.is_soft else search_BN, search_BN, select_BN)


def _draw_shares(task: SimulatedTask, ratio: float, rng: np.random.Generator) -> Floats:
    """(B, I) shares where the documents are drawn with replacement, `ratio` times as many as there are."""
    documents = int(task.documents_I.max()) + 1
    drawn = max(1, round(ratio * documents))
    counts_BG = rng.multinomial(drawn, np.full(documents, 1 / documents), size=REPETITIONS)
    weighted_BI = counts_BG[:, task.documents_I] * task.shares_I

    totals_B1 = weighted_BI.sum(axis=1, keepdims=True)
    empty = totals_B1[:, 0] == 0  # only documents without a share were drawn
    weighted_BI[empty], totals_B1[empty] = task.shares_I, task.shares_I.sum()
    return np.asarray(weighted_BI / totals_B1)


def _order(
    repeated: Mapping[str, RepeatedScores],
    rule: ChoiceRule,
    field: str,
    *,
    closed_N: NDArray[np.bool_] | None = None,
) -> Integers:
    """(B, N) merges from the best down, those that are `closed_N` last."""
    value_BN = _sum_tasks(repeated, rule.weights, field)
    violation_BN = np.zeros_like(value_BN)
    for task, floor in rule.floors.items():
        violation_BN += np.maximum(floor - getattr(repeated[task], field), 0.0)
    if closed_N is not None:
        violation_BN[:, closed_N] = np.inf
    return np.asarray(np.lexsort((-value_BN, violation_BN), axis=1))


def _sum_tasks(repeated: Mapping[str, RepeatedScores], weights: Mapping[str, float], field: str) -> Floats:
    return np.asarray(sum(weight * getattr(repeated[name], field) for name, weight in weights.items()))


def _list_values(scores: RepeatedScores) -> tuple[Floats, ...]:
    return scores.truth, scores.ranked, scores.search, scores.select
