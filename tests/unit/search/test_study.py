"""The search loop: journal, resume, failures, interruption and refusals."""

import json
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest

from aftermix.config import Objective, SearchConfig
from aftermix.errors import EvaluationError, InputFaultError, RunFailedError, SearchError
from aftermix.runs import journal
from aftermix.runs.answers import blocks
from aftermix.runs.answers.candidate import TaskAnswers
from aftermix.runs.answers.requests import SplitRequests, TaskRequests, write_requests
from aftermix.runs.trials import ItemMeasurement, Suggestion, WorkerAttempt, mark_attempt
from aftermix.search.space import SearchSpace
from aftermix.search.study import describe_best, run_study

pytestmark = pytest.mark.usefixtures("shown")

SPACE = SearchSpace({"it": (0.3, 1.0), "ja": (0.0, 1.0)}, ("it",))
TASKS = ["a", "b"]


def measure(point, split):
    weights = point.weights
    """Eight items a task, answered right where the weights are close enough: discrete, like accuracy."""
    assert split == "search"
    near = {"a": abs(weights["it"] - 0.7), "b": abs(weights["ja"] - 0.2)}
    items = {task: [float(distance < 0.08 * (k + 1)) for k in range(8)] for task, distance in near.items()}
    return ItemMeasurement(items, {"combine": 0.0, "evaluate": 0.0})


def run(folder, *, measure=measure, imported=(), propose=None, **settings):
    config = SearchConfig(**{"trials": 14, "startup": 8, **settings})
    options = {"config": config, "tasks": TASKS, "measure": measure, "imported": imported, "propose": propose}
    return run_study(folder, space=SPACE, **options)


def points(trials):
    return [(trial.number, trial.state, trial.weights, trial.scores, trial.objective, trial.origin) for trial in trials]


def stopping_at(call, error):
    """`measure`, which raises `error` at its n-th call and at every later one."""
    calls = iter(range(10**6))

    def measured(point, split):
        if next(calls) >= call:
            raise error
        return measure(point, split)

    return measured


