"""Weighted means, floors and their errors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.config import Objective, SearchConfig
from aftermix.errors import SearchError
from aftermix.runs.records import ObjectiveRecord
from aftermix.search.intervals import bootstrap_mean, compute_half_width
from aftermix.search.objective import ObjectiveSet

TASKS = ["gsm8k", "mgsm", "humaneval"]
SCORES = {"gsm8k": 0.5, "mgsm": 0.2, "humaneval": 0.8}


def test_no_objective_named_is_the_plain_mean_of_all_tasks():
    objectives = ObjectiveSet.build(SearchConfig().objective, tasks=TASKS)
    assert objectives.values(SCORES) == (0.5,)
    assert objectives.feasible(SCORES)
    assert objectives.build_records() == (ObjectiveRecord(name="mean", tasks=dict.fromkeys(TASKS, 1 / 3), floors={}),)


def test_weights_need_not_sum_to_one():
    objectives = ObjectiveSet.build((Objective(tasks={"gsm8k": 3, "mgsm": 1}),), tasks=TASKS)
    assert objectives.values(SCORES) == ((3 * 0.5 + 0.2) / 4,)
    assert objectives.goals[0].name == "gsm8k + mgsm"
    assert objectives.goals[0].shares == {"gsm8k": 0.75, "mgsm": 0.25}


@given(st.dictionaries(st.sampled_from(TASKS), st.floats(1e-3, 1e3), min_size=1), st.lists(st.floats(0, 1), min_size=3))
def test_the_objective_is_the_weighted_mean_written_out(weights, scores):
    by_task = dict(zip(TASKS, scores, strict=False))
    (value,) = ObjectiveSet.build((Objective(tasks=weights),), tasks=TASKS).values(by_task)
    assert value == pytest.approx(sum(weights[t] * by_task[t] for t in weights) / sum(weights.values()), abs=1e-12)


def test_floors_bind_whatever_objective_sets_them_and_the_highest_counts():
    objectives = ObjectiveSet.build(
        (
            Objective(name="maths", tasks={"gsm8k": 1}, floors={"humaneval": 0.7, "mgsm": 0.2}),
            Objective(name="code", tasks={"humaneval": 1}, floors={"humaneval": 0.9}),
        ),
        tasks=TASKS,
    )
    assert not objectives.is_single
    assert objectives.floors == {"humaneval": 0.9, "mgsm": 0.2}
    assert objectives.constraints(SCORES) == {"humaneval": pytest.approx(0.1), "mgsm": 0.0}
    assert objectives.violation(SCORES) == pytest.approx(0.1)
    assert not objectives.feasible(SCORES)
    assert objectives.feasible({**SCORES, "humaneval": 0.9})


@pytest.mark.parametrize("key", ["tasks", "floors"])
def test_a_task_that_is_not_evaluated_is_refused_with_those_that_are(key):
    with pytest.raises(SearchError) as caught:
        ObjectiveSet.build((Objective(**{key: {"gsm8k": 0.5, "mmlu": 0.5}, "name": "mine"}),), tasks=TASKS)
    assert str(caught.value) == (
        f"search.objective 'mine'.{key}: expected tasks that are evaluated (gsm8k, mgsm, humaneval), found 'mmlu'. "
        "Correct it, or add it to `evaluate.tasks`."
    )


def test_two_objectives_of_one_name_are_refused():
    with pytest.raises(SearchError, match="expected distinct objectives, found 'mean' twice"):
        ObjectiveSet.build((Objective(), Objective(floors={"mgsm": 0.1})), tasks=TASKS)


def test_no_objective_at_all_is_refused():
    with pytest.raises(SearchError, match="expected at least one objective, found none"):
        ObjectiveSet.build((), tasks=TASKS)


ASSUMED = ": half a paired 95 % interval, if two merges answer 20% of the items unlike"


def test_what_test_items_can_tell_is_said_of_the_objective_and_of_each_task():
    mean = ObjectiveSet.build((Objective(),), tasks=["own"])
    assert mean.describe_resolution({"own": 34}) == ("test items tell differences of 15.0 points and more" + ASSUMED,)
    two = ObjectiveSet.build((Objective(),), tasks=["colours", "numbers"])
    assert two.describe_resolution({"colours": 140, "numbers": 140}) == (
        "test items tell differences of 5.2 points and more (colours 7.4, numbers 7.4)" + ASSUMED,
    )
    weighted = ObjectiveSet.build((Objective(tasks={"a": 3, "b": 1}, name="c"), Objective(name="d")), tasks=["a", "b"])
    assert weighted.describe_resolution({"a": 100, "b": 25}) == (
        "test items tell differences of 7.9 points and more in 'c' (a 8.8, b 17.5)" + ASSUMED,
        "test items tell differences of 9.8 points and more in 'd' (a 8.8, b 17.5)" + ASSUMED,
    )
    names = [f"t{number}" for number in range(7)]
    (many,) = ObjectiveSet.build((Objective(),), tasks=names).describe_resolution(dict.fromkeys(names, 500))
    assert "of 1.5 points and more (t0 3.9, t1 3.9, t2 3.9, t3 3.9, t4 3.9 and 2 more): half" in many


def test_the_half_width_is_that_of_the_bootstrap_where_the_assumption_holds():
    """Level merges that answer a fifth of the items unlike: as many better as worse."""
    items = [1.0] * 40 + [-1.0] * 40 + [0.0] * 320
    low, high = bootstrap_mean({"own": items}, weights={"own": 1.0}, seed=0)
    assert 100 * (high - low) / 2 == pytest.approx(compute_half_width({"own": 400}, {"own": 1.0}), rel=0.05)
