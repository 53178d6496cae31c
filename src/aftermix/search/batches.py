"""Points by batches: a batch is written down whole before the first of its points is measured.

What is proposed is decided by the trials before the batch, and by nothing else, so that the points of one batch can be
measured in any order or at the same time, and a search that was killed goes on with the points that it had proposed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aftermix.errors import SearchError
from aftermix.runs import journal
from aftermix.runs.trials import ProposedPoint, Suggestion, Trial
from aftermix.search.space import SearchSpace

ProposeBatch = Callable[[Sequence[Trial], int], Sequence[Suggestion]]
"""The points of the next batch, given the trials that have ended and the number of points that are wanted.

It may give more or fewer: a design is one batch. None at all says that the search has ended.
"""


@dataclass
class BatchQueue:
    """Points of the batch at hand that are still to measure, and the way to the next batch."""

    folder: Path
    propose: ProposeBatch
    wanted: int
    """Points of a batch, where `propose` keeps to it."""
    next_batch: int
    is_recorded: bool
    """False for a run that began without proposals: it goes on as it began, one point after another."""
    space: SearchSpace
    opened: deque[ProposedPoint]

    @staticmethod
    def reopen(
        folder: Path, trials: Sequence[Trial], *, propose: ProposeBatch, wanted: int, space: SearchSpace
    ) -> BatchQueue:
        """The queue of the run in `folder`, whose ended trials are `trials`.

        Raises :class:`SearchError` for proposals that are damaged, or outside of `space`.
        """
        own = [trial for trial in trials if not trial.is_imported]
        is_recorded = all(trial.batch is not None for trial in own)
        opened = journal.reopen_proposals(folder, ended=len(trials))
        for point in opened:
            if not space.admits(point.weights, point.settings, origin=point.origin):
                found = f"expected a point within {space}, found {point.weights | point.settings}"
                remedy = f"Restore the file from a backup, or remove it, and resume: {len(trials)} trials are kept."
                raise SearchError(f"{folder / journal.PROPOSALS_FILE}, point {point.number}", found, remedy)

        known = [point.batch for point in opened] or [trial.batch for trial in own if trial.batch is not None]
        return BatchQueue(
            folder=folder,
            propose=propose,
            wanted=wanted if is_recorded else 1,
            next_batch=max(known, default=-1) + 1,
            is_recorded=is_recorded,
            space=space,
            opened=deque(opened),
        )

    def take_next(self, trials: Sequence[Trial]) -> ProposedPoint | None:
        """The point of the trial after `trials`; where no point is left, a batch is proposed and written first.

        None where nothing is proposed any more.
        """
        return self.opened.popleft() if self.list_open(trials) else None

    def list_open(self, trials: Sequence[Trial]) -> Sequence[ProposedPoint]:
        """The points of the trials after `trials`, as far as they are proposed: what is left of one batch."""
        if not self.opened:
            self.opened.extend(self._propose(trials))
            if self.opened:
                if self.is_recorded:
                    journal.append_batch(self.folder, self.opened)
                self.next_batch += 1
        return tuple(self.opened)

    def _propose(self, trials: Sequence[Trial]) -> list[ProposedPoint]:
        suggestions = self.propose(trials, self.wanted)
        return [
            ProposedPoint(
                number=number,
                batch=self.next_batch,
                size=len(suggestions),
                strategy=suggestion.strategy,
                origin=suggestion.origin,
                weights=suggestion.weights,
                settings=suggestion.settings,
            )
            for number, suggestion in enumerate(suggestions, len(trials))
        ]
