"""Order in which mixtures are measured: the points of the design, then rounds near the best that is promised so far.

The design is one batch of points, and so is each round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from aftermix.checkpoints.safe_files import read_json
from aftermix.errors import MixtureError, RunFailedError
from aftermix.jobs.mixture.problem import FittedScores, MixtureProblem
from aftermix.mixture.design import APART
from aftermix.mixture.optimum import choose_next_points
from aftermix.mixture.simplex import Floats
from aftermix.mixture.surrogates.item_response import RESPONSE, ItemResponse, ResponseLine, fit_item_responses
from aftermix.mixture.surrogates.surrogate import FEWEST_POINTS, Surrogate
from aftermix.mixture.utility import NothingVariesError
from aftermix.runs.answers.reading import has_answers
from aftermix.runs.mixture_records import DESIGN_FILE, DesignPointRecord, MixtureDesignRecord
from aftermix.runs.records import BEST_FILE
from aftermix.runs.trials import Suggestion, Trial
from aftermix.search.proposing.measured_tasks import TrialPlace, read_placed_tasks

DISTANCES = (0.05, 0.02, 0.01, 0.002)
"""Least distances between points of a round, in total variation: the first at which there are enough."""
KEPT_FITS = 8
"""Fits that a process remembers."""

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class FittedSurrogates:
    """Surrogates and the measured points that they were fitted to."""

    shares_NK: Floats
    scores_NM: Floats
    """By column of the problem: a task each, or in runs of old a capability."""
    surrogate: Surrogate
    responses: Mapping[str, ItemResponse]
    """Of the items of each task that has one."""

    @staticmethod
    def fit(
        problem: MixtureProblem, trials: Sequence[Trial], *, run: Path | None = None, places: Sequence[TrialPlace] = ()
    ) -> FittedSurrogates:
        """Surrogates of the complete trials, where `run` keeps their answers with the response of its items.

        Trials of several journals have their `places` instead, one each, and are all complete. Raises
        :class:`RunFailedError` when too few are complete.
        """
        complete = [trial for trial in trials if trial.is_complete]
        needed = max(FEWEST_POINTS, len(problem.domains))
        if len(complete) < needed:
            failed = [trial.error for trial in trials if trial.error]
            found = f"expected at least {needed} measured points, found {len(complete)}"
            found += f"; {len(failed)} failed, the last with: {failed[-1]}" if failed else ""
            remedy = "Mend the cause and start a new run from this one, which measures the others again."
            raise RunFailedError("mixture", found, remedy, takes_new_run=True)

        shares_NK = problem.compute_shares(complete)
        scores_NM = problem.compute_scores([trial.scores for trial in complete])
        surrogate, responses = _fit_surrogate(
            *map(_list_rows, (shares_NK, scores_NM)),
            seed=problem.mixture.seed,
            names=tuple(problem.columns),
            only=problem.regressor,
            answered=_find_answers(problem, places or [(run, trial.number) for trial in complete if run is not None]),
        )
        return FittedSurrogates(shares_NK, scores_NM, surrogate, responses)

    def fit_response(self, name: str) -> ResponseLine | None:
        """The response of a task's items as its regressor, whichever was chosen; None where there is none."""
        response = self.responses.get(name)
        return None if response is None else response.fit(self.scores_NM[:, self.surrogate.capabilities.index(name)])


@lru_cache(maxsize=KEPT_FITS)
def _fit_surrogate(
    shares_NK: Rows,
    scores_NM: Rows,
    *,
    seed: int,
    names: tuple[str, ...],
    only: str | None,
    answered: tuple[TrialPlace, ...],
) -> tuple[Surrogate, dict[str, ItemResponse]]:
    """Surrogates of these numbers, kept: result, verification and landscape of one command fit the same."""
    responses: dict[str, ItemResponse] = {}
    if answered:
        measured = read_placed_tasks(answered, names)
        responses = fit_item_responses(np.array(shares_NK), measured, seed=seed)
    surrogate = Surrogate.fit(shares_NK, scores_NM, seed=seed, capabilities=names, responses=responses, only=only)
    return surrogate, responses


def _find_answers(problem: MixtureProblem, places: Sequence[TrialPlace]) -> tuple[TrialPlace, ...]:
    """The points, if the answers of all are there, and each surrogate is of one task; else none.

    A run that ended by an earlier version keeps to the regressors that it chose from.
    """
    if any(tasks != (name,) for name, tasks in problem.columns.items()):
        return ()
    is_there = all(has_answers(folder, "search", number) for folder, number in places)
    return tuple(places) if is_there and _offer_response({folder for folder, _ in places}) else ()


def _offer_response(folders: Iterable[Path]) -> bool:
    """True unless the run, or all groups of a tree, ended without the response among the regressors.

    A small group has too few points for it, whatever the version.
    """
    ended = [names for folder in folders if (names := _list_regressors(folder))]
    return not ended or any(RESPONSE in names for names in ended)


def _list_regressors(folder: Path) -> set[str]:
    """Regressors that the ended run, or group, in `folder` chose from; none of one that goes on, or fitted none."""
    if not (folder / BEST_FILE).is_file():
        return set()
    found = read_json(folder / BEST_FILE, remedy="Name a run folder.").get("surrogates") or {}
    entries = [entry for each in found.values() for entry in (each, *(each.get("tasks") or {}).values())]
    return {name for entry in entries for name in entry["candidates"]}


def _list_rows(table: Floats) -> Rows:
    return tuple(map(tuple, table.tolist()))


