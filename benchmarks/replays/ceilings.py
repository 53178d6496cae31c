"""What could be known at best of a score that was itself measured on a thousand items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from benchmarks.replays.worlds import FiniteWorld
from scipy.stats import spearmanr

from aftermix.response.response_model import ResponseModel
from aftermix.seeds import generator

POINTS = 100.0
DRAWS = 200

# M merges, I items


@dataclass(frozen=True)
class RankedError:
    """Rank correlation and root mean square error of predicted scores, over all merges and over the better half."""

    rho: float
    points: float
    rho_better: float
    points_better: float


def compare_scores(predicted_M: np.ndarray, measured_M: np.ndarray) -> RankedError:
    """Predicted against measured scores; the better half is that of the measured ones."""
    better = measured_M >= np.median(measured_M)
    error_M = POINTS * (predicted_M - measured_M)
    return RankedError(
        float(spearmanr(predicted_M, measured_M).statistic),
        float(np.sqrt(np.mean(error_M**2))),
        float(spearmanr(predicted_M[better], measured_M[better]).statistic),
        float(np.sqrt(np.mean(error_M[better] ** 2))),
    )


def average_errors(errors: list[RankedError]) -> RankedError:
    """The mean of each."""
    return RankedError(*np.mean([list(vars(error).values()) for error in errors], axis=0).tolist())


def measure_ceiling(world: FiniteWorld, *, seed: int = 0) -> RankedError:
    """How well the score without its noise would predict the measured one: no prediction from other merges does better.

    The score without noise is the tempered one of a response through all merges. Noise is drawn from what the metric of
    each item differs by from its expectation there, an item's own difficulty apart, so that merges that err on the same
    items err alike.
    """
    rows = np.arange(world.pool.merges)
    measured = world.measure(rows.tolist())
    model = ResponseModel.fit(
        world.coordinates.locate([world.read_point(row).weights for row in rows]), measured, seed=0
    )
    truth_M = np.mean([scores.smooth_N for scores in model.left_out.values()], axis=0)

    rng, noise_DM = generator(seed, "replay ceiling"), np.zeros((DRAWS, len(rows)))
    for name, task in model.tasks.items():
        told = measured[name]
        if task.tempered is None or task.scale is None:
            continue
        departure_MI = told.scores_NI - task.score_outputs(task.scale.apply(told.compute_outputs()))
        changes_MI = departure_MI - departure_MI.mean(axis=0)
        signs_DI = rng.standard_normal((DRAWS, changes_MI.shape[1])) * told.shares_I
        noise_DM += world.shares[name] * (signs_DI @ changes_MI.T)
    return average_errors([compare_scores(truth_M, truth_M + noise_M) for noise_M in noise_DM])
