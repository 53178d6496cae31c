"""The response model of a run: fitted to its trials, asked for an objective, a winner and its certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aftermix.response.calibration import ScoreCalibration
from aftermix.response.certificate import CertificateDraws, MergeCertificate
from aftermix.response.draws import CandidateScores
from aftermix.response.response_model import LEAST_MERGES, ResponseModel
from aftermix.response.surface.coordinates import Floats, MergeCoordinates, MergePoints
from aftermix.runs import journal
from aftermix.runs.item_scores import WeightedScores
from aftermix.runs.trials import Point, Trial
from aftermix.search.objective import ObjectiveSet, TaskGoal
from aftermix.search.proposing.candidates import list_candidates
from aftermix.search.proposing.measured_tasks import (
    compute_paired_error,
    list_answered_trials,
    read_measured_tasks,
)
from aftermix.search.space import ChoiceSet, SearchSpace
from aftermix.seeds import generator

GOOD = 3
"""Measured merges about which candidates are scattered."""
LEAST_GAIN = 0.7
"""The model counts where its error, each merge left out in turn, is below so much of that of the mean."""
PRECISION_SHARE, LEAST_PRECISION = 0.25, 0.001
"""Default precision over the paired standard error of the objective, and the least one over the scale of a score."""


def build_coordinates(space: SearchSpace, *, normalised: bool) -> MergeCoordinates:
    """Coordinates of the points of `space`; `normalised` where the method divides by the sum of the weights."""
    return MergeCoordinates(
        vectors=space.searched_weights,
        normalised=normalised,
        numbers=tuple(name for name, kind in space.settings.items() if not isinstance(kind, ChoiceSet)),
        choices={name: kind.values for name, kind in space.settings.items() if isinstance(kind, ChoiceSet)},
        placed=bool(space.vectors),
    )


@dataclass(frozen=True)
class FittedResponse:
    """A model of the trials that have answers, for the objectives of a search."""

    run: Path
    space: SearchSpace
    coordinates: MergeCoordinates
    objectives: ObjectiveSet
    trials: tuple[Trial, ...]
    """Trials that the model was fitted to, in the order of its points."""
    model: ResponseModel

    @classmethod
    def fit(
        cls,
        run: Path,
        trials: Sequence[Trial],
        *,
        space: SearchSpace,
        coordinates: MergeCoordinates,
        objectives: ObjectiveSet,
        tasks: Sequence[str],
        seed: int,
    ) -> FittedResponse | None:
        """The response through the answered trials of `run`; None where they are too few, or no task has likelihoods.

        Raises :class:`AftermixError` for answers that are damaged.
        """
        answered = list_answered_trials(run, trials, tasks)
        if coordinates.normalised:
            answered = drop_jumps(answered, coordinates)
        if len(answered) < LEAST_MERGES:
            return None
        measured = read_measured_tasks(run, answered, tasks)
        if all(task.loglikelihood_NR is None for task in measured.values()):
            return None
        points = locate_points(coordinates, [trial.point for trial in answered])
        return cls(run, space, coordinates, objectives, tuple(answered), ResponseModel.fit(points, measured, seed=seed))

    def calibrate(self, goal: TaskGoal) -> ScoreCalibration:
        """The error of one objective, each merge left out in turn."""
        return self.model.calibrate(goal.shares)

    @property
    def is_useful(self) -> bool:
        """True if every objective is predicted clearly better than by the mean of the measured merges."""
        errors = [self.calibrate(goal) for goal in self.objectives.goals]
        return all(error.rmse < LEAST_GAIN * error.rmse_mean for error in errors)

    def rank_trials(self) -> list[int]:
        """Places of the fitted trials within the ranges that meet the floors, best first; of the mean of objectives.

        Where none meets the floors, those that break them least come first.
        """
        inside = [
            place for place, trial in enumerate(self.trials) if self.space.contains(trial.weights, trial.settings)
        ]
        ranking = self.model.list_ranking_scores()

        def order(place: int) -> tuple[float, float, int]:
            scores = {name: float(scores_N[place]) for name, scores_N in ranking.items()}
            return self.objectives.violation(scores), -float(np.mean(self.objectives.values(scores))), place

        return sorted(inside, key=order)


def drop_jumps(trials: Sequence[Trial], coordinates: MergeCoordinates) -> list[Trial]:
    """The trials that every vector takes part in, if they are enough to be fitted; else all.

    Where weights are divided by their sum, what one vector alone keeps is taken whole at any weight above 0: a merge
    without a vector tells nothing of the merges near it.
    """
    whole = [trial for trial in trials if all(trial.weights[name] for name in coordinates.vectors)]
    return whole if len(whole) >= LEAST_MERGES else list(trials)


@dataclass(frozen=True)
class PredictedCandidates:
    """Candidates of a batch with what is predicted there; the fitted trials come first."""

    number: int
    """Trials before the batch."""
    seed: int
    fitted: FittedResponse
    points: tuple[Point, ...]
    """Candidates that are no trial."""
    scores: CandidateScores
    within_C: NDArray[np.bool_]
    """True within the ranges and where every floor holds with a probability of 0.95, trials included."""

    @classmethod
    def predict(cls, fitted: FittedResponse, *, seed: int, number: int) -> PredictedCandidates:
        """Candidates of batch `number`, scattered over the space and about the best trials."""
        good = [fitted.trials[place].point for place in fitted.rank_trials()[:GOOD]]
        return cls.predict_at(fitted, list_candidates(fitted.space, good, seed=seed, number=number), seed, number)

    @classmethod
    def predict_at(cls, fitted: FittedResponse, points: Sequence[Point], seed: int, number: int) -> PredictedCandidates:
        """The same at `points` of the space, which are no fitted trials."""
        located = fitted.model.points.join(locate_points(fitted.coordinates, points))
        scores = CandidateScores.predict(fitted.model, located)

        inside = [fitted.space.contains(trial.weights, trial.settings) for trial in fitted.trials]
        within_C = np.array(inside + [True] * len(points)) & hold_floors(fitted, scores)
        return cls(number, seed, fitted, tuple(points), scores, within_C)

    def allow_unmeasured(self) -> NDArray[np.bool_]:
        """(C,) true for candidates that may be run: no trial, and holding the floors as far as any does."""
        allowed_C = self.within_C.copy()
        measured = len(self.fitted.trials)
        allowed_C[:measured] = False
        if not allowed_C.any():
            allowed_C[measured:] = True
        return allowed_C

    def read_point(self, number: int) -> Point:
        """The candidate of this number, which is no trial."""
        return self.points[number - len(self.fitted.trials)]

    def choose_precision(self, goal: TaskGoal, winner: int) -> float:
        """A quarter of the paired standard error of the objective, at least a thousandth of the scale of a score.

        That is 1 or 100, as scores of items tell; of bits per byte it is a bit.
        """
        error = self.measure_paired_error(goal, winner)
        trial = self.fitted.trials[winner]
        items = journal.read_items(self.fitted.run, "search", trial.number)
        scores = [score for task, score in trial.scores.items() if not isinstance(items[task], WeightedScores)]
        scale = max([1.0, *map(abs, scores)])
        return max(PRECISION_SHARE * error, LEAST_PRECISION * (100.0 if scale > 1 else 1.0))

    def measure_paired_error(self, goal: TaskGoal, winner: int) -> float:
        """Standard error of the winner over the first trial, the base where there is one, on other items."""
        other = 0 if winner else len(self.fitted.trials) - 1
        ours, theirs = (
            journal.read_items(self.fitted.run, "search", self.fitted.trials[place].number) for place in (winner, other)
        )
        documents = {name: task.documents_I for name, task in self.fitted.model.tasks.items()}
        return compute_paired_error(ours, theirs, goal.shares, documents)

    @cached_property
    def certificate_draws(self) -> CertificateDraws:
        """Draws of the first objective, the same for every trial that is certified."""
        goal, rng = self.fitted.objectives.goals[0], generator(self.seed, "certificate", self.number)
        return CertificateDraws.draw(self.fitted.model, self.scores, goal.shares, within=self.within_C, rng=rng)

    def certify(self, winner: int, *, precision: float | None) -> MergeCertificate:
        """The certificate of the fitted trial at place `winner` for the first objective."""
        asked = self.choose_precision(self.fitted.objectives.goals[0], winner) if precision is None else precision
        return self.certificate_draws.certify(winner, asked)


def locate_points(coordinates: MergeCoordinates, points: Sequence[Point]) -> MergePoints:
    """The points as the model sees them."""
    return coordinates.locate([point.weights for point in points], [point.settings for point in points])


def hold_floors(fitted: FittedResponse, scores: CandidateScores) -> NDArray[np.bool_]:
    """(C,) true where every floor holds with a probability of 0.95, by the error of its task's score."""
    held_C = np.ones(len(scores.candidates), dtype=bool)
    if not fitted.objectives.floors:
        return held_C
    means: Mapping[str, Floats] = scores.compute_means(fitted.model)
    deviation_C = np.sqrt((scores.root_CC**2).sum(axis=1))
    for task, floor in fitted.objectives.floors.items():
        calibration = fitted.model.calibrate({task: 1.0})
        held_C &= means[task] - calibration.lower_margin * deviation_C >= floor
    return held_C
