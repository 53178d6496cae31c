"""The merge that a response expects most of among those that were not run, in words: what a further trial would try."""

from __future__ import annotations

import numpy as np

from aftermix.response.predictions import predict_scores
from aftermix.response.response_model import sum_weighted
from aftermix.search.objective import TaskGoal
from aftermix.search.proposing.response_fit import PredictedCandidates
from aftermix.search.space import format_setting


def describe_expected_best(predicted: PredictedCandidates, winner: int) -> str:
    """`of merges not run the response expects most of ja=0.31,math=0.42, 0.531 [0.491, 0.571]; of trial 7, the best
    that was, 0.529 [0.500, 0.558]`

    The first objective with its 95 % intervals; `winner` is the place of that trial among the fitted ones.
    """
    fitted, goal = predicted.fitted, predicted.fitted.objectives.goals[0]
    expected_C = sum_weighted(predicted.scores.compute_means(fitted.model), goal.shares)
    best = int(np.argmax(np.where(predicted.allow_unmeasured(), expected_C, -np.inf)))

    point = predicted.read_point(best)
    values = {name: f"{weight:.2f}" for name, weight in point.weights.items()}
    values |= {name: format_setting(value) for name, value in point.settings.items()}
    named = ",".join(f"{name}={value}" for name, value in values.items())
    ours, theirs = (_describe_score(predicted, goal, place) for place in (best, winner))
    trial = f"trial {fitted.trials[winner].number}, the best that was"
    return f"of merges not run the response expects most of {named}, {ours}; of {trial}, {theirs}"


def _describe_score(predicted: PredictedCandidates, goal: TaskGoal, place: int) -> str:
    point = predicted.scores.candidates.take(np.array([place]))
    score = predict_scores(predicted.fitted.model, point, {"": goal.shares})[""]
    return f"{score.mean_C[0]:.3f} [{score.low_C[0]:.3f}, {score.high_C[0]:.3f}]"
