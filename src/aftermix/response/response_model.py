"""All tasks' scores at any merge, from the log-likelihoods of their items at a few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from aftermix.response.calibration import ScoreCalibration, calibrate_score
from aftermix.response.margins import UNBOUNDED, Margins, bound_outputs
from aftermix.response.measurements import TaskMeasurements, compute_sampling_variance
from aftermix.response.surface.coordinates import Floats, MergePoints
from aftermix.response.surface.fit import fit_kernel
from aftermix.response.surface.process import ResponseProcess
from aftermix.response.surface.score_process import fit_score_process
from aftermix.response.task_response import OutputScale, TaskResponse
from aftermix.response.tempered import choose_factor, fit_tempered, measure_agreements
from aftermix.seeds import generator

# N measured merges, C candidates, R requests, I items

BOUNDS = (UNBOUNDED, 8.0, 4.0, 2.0)
"""Bounds of the transform that are tried, over the size of the outputs of an ordinary merge."""
TRIMMED = 5
"""One of so many merges does not count for the choice of a bound."""
LEAST_MERGES = 4
"""Merges below which nothing is fitted."""


@dataclass(frozen=True)
class LeftOutScores:
    """A task's score at each measured merge: predicted from the others, in the model's terms, and as measured."""

    predicted_N: Floats
    smooth_N: Floats
    """The tempered score of the measured merge, on the metric's line."""
    measured_N: Floats
    """The metric."""
    sampling: float = 0.0
    """Variance of the metric about the tempered score that other documents would give; 0 where it was not kept."""


@dataclass(frozen=True)
class ResponseModel:
    """The process, and every task as it predicts it."""

    points: MergePoints
    process: ResponseProcess
    tasks: dict[str, TaskResponse]
    left_out: dict[str, LeftOutScores]
    variances_N: Floats
    """Variance at each measured merge without it, in the common unit."""

    @classmethod
    def fit(cls, points: MergePoints, measured: Mapping[str, TaskMeasurements], *, seed: int) -> ResponseModel:
        """The response through what was `measured` at `points`.

        The bound of the transform is the one with the least error, each merge left out in turn. Raises `ValueError`
        for fewer than `LEAST_MERGES` merges, or no task with log-likelihoods.
        """
        likelihoods = {name: task for name, task in measured.items() if task.loglikelihood_NR is not None}
        if len(points) < LEAST_MERGES or not likelihoods:
            raise ValueError(f"expected log-likelihoods at {LEAST_MERGES} merges or more, found {len(points)} merges")
        fit = _fit_best_bound(points, likelihoods, seed)

        # Likelihoods that do not tell the score do not shape the process either.
        useful = {name: task for name, task in likelihoods.items() if not _is_better_alone(task, fit, name)}
        if useful and useful.keys() != likelihoods.keys():
            fit = _fit_best_bound(points, useful, seed)

        tasks = {name: fit.tasks[name] for name in useful or likelihoods}
        left_out = {name: fit.left_out[name] for name in tasks}
        for name in measured.keys() - tasks.keys():
            process, expected_N = fit_score_process(fit.process, measured[name])
            tasks[name] = _build_score_task(name, process, measured[name])
            left_out[name] = LeftOutScores(expected_N, measured[name].means, measured[name].means)

        _, variances_N = fit.process.leave_one_out(np.zeros((len(points), 1)))
        ordered = {name: tasks[name] for name in measured}
        return cls(points, fit.process, ordered, {name: left_out[name] for name in measured}, variances_N)

    def calibrate(self, weights: Mapping[str, float]) -> ScoreCalibration:
        """The error of `sum_t weights_t score_t`, of one task's score by a weight of 1."""
        predicted_N, smooth_N, measured_N = (
            sum_weighted({name: getattr(scores, field) for name, scores in self.left_out.items()}, weights)
            for field in ("predicted_N", "smooth_N", "measured_N")
        )
        sampling = sum(weight**2 * self.left_out[name].sampling for name, weight in weights.items())
        return calibrate_score(predicted_N, measured_N, smooth_N, self.variances_N, sampling=sampling)

    def list_ranking_scores(self) -> dict[str, Floats]:
        """Task -> (N,) scores that rank the measured merges.

        Tempered ones of choices, which hold on new items. Of what is written the metric: a likelier reference is no
        better answer, and what a merge's metric is off that line is for the most part the merge's own.
        """
        return {
            name: scores.measured_N if self.tasks[name].items is None else scores.smooth_N
            for name, scores in self.left_out.items()
        }

    def predict(self, candidates: MergePoints) -> dict[str, Floats]:
        """Task -> (C,) expected score at the candidates."""
        return {name: task.predict(candidates) for name, task in self.tasks.items()}


