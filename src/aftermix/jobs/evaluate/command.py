"""`aftermix evaluate`: the merge of a file at its own weights, scored on one split of the items."""

from __future__ import annotations

from collections.abc import Mapping

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, Split, require
from aftermix.jobs.evaluate.opening import open_task_suite
from aftermix.jobs.evaluate.own_tasks import settle_tasks
from aftermix.jobs.evaluator import ModelEvaluator
from aftermix.jobs.job_kind import NEEDED
from aftermix.jobs.merge.given_weights import read_given_weights
from aftermix.jobs.merge.statistics import open_merger
from aftermix.jobs.orders.opened import OpenedMerges, OpeningPlan
from aftermix.jobs.orders.order import FileOrder
from aftermix.merging.recipe import MergeRecipe, check_weights
from aftermix.runs.records import ScoresRecord
from aftermix.runs.trials import check_items
from aftermix.search.objective import ObjectiveSet
from aftermix.search.summary import summarise


def evaluate(config: Config, *, split: Split) -> ScoresRecord:
    """Score, with intervals, the merge at the weights in the file; without vectors, of the base.

    Raises :class:`AftermixError` on bad input.
    """
    require(config, *NEEDED["evaluate"])
    assert config.evaluate is not None  # noqa: S101 - required above; for the type checker
    weights = read_given_weights(config)
    config = settle_tasks(config)
    assert config.evaluate is not None  # noqa: S101 - as above
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors)
    if weights:
        check_weights(recipe, weights)

    pool = open_pool(config)
    suite = open_task_suite(config.evaluate)
    objectives = ObjectiveSet.build(config.search.objective, tasks=list(suite.tasks))

    merges = OpenedMerges(config, open_merger(config, pool, recipe), None)
    opening = OpeningPlan(config, for_search=False)
    evaluator = ModelEvaluator.open(pool, config.evaluate, suite, opening=opening)
    evaluator.rehearse(config.evaluate)
    measurement = evaluator.measure(FileOrder(weights), merges, split)
    items = check_items(measurement.items, tasks=list(suite.tasks), where=f"{split} items")
    summary = summarise(items, objectives=objectives, seed=config.search.seed)
    return _add_cut_prompts(summary, suite.count_cut_prompts(evaluator.engine.lm, (split,)), split)


def _add_cut_prompts(summary: ScoresRecord, cut: Mapping[str, Mapping[Split, int]], split: Split) -> ScoresRecord:
    tasks = {
        name: score.model_copy(update={"cut_prompts": cut[name][split]}) if name in cut else score
        for name, score in summary.tasks.items()
    }
    return summary.model_copy(update={"tasks": tasks})
