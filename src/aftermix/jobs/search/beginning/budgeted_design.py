"""The first design of a search by response whose budget buys fewer trials than the file allows."""

from __future__ import annotations

from dataclasses import replace

from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.search.beginning.missing_tasks import count_reused
from aftermix.jobs.search.earlier_run import ComparableTrials
from aftermix.runs.answers.requests import RequestTable
from aftermix.search.budget import TokenBudget
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
    reused = count_reused(len(comparable.trials), comparable.missing, evaluator.model_evaluator)
    trials = budget.count_trials(reused)
    if trials >= search.trials or measure_likelihood_share(requests, objectives) < LEAST_SHARE:
        return evaluator

    settled = search.model_copy(update={"startup": count_first_design(space, trials)})
    return replace(evaluator, config=evaluator.config.model_copy(update={"search": settled}))
