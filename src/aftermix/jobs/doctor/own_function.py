"""A user's own evaluation, examined without running a model: its file, its functions, its items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aftermix.config import Config, TaskConfig
from aftermix.errors import AftermixError, Problem
from aftermix.jobs.doctor.diagnosis import ConfigDiagnosis
from aftermix.jobs.job_kind import JobKind

if TYPE_CHECKING:
    from aftermix.evaluation.items import TaskItems


def examine_function(config: Config, job: JobKind, diagnosis: ConfigDiagnosis) -> None:
    """Run the file, list its items and look for the class of models; raises :class:`AftermixError` for a fault."""
    from aftermix.evaluation.engines.hf import CAUSAL, find_model_class
    from aftermix.evaluation.own.suite import OwnSuite
    from aftermix.evaluation.suites.contract import count_answered_items
    from aftermix.jobs.search.response_stage import refuse_fine_precision
    from aftermix.search.objective import ObjectiveSet

    evaluate = config.evaluate
    assert evaluate is not None  # noqa: S101 - the caller looked
    diagnosis.run_check(lambda: find_model_class(evaluate.model_class or CAUSAL))
    suite = OwnSuite.build(evaluate)
    for file, digest in suite.scorer.files.items():
        diagnosis.facts.append(f"evaluation by {suite.scorer.name}: {file} {digest}")

    if suite.tasks:
        objectives = ObjectiveSet.build(config.search.objective, tasks=list(suite.tasks))
        if job == "search":
            refuse_fine_precision(config.search, objectives, count_answered_items(suite, "search"))
    if suite.ids is None:
        found = "lists no items: its tasks are scored whole, and differences of merges have no paired intervals"
        remedy = "Define `items()`, and return a score for each item."
        diagnosis.notes.append(Problem(suite.scorer.name, found, remedy))
    else:
        describe_items(suite.tasks, diagnosis)


def describe_items(tasks: Mapping[str, TaskItems], diagnosis: ConfigDiagnosis) -> None:
    """A fact on the items of every task, and a note where there are fewer than were asked for."""
    for name, items in tasks.items():
        counts = f"search {len(items.search)}, select {len(items.select)}, test {len(items.test)}"
        diagnosis.facts.append(f"task '{name}': {counts}")
        if items.note:
            diagnosis.notes.append(Problem(f"task '{name}'", items.note, "Expect wider intervals."))


def name_own_tasks(config: Config) -> Config:
    """`config` with the tasks of its own evaluation, as far as they can be told; a fault is told elsewhere."""
    evaluate = config.evaluate
    if evaluate is None or evaluate.function is None or evaluate.tasks:
        return config
    from aftermix.evaluation.own.suite import OwnSuite

    try:
        names = list(OwnSuite.build(evaluate).tasks)
    except AftermixError:
        return config
    tasks = tuple(TaskConfig(task=task) for task in names)
    return config.model_copy(update={"evaluate": evaluate.model_copy(update={"tasks": tasks})})
