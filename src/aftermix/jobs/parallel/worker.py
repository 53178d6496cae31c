"""The worker's side: models, vectors and tasks of a run, opened in a process of its own, and one measurement a call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.safe_files import InputStamps
from aftermix.config import Config
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.parallel.tasks import TaskOrder
from aftermix.jobs.search.run_inputs import open_run_suite
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.answers.blocks import journal_blocks
from aftermix.runs.trials import ItemMeasurement


@dataclass(frozen=True)
class EvaluatorPlan:
    """Models, tasks and settings that a worker opens."""

    config: Config
    run: Path
    """Run folder, whose splits and requests are kept to, and where blocks are kept."""
    settings: tuple[str, ...]
    """Names of the settings that are searched."""
    for_search: bool
    """True for a search, whose merges leave out what a search leaves out."""
    threads: int
    """CPU threads with which the run began."""
    keeps_answers: bool
    inputs: InputStamps | None
    """Of the models as the run opened them; None where this machine may see other numbers of the same files."""
    shared: Path | None = None
    """Folder of prepared vectors that the workers of this machine have in common."""


def open_evaluator(plan: EvaluatorPlan) -> Callable[[TaskOrder], ItemMeasurement]:
    """Open what `plan` says, and return what makes measurements of it. Raises as the run's own opening does."""
    config = plan.config
    assert config.evaluate is not None  # noqa: S101 - a run has it; for the type checker
    torch.set_num_threads(plan.threads)
    pool = open_pool(config)
    suite = open_run_suite(config.evaluate, plan.run)
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=plan.for_search)
    evaluator = MergeEvaluator.open_in_worker(
        config,
        pool,
        recipe,
        settings=plan.settings,
        suite=suite,
        threads=plan.threads,
        keeps_answers=plan.keeps_answers,
        inputs=plan.inputs,
        shared=plan.shared,
    )

    def measure(order: TaskOrder) -> ItemMeasurement:
        journal = nullcontext() if order.blocks is None else journal_blocks(*order.blocks, until_end=True)
        with journal:
            return evaluator.measure(order.task, order.split, order.places)

    return measure
