"""The product's own strategy `response` in a replayed world: its design, candidates, proposals and ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from benchmarks.replays.worlds import ReplayWorld

from aftermix.config import SearchConfig
from aftermix.response.certificate import MergeCertificate
from aftermix.response.response_model import LEAST_MERGES, ResponseModel
from aftermix.runs.trials import Point, Suggestion, Trial
from aftermix.search.proposing.response_fit import FittedResponse, PredictedCandidates, drop_jumps, locate_points
from aftermix.search.proposing.response_proposer import ResponseProposer
from aftermix.search.study import suggest_batch

NO_RUN = Path("replay")
"""A replay has no run folder; what the product reads there is handed over."""
PRECISION = 0.005


@dataclass(frozen=True, kw_only=True)
class ReplayProposer(ResponseProposer):
    """Proposals from what a world answers; a replay spends all of its runs and is never settled before."""

    world: ReplayWorld
    taken: list[int]
    """Numbers of the merges behind the trials."""

    @classmethod
    def open(cls, world: ReplayWorld, runs: int, seed: int, *, startup: int | None = None) -> ReplayProposer:
        """The proposer of a search of so many runs, of which none is spent."""
        config = SearchConfig(trials=runs, seed=seed, startup=startup, precision=PRECISION)
        fall_back = config.model_copy(update={"startup": 0})
        return cls(
            run=NO_RUN,
            space=world.space,
            coordinates=world.coordinates,
            config=config,
            objectives=world.objectives,
            tasks=tuple(world.pool.tasks),
            fall_back=partial(suggest_batch, world.space, fall_back, world.objectives),
            world=world,
            taken=[],
        )

    def run_all(self) -> list[Trial]:
        """The trials of the whole search, by batches; fewer where a finite world has no more merges."""
        trials: list[Trial] = []
        while suggestions := self.propose(trials, min(self.config.batch, self.config.trials - len(trials))):
            for suggestion in suggestions:
                self.take(self.world.place(suggestion.point, self.taken), trials, origin=suggestion.origin)
            if len(trials) >= self.config.trials:
                break
        return trials

    def take(self, merge: int, trials: list[Trial], *, origin: str) -> None:
        """Run a merge and add its trial."""
        self.taken.append(merge)
        trials.append(self.world.build_trial(merge, len(trials), origin=origin))

    @cached_property
    def design(self) -> list[Suggestion]:
        """The product's first design."""
        return self.list_design(self.startup)

    def propose(self, trials: Sequence[Trial], wanted: int) -> list[Suggestion]:
        """The next of the first design, whose nearest merges a finite world runs; then as the product does."""
        if len(trials) < len(self.design):
            return self.design[len(trials) : len(trials) + wanted]
        return super().propose(trials, wanted)

    def fit(self, trials: Sequence[Trial]) -> FittedResponse | None:
        """The response through the merges behind the trials."""
        fitted = drop_jumps(trials, self.coordinates) if self.coordinates.normalised else list(trials)
        if len(fitted) < LEAST_MERGES:
            return None
        points = locate_points(self.coordinates, [trial.point for trial in fitted])
        measured = self.world.measure([self.taken[trial.number] for trial in fitted])
        model = ResponseModel.fit(points, measured, seed=self.config.seed)
        return FittedResponse(NO_RUN, self.space, self.coordinates, self.objectives, tuple(fitted), model)

    def predict(self, fitted: FittedResponse, trials: Sequence[Trial]) -> PredictedCandidates:
        """The product's candidates; in a finite world all merges that were not taken."""
        others = self.world.list_others(trials)
        if others is None:
            return super().predict(fitted, trials)
        return PredictedCandidates.predict_at(fitted, others, self.config.seed, len(trials))

    def is_settled(self, predicted: PredictedCandidates) -> bool:  # noqa: ARG002 - the product's
        """Never: strategies are compared at what they may spend."""
        return False

    def choose_winner(self, fitted: FittedResponse | None, trials: Sequence[Trial]) -> Trial:
        """The trial that the product ranks first: by tempered scores; by the metric where nothing is fitted."""
        if fitted is None:
            return max(trials, key=lambda trial: trial.values)
        return fitted.trials[fitted.rank_trials()[0]]


def search_by_response(world: ReplayWorld, runs: int, seed: int) -> int:
    """The product's strategy `response`."""
    proposer = ReplayProposer.open(world, runs, seed)
    trials = proposer.run_all()
    return proposer.taken[proposer.choose_winner(proposer.fit(trials), trials).number]


@dataclass(frozen=True)
class CertifiedReplay:
    """The end of a replay: its winner, and the certificate against the merges that the world can be asked for."""

    winner: int
    certificate: MergeCertificate
    is_useful: bool
    """False where the product gives no certificate: the response predicts little better than the mean."""
    points: list[Point]
    """The merges that it speaks of, fitted trials included."""


def certify_replay(world: ReplayWorld, runs: int, seed: int) -> CertifiedReplay:
    """Winner and certificate of a search of so many runs, also where the product would give none."""
    proposer = ReplayProposer.open(world, runs, seed)
    trials = proposer.run_all()
    fitted = proposer.fit(trials)
    assert fitted is not None
    # Merges that were run and not fitted are there, too, unlike among the proposals.
    candidates = proposer.predict(fitted, fitted.trials)
    place = fitted.rank_trials()[0]
    winner = proposer.taken[fitted.trials[place].number]
    points = [*(trial.point for trial in fitted.trials), *candidates.points]
    return CertifiedReplay(winner, candidates.certify(place, precision=PRECISION), fitted.is_useful, points)
