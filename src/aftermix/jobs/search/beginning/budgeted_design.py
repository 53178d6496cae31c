"""The first design of a search by response whose budget buys fewer trials than the file allows."""

from __future__ import annotations

from dataclasses import replace

from aftermix.jobs.evaluator import MergeEvaluator, ModelEvaluator
from aftermix.jobs.search.beginning.missing_tasks import SPLIT, list_task_places
from aftermix.jobs.search.earlier_run import ComparableTrials
from aftermix.runs.answers.requests import RequestTable
from aftermix.search.budget import ReusedTrials, TokenBudget
from aftermix.search.objective import ObjectiveSet
from aftermix.search.proposing.first_design import count_first_design
from aftermix.search.proposing.response_proposer import LEAST_SHARE, measure_likelihood_share
from aftermix.search.space import SearchSpace


def settle_design(
    evaluator: MergeEvaluator,
    budget: TokenBudget | None,
    requests: RequestTable | None,
    comparable: ComparableTrials,
    *,
    space: SearchSpace,
    objectives: ObjectiveSet,
) -> MergeEvaluator:
    """`evaluator` of a new search, with `search.startup` by the trials that the `budget` buys after `comparable` ones.

    The run records it, so that a resumed one has the same design under any budget. Nothing is settled where the file
    says `startup`, where the budget has room for all trials, and where the response does not propose: another strategy,
    or `requests` that hold too little of the objectives.
    """
    search = evaluator.config.search
    if budget is None or requests is None or search.strategy != "response" or search.startup is not None:
        return evaluator
    trials = budget.count_trials(_count_reused(comparable, evaluator.model_evaluator))
    if trials >= search.trials or measure_likelihood_share(requests, objectives) < LEAST_SHARE:
        return evaluator

    settled = search.model_copy(update={"startup": count_first_design(space, trials)})
    return replace(evaluator, config=evaluator.config.model_copy(update={"search": settled}))


def _count_reused(comparable: ComparableTrials, model: ModelEvaluator) -> ReusedTrials:
    """Trials that the search begins with, and the tokens of scoring them where scores are missing."""
    count = len(comparable.trials)
    if not count or not comparable.missing:
        return ReusedTrials(count)
    return ReusedTrials(count, count * model.count_positions(SPLIT, list_task_places(model, comparable.missing)))
