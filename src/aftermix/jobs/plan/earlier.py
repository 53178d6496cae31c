"""Merges of an earlier run that a job begun with `--from` takes, and what it measures of them, before it begins."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aftermix.config import Split
from aftermix.jobs.evaluator import MergeEvaluator, ModelEvaluator, build_split_record
from aftermix.jobs.mixture.earlier.merges import EarlierMerges
from aftermix.jobs.mixture.points import PointSampler
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.tree_problem import TreeProblem
from aftermix.jobs.provenance import resolve_defaults
from aftermix.jobs.run_folder.comparison import refuse_other_vectors
from aftermix.jobs.search.beginning.kept_scores import count_kept_scores
from aftermix.jobs.search.beginning.missing_tasks import SPLIT, count_reused
from aftermix.jobs.search.beginning.rescoring import asks_for_rescoring
from aftermix.jobs.search.earlier_run import import_comparable_trials
from aftermix.jobs.search.score_lock import build_evaluation_lock
from aftermix.search.budget import ReusedTrials
from aftermix.search.objective import ObjectiveSet
from aftermix.search.space import SearchSpace


@dataclass(frozen=True)
class EarlierScores:
    """Merges that an earlier run gives."""

    taken: int
    saved: int
    """Evaluations on search items that a job without them would do."""
    words: str
    rescored: int = 0
    """Merges that are scored on tasks which the earlier run has no scores of."""
    rescored_tokens: int = 0
    """Tokens of that."""
    rescored_positions: int = 0
    """The same as `search.budget_tokens` counts them."""
    kept: Mapping[Split, int] = field(default_factory=dict)
    """Evaluations of baselines by split that are taken along."""

    @property
    def reused(self) -> ReusedTrials:
        """These merges as a budget has them."""
        return ReusedTrials(self.taken, self.rescored_positions)

    def add_missing(self, tasks: Collection[str], model: ModelEvaluator) -> EarlierScores:
        """These merges, scored on `tasks` alone where there are any."""
        if not tasks or not self.taken:
            return self
        tokens = model.suite.count_tokens(SPLIT, model.engine.lm)
        return replace(
            self,
            rescored=self.taken,
            rescored_tokens=self.taken * sum(tokens[task] for task in tasks),
            rescored_positions=count_reused(self.taken, tasks, model).tokens,
        )


def count_earlier_scores(source: Path, evaluator: MergeEvaluator, *, space: SearchSpace | None) -> EarlierScores:
    """The merges of the run in `source` that the job of `evaluator` takes: a search through `space`, or a mixture.

    Raises :class:`AftermixError` where the job would refuse it.
    """
    evaluator = replace(evaluator, config=resolve_defaults(evaluator.config, evaluator.merger.recipe))
    if space is None:
        return _count_for_mixture(source, evaluator)

    config, model = evaluator.config, evaluator.model_evaluator
    split = build_split_record(model.suite)
    refuse_other_vectors(source, config=config, pool=evaluator.merger.pool, split=split)
    objectives = ObjectiveSet.build(config.search.objective, tasks=evaluator.tasks)
    evaluation = build_evaluation_lock(evaluator.merger.pool, model)
    earlier = import_comparable_trials(source, evaluation, evaluator=evaluator, space=space, objectives=objectives)
    taken = len(earlier.trials)
    new = 0 if taken and asks_for_rescoring(config, source, space=space) else config.search.trials
    words = f"{taken} trials of {source} are {earlier.use}, {new} are run"
    kept = count_kept_scores(source, config, evaluator.tasks) if earlier.is_whole else {}
    scores = EarlierScores(taken, config.search.trials - new, words, kept=kept)
    return scores.add_missing(earlier.missing, model)


def _count_for_mixture(source: Path, evaluator: MergeEvaluator) -> EarlierScores:
    config, model = evaluator.config, evaluator.model_evaluator
    assert config.mixture is not None  # noqa: S101 - the caller looked; for the type checker
    tree = TreeProblem.from_config(config, fitted="tasks") if config.mixture.tree is not None else None
    problem = tree.first_problem if tree else MixtureProblem.build_flat(config, fitted="tasks")

    objectives = ObjectiveSet.build((problem.objective,), tasks=evaluator.tasks)
    split, evaluation = build_split_record(model.suite), build_evaluation_lock(evaluator.merger.pool, model)
    earlier = EarlierMerges.open(source, config, evaluator.merger.pool, problem=problem, split=split)
    earlier = earlier.keep_tasks(evaluation, model, tasks=evaluator.tasks, objectives=objectives)
    if tree is None:
        earlier.import_all(problem, objectives)
    groups = _list_known_groups(tree) if tree else {"": problem}

    found = {name: [trial for _, trial in earlier.list_points(group)] for name, group in groups.items()}
    taken = {name: len(trials) for name, trials in found.items()}
    saved = 0
    for name, group in groups.items():
        known_NK = group.compute_shares(found[name]) if found[name] else np.zeros((0, len(group.domains)))
        saved += len(group.design.kinds) - len(PointSampler(group, known_NK).planned)
    words = _describe_taken(source, taken, tree, use=earlier.describe_use())
    return EarlierScores(sum(taken.values()), saved, words).add_missing(earlier.missing, model)


def _list_known_groups(tree: TreeProblem) -> dict[str, MixtureProblem]:
    """Groups whose merges hang on no share that a search has to find first."""
    if tree.is_top_down:
        return {tree.root.name: tree.first_problem}
    leaves = [group for group in tree.order if not any(member.is_group for member in group.members)]
    return {group.name: tree.build_problem(group, tree.start) for group in leaves}


def _describe_taken(source: Path, taken: Mapping[str, int], tree: TreeProblem | None, *, use: str) -> str:
    told = f"{sum(taken.values())} merges of {source} are {use}"
    if tree is None:
        return told
    rest = [group.name for group in tree.order if group.name not in taken]
    later = f"; of {', '.join(rest)} it is known once shares of other groups are found" if rest else ""
    return f"{told}, of {', '.join(f'{name} {count}' for name, count in taken.items())}{later}"