def refuse_equal_scores(run: Path, problem: MixtureProblem, trials: Sequence[Trial]) -> None:
    """Stop a mixture whose measured points, the first design of `run`, found nothing to choose by.

    That is so where every task that counts has one mean score at all of them: surrogates see no more of a point.
    Raises :class:`RunFailedError` then.
    """
    complete = [trial for trial in trials if trial.is_complete]
    if len(complete) < FEWEST_POINTS:  # too few to fit anything, which is told as such
        return

    try:
        problem.build_utility(problem.compute_scores([trial.scores for trial in complete]))
    except NothingVariesError as error:
        first = complete[0].scores
        same = [task for task in first if len({trial.scores.get(task) for trial in complete}) == 1]
        raise RunFailedError(
            str(run),
            f"all {len(complete)} points of the first design scored the same "
            f"({', '.join(f'{task} {first[task]:g}' for task in same)}), so that no mixture is better than another; "
            "the points are kept",
            "Look whether the answers and the metric of these tasks are right, take another metric, more "
            "`evaluate.items.search` or wider bounds, and start a new run with `aftermix mixture FILE -o NEW`.",
            takes_new_run=True,
            scores_serve=False,
        ) from error


def build_design_record(problem: MixtureProblem) -> MixtureDesignRecord:
    """`design.json`: the points in the order in which they are measured, and those that are measured twice."""
    design = problem.design
    points = [DesignPointRecord(kind=k, shares=shares) for k, shares in zip(design.kinds, design.mixtures, strict=True)]
    record = MixtureDesignRecord(domains=problem.domains, points=tuple(points), repeats=tuple(design.repeats))
    return record.model_copy(update=name_fitted(problem))


def name_fitted(problem: MixtureProblem) -> dict[str, FittedScores]:
    """The key of a design that says what has surrogates, where tasks and capabilities are not the same."""
    tasks = [task for group in problem.capabilities.values() for task in group]
    return {"fitted": problem.fitted} if not len(problem.capabilities) == len(tasks) == len(set(tasks)) else {}


def read_fitted(run: Path) -> FittedScores:
    """Scores that have surrogates in the run, or group, in `run`: where it does not say, those of capabilities."""
    design = run / DESIGN_FILE
    found = read_json(design, remedy="Name a run folder.").get("fitted") if design.is_file() else None
    return "tasks" if found == "tasks" else "capabilities"


@dataclass(frozen=True)
class PointSampler:
    """The points of one run, by number of the trial: a function of the file, what was imported and the trials before.

    `imported` mixtures of another run take the places of points of the design.
    """

    problem: MixtureProblem
    imported: Floats
    """(N, K), perhaps empty."""
    rounds: dict[int, Floats] = field(default_factory=dict)
    """Points of the rounds that have begun, by the number of the first."""
    run: Path | None = None
    """The folder in which the points are measured."""

    @property
    def planned(self) -> list[tuple[str, Floats]]:
        """Kind and shares of the points of the design that are left to measure.

        Imported mixtures take the places of points that, like all of them, give nothing to a domain of which they tell
        nothing; points that give it a share are all measured.
        """
        design, known = self.problem.design, self.imported
        rows = list(zip(design.kinds, design.weights_NK, strict=True))
        untold_K = (known < APART).all(axis=0) if len(known) else np.zeros(len(self.problem.domains), dtype=bool)
        room = sum((row_K[untold_K] < APART).all() for _, row_K in rows) - len(known)

        left: list[tuple[str, Floats]] = []
        for kind, row_K in rows:
            if len(known) and (np.abs(known - row_K).max(axis=1) < APART).any():
                continue
            if (row_K[untold_K] >= APART).any():
                left.append((kind, row_K))
            elif room > 0:
                left.append((kind, row_K))
                room -= 1
        return left

    @property
    def new_count(self) -> int:
        """Number of points to measure, rounds included."""
        return len(self.planned) + sum(self.problem.mixture.rounds)

    def propose_batch(self, trials: Sequence[Trial], wanted: int = 1) -> list[Suggestion]:  # noqa: ARG002 - see above
        """All points after `trials` that the design, or the round at hand, has left, however many are `wanted`."""
        number, planned = len(trials) - len(self.imported), self.planned
        if number < len(planned):
            return [self._suggest(row_K, kind, "design") for kind, row_K in planned[number:]]

        start = len(self.imported) + len(planned)
        for place, count in enumerate(self.problem.mixture.rounds, 1):
            if len(trials) < start + count:
                rows_CK = self._plan_round(trials[:start], count)[len(trials) - start :]
                return [self._suggest(row_K, f"round {place}", "surrogate") for row_K in rows_CK]
            start += count
        raise IndexError(f"there is no point {len(trials)}")

    def _suggest(self, row_K: Floats, origin: str, strategy: str) -> Suggestion:
        return Suggestion(self.problem.compute_weights(row_K), origin, strategy=strategy)

    def _plan_round(self, trials: Sequence[Trial], count: int) -> Floats:
        if len(trials) not in self.rounds:
            fitted = FittedSurrogates.fit(self.problem, trials, run=self.run)
            self.rounds[len(trials)] = _choose_round(self.problem, fitted, count)
        return self.rounds[len(trials)]


def _choose_round(problem: MixtureProblem, fitted: FittedSurrogates, count: int) -> Floats:
    goal, seed = problem.build_goal(problem.build_utility(fitted.scores_NM)), problem.mixture.seed
    for distance in DISTANCES:
        points_CK = choose_next_points(
            fitted.surrogate, goal, problem.bounds, count=count, distance=distance, seed=seed
        )
        if len(points_CK) == count:
            return points_CK
    found = f"the bounds have room for {len(points_CK)} further points, expected {count}"
    raise MixtureError("mixture.rounds", found, "Widen the bounds, or shorten the rounds.")