def sum_weighted(values: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """The weighted sum over the tasks that have a weight."""
    return np.asarray(sum(weight * values[name] for name, weight in weights.items()), dtype=np.float64)


@dataclass(frozen=True)
class BoundedFit:
    """Process and tasks under one bound of the transform, with their scores left one out."""

    process: ResponseProcess
    tasks: dict[str, TaskResponse]
    left_out: dict[str, LeftOutScores]

    @property
    def error(self) -> float:
        """Mean squared error of all tasks' scores, each in units of how it varies, without the worst fifth of merges.

        Of a corner where merges break nothing more is to be known than that they do.
        """
        squares_N = np.asarray(
            sum(
                (scores.predicted_N - scores.smooth_N) ** 2 / (float(scores.measured_N.var()) or 1.0)
                for scores in self.left_out.values()
            )
        )
        return float(np.sort(squares_N)[: len(squares_N) - len(squares_N) // TRIMMED].mean())


def _fit_best_bound(points: MergePoints, measured: Mapping[str, TaskMeasurements], seed: int) -> BoundedFit:
    return min((_fit_bounded(points, measured, bound, seed) for bound in BOUNDS), key=lambda fit: fit.error)


def _fit_bounded(points: MergePoints, measured: Mapping[str, TaskMeasurements], factor: float, seed: int) -> BoundedFit:
    scales = {name: _choose_scale(task, factor) for name, task in measured.items()}
    outputs = {name: scales[name].apply(task.compute_outputs()) for name, task in measured.items()}
    scatter_NN = sum(_compute_scatter(outputs_NR) for outputs_NR in outputs.values()) / len(outputs)
    process = ResponseProcess.build(fit_kernel(points, np.asarray(scatter_NN)), points)

    bare = {name: _build_task(name, process, measured[name], scales[name], outputs[name]) for name in measured}
    gaps = {name: bare[name].read_gaps(outputs[name]) for name in measured}
    factors = _choose_factors(measured, gaps, seed)

    tasks, left_out = {}, {}
    for name, task in measured.items():
        tempered = fit_tempered(gaps[name], task.scores_NI, task.shares_I, factor=factors[name])
        tasks[name] = replace(bare[name], tempered=tempered)
        expected_NR, _ = process.leave_one_out(outputs[name].astype(np.float64))
        predicted_NI, smooth_NI = (tasks[name].score_outputs(each) for each in (expected_NR, outputs[name]))
        left_out[name] = LeftOutScores(
            np.asarray(predicted_NI @ task.shares_I, dtype=np.float64),
            np.asarray(smooth_NI @ task.shares_I, dtype=np.float64),
            task.means,
            _measure_scatter(task, smooth_NI),
        )
    return BoundedFit(process, tasks, left_out)


def _measure_scatter(task: TaskMeasurements, expected_NI: Margins) -> float:
    """Variance, over other documents, of how far a merge's metric is off what is expected of its items.

    What an item is off at all merges alike moves none against another: it stays in the line.
    """
    departure_NI = task.scores_NI - expected_NI
    changes_NI = departure_NI - departure_NI.mean(axis=0)
    variances_N = compute_sampling_variance(changes_NI, task.shares_I, task.documents_I)
    return float(variances_N.sum()) / max(len(variances_N) - 1, 1)


def _choose_scale(task: TaskMeasurements, factor: float) -> OutputScale:
    """Level, bound and unit of a task's outputs; broken merges move neither much."""
    outputs_NR = task.compute_outputs().astype(np.float64)
    level = 0.0 if task.kind == "choice" else float(np.median(outputs_NR))
    size = float(np.median(np.sqrt(((outputs_NR - level) ** 2).mean(axis=1)))) or 1.0

    bounded_NR = bound_outputs(outputs_NR - level, factor * size)
    changes_NR = bounded_NR - bounded_NR.mean(axis=0)
    return OutputScale(level, factor * size, float(np.sqrt((changes_NR**2).mean())) or 1.0)


def _compute_scatter(outputs_NR: Margins) -> Floats:
    exact_NR = outputs_NR.astype(np.float64)
    return np.asarray(exact_NR @ exact_NR.T / exact_NR.shape[1])


def _choose_factors(
    measured: Mapping[str, TaskMeasurements], gaps: Mapping[str, Margins], seed: int
) -> dict[str, float]:
    """Task -> temperature over the size of its gaps: one of all tasks of choices, each reference task's own."""
    agreements = {
        name: measure_agreements(
            gaps[name],
            task.scores_NI,
            task.shares_I,
            documents_I=task.documents_I,
            rng=generator(seed, "response temperature", name),
        )
        for name, task in measured.items()
    }
    choices = [agreements[name] for name, task in measured.items() if task.kind == "choice"]
    return {
        name: choose_factor(np.mean(choices, axis=0) if task.kind == "choice" else agreements[name])
        for name, task in measured.items()
    }


def _build_task(
    name: str, process: ResponseProcess, task: TaskMeasurements, scale: OutputScale, outputs_NR: Margins
) -> TaskResponse:
    """The task without its tempered score."""
    return TaskResponse(
        name=name,
        used="loglikelihood",
        process=process,
        whitened_NR=process.whiten(outputs_NR.astype(np.float64)).astype(np.float32),
        shares_I=task.shares_I,
        documents_I=task.documents_I,
        scale=scale,
        items=task.items,
    )


def _build_score_task(name: str, process: ResponseProcess, task: TaskMeasurements) -> TaskResponse:
    whitened_NI = process.whiten(task.scores_NI.astype(np.float64)).astype(np.float32)
    return TaskResponse(name, "score", process, whitened_NI, task.shares_I, task.documents_I)


def _is_better_alone(task: TaskMeasurements, fit: BoundedFit, name: str) -> bool:
    """True if likelihoods do not tell the score of a task.

    A metric that is read off the choices follows their margins, unless it falls where they grow. One of generated
    answers need not follow a reference: it is held against the score that predicts itself, each merge left out in turn.
    """
    tempered, scores = fit.tasks[name].tempered, fit.left_out[name]
    if tempered is not None and tempered.slope == 0:
        return True
    if task.kind == "choice":
        return False
    _, alone_N = fit_score_process(fit.process, task)
    ours, alone = (np.mean((predicted_N - scores.measured_N) ** 2) for predicted_N in (scores.predicted_N, alone_N))
    return bool(alone < ours)
