"""Candidates and the winner, by one objective, under floors and on a Pareto front."""

import json
import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.config import Objective, SearchConfig
from aftermix.errors import RunFailedError, SearchError
from aftermix.runs import journal
from aftermix.runs.trials import ItemMeasurement, Trial
from aftermix.search.objective import ObjectiveSet
from aftermix.search.pareto import find_front, measure_distances_to_ideal, measure_spans
from aftermix.search.selection import choose_winner

TASKS = ["a", "b"]
MEAN = (Objective(),)
SEVERAL = (Objective(tasks={"a": 1}), Objective(tasks={"b": 1}))
FLOOR = (Objective(tasks={"a": 1}, floors={"b": 0.5}),)


def written(folder, scores, objective):
    """A run folder whose n-th trial has the n-th pair of task scores (None: failed), at weight n/100."""
    objectives = ObjectiveSet.build(objective, tasks=TASKS)
    trials = []
    for number, pair in enumerate(scores):
        if pair is None:
            trials.append(Trial(number=number, state="failed", weights={"x": number / 100}, error="boom"))
            journal.append_trial(folder, trials[-1], None)
            continue
        by_task = dict(zip(TASKS, pair, strict=True))
        trial = Trial(
            number=number,
            state="complete",
            weights={"x": number / 100},
            scores=by_task,
            objective=objectives.values(by_task),
            feasible=objectives.feasible(by_task),
        )
        journal.append_trial(folder, trial, {task: [score] for task, score in by_task.items()})
        trials.append(trial)
    return trials


def choose(folder, search, select, *, objective=MEAN, top=3, **ranked):
    """The selection, and which trials were measured, when trial n scores `select[n]` on the select items."""
    measured = []

    def measure(point, split):
        weights = point.weights
        assert split == "select"
        number = round(weights["x"] * 100)
        measured.append(number)
        return ItemMeasurement({t: [s] for t, s in zip(TASKS, select[number], strict=True)}, {"evaluate": 2.0})

    config = SearchConfig(top=top, objective=objective)
    trials = written(folder, search, config.objective)
    return choose_winner(folder, trials=trials, config=config, tasks=TASKS, measure=measure, **ranked), measured


def test_the_best_on_the_select_items_among_the_top_of_the_search_wins(tmp_path):
    search = [(0.1, 0.1), (0.9, 0.9), None, (0.8, 0.8), (0.7, 0.7), (0.6, 0.6)]
    select = {1: (0.5, 0.5), 3: (0.4, 0.8), 4: (0.3, 0.3)}
    selection, measured = choose(tmp_path, search, select)
    assert measured == [1, 3, 4]
    assert [candidate.trial.number for candidate in selection.candidates] == [1, 3, 4]
    winner = selection.winner
    assert (winner.trial.number, winner.search, winner.select) == (
        3,
        {"a": [0.8], "b": [0.8]},
        {"a": [0.4], "b": [0.8]},
    )
    assert winner.objective == (pytest.approx(0.6),)
    assert winner.seconds == {"evaluate": 2.0}
    assert (selection.floors_met, selection.front) == (True, None)


@pytest.mark.parametrize(
    ("top", "ranked", "measured"),
    [
        (3, {"ranking": (5, 4, 3)}, [5, 4, 1]),  # trial 1 has the best scores of those that the ranking does not know
        (3, {"ranking": (5, 4, 3, 1)}, [5, 4, 3]),
        (1, {"ranking": (5, 4, 3)}, [5]),
        (3, {"ranking": (4, 5), "settled": True}, [4]),
    ],
)
def test_a_ranking_goes_before_the_scores(tmp_path, top, ranked, measured):
    search = [(0.1, 0.1), (0.9, 0.9), None, (0.8, 0.8), (0.7, 0.7), (0.6, 0.6)]
    select = dict.fromkeys((1, 3, 4, 5), (0.5, 0.5))
    selection, found = choose(tmp_path, search, select, top=top, **ranked)
    assert found == measured
    assert selection.winner.trial.number == measured[0]


def test_equal_scores_go_to_the_better_and_then_the_earlier_trial(tmp_path):
    selection, measured = choose(tmp_path, [(0.5, 0.5), (0.9, 0.9), (0.5, 0.5)], dict.fromkeys(range(3), (1, 1)), top=2)
    assert measured == [1, 0]
    assert selection.winner.trial.number == 1


def test_trials_of_equal_weights_are_one_candidate(tmp_path):
    trials = written(tmp_path, [(0.5, 0.5), (0.4, 0.4)], (Objective(),))
    twice = [*trials, Trial(number=2, state="complete", weights=trials[0].weights, objective=(0.5,), feasible=True)]
    selection = choose_winner(
        tmp_path,
        trials=twice,
        config=SearchConfig(),
        tasks=TASKS,
        measure=lambda *_: ItemMeasurement({"a": [1.0], "b": [1.0]}),
    )
    assert [candidate.trial.number for candidate in selection.candidates] == [0, 1]


def test_select_scores_are_kept_and_used_again(tmp_path):
    search, select = [(0.1, 0.1), (0.2, 0.2)], {0: (0.3, 0.3), 1: (0.1, 0.1)}
    before, measured = choose(tmp_path / "run", search, select, top=2)
    assert measured == [1, 0]
    (tmp_path / "run/trials.jsonl").unlink()
    after, measured = choose(tmp_path / "run", search, {}, top=2)
    assert measured == []
    assert after.winner.trial.number == before.winner.trial.number == 0
    assert after.winner.select == before.winner.select
    assert after.winner.seconds == {}


