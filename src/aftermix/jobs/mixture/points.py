"""Order in which mixtures are measured: the points of the design, then rounds near the best that is promised so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aftermix.errors import MixtureError, RunFailedError
from aftermix.jobs.mixture.problem import Setting
from aftermix.mixture.design import APART
from aftermix.mixture.optimum import next_points
from aftermix.mixture.simplex import Floats
from aftermix.mixture.surrogates.surrogate import FEWEST_POINTS, Surrogate
from aftermix.runs.trials import Suggestion, Trial

DISTANCES = (0.05, 0.02, 0.01, 0.002)
"""Least distances between points of a round, in total variation: the first at which there are enough."""


@dataclass(frozen=True)
class Learned:
    """Surrogates and the measured points that they were fitted to."""

    shares_NK: Floats
    scores_NM: Floats
    surrogate: Surrogate

    @staticmethod
    def of(setting: Setting, trials: Sequence[Trial]) -> Learned:
        """Surrogates of the complete trials. Raises :class:`RunFailedError` when too few are."""
        complete = [trial for trial in trials if trial.is_complete]
        needed = max(FEWEST_POINTS, len(setting.domains))
        if len(complete) < needed:
            failed = [trial.error for trial in trials if trial.error]
            found = f"expected at least {needed} measured points, found {len(complete)}"
            found += f"; {len(failed)} failed, the last with: {failed[-1]}" if failed else ""
            remedy = "Mend the cause and start a new run with --from this one: measured points are kept."
            raise RunFailedError("mixture", found, remedy)

        shares_NK = setting.shares(complete)
        scores_NM = setting.scores([trial.scores for trial in complete])
        names = list(setting.capabilities)
        fitted = Surrogate.fit(shares_NK, scores_NM, seed=setting.mixture.seed, capabilities=names)
        return Learned(shares_NK, scores_NM, fitted)


def design_record(setting: Setting) -> dict[str, Any]:
    """`design.json`: the points in the order in which they are measured, and those that are measured twice."""
    design = setting.design
    points = [{"kind": kind, "shares": shares} for kind, shares in zip(design.kinds, design.mixtures, strict=True)]
    return {"domains": list(setting.domains), "points": points, "repeats": list(design.repeats)}


@dataclass(frozen=True)
class Points:
    """The points of one run, by number of the trial: a function of the file, what was imported and the trials before.

    `imported` mixtures of another run take the places of points of the design.
    """

    setting: Setting
    imported: Floats
    """(N, K), perhaps empty."""
    rounds: dict[int, Floats] = field(default_factory=dict)
    """Points of the rounds that have begun, by the number of the first."""

    @property
    def planned(self) -> list[tuple[str, Floats]]:
        """Kind and shares of the points of the design that are left to measure."""
        design = self.setting.design
        new = [
            (kind, row_K)
            for kind, row_K in zip(design.kinds, design.weights_NK, strict=True)
            if not len(self.imported) or (np.abs(self.imported - row_K).max(axis=1) >= APART).all()
        ]
        return new[: max(0, self.setting.mixture.points - len(self.imported))]

    @property
    def new(self) -> int:
        """Number of points to measure, rounds included."""
        return len(self.planned) + sum(self.setting.mixture.rounds)

    def propose(self, trials: Sequence[Trial]) -> Suggestion:
        """The point after `trials`."""
        number, planned = len(trials) - len(self.imported), self.planned
        if number < len(planned):
            kind, row_K = planned[number]
            return Suggestion(self.setting.weights(row_K), kind)

        start = len(self.imported) + len(planned)
        for place, count in enumerate(self.setting.mixture.rounds, 1):
            if len(trials) < start + count:
                row_K = self._round(trials[:start], count)[len(trials) - start]
                return Suggestion(self.setting.weights(row_K), f"round {place}")
            start += count
        raise IndexError(f"there is no point {len(trials)}")

    def _round(self, trials: Sequence[Trial], count: int) -> Floats:
        if len(trials) not in self.rounds:
            self.rounds[len(trials)] = _further(self.setting, Learned.of(self.setting, trials), count)
        return self.rounds[len(trials)]


def _further(setting: Setting, learned: Learned, count: int) -> Floats:
    goal, seed = setting.goal(setting.utility(learned.scores_NM)), setting.mixture.seed
    for distance in DISTANCES:
        found_CK = next_points(learned.surrogate, goal, setting.bounds, count=count, distance=distance, seed=seed)
        if len(found_CK) == count:
            return found_CK
    found = f"the bounds have room for {len(found_CK)} further points, expected {count}"
    raise MixtureError("mixture.rounds", found, "Widen the bounds, or shorten the rounds.")
