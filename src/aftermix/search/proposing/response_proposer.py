"""The strategy `response`: a first design, then optima of sampled responses, until more merges tell too little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from aftermix import progress
from aftermix.config import SearchConfig
from aftermix.response.draws import draw_objective
from aftermix.response.proposals import choose_sampled_optima
from aftermix.response.surface.coordinates import MergeCoordinates
from aftermix.runs.answers.reading import read_requests
from aftermix.runs.trials import Suggestion, Trial
from aftermix.search.batches import ProposeBatch
from aftermix.search.objective import ObjectiveSet
from aftermix.search.proposing.first_design import count_first_design, list_first_design
from aftermix.search.proposing.response_fit import FittedResponse, PredictedCandidates
from aftermix.search.space import SearchSpace
from aftermix.seeds import generator

LEAST_SHARE = 0.5
"""Share of the objective that tasks of choices must hold: scores alone are as noisy to a process as to a sampler."""
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

    @property
    def startup(self) -> int:
        """Merges of the first design."""
        return count_first_design(self.space) if self.config.startup is None else self.config.startup

    def propose(self, trials: Sequence[Trial], wanted: int) -> list[Suggestion]:
        """The next batch; none where the winner is settled to the precision that is asked for.

        The sampler's where the response predicts no better than the mean does.
        """
        tried = [trial.point for trial in trials]
        ended = sum(trial.is_complete for trial in trials)
        if ended < self.startup:
            design = list_first_design(
                self.space, self.startup + len(trials), seed=self.config.seed, with_base=not self.coordinates.normalised
            )
            untried = [suggestion for suggestion in design if suggestion.point not in tried]
            return [_mark(suggestion) for suggestion in untried[: min(wanted, self.startup - ended)]]

        fitted = self.fit(trials)
        if fitted is None or not fitted.is_useful:
            progress.say(f"Trials {len(trials)} to {len(trials) + wanted - 1} are TPE's: {UNPREDICTED}")
            return list(self.fall_back(trials, wanted))

        predicted = PredictedCandidates.predict(fitted, seed=self.config.seed, number=len(trials))
        if self.is_settled(predicted, len(trials)):
            return []
        return self._sample_optima(predicted, wanted, len(trials))

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

    def is_settled(self, predicted: PredictedCandidates, number: int) -> bool:
        """True if further merges would tell less than the items do. Of several objectives never: all are searched."""
        places = predicted.fitted.rank_trials()
        if not self.objectives.is_single or not places:
            return False
        certificate = predicted.certify(
            self.objectives.goals[0],
            winner=places[0],
            precision=self.config.precision,
            seed=self.config.seed,
            number=number,
        )
        return certificate.is_met

    def _sample_optima(self, predicted: PredictedCandidates, wanted: int, number: int) -> list[Suggestion]:
        allowed_C = predicted.within_C.copy()
        measured = len(predicted.fitted.trials)
        allowed_C[:measured] = False
        if not allowed_C.any():  # no candidate holds the floors: look where they are nearest to hold
            allowed_C[measured:] = True

        draw = partial(draw_objective, predicted.fitted.model, predicted.scores, items_fixed=True)
        draws = [
            draw(goal.shares, rng=self._seed("sampled optima", number, place), draws=SPARE_DRAWS * wanted)
            for place, goal in enumerate(self.objectives.goals)
        ]
        rng = self._seed("objective weights", number)
        chosen = choose_sampled_optima(draws, allowed_C, wanted, rng=rng)
        points = [predicted.points[place - measured] for place in chosen]
        return [Suggestion(point.weights, "sampled optimum", point.settings, strategy="response") for point in points]

    def _seed(self, *purpose: str | int) -> np.random.Generator:
        return generator(self.config.seed, *purpose)


def measure_likelihood_share(run: Path, objectives: ObjectiveSet) -> float:
    """The share of the objectives that tasks of choices hold, by the requests of the run; the least of several."""
    requests = read_requests(run)
    return min(
        sum(share for task, share in goal.shares.items() if requests[task].kind == "choice")
        for goal in objectives.goals
    )


def _mark(suggestion: Suggestion) -> Suggestion:
    return Suggestion(suggestion.weights, suggestion.origin, suggestion.settings, strategy="response")