def test_stored_select_scores_that_lack_a_task_are_refused(tmp_path):
    path = journal.locate_items(tmp_path, "select", 0)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"a": [1.0]}))
    with pytest.raises(SearchError, match=r"00000\.json: expected item scores of task 'b', found none"):
        choose(tmp_path, [(0.1, 0.1)], {})


def test_a_select_measurement_with_nan_is_refused_and_not_kept(tmp_path):
    with pytest.raises(SearchError, match="trial 0 on select items: expected finite scores of task 'a', found nan"):
        choose(tmp_path, [(0.1, 0.1)], {0: (math.nan, 1.0)})
    assert not journal.locate_items(tmp_path, "select", 0).exists()


def test_candidates_meet_the_floors_and_so_does_the_winner_if_any_can(tmp_path):
    search = [(0.9, 0.1), (0.5, 0.6), (0.4, 0.5), (0.3, 0.9)]
    select = {1: (0.9, 0.4), 2: (0.5, 0.5), 3: (0.4, 0.9)}
    selection, measured = choose(tmp_path, search, select, objective=FLOOR)
    assert measured == [1, 2, 3]
    assert (selection.winner.trial.number, selection.floors_met) == (2, True)


def test_if_no_candidate_holds_the_floor_the_least_broken_wins_and_it_is_said(tmp_path):
    selection, _ = choose(tmp_path, [(0.9, 0.6), (0.8, 0.6)], {0: (0.9, 0.3), 1: (0.1, 0.4)}, objective=FLOOR)
    assert (selection.winner.trial.number, selection.floors_met) == (1, False)
    assert selection.winner.violation == pytest.approx(0.1)


def test_if_no_trial_meets_the_floors_those_that_break_them_least_are_candidates(tmp_path):
    search = [(0.9, 0.1), (0.1, 0.4), (0.2, 0.4), (0.3, 0.3)]
    select = {2: (0.2, 0.1), 1: (0.1, 0.3)}
    selection, measured = choose(tmp_path, search, select, objective=FLOOR, top=2)
    assert measured == [2, 1]
    assert (selection.winner.trial.number, selection.floors_met) == (1, False)


def test_of_several_objectives_the_front_member_nearest_to_the_ideal_wins(tmp_path):
    # The front: 0, 1, 2, 4. Its ranges are 0.8 and 0.4; distances to the ideal 1, 1, hypot(1/4, 1/2), hypot(1/2, 1/2).
    search = [(1.0, 0.1), (0.2, 0.5), (0.8, 0.3), (0.1, 0.1), (0.6, 0.3 + 1e-9)]
    select = {2: (0.5, 0.3), 4: (0.6, 0.28), 0: (0.9, 0.0)}
    selection, measured = choose(tmp_path, search, select, objective=SEVERAL)
    assert selection.front == (0, 1, 2, 4)
    assert measured == [2, 4, 0]
    # Over the ideal (0.9, 0.3): 2 is 0.4/0.8 off, 4 is hypot(0.3/0.8, 0.02/0.4) off, 0 is 0.3/0.4 off.
    assert selection.winner.trial.number == 4


def test_floors_bind_the_front_too(tmp_path):
    objective = (Objective(tasks={"a": 1}, floors={"b": 0.2}), Objective(tasks={"b": 1}))
    selection, _ = choose(
        tmp_path, [(1.0, 0.1), (0.2, 0.5), (0.8, 0.3)], {1: (0.2, 0.5), 2: (0.8, 0.1)}, objective=objective
    )
    assert selection.front == (1, 2)
    assert (selection.winner.trial.number, selection.floors_met) == (1, True)


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ([], "expected a complete trial to choose from, found none; 0 of 0 failed. Mend"),
        ([None, None], "found none; 2 of 2 failed, the last with: boom. Mend"),
    ],
)
def test_no_complete_trial_is_a_failed_run(tmp_path, search, found):
    with pytest.raises(RunFailedError) as caught:
        choose(tmp_path, search, {})
    assert found in str(caught.value)


POINTS = st.integers(1, 3).flatmap(
    lambda k: st.lists(st.tuples(*[st.integers(0, 4).map(float)] * k), min_size=1, max_size=12)
)


@given(POINTS)
def test_the_front_is_optunas(points):
    study = optuna.create_study(directions=["maximize"] * max(len(points[0]), 1))
    study.add_trials([optuna.trial.create_trial(values=point) for point in points])
    if len(points[0]) == 1:
        assert find_front(points) == [index for index, point in enumerate(points) if point == max(points)]
    else:
        assert find_front(points) == sorted(trial.number for trial in study.best_trials)


@given(POINTS)
def test_distances_are_the_formula_written_out(points):
    scale = measure_spans(points)
    found = measure_distances_to_ideal(points, scale=scale)
    for point, distance in zip(points, found, strict=True):
        squares = [
            ((max(other[k] for other in points) - value) / scale[k]) ** 2
            for k, value in enumerate(point)
            if scale[k] > 0
        ]
        assert distance == pytest.approx(math.sqrt(sum(squares)))
