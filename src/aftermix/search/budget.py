"""A budget of tokens: how many trials it gives, with what the finalists take set aside for them.

A token of the budget is a position that the model computes on search or select items, padding included. Baselines and
test items are apart from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aftermix.config import SearchConfig
from aftermix.errors import ConfigError
from aftermix.runs.trials import Trial

FEWEST_TRIALS = 2


@dataclass(frozen=True)
class ReusedTrials:
    """Trials of an earlier run that a search begins with: they cost what scoring them on further tasks takes."""

    count: int = 0
    tokens: int = 0
    """Of all of them together."""


NONE_REUSED = ReusedTrials()


@dataclass(frozen=True)
class TokenBudget:
    """The tokens that a search may spend, and those that its measurements take as planned."""

    limit: int
    trial_tokens: int
    """Of a measurement on the search items: the most that one takes."""
    finalist_tokens: int
    """Of a measurement on the select items, likewise."""
    top: int
    """Finalists that are measured on the select items."""
    finalists_before: int = 0
    """Finalists of this run, when it was shorter, that have been measured already."""

    def has_room(self, trials: Sequence[Trial], *, more: int = 1) -> bool:
        """True if so many `more` trials after `trials`, and the finalists after them, stay within the limit."""
        spent = count_spent_tokens(trials, trial_tokens=self.trial_tokens)
        return spent + more * self.trial_tokens + self._count_reserve(len(trials) + more) <= self.limit

    def count_trials(self, reused: ReusedTrials = NONE_REUSED) -> int:
        """New trials that the limit gives after the `reused` ones, if each costs what is planned."""
        left = self.limit - reused.tokens - self._count_reserve(self.top)
        trials = max(0, left // self.trial_tokens)
        if reused.count + trials >= self.top:
            return trials
        most = self.top - reused.count
        return max((n for n in range(most + 1) if self.count_tokens(n, reused) <= self.limit), default=0)

    def count_tokens(self, trials: int, reused: ReusedTrials = NONE_REUSED) -> int:
        """Tokens that so many new trials, the `reused` ones and the finalists of both take."""
        return reused.tokens + trials * self.trial_tokens + self._count_reserve(reused.count + trials)

    def _count_reserve(self, trials: int) -> int:
        return (self.finalists_before + min(self.top, trials)) * self.finalist_tokens


def build_budget(
    config: SearchConfig, *, trial_tokens: int, finalist_tokens: int, finalists_before: int = 0
) -> TokenBudget:
    """The budget of a file that sets one. Raises :class:`ConfigError` where it gives less than two trials."""
    assert config.budget_tokens is not None  # noqa: S101 - the caller looked
    budget = TokenBudget(config.budget_tokens, trial_tokens, finalist_tokens, config.top)
    fewest = min(FEWEST_TRIALS, config.trials)
    if (needed := budget.count_tokens(fewest)) > budget.limit:
        raise ConfigError(
            "search.budget_tokens",
            f"expected at least {needed:,}, which {fewest} trial{'s take' if fewest > 1 else ' takes'} "
            f"({trial_tokens:,} each on the search items, {finalist_tokens:,} each for finalists on the select items), "
            f"found {budget.limit:,}",
            "Raise it, or lower `evaluate.items.search` and `evaluate.items.select`.",
        )
    return replace(budget, finalists_before=finalists_before)


def count_spent_tokens(trials: Sequence[Trial], *, trial_tokens: int) -> int:
    """Tokens of the trials of this run: as counted, and as planned for one that failed, of which nothing is known.

    Of those of an earlier run what it took to score them on further tasks.
    """
    own = [trial for trial in trials if not trial.is_imported or trial.tokens is not None]
    return sum(trial_tokens if trial.tokens is None else trial.tokens for trial in own)
