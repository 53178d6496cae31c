"""`aftermix predict`: scores of a merge that was not run, from the log-likelihoods of those that were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aftermix.config import Objective
from aftermix.errors import SearchError
from aftermix.jobs.search.named_weights import complete_point, refuse_released
from aftermix.jobs.search.space_from_config import build_space, choose_run_settings
from aftermix.merging.recipe import MergeRecipe
from aftermix.response.predictions import PredictedScores, predict_scores
from aftermix.response.response_model import LEAST_MERGES, ResponseModel
from aftermix.response.surface.coordinates import MergeCoordinates
from aftermix.runs.answers.reading import NEW_RUN, keeps_answers
from aftermix.runs.answers.response_files import RESPONSE_FILE
from aftermix.runs.json_record import Finite, RunRecord
from aftermix.runs.mixture_records import DESIGN_FILE
from aftermix.runs.reader import RunContents, read_run
from aftermix.runs.trials import Point
from aftermix.search.objective import ObjectiveSet
from aftermix.search.proposing.response_fit import FittedResponse, build_coordinates, locate_points
from aftermix.search.proposing.stored_response import read_response
from aftermix.search.space import SearchSpace

WHOLE = 1e-6
"""Shares of a mixture that sum to 1 but for so much are one whole."""


class PredictedScoreRecord(RunRecord):
    """An expected score with its 95 % interval over other documents of the same kind."""

    mean: Finite
    low: Finite
    high: Finite


class PredictedTaskRecord(PredictedScoreRecord):
    """The same of a task, and what it is predicted from."""

    used: str


class PredictionRecord(RunRecord):
    """Output of `aftermix predict --json`."""

    weights: dict[str, Finite]
    objective: PredictedScoreRecord
    """The first objective."""
    tasks: dict[str, PredictedTaskRecord]
    inside: bool
    """True within the ranges of the search."""


@dataclass(frozen=True)
class MeasuredSpace:
    """Space and objective of the merges that a run measured."""

    space: SearchSpace
    objective: tuple[Objective, ...]
    shares: tuple[str, ...] = ()
    """Vectors whose weights are shares of a mixture, together 1; none in a search."""

    @staticmethod
    def of_run(run: RunContents) -> MeasuredSpace:
        """That of a search, or of a mixture, whose objective is the mean of its capability scores.

        Raises :class:`SearchError` for a tree, each of whose groups has merges of its own.
        """
        if not (run.folder / DESIGN_FILE).is_file():
            return MeasuredSpace(build_space(run.config), run.config.search.objective)
        if run.config.mixture is not None and run.config.mixture.tree is not None:
            found = "expected the run of a search or of a mixture without a tree, found that of a tree"
            raise SearchError(str(run.folder), found, "Look at its report: each group has its own merges.")
        from aftermix.jobs.mixture.problem import MixtureProblem  # here, since it loads what fits surrogates

        problem = MixtureProblem.build_flat(run.config)
        return MeasuredSpace(problem.space, (problem.objective,), problem.domains)

    def contains(self, point: Point) -> bool:
        """True within the ranges, of a mixture where its shares are 1 together."""
        whole = math.fsum(point.weights[name] for name in self.shares) if self.shares else 1.0
        return self.space.contains(point.weights, point.settings) and abs(whole - 1) <= WHOLE


def predict(run: Path, weights: Mapping[str, float]) -> PredictionRecord:
    """Predict the merge at `weights` of the search or mixture in the folder `run`; what is not named weighs 0.

    A vector that the run holds at one weight has that one; searched settings are those of the winner. Nothing is fitted
    where the run has ended as a search, and no model is read. Raises :class:`AftermixError` for a run without a
    response, and :class:`SearchError` for a vector that the run has not, or holds at another weight.
    """
    read = read_run(run)
    measured = MeasuredSpace.of_run(read)
    full = complete_point(weights, measured.space)
    refuse_released(full, measured.space)
    model, coordinates = open_response(read, measured)

    point = Point(full, choose_run_settings(read, measured.space))
    objectives = ObjectiveSet.build(measured.objective, tasks=list(model.tasks))
    return predict_point(point, model, coordinates, objectives=objectives, inside=measured.contains(point))


def predict_point(
    point: Point,
    model: ResponseModel,
    coordinates: MergeCoordinates,
    *,
    objectives: ObjectiveSet,
    inside: bool,
) -> PredictionRecord:
    """Predict the merge at `point` by a fitted `model`: the first objective, and every task in its metric's unit.

    `inside` says if it lies where merges were searched.
    """
    located = locate_points(coordinates, [point])
    first = objectives.goals[0]

    # A task may have the objective's name, but none has an empty one.
    scores = {"": first.shares} | {task: {task: 1.0} for task in model.tasks}
    tasks = predict_scores(model, located, scores)
    objective = tasks.pop("")
    return PredictionRecord(
        weights=dict(point.weights),
        objective=PredictedScoreRecord(**_take_first(objective)),
        tasks={
            name: PredictedTaskRecord(**_take_first(score), used=model.tasks[name].used)
            for name, score in tasks.items()
        },
        inside=inside,
    )


def open_response(run: RunContents, measured: MeasuredSpace) -> tuple[ResponseModel, MergeCoordinates]:
    """The stored response of `run`; of a mixture, or a run that has not ended, one fitted to the trials so far.

    Raises :class:`AftermixError` for a run without log-likelihoods, with too few trials, or with damaged files.
    """
    if (run.folder / RESPONSE_FILE).is_file():
        return read_response(run.folder)
    if not keeps_answers(run.folder):
        found = "expected log-likelihoods of its trials, found a run that keeps none"
        raise SearchError(str(run.folder), found, NEW_RUN)

    tasks = [task.task for task in run.config.evaluate.tasks] if run.config.evaluate else []
    recipe = MergeRecipe.from_config(run.config.merge, vectors=run.config.vectors, for_search=True)
    space = measured.space
    fitted = FittedResponse.fit(
        run.folder,
        run.trials,
        space=space,
        coordinates=build_coordinates(space, normalised=recipe.method.divides_by_weights),
        objectives=ObjectiveSet.build(measured.objective, tasks=tasks),
        tasks=tasks,
        seed=run.config.search.seed,
    )
    if fitted is None:
        command = "mixture" if measured.shares else "search"
        found = f"expected {LEAST_MERGES} complete trials with log-likelihoods, found fewer"
        raise SearchError(str(run.folder), found, f"Go on with it: `aftermix {command} FILE --resume {run.folder}`.")
    return fitted.model, fitted.coordinates


def _take_first(scores: PredictedScores) -> dict[str, float]:
    return {"mean": float(scores.mean_C[0]), "low": float(scores.low_C[0]), "high": float(scores.high_C[0])}
