"""A finished mixture run as its verification takes it: every merge that it has measured, all experts side by side.

In a tree each group has points of its own, and each of them is a merge that a mixture of experts stands for: the points
of all groups are points of the mixture without groups. The limits of a group are shares within it, and hold for
whatever mixtures of all experts are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aftermix.config import Config
from aftermix.jobs.mixture.points import FittedSurrogates, read_fitted
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.proxies import SAME
from aftermix.jobs.mixture.tree_problem import TreeProblem
from aftermix.mixture.tree import ROOT, MixtureLimits
from aftermix.mixture.utility import MixtureUtility
from aftermix.runs.journal import read_trials
from aftermix.runs.mixture_records import MixtureRecord, SearchedLevelRecord, TreeRecord
from aftermix.runs.reader import locate_level, read_best, read_level
from aftermix.runs.trials import Trial
from aftermix.search.proposing.measured_tasks import TrialPlace


@dataclass(frozen=True)
class FinishedMixture:
    """A finished run: its merges, what was learnt from them, and its result."""

    problem: MixtureProblem
    """Of all experts side by side."""
    trials: tuple[Trial, ...]
    """Complete ones; those of a tree are numbered anew, group by group."""
    fitted: FittedSurrogates
    utility: MixtureUtility
    """In units of the points of the run; of a tree, of those of the whole."""
    limits: MixtureLimits
    """Of mixtures that are found."""
    best: MixtureRecord | TreeRecord
    evaluated: tuple[int, int]
    """Merges on search items, and on select items."""

    @classmethod
    def read(cls, config: Config, run: Path) -> FinishedMixture:
        """The run of `config` in `run`, with or without a tree."""
        assert config.mixture is not None  # noqa: S101 - the job requires it; for the type checker
        best = read_best(run)
        if isinstance(best, TreeRecord):
            return cls._read_tree(config, run, best)

        assert isinstance(best, MixtureRecord)  # noqa: S101 - looked at before; for the type checker
        problem = MixtureProblem.build_flat(config, fitted=read_fitted(run))
        trials = tuple(trial for trial in read_trials(run) if trial.is_complete)
        fitted = FittedSurrogates.fit(problem, trials, run=run)
        merges = (best.points.measured, len(best.verified) + len(best.noise.points))
        utility = problem.build_utility(fitted.scores_NM)
        return cls(problem, trials, fitted, utility, problem.bounds, best, merges)

    @classmethod
    def _read_tree(cls, config: Config, run: Path, best: TreeRecord) -> FinishedMixture:
        tree = TreeProblem.from_config(config, fitted=read_fitted(run))
        problem = tree.flat_problem
        places = tuple(_list_places(run, tree, problem))
        trials = tuple(replace(trial, number=number) for number, (_, trial) in enumerate(places))
        whole = [trial.scores for trial in read_trials(locate_level(run, ROOT)) if trial.is_complete]
        utility = problem.build_utility(problem.compute_scores(whole))

        levels = [read_level(locate_level(run, group.name)) for group in tree.order]
        searched = [level for level in levels if isinstance(level, SearchedLevelRecord)]
        on_select = 1 + sum(len(level.verified) + len(level.noise.points) for level in searched)
        fitted = FittedSurrogates.fit(problem, trials, places=[place for place, _ in places])
        return cls(problem, trials, fitted, utility, tree.build_limits(), best, (best.points.measured, on_select))

    @property
    def is_tree(self) -> bool:
        """True if its merges are those of groups."""
        return isinstance(self.best, TreeRecord)


def _list_places(run: Path, tree: TreeProblem, problem: MixtureProblem) -> Iterator[tuple[TrialPlace, Trial]]:
    """Merges of all groups, each once, in the order of the search."""
    seen = np.zeros((0, len(problem.domains)))
    for group in tree.order:
        for trial in read_trials(locate_level(run, group.name)):
            if not trial.is_complete:
                continue
            shares_1K = problem.compute_shares([trial])
            if len(seen) and np.abs(seen - shares_1K).max(axis=1).min() <= SAME:
                continue
            origin = f"{trial.origin or 'point'} of '{group.name}'"
            yield (locate_level(run, group.name), trial.number), replace(trial, origin=origin)
            seen = np.concatenate([seen, shares_1K])
