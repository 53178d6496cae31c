"""The strategy `response`: a first design, then optima of sampled responses, until more merges tell too little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from aftermix import progress
from aftermix.blas_threads import hold_one_thread
from aftermix.config import SearchConfig
from aftermix.response.draws import draw_objective
from aftermix.response.proposals import choose_sampled_optima, find_front
from aftermix.response.response_model import sum_weighted
from aftermix.response.surface.coordinates import MergeCoordinates
from aftermix.runs.answers.requests import RequestTable
from aftermix.runs.trials import Point, Suggestion, Trial
from aftermix.search.batches import ProposeBatch
from aftermix.search.objective import ObjectiveSet
from aftermix.search.proposing.first_design import count_first_design, count_full_design, list_first_design
from aftermix.search.proposing.response_fit import FittedResponse, PredictedCandidates
from aftermix.search.space import SearchSpace
from aftermix.seeds import generator

LEAST_SHARE = 0.5
"""Share of the objective that tasks of choices must hold: scores alone are as noisy to a process as to a sampler."""
LATE_SHARE = 1 / 3
"""Share of the trials left that a batch of a search of few trials takes at the most: the last see the most scores."""
FRONT_POINTS = 5
"""Last trials of a search for several objectives: points of the front as it is predicted then."""
SPARE_DRAWS = 16
"""Draws for each place of a batch: some have their optimum where another had it."""


UNPREDICTED = "the response does not predict the objective clearly better than the mean of the trials does."


@dataclass(frozen=True)
class ResponseProposer:
    """Proposals of one search; a function of the trials before them and of the run's kept answers."""

    run: Path
    space: SearchSpace
    coordinates: MergeCoordinates
    config: SearchConfig
    objectives: ObjectiveSet
    tasks: tuple[str, ...]
    fall_back: ProposeBatch
    """The sampler's batch, for responses that predict no better than the mean."""
    ends: bool = True
    """False for whoever asks for points as long as they like: the last trials are no special ones, and none is."""

    @property
    def startup(self) -> int:
        """Merges of the first design."""
        stated = self.config.startup
        return count_first_design(self.space, self.config.trials) if stated is None else stated

    @property
    def full_design(self) -> int:
        """Merges that show whether there is anything to choose by: those of a full design, or more that are stated."""
        return max(self.startup, count_full_design(self.space))

    def list_design(self, count: int) -> list[Suggestion]:
        """The first `count` merges of the first design, and of what would follow in it."""
        return list_first_design(
            self.space,
            count,
            seed=self.config.seed,
            with_axes=not self.coordinates.normalised,
            is_short=self.is_short,
        )

    @property
    def is_short(self) -> bool:
        """True where the trials are too few for a full design, and each batch has to count."""
        return self.startup < count_full_design(self.space)

    @hold_one_thread()
    def propose(self, trials: Sequence[Trial], wanted: int, running: Sequence[Point] = ()) -> list[Suggestion]:
        """The next batch; none where the winner is settled to the precision that is asked for.

        The sampler's where the response predicts no better than the mean does. `running` points have no scores yet.
        """
        number = len(trials) + len(running)
        tried = [*(trial.point for trial in trials), *running]
        ended = sum(trial.is_complete for trial in trials) + len(running)
        if ended < self.startup:
            untried = [each for each in self.list_design(self.startup + number) if each.point not in tried]
            if untried:  # a space of few choices may have no more points than were tried
                return [
                    _name_point(suggestion.point, suggestion.origin)
                    for suggestion in untried[: min(wanted, self.startup - ended)]
                ]

        left = self.config.trials - sum(not trial.is_imported for trial in trials)
        if self.is_short and self.ends:
            wanted = min(wanted, max(1, math.ceil(LATE_SHARE * left)))
        fitted = self.fit(trials)
        if fitted is None or not fitted.is_useful:
            progress.warn(f"Trials {number} to {number + wanted - 1} are TPE's: {UNPREDICTED}")
            return list(self.fall_back(trials, wanted))

        if not self.ends:
            predicted = PredictedCandidates.predict(fitted, seed=self.config.seed, number=number)
            return self._sample_optima(predicted, wanted, number)

        predicted = self.predict(fitted, trials)
        if self.is_settled(predicted):
            return []
        if not self.objectives.is_single and left <= FRONT_POINTS:
            return self._propose_front(predicted, left)
        if not self.objectives.is_single:
            wanted = min(wanted, left - FRONT_POINTS)
        return self._sample_optima(predicted, wanted, number)

    def fit(self, trials: Sequence[Trial]) -> FittedResponse | None:
        """The model of the trials so far."""
        return FittedResponse.fit(
            self.run,
            trials,
            space=self.space,
            coordinates=self.coordinates,
            objectives=self.objectives,
            tasks=self.tasks,
            seed=self.config.seed,
        )

    def predict(self, fitted: FittedResponse, trials: Sequence[Trial]) -> PredictedCandidates:
        """Candidates after `trials`, and the scores that are predicted there."""
        return PredictedCandidates.predict(fitted, seed=self.config.seed, number=len(trials))

    def is_settled(self, predicted: PredictedCandidates) -> bool:
        """True if further merges would tell less than the items do. Of several objectives never: all are searched."""
        places = predicted.fitted.rank_trials()
        if not self.objectives.is_single or not places:
            return False
        return predicted.certify(places[0], precision=self.config.precision).is_met

    def _sample_optima(self, predicted: PredictedCandidates, wanted: int, number: int) -> list[Suggestion]:
        draw = partial(draw_objective, predicted.fitted.model, predicted.scores, items_fixed=True)
        draws = [
            draw(goal.shares, rng=self._seed("sampled optima", number, place), draws=SPARE_DRAWS * wanted)
            for place, goal in enumerate(self.objectives.goals)
        ]
        rng = self._seed("objective weights", number)
        chosen = choose_sampled_optima(draws, predicted.allow_unmeasured(), wanted, rng=rng)
        return [_name_point(predicted.read_point(number), "sampled optimum") for number in chosen]

    def _propose_front(self, predicted: PredictedCandidates, wanted: int) -> list[Suggestion]:
        """Points of the predicted front of several objectives, from one end to the other."""
        means = predicted.scores.compute_means(predicted.fitted.model)
        values_CK = np.stack([sum_weighted(means, goal.shares) for goal in self.objectives.goals], axis=1)

        open_C = np.flatnonzero(predicted.allow_unmeasured())
        front = open_C[find_front(values_CK[open_C])]
        along = np.unique(np.linspace(0, len(front) - 1, min(wanted, len(front))).round().astype(int))
        return [_name_point(predicted.read_point(int(number)), "predicted front") for number in front[along]]

    def _seed(self, *purpose: str | int) -> np.random.Generator:
        return generator(self.config.seed, *purpose)


def measure_likelihood_share(requests: RequestTable, objectives: ObjectiveSet) -> float:
    """The share of the objectives that tasks of choices and of texts hold, by the `requests` of the run; the least of
    several. Their scores are read off the log-likelihoods.
    """
    return min(
        sum(share for task, share in goal.shares.items() if requests[task].follows_likelihood)
        for goal in objectives.goals
    )


def _name_point(point: Point, origin: str) -> Suggestion:
    return Suggestion(point.weights, origin, point.settings, strategy="response")
