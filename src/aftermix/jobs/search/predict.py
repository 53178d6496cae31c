"""`aftermix predict`: scores of a merge that was not run, from the log-likelihoods of those that were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aftermix.errors import SearchError
from aftermix.jobs.search.named_weights import complete_point
from aftermix.jobs.search.space_from_config import build_space, choose_run_settings
from aftermix.merging.recipe import MergeRecipe
from aftermix.response.predictions import PredictedScores, predict_scores
from aftermix.response.response_model import LEAST_MERGES, ResponseModel
from aftermix.response.surface.coordinates import MergeCoordinates
from aftermix.runs.answers.reading import NEW_RUN, keeps_answers
from aftermix.runs.answers.response_files import RESPONSE_FILE
from aftermix.runs.json_record import Finite, RunRecord
from aftermix.runs.reader import RunContents, read_run
from aftermix.runs.trials import Point
from aftermix.search.objective import ObjectiveSet
from aftermix.search.proposing.response_fit import FittedResponse, build_coordinates, locate_points
from aftermix.search.proposing.stored_response import read_response
from aftermix.search.space import SearchSpace


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


def predict(run: Path, weights: Mapping[str, float]) -> PredictionRecord:
    """Predict the merge at `weights` of the search in the folder `run`; a vector that is not named weighs 0.

    Searched settings are those of the winner. Nothing is fitted and no model is read. Raises :class:`AftermixError` for
    a run without a response, and :class:`SearchError` for a vector that the run has not.
    """
    read = read_run(run)
    config = read.config
    space = build_space(config)
    full = complete_point(weights, space)
    model, coordinates = open_response(read, space)

    point = Point(full, choose_run_settings(read, space))
    objectives = ObjectiveSet.build(config.search.objective, tasks=list(model.tasks))
    return predict_point(point, model, coordinates, space=space, objectives=objectives)


def predict_point(
    point: Point,
    model: ResponseModel,
    coordinates: MergeCoordinates,
    *,
    space: SearchSpace,
    objectives: ObjectiveSet,
) -> PredictionRecord:
    """Predict the merge at `point` by a fitted `model`: the first objective, and every task in its metric's unit."""
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
        inside=space.contains(point.weights, point.settings),
    )


def open_response(run: RunContents, space: SearchSpace) -> tuple[ResponseModel, MergeCoordinates]:
    """The stored response of `run`; of a run that has not ended, one fitted to the trials so far.

    Raises :class:`AftermixError` for a run without log-likelihoods, with too few trials, or with damaged files.
    """
    if (run.folder / RESPONSE_FILE).is_file():
        return read_response(run.folder)
    if not keeps_answers(run.folder):
        found = "expected log-likelihoods of its trials, found a run that keeps none"
        raise SearchError(str(run.folder), found, NEW_RUN)

    tasks = [task.task for task in run.config.evaluate.tasks] if run.config.evaluate else []
    recipe = MergeRecipe.from_config(run.config.merge, vectors=run.config.vectors, for_search=True)
    fitted = FittedResponse.fit(
        run.folder,
        run.trials,
        space=space,
        coordinates=build_coordinates(space, normalised=recipe.method.divides_by_weights),
        objectives=ObjectiveSet.build(run.config.search.objective, tasks=tasks),
        tasks=tasks,
        seed=run.config.search.seed,
    )
    if fitted is None:
        found = f"expected {LEAST_MERGES} complete trials with log-likelihoods, found fewer"
        raise SearchError(
            str(run.folder), found, f"Go on with the search: `aftermix search FILE --resume {run.folder}`."
        )
    return fitted.model, fitted.coordinates


def _take_first(scores: PredictedScores) -> dict[str, float]:
    return {"mean": float(scores.mean_C[0]), "low": float(scores.low_C[0]), "high": float(scores.high_C[0])}
