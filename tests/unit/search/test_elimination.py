"""Paired elimination: who is dropped, how rarely wrongly, and what is on disk and taken up again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from aftermix.config import Objective, SearchConfig
from aftermix.runs import journal
from aftermix.runs.answers.candidate import TaskAnswers
from aftermix.runs.answers.reading import read_kept_answers
from aftermix.runs.answers.requests import SplitRequests, TaskRequests, write_requests
from aftermix.runs.answers.rounds import locate_round
from aftermix.runs.item_scores import GroupScores, LeafShare, average
from aftermix.runs.trials import ItemMeasurement, Point, Trial
from aftermix.search.choosing.elimination import ERROR, EliminationRule, deal_rounds
from aftermix.search.choosing.finalists import SelectRounds
from aftermix.search.objective import ObjectiveSet
from aftermix.search.selection import WinnerSelection, choose_winner

ITEMS = 60


def build_requests(items: int = ITEMS, documents: Sequence[int] | None = None) -> SplitRequests:
    lengths = np.ones(2 * items, np.int32)
    told = None if documents is None else np.array(documents, np.int32)
    return SplitRequests(np.arange(0, 2 * items + 1, 2), np.zeros(items, np.int32), lengths, lengths, told)


TABLE = {task: TaskRequests("choice", "acc,none", None, {"select": build_requests()}) for task in ("a", "b")}


def bind(*objectives: Objective) -> ObjectiveSet:
    return ObjectiveSet.build(objectives or (Objective(),), tasks=["a", "b"])


def build_rule(*objectives: Objective, finalists: int = 3, rounds: int = 3) -> EliminationRule:
    return EliminationRule.build(bind(*objectives), TABLE, split="select", finalists=finalists, rounds=rounds)


def spread(right: int, *, first: int = 0) -> list[float | None]:
    """So many right answers of all items, from the `first` on."""
    return [float(first <= place < first + right) for place in range(ITEMS)]


def test_rounds_are_even_share_no_item_and_keep_documents_whole() -> None:
    grouped = build_requests(documents=[place // 4 for place in range(ITEMS)])
    rounds = deal_rounds({"a": build_requests(), "b": grouped}, seed=3)
    assert [len(each["a"]) for each in rounds] == [len(each["b"]) for each in rounds] == [20, 20, 20]
    for task in ("a", "b"):
        assert sorted(place for each in rounds for place in each[task]) == list(range(ITEMS))
    for each in rounds:
        assert {place // 4 for place in each["b"]}.isdisjoint(
            place // 4 for other in rounds if other is not each for place in other["b"]
        )
    assert deal_rounds({"a": build_requests(), "b": grouped}, seed=3) == rounds
    assert deal_rounds({"a": build_requests()}, seed=4) != deal_rounds({"a": build_requests()}, seed=3)
    assert len(deal_rounds({"a": build_requests(2), "b": build_requests()}, seed=0)) == 2  # no round without a task


def test_a_finalist_goes_where_the_paired_test_says() -> None:
    leader = {"a": spread(40), "b": spread(40)}
    for right in range(20, 40):
        other = {"a": spread(right), "b": spread(40)}
        difference = np.array([1.0] * (40 - right) + [0.0] * (ITEMS - 40 + right))
        error = difference.std() / np.sqrt(ITEMS) / 2
        quantile = student.ppf(1 - ERROR / (2 * 2), 2 * ITEMS - 2)
        expected = [7] if difference.mean() / 2 > quantile * error else []
        assert build_rule().list_beaten({4: leader, 7: other, 9: leader}) == expected


def test_nobody_goes_alone_by_several_objectives_or_on_few_documents() -> None:
    good, bad = {"a": spread(60), "b": spread(60)}, {"a": spread(0), "b": spread(0)}
    assert build_rule().list_beaten({1: good, 2: bad}) == [2]
    assert build_rule().list_beaten({2: bad}) == []
    several = build_rule(Objective(tasks={"a": 1}), Objective(tasks={"b": 1}))
    assert several.list_beaten({1: good, 2: bad}) == []
    few = {
        n: {t: [s if p < 4 else None for p, s in enumerate(v)] for t, v in e.items()} for n, e in ((1, good), (2, bad))
    }
    assert build_rule().list_beaten(few) == []


def test_a_leader_that_may_break_a_floor_drops_nobody() -> None:
    floor = Objective(tasks={"a": 1}, floors={"b": 0.5})
    worse = {"a": spread(10), "b": spread(60)}
    assert build_rule(floor).list_beaten({1: {"a": spread(50), "b": spread(32)}, 2: worse}) == []
    assert build_rule(floor).list_beaten({1: {"a": spread(50), "b": spread(55)}, 2: worse}) == [2]


def test_the_best_is_dropped_no_more_often_than_is_allowed() -> None:
    """Equal finalists, any of which is a best one: a search that drops the first of them errs."""
    rng, wrong, rule = np.random.default_rng(0), 0, build_rule()
    for _ in range(300):
        hard = rng.random((2, ITEMS))
        scores = {
            number: {
                task: (rng.random(ITEMS) < 0.3 + 0.4 * hard[row]).astype(float).tolist()
                for row, task in enumerate("ab")
            }
            for number in range(3)
        }
        looks = [
            {
                number: {t: [s if p < end else None for p, s in enumerate(v)] for t, v in each.items()}
                for number, each in scores.items()
            }
            for end in (20, 40)
        ]
        wrong += any(0 in rule.list_beaten(look) for look in looks)
    assert wrong / 300 <= ERROR + 0.01


class SelectWorld:
    """A run with three trials whose select items are answered from a table, and what was asked."""

    def __init__(self, run: Path, rights: Sequence[int], *, objective: Objective | None = None) -> None:
        self.run, self.rights, self.asked = run, rights, list[tuple[int, int]]()
        self.config = SearchConfig(objective=(objective or Objective(),))
        self.trials = []
        write_requests(run, TABLE)
        for number in range(len(rights)):
            scores = {"a": 0.9 - number / 10, "b": 0.5}
            trial = Trial(
                number=number, state="complete", weights={"x": number / 100}, scores=scores,
                objective=(sum(scores.values()) / 2,), feasible=True,
            )  # fmt: skip
            if not journal.locate_items(run, "search", number).exists():
                journal.append_trial(run, trial, {task: [score] for task, score in scores.items()})
            self.trials.append(trial)

    def measure(self, point: Point, split: Any, places: Mapping[str, Sequence[int]] | None) -> ItemMeasurement:
        number = round(point.weights["x"] * 100)
        assert places is not None
        self.asked.append((number, len(places["a"])))
        whole = spread(self.rights[number])
        items = {
            task: [score if place in where else None for place, score in enumerate(whole)]
            for task, where in places.items()
        }
        values = {
            task: np.repeat([np.nan if score is None else -1.0 - score for score in scores], 2).astype(np.float32)
            for task, scores in items.items()
        }
        answers = {task: TaskAnswers(each, np.zeros(2 * ITEMS, np.uint8)) for task, each in values.items()}
        return ItemMeasurement(items, {"evaluate": 1.0}, answers)

    def choose(self) -> WinnerSelection:
        rounds = SelectRounds.deal(
            self.run, TABLE, measure=self.measure, objectives=bind(*self.config.objective), seed=0
        )
        return choose_winner(
            self.run,
            trials=self.trials,
            config=self.config,
            tasks=["a", "b"],
            measure=lambda *_: pytest.fail("measured at once"),
            ranking=(0, 1, 2),
            rounds=rounds,
        )


def test_a_beaten_finalist_is_measured_no_further_and_what_it_answered_is_kept(tmp_path: Path) -> None:
    world = SelectWorld(tmp_path, [40, 0, 42])
    chosen = world.choose()
    assert world.asked == [(0, 20), (1, 20), (2, 20), (0, 20), (2, 20), (0, 20), (2, 20)]
    assert chosen.winner.trial.number == 2
    assert [each.dropped_after for each in chosen.candidates] == [None, 1, None]
    assert sum(score is not None for score in chosen.candidates[1].select["a"]) == 20
    assert chosen.candidates[0].select["a"] == spread(40)

    # Whoever has all items has the files of any candidate; the other keeps its round.
    for number in (0, 2):
        assert journal.read_items(tmp_path, "select", number)["b"] == spread(world.rights[number])
        answers = read_kept_answers(tmp_path, "select", number)
        assert answers is not None
        assert np.isfinite(answers["a"].loglikelihood).all()
        assert not journal.locate_items(tmp_path, "select", number).with_suffix(".rounds").exists()
    path = journal.locate_items(tmp_path, "select", 1)
    assert not path.exists()
    assert sorted(each.name for each in path.with_suffix(".rounds").iterdir()) == ["1.json", "1.safetensors"]


@pytest.mark.parametrize("stop", range(7))
def test_a_choice_that_is_stopped_goes_on_to_the_same(tmp_path: Path, stop: int) -> None:
    whole = SelectWorld(tmp_path / "whole", [40, 0, 42]).choose()
    world = SelectWorld(tmp_path / "run", [40, 0, 42])
    measure = world.measure

    def fail(*asked: Any) -> ItemMeasurement:
        if len(world.asked) == stop:
            raise KeyboardInterrupt
        return measure(*asked)

    world.measure = fail  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        world.choose()
    world.measure = measure  # type: ignore[method-assign]
    again = world.choose()
    assert len(world.asked) == 7  # nothing twice
    for ours, theirs in zip(again.candidates, whole.candidates, strict=True):
        assert (ours.select, ours.dropped_after) == (theirs.select, theirs.dropped_after)
    files = [
        {path.relative_to(run).as_posix(): path.read_bytes() for path in (run / "items").rglob("*") if path.is_file()}
        for run in (tmp_path / "whole", tmp_path / "run")
    ]
    assert files[0] == files[1]
    world.choose()
    assert len(world.asked) == 7


def test_a_dropped_finalist_that_stands_again_goes_on_from_its_round(tmp_path: Path) -> None:
    SelectWorld(tmp_path, [40, 0, 42]).choose()
    world = SelectWorld(tmp_path, [40, 0, 42])
    world.trials = [world.trials[1]]
    chosen = world.choose()
    assert world.asked == [(1, 20), (1, 20)]
    assert chosen.winner.select["a"] == spread(0)
    assert not locate_round(journal.locate_items(tmp_path, "select", 1), 1).exists()


def test_rounds_of_weighted_leaves_come_to_the_whole_score() -> None:
    from aftermix.runs.answers.rounds import join_scores

    whole = GroupScores([1.0, 0.0, 1.0, 1.0, None, 1.0], [LeafShare(4, 4.0), LeafShare(2, 1.0)])
    parts = [
        {"g": GroupScores([1.0, 0.0, None, None, None, None], [LeafShare(4, 2.0), LeafShare(2, 0.0)])},
        {"g": GroupScores([None, None, 1.0, 1.0, None, 1.0], [LeafShare(4, 2.0), LeafShare(2, 1.0)])},
    ]
    joined = join_scores(parts)["g"]
    assert list(joined) == list(whole)
    assert average(joined) == pytest.approx(average(whole))
