"""Scores of a task that has changed: a resume is refused, `--from` leaves them out and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from aftermix.config import Objective
from aftermix.errors import SearchError
from aftermix.jobs.search.score_lock import (
    describe_left_out,
    find_other_tasks,
    list_needed_tasks,
    refuse_other_scores,
)
from aftermix.runs.input_records import (
    LOCK_FILE,
    EvaluationLockRecord,
    LockedTaskRecord,
    LockRecord,
    SeedsRecord,
)
from aftermix.search.objective import ObjectiveSet

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


def task(**changes: object) -> LockedTaskRecord:
    return LockedTaskRecord(requests=A, documents=B, metric="acc,none", items=60).model_copy(update=changes)


def evaluation(**changes: object) -> EvaluationLockRecord:
    tasks = {"colours": task(), "numbers": task()}
    return EvaluationLockRecord(tasks=tasks, tokenizer=A, chat_template=B).model_copy(update=changes)


def write_lock(run: Path, **fields: object) -> Path:
    run.mkdir()
    LockRecord(inputs={}, seeds=SeedsRecord(merge=0, search=0), versions={}, **fields).write(run / LOCK_FILE)  # type: ignore[arg-type]
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_lock(tmp_path / "run", evaluation=evaluation())


CHANGED = {
    "requests": ({"requests": C}, f"expected requests or scoring code {A[:19]}, found {C[:19]}"),
    "documents": ({"documents": C, "requests": C}, f"expected documents {B[:19]}, found {C[:19]}"),
    "metric": ({"metric": "acc_norm,none", "requests": C}, "expected metric acc,none, found acc_norm,none"),
    "items": ({"items": 59}, "expected number of items 60, found 59"),
}


@pytest.mark.parametrize("field", CHANGED)
def test_a_resume_names_the_task_that_has_changed(run: Path, field: str) -> None:
    changes, text = CHANGED[field]
    now = evaluation(tasks={"colours": task(), "numbers": task(**changes)})
    with pytest.raises(SearchError) as refusal:
        refuse_other_scores(run, now, chat=False)
    assert str(refusal.value) == (
        f"{run}: task 'numbers': has changed since its scores were measured: {text}. "
        "Restore its YAML, data and code, or start a new run in another folder."
    )
    assert find_other_tasks(run, now, chat=False) == {"numbers": text}


def test_the_same_tasks_go_on(run: Path) -> None:
    refuse_other_scores(run, evaluation(), chat=True)
    assert find_other_tasks(run, evaluation(), chat=True) == {}
    # Fewer tasks are no others; a new one is, for its scores are not there.
    now = evaluation(tasks={"numbers": task(), "new": task(items=3)})
    assert find_other_tasks(run, now, chat=True) == {"new": "the run has not measured it"}


def test_another_tokenizer_is_refused_and_another_template_where_it_is_applied(run: Path) -> None:
    for check in (refuse_other_scores, find_other_tasks):
        with pytest.raises(SearchError, match="expected the tokenizer that scores were measured with"):
            check(run, evaluation(tokenizer=C), chat=False)
        with pytest.raises(SearchError, match=r"expected the chat template that .* found None"):
            check(run, evaluation(chat_template=None), chat=True)
        check(run, evaluation(chat_template=None), chat=False)


def test_a_run_of_an_earlier_version_compares_no_tasks(tmp_path: Path) -> None:
    old = write_lock(tmp_path / "old")
    assert "evaluation" not in (old / LOCK_FILE).read_text()
    now = evaluation(tasks={"colours": task(requests=C), "numbers": task(items=1)}, tokenizer=C)
    refuse_other_scores(old, now, chat=True)
    assert find_other_tasks(old, now, chat=True) == {}


@pytest.mark.parametrize(
    ("objective", "end"),
    [
        ({"tasks": {"colours": 1}}, "the trials are taken without them"),
        ({"tasks": {"numbers": 1}}, "and no trial: the objective needs 'numbers'"),
        ({"tasks": {"colours": 1}, "floors": {"numbers": 0.1}}, "and no trial: the objective needs 'numbers'"),
    ],
)
def test_one_line_says_which_scores_and_trials_are_left_out(objective: dict[str, object], end: str) -> None:
    objectives = ObjectiveSet.build((Objective.model_validate(objective),), tasks=["colours", "numbers"])
    line = describe_left_out(Path("runs/first"), {"numbers": "expected items 60, found 59"}, objectives)
    assert line == (
        "--from runs/first: scores of another task are left out ('numbers': expected items 60, found 59), " + end
    )
    assert ("numbers" in list_needed_tasks(objectives)) == end.startswith("and")
