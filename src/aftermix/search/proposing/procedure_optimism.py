"""Optimism of a finished search, simulated from its response."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky

from aftermix.response.measurements import TaskMeasurements
from aftermix.response.optimism import REPETITIONS, ChoiceRule, ScoreOptimism, SimulatedTask, simulate_optimism
from aftermix.response.response_model import ResponseModel
from aftermix.response.surface.coordinates import Floats, Integers
from aftermix.runs.answers.certificate_records import OptimismRecord, SplitOptimismRecord
from aftermix.runs.answers.reading import read_requests
from aftermix.search.proposing.measured_tasks import read_measured_tasks
from aftermix.search.proposing.response_fit import FittedResponse
from aftermix.seeds import generator

JITTER = 1e-9
"""Added to the diagonal over its largest entry, where merges coincide."""


def measure_optimism(
    fitted: FittedResponse, *, finalists: int, by_response: bool, origins: Collection[str] | None = None, seed: int
) -> OptimismRecord | None:
    """Excess of the winner's score over its true one, the mean of 200 repetitions of what this search measured.

    The merges are those of the run, whatever a repetition would have proposed; they are ranked by tempered scores where
    the search goes `by_response`, else by the metric, and `finalists` of them are settled on select items. Paired
    elimination spares positions and is left out: it drops the best of all select items no more often than it is allowed
    to err. `origins` limits the choice to trials of these. None for several objectives, whose winner no one score
    chooses, and where no trial may be chosen.
    """
    goal = fitted.objectives.goals[0]
    allowed_N = _allow_trials(fitted, origins)
    if not fitted.objectives.is_single or not allowed_N.any():
        return None

    requests, model = read_requests(fitted.run), fitted.model
    measured = read_measured_tasks(fitted.run, fitted.trials, list(model.tasks))
    covariance_NN = model.process.compute_covariance(model.points)
    covariance_NN[np.diag_indices_from(covariance_NN)] += JITTER * max(1.0, float(np.diag(covariance_NN).max()))
    root_NN = np.asarray(cholesky(covariance_NN, lower=True))

    used = goal.shares.keys() | goal.floors.keys()
    simulated, rngs = {}, {}
    for name in (name for name in model.tasks if name in used):
        splits = requests[name].splits
        ratio = len(splits["select"].gold) / len(splits["search"].gold)
        simulated[name] = simulate_task(
            model, name, measured[name], root_NN=root_NN, select_ratio=ratio, by_response=by_response
        )
        rngs[name] = generator(seed, "optimism", name)

    rule = ChoiceRule(goal.shares, goal.floors, allowed_N, finalists)
    found = simulate_optimism(simulated, rule, rngs)
    return OptimismRecord(
        repetitions=REPETITIONS,
        runs=int(allowed_N.sum()),
        finalists=min(finalists, int(allowed_N.sum())),
        search=_record(found.search),
        select=_record(found.select),
    )


def simulate_task(
    model: ResponseModel,
    name: str,
    measured: TaskMeasurements,
    *,
    root_NN: Floats,
    select_ratio: float,
    by_response: bool,
) -> SimulatedTask:
    """The task `name` of `model` as it was measured at the merges of the model.

    Merges are ranked by what is expected of their items where these are choices and the search goes `by_response`, else
    by the metric.
    """
    task, calibration = model.tasks[name], model.calibrate({name: 1.0})
    expected_NI = task.predict_items(model.points).astype(np.float64)
    return SimulatedTask(
        scores_N=shrink_merges(expected_NI, task.shares_I, task.documents_I),
        expected_NI=expected_NI,
        metric_NI=measured.scores_NI.astype(np.float64),
        shares_I=task.shares_I,
        documents_I=task.documents_I,
        error_NN=calibration.scale * root_NN,
        degrees=calibration.degrees,
        own=calibration.line_deviation,
        select_ratio=select_ratio,
        is_soft=by_response and task.items is not None,
    )


def shrink_merges(expected_NI: Floats, shares_I: Floats, documents_I: Integers) -> Floats:
    """(N,) scores of the expected metrics, which differ from merge to merge by as much as other documents would show.

    With `V` the variance of the scores over merges and `s` that of a score's departure from the mean of all merges over
    drawings of documents, departures are scaled by `sqrt(max(0, 1 - s / V))`: a repetition, which adds `s`, then has
    the spread that was measured.
    """
    departure_NI = expected_NI - expected_NI.mean(axis=0)
    departure_N = departure_NI @ shares_I
    sampling = _sum_squares((departure_NI - departure_N[:, None]) * shares_I, documents_I)
    spread = float(departure_N.var(ddof=1))
    kept = np.sqrt(max(0.0, 1 - sampling / spread)) if spread > 0 else 1.0
    return np.asarray(expected_NI @ shares_I - (1 - kept) * departure_N)


def _sum_squares(weighted_NI: Floats, documents_I: Integers) -> float:
    """Mean over merges of `sum_g (sum_{i in g} x_i)^2` over documents g."""
    sums_NG = np.stack([np.bincount(documents_I, weighted_I) for weighted_I in weighted_NI])
    return float((sums_NG**2).sum(axis=1).mean())


def _allow_trials(fitted: FittedResponse, origins: Collection[str] | None) -> NDArray[np.bool_]:
    """(N,) true within the ranges, for the first trial of each point, of these origins."""
    seen = []
    allowed = []
    for trial in fitted.trials:
        is_new = trial.point not in seen
        seen.append(trial.point)
        is_of = origins is None or trial.origin in origins
        allowed.append(is_new and is_of and fitted.space.contains(trial.weights, trial.settings))
    return np.array(allowed, dtype=bool)


def _record(optimism: ScoreOptimism) -> SplitOptimismRecord:
    return SplitOptimismRecord(mean=optimism.mean, deviation=optimism.deviation)
