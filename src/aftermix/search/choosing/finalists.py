"""Finalists of a search by response: measured round by round, until one of them is surely beaten or all is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aftermix import progress
from aftermix.config import Split
from aftermix.runs.answers.blocks import discard_blocks, journal_blocks
from aftermix.runs.answers.candidate import KeptAnswers, read_answers
from aftermix.runs.answers.requests import RequestTable
from aftermix.runs.answers.rounds import discard_rounds, join_answers, join_scores, locate_round
from aftermix.runs.item_scores import OptionalScores, count_values, replace_scores
from aftermix.runs.journal import locate_items, read_items, read_items_file, write_items
from aftermix.runs.trials import ItemMeasurement, ItemScores, Point, Trial, check_items, describe_point
from aftermix.search.choosing.elimination import EliminationRule, RoundPlaces, deal_rounds
from aftermix.search.objective import ObjectiveSet

SPLIT: Split = "select"
MeasurePlaces = Callable[[Point, Split, RoundPlaces | None], ItemMeasurement]
"""Scores the merge at this point on the items of a split at these places."""
AnnouncePlaces = Callable[[Point, Split, RoundPlaces | None], object]
"""Tells that such a measurement is soon asked for."""


@dataclass(frozen=True)
class MeasuredFinalist:
    """One finalist as far as it was measured."""

    trial: Trial
    select: ItemScores
    """None for items that it was dropped before."""
    rounds: int
    """Rounds that it was measured in."""
    is_dropped: bool
    seconds: Mapping[str, float]
    """Wall seconds of this session by phase; empty if all was there already."""


@dataclass(frozen=True)
class SelectRounds:
    """The rounds of one search, in its run folder."""

    run: Path
    table: RequestTable
    places: tuple[RoundPlaces, ...]
    measure: MeasurePlaces
    objectives: ObjectiveSet
    announce: AnnouncePlaces | None = None
    """Told of all measurements of a round before the first of them is made."""

    @staticmethod
    def deal(
        run: Path,
        table: RequestTable,
        *,
        measure: MeasurePlaces,
        announce: AnnouncePlaces | None = None,
        objectives: ObjectiveSet,
        seed: int,
    ) -> SelectRounds:
        """Deal out the select items of the run in `run`, whose requests are in `table`."""
        places = deal_rounds({task: requests.splits[SPLIT] for task, requests in table.items()}, seed=seed)
        return SelectRounds(run, table, places, measure, objectives, announce)

    def settle(self, finalists: Sequence[Trial]) -> list[MeasuredFinalist]:
        """Measure all of `finalists`, dropping those that are surely beaten; whoever is left has all items.

        Rounds that are there already are not measured again, whether a session that was stopped left them or a shorter
        search: the same finalists are dropped after the same rounds.
        """
        measured = {trial.number: _Progress(self, trial) for trial in finalists}
        rule = EliminationRule.build(
            self.objectives, self.table, split=SPLIT, finalists=len(finalists), rounds=len(self.places)
        )

        alive = list(measured)

        with progress.counter(label=SPLIT, total=len(finalists) * len(self.places), unit="round") as advance:
            for number in range(1, len(self.places) + 1):
                for trial in alive:
                    measured[trial].announce_round(number)
                for trial in alive:
                    measured[trial].measure_round(number)
                    advance(f"trial {trial}, round {number}")
                if number < len(self.places):
                    beaten = rule.list_beaten({trial: measured[trial].join() for trial in alive})
                    alive = [trial for trial in alive if trial not in beaten]

        return [measured[trial.number].conclude(is_dropped=trial.number not in alive) for trial in finalists]


def count_rounds(run: Path, number: int, *, rounds: int) -> int:
    """Rounds of trial `number` that are there, all of them where its whole scores are."""
    path = locate_items(run, SPLIT, number)
    return rounds if path.exists() else sum(locate_round(path, each).exists() for each in range(1, rounds + 1))


@dataclass
class _Progress:
    """Rounds of one finalist that are there."""

    of: SelectRounds
    trial: Trial
    rounds: list[ItemScores] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file of its whole scores."""
        return locate_items(self.of.run, SPLIT, self.trial.number)

    def announce_round(self, number: int) -> None:
        """Tell that round `number` is next, unless its scores are there."""
        announce, place = self.of.announce, locate_round(self.path, number)
        if announce is None or self.path.exists() or place.exists():
            return
        with journal_blocks(self.path, describe_point(self.trial.point)):
            announce(self.trial.point, SPLIT, self.of.places[number - 1])

    def measure_round(self, number: int) -> None:
        """Read the scores of round `number`, the next one, or measure them."""
        places, path = self.of.places[number - 1], locate_round(self.path, number)
        if self.path.exists():
            whole = read_items(self.of.run, SPLIT, self.trial.number)
            self.rounds.append({task: _mask(whole[task], places[task]) for task in places})
        elif path.exists():
            self.rounds.append(read_items_file(path, noun=f"round {number} of trial {self.trial.number}"))
        else:
            self.rounds.append(self._measure(places, path))

    def join(self) -> ItemScores:
        """Scores of all items so far."""
        return join_scores(self.rounds)

    def conclude(self, *, is_dropped: bool) -> MeasuredFinalist:
        """The finalist as it is; with all rounds its files become those of any candidate."""
        if not self.path.exists() and len(self.rounds) == len(self.of.places):
            answers = [self._read_answers(number + 1) for number in range(len(self.rounds))]
            where = f"trial {self.trial.number} on {SPLIT} items"
            items = check_items(self.join(), tasks=list(self.of.table), where=where)
            write_items(self.path, items, answers=join_answers(answers))
        if self.path.exists():
            discard_rounds(self.path)
            discard_blocks(self.path)
        select = read_items(self.of.run, SPLIT, self.trial.number) if self.path.exists() else self.join()
        return MeasuredFinalist(self.trial, select, len(self.rounds), is_dropped, self.seconds)

    def _measure(self, places: RoundPlaces, path: Path) -> ItemScores:
        with journal_blocks(self.path, describe_point(self.trial.point)):
            measurement = self.of.measure(self.trial.point, SPLIT, places)

        # A task may have no value in one round; what is no number is refused here, before it is kept.
        valued = [task for task in places if count_values(measurement.items.get(task, ()))]
        where = f"trial {self.trial.number} on {SPLIT} items"
        checked = check_items(measurement.items, tasks=valued, where=where)
        items = {task: checked.get(task, list(scores)) for task, scores in measurement.items.items()}
        for phase, seconds in measurement.seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        write_items(path, items, answers=measurement.answers)
        discard_blocks(self.path)
        return items

    def _read_answers(self, number: int) -> KeptAnswers:
        noun = f"the log-likelihoods of round {number} of trial {self.trial.number} on {SPLIT} items"
        return read_answers(locate_round(self.path, number), self.of.table, SPLIT, noun=noun, in_part=True)


def _mask(scores: OptionalScores, places: Sequence[int]) -> list[float | None]:
    """The scores at `places`, None elsewhere."""
    inside = set(places)
    return replace_scores(scores, [score if place in inside else None for place, score in enumerate(scores)])