def test_every_trial_is_in_the_journal_with_its_items(tmp_path):
    trials = run(tmp_path)
    assert [trial.number for trial in trials] == list(range(14))
    assert journal.read_trials(tmp_path) == trials
    for trial in trials:
        items = journal.read_items(tmp_path, "search", trial.number)
        assert items == measure(trial.point, "search").items
        assert trial.scores == {task: sum(scores) / 8 for task, scores in items.items()}
        assert trial.objective == ((trial.scores["a"] + trial.scores["b"]) / 2,)
        assert trial.feasible
        assert set(trial.seconds) == {"combine", "evaluate", "overhead"}
        assert trial.seconds["overhead"] >= 0


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("objective", [Objective(floors={"b": 0.5}), [Objective(tasks={t: 1}) for t in TASKS]])
def test_an_interrupted_search_resumes_to_the_same_trials_to_the_bit(tmp_path, preset, objective):
    whole = run(tmp_path / "whole", preset=preset, objective=objective)
    for call in (0, 1, 7, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", preset=preset, objective=objective, measure=stopping_at(call, KeyboardInterrupt()))
    path = tmp_path / "cut" / "trials.jsonl"
    assert len(path.read_text().splitlines()) == 11
    path.write_bytes(path.read_bytes() + b'{"number": 11, "state": "comp')
    assert points(run(tmp_path / "cut", preset=preset, objective=objective)) == points(whole)
    for number in range(14):
        names = [folder / f"items/search/{number:05d}.json" for folder in (tmp_path / "whole", tmp_path / "cut")]
        assert names[0].read_bytes() == names[1].read_bytes()


def test_a_finished_search_measures_nothing_again(tmp_path):
    trials = run(tmp_path)
    assert run(tmp_path, measure=stopping_at(0, AssertionError("measured"))) == trials


def test_more_trials_continue_the_same_search(tmp_path):
    run(tmp_path / "short", trials=9)
    assert points(run(tmp_path / "short", trials=14)) == points(run(tmp_path / "long", trials=14))


def test_a_failed_trial_is_recorded_with_its_reason_and_the_search_goes_on(tmp_path):
    def sometimes(point, split):
        weights = point.weights
        if weights["ja"] > 0.7:
            raise EvaluationError("task 'a'", "the model answered nothing", "Look at it.")
        if weights["it"] > 0.95:
            raise MemoryError
        if weights["it"] < 0.5:
            return ItemMeasurement({"a": [math.nan], "b": [1.0]})
        return measure(point, split)

    trials = run(tmp_path, measure=sometimes, trials=40, startup=4, max_consecutive_failures=40)
    assert len(trials) == 40
    failed = [trial for trial in trials if trial.state == "failed"]
    assert {trial.error.replace(f"trial {trial.number}:", "trial:") for trial in failed} == {
        "task 'a': the model answered nothing. Look at it.",
        "MemoryError",
        "trial: expected finite scores of task 'a', found nan at item 0. "
        "Check the task's metric and the merged model's outputs.",
    }
    for trial in failed:
        assert (trial.objective, trial.scores, trial.feasible) == (None, {}, False)
        assert not journal.locate_items(tmp_path, "search", trial.number).exists()
    assert any(trial.is_complete and trial.origin == "sampler" for trial in trials)
    assert points(journal.read_trials(tmp_path)) == points(trials)


def test_many_failures_in_a_row_stop_the_search_and_say_how_to_go_on(tmp_path):
    with pytest.raises(RunFailedError) as caught:
        run(tmp_path, measure=stopping_at(4, RuntimeError("CUDA out of memory")), max_consecutive_failures=3)
    assert str(caught.value) == (
        f"{tmp_path}: 3 trials in a row failed, the last with: RuntimeError: CUDA out of memory. "
        "Mend the cause, then go on; 4 complete trials are kept."
    )
    assert caught.value.exit_code == 1
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert [trial.state for trial in run(tmp_path)] == ["complete"] * 4 + ["failed"] * 3 + ["complete"] * 7


@pytest.mark.parametrize(
    ("where", "is_task"), [("task 'a'", True), ("item 'a/3'", True), ("model", False), ("live model", False)]
)
def test_failures_of_a_task_take_a_new_run(tmp_path, where, is_task):
    error = EvaluationError(where, "is broken", "Look at it.")
    with pytest.raises(RunFailedError) as caught:
        run(tmp_path, measure=stopping_at(1, error), max_consecutive_failures=2)
    assert (caught.value.takes_new_run, caught.value.scores_serve) == (is_task, not is_task)
    remedy = "Mend it and start a new run: scores" if is_task else "Mend the cause, then go on; 1 complete trials are"
    assert f"2 trials in a row failed, the last with: {where}: is broken. Look at it. {remedy}" in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        InputFaultError("expert/model.safetensors", "has changed since it was opened", "Restore it."),
        OSError(28, "No space left on device"),
        FileNotFoundError(2, "No such file or directory", "expert/model.safetensors"),
        KeyboardInterrupt(),
    ],
)
def test_what_is_no_fault_of_the_weights_ends_the_search_and_is_no_trial(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        run(tmp_path, measure=stopping_at(4, error))
    assert caught.value is error
    assert len(journal.read_trials(tmp_path)) == 4
    assert points(run(tmp_path)) == points(run(tmp_path / "uninterrupted"))


def test_a_failed_trial_keeps_none_of_its_tensors_alive(tmp_path):
    class Tensor:
        pass

    alive = []

    def failing(point, split):
        assert all(reference() is None for reference in alive)
        tensor = Tensor()
        alive.append(weakref.ref(tensor))
        raise MemoryError

    with pytest.raises(RunFailedError):
        run(tmp_path, measure=failing, max_consecutive_failures=3)
    assert len(alive) == 3


def test_floors_make_trials_infeasible_and_draw_the_search_away(tmp_path):
    floored = Objective(tasks={"a": 1}, floors={"b": 1})
    trials = run(tmp_path, objective=floored, trials=40, startup=12, preset="paper")
    assert {trial.feasible for trial in trials} == {True, False}
    assert all(trial.feasible == (trial.scores["b"] >= 1) for trial in trials)
    share_met = [sum(trial.feasible for trial in part) / len(part) for part in (trials[:12], trials[12:])]
    assert share_met[1] > share_met[0]


def test_bad_objectives_are_refused_before_anything_is_measured_or_written(tmp_path):
    with pytest.raises(SearchError, match="found 'c'"):
        run(tmp_path / "run", objective=Objective(tasks={"c": 1}), measure=stopping_at(0, AssertionError("measured")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"weights": {"it": 0.5}}, r"expected weights within it \[0.3, 1\], ja \[0, 1\], found {'it': 0.5}"),
        ({"weights": {"it": 0.5, "ja": 1.5}}, "expected weights within .*, found {'it': 0.5, 'ja': 1.5}"),
        ({"scores": {"a": 0.5}}, "expected a score of task 'b', found none"),
        ({"objective": 0.3}, r"expected the objective \(.*\), found \(0.3,\)"),
    ],
)
def test_the_journal_of_another_search_is_refused(tmp_path, change, found):
    run(tmp_path, trials=2)
    path = tmp_path / "trials.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{json.dumps({**json.loads(second), **change})}\n")
    with pytest.raises(SearchError, match=f"line 2: {found}") as caught:
        run(tmp_path, measure=stopping_at(0, AssertionError("measured")))
    assert "start a new run from this one with --from" in str(caught.value)


def test_the_progress_bar_tells_the_best_score_so_far(tmp_path, capsys):
    trials = run(tmp_path)
    best = max(trials, key=lambda trial: trial.values)
    assert f"best {best.values[0]:.4f} at trial {best.number}" in capsys.readouterr().err


def test_what_the_bar_says(tmp_path):
    from aftermix.search.objective import ObjectiveSet

    several = [Objective(tasks={task: 1}) for task in TASKS]
    trials = run(tmp_path, objective=several)
    assert describe_best(trials, ObjectiveSet.build(several, tasks=TASKS)).startswith("front of ")
    strict = [Objective(floors={"a": 1.5})]
    trials = run(tmp_path / "strict", objective=strict)
    assert describe_best(trials, ObjectiveSet.build(strict, tasks=TASKS)) == "none meets the floors"
    assert describe_best([], ObjectiveSet.build(strict, tasks=TASKS)) == "none complete"


def test_a_trial_at_the_point_of_an_earlier_one_takes_its_answers(tmp_path):
    one = np.array([1], np.int32)
    requests = SplitRequests(np.array([0, 1]), np.array([-1], np.int32), one, one)
    write_requests(tmp_path, {task: TaskRequests("none", "acc,none", None, {"search": requests}) for task in TASKS})
    asked = []

    def answer(point, split):
        asked.append(point)
        number = len(asked)
        kept = TaskAnswers(np.array([-number], np.float32), np.array([1], np.uint8), ((f"x/{number}", "yes"),))
        return replace(measure(point, split), answers=dict.fromkeys(TASKS, kept))

    places = [{"it": value, "ja": 0.1} for value in (0.4, 0.7, 0.4)]
    points = [Suggestion(place, "prior") for place in places]
    run(tmp_path, measure=answer, trials=3, startup=3, propose=lambda trials, wanted: points)
    assert len(asked) == 2
    for suffix in (".json", ".safetensors", ".answers.jsonl.gz"):
        first, second, third = ((tmp_path / f"items/search/{number:05d}{suffix}").read_bytes() for number in range(3))
        assert first == third != second


def test_damaged_answers_of_an_earlier_trial_stop_the_search_and_fail_no_trial(tmp_path):
    one = np.array([1], np.int32)
    requests = SplitRequests(np.array([0, 1]), np.array([-1], np.int32), one, one)
    write_requests(tmp_path, {task: TaskRequests("none", "acc,none", None, {"search": requests}) for task in TASKS})

    def answer(point, split):
        kept = TaskAnswers(np.array([-1], np.float32), np.array([1], np.uint8))
        return replace(measure(point, split), answers=dict.fromkeys(TASKS, kept))

    here = Suggestion({"it": 0.4, "ja": 0.1}, "prior")
    options = {"measure": answer, "startup": 2, "batch": 1, "propose": lambda *_: [here]}
    run(tmp_path, trials=1, **options)
    path = tmp_path / "items/search/00000.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(InputFaultError) as error:
        run(tmp_path, trials=2, **options)
    assert str(error.value).startswith(f"{path}: expected the log-likelihoods of trial 0 on search items, found ")
    assert len(journal.read_trials(tmp_path)) == 1

    path.write_bytes(content)
    assert [trial.state for trial in run(tmp_path, trials=2, **options)] == ["complete", "complete"]


def announced_run(folder, **settings):
    """A run, and the numbers of trials that were announced before each measurement."""
    heard, log = [], []

    def announce(point, split):
        heard.append(blocks.find_journal().items.name)

    def measured(point, split):
        log.append(tuple(int(name.removesuffix(".json")) for name in heard))
        heard.clear()
        return measure(point, split)

    config = SearchConfig(**{"trials": 7, "batch": 3, "startup": 3, **settings})
    trials = run_study(folder, space=SPACE, config=config, tasks=TASKS, measure=measured, announce=announce)
    return trials, log


def test_all_points_of_a_batch_are_announced_before_the_first_is_measured(tmp_path):
    trials, log = announced_run(tmp_path)
    assert log == [(0, 1, 2), (1, 2), (2,), (3, 4, 5), (4, 5), (5,), (6,)]
    assert points(trials) == points(run(tmp_path / "alone", trials=7, batch=3, startup=3))


def test_a_point_that_was_measured_is_not_announced(tmp_path):
    def propose(trials, wanted):
        same = Suggestion({"it": 0.5, "ja": 0.5}, "sampler")
        return [same, same, Suggestion({"it": 0.6, "ja": 0.5}, "sampler"), same]

    heard = []
    config = SearchConfig(trials=4)
    options = {"config": config, "tasks": TASKS, "measure": measure, "propose": propose}
    run_study(tmp_path, space=SPACE, **options, announce=lambda point, split: heard.append(point.weights["it"]))
    assert heard == [0.5, 0.6, 0.6, 0.6]


def test_the_worker_and_the_try_stand_in_the_journal(tmp_path):
    def measured(point, split):
        if point.weights["it"] > 0.9:
            error = EvaluationError("trial", "cost 3 workers: each died", "Free memory.")
            raise mark_attempt(error, WorkerAttempt(2, 3))
        return replace(measure(point, split), by=WorkerAttempt(1, 2))

    trials = run(tmp_path, measure=measured)
    assert {(trial.state, trial.worker, trial.attempt) for trial in trials} == {("complete", 1, 2), ("failed", 2, 3)}
    assert {trial.error for trial in trials} == {None, "trial: cost 3 workers: each died. Free memory."}
