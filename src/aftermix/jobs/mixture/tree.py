"""The mixture of a tree of domains: one search for each group, what they come to together, and consolidated experts.

Bottom up, a group is measured by itself and its merge at the shares found stands as one vector in the group above. Top
down, the whole is measured at every group: the shares above it are settled, and the other groups stand at what is known
of them. Each group is a folder in `levels/` whose `best.json`, once it is there, is not made again.

Source: MergeMix, sections 3.5 and 4.6; docs/how-to/mixture.md, "Hierarchy". We depart in measuring, top down, the
members of a group within the whole and not by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from aftermix import progress
from aftermix.config import SearchConfig
from aftermix.errors import AftermixError, RunFailedError
from aftermix.jobs.compare.contest import compare_rivals
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.merge.command import write_model
from aftermix.jobs.mixture.baselines import MixtureBaselines
from aftermix.jobs.mixture.earlier.merges import EarlierMerges
from aftermix.jobs.mixture.first_order import build_orders
from aftermix.jobs.mixture.points import PointSampler, build_design_record, refuse_equal_scores
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.result import MixtureResult, describe_mixture, floors_met
from aftermix.jobs.mixture.scores import UtilityScorer
from aftermix.jobs.mixture.tree_problem import TreeProblem, read_stored_shares
from aftermix.jobs.provenance import format_recipe
from aftermix.jobs.run_folder.opening import clear_model
from aftermix.jobs.search.beginning.missing_tasks import read_reused, sum_reused
from aftermix.jobs.search.result import read_earlier_seconds, sum_by_phase
from aftermix.mixture.simplex import name_shares
from aftermix.mixture.tree import ROOT, Inner, TreeNode, find_share, multiply_shares
from aftermix.runs.journal import read_trials
from aftermix.runs.mixture_records import (
    DESIGN_FILE,
    LevelDesignRecord,
    LevelRecord,
    PointCountsRecord,
    SearchedLevelRecord,
    TreeGroupRecord,
    TreeRecord,
)
from aftermix.runs.reader import locate_level, read_level
from aftermix.runs.records import BEST_FILE, CandidateRecord, StageSeconds
from aftermix.runs.trials import Suggestion, Trial
from aftermix.search.objective import ObjectiveSet
from aftermix.search.study import run_study
from aftermix.search.warm_start import ImportedTrial

EXPERTS = "experts"
LEAST = 0.005
"""A group with a smaller share of the whole is not searched: its members hardly move any score."""


@dataclass(frozen=True)
class GroupResult:
    """Result of a group with the cost of its points, whether or not it was searched to the end."""

    level: LevelRecord
    points: PointCountsRecord
    search_s: Mapping[str, float]
    """By phase."""
    select_s: float


def search_tree(
    evaluator: MergeEvaluator, run: Path, tree: TreeProblem, earlier: EarlierMerges | None = None
) -> TreeRecord:
    """Search each group that has not been searched in `run`, write the experts asked for, and return `best.json`.

    Of `earlier` merges each group takes those that are points of its own.
    """
    inner, searches = dict(tree.start), GroupSearches(evaluator, run, tree, earlier)
    for group in tree.order:
        inner[group.name] = read_stored_shares(run, group.name) or searches.settle(group, inner)
    if tree.section.experts:
        _write_experts(evaluator, run, tree, inner)
    return _build_tree_record(evaluator, run, tree, inner)


@dataclass(frozen=True)
class GroupSearches:
    """Searches in the groups of one tree."""

    evaluator: MergeEvaluator
    run: Path
    tree: TreeProblem
    earlier: EarlierMerges | None = None

    def settle(self, group: TreeNode, inner: Inner) -> dict[str, float]:
        """The shares of the group's members: those that its search finds, or its first ones where nothing tells."""
        level = self._search(group, inner)
        level.write(locate_level(self.run, group.name) / BEST_FILE)
        return level.shares

    def _search(self, group: TreeNode, inner: Inner) -> LevelRecord:
        """The result of the search in a group, or its first shares with the reason that there is nothing to find."""
        tree, keep = self.tree, partial(LevelRecord, level=group.name)
        if tree.is_top_down and find_share(tree.root, group.name, inner) < LEAST:
            reason = f"has less than {LEAST:.1%} of the whole, so its shares are not searched"
            return keep(shares=tree.keep_shares(group, inner), note=reason)
        try:
            problem = tree.build_problem(group, inner)
        except AftermixError as error:
            if tree.section.max_epochs is None:  # nothing else can differ from what was checked
                raise
            reason = f"the caps on epochs leave no choice: {error.problem.found}"
            return keep(shares=tree.keep_shares(group, inner), note=reason)

        folder = locate_level(self.run, group.name)
        _build_level_design(problem, group).write(folder / DESIGN_FILE)
        objectives = ObjectiveSet.build((problem.objective,), tasks=self.evaluator.tasks)
        imported = self._import_points(problem, folder, objectives)
        known = [point.trial for point in imported] or [trial for trial in read_trials(folder) if trial.is_imported]
        shares_NK = problem.compute_shares(known) if known else np.zeros((0, len(problem.domains)))
        points = PointSampler(problem, shares_NK, run=folder)

        # A round needs scores that differ, so they are looked at before it.
        for count in sorted({len(points.planned), points.new_count}):
            trials = self._measure(points, folder, imported, count=count)
            if group.name == ROOT:
                refuse_equal_scores(self.run, problem, trials)
            elif _all_alike(problem, trials):
                reason = "every mixture scored the same, so nothing tells its shares apart"
                return keep(shares=tree.keep_shares(group, inner), note=reason)

        with _explain_failure(group.name, folder):
            result = MixtureResult.fit(
                self.evaluator, folder, problem, objectives=objectives, trials=trials, cache_folder=self.run
            )
            best = result.decide_winner()
        level = SearchedLevelRecord(level=group.name, shares=best.won.shares, note=None, **dict(best))
        return level.model_copy(update=read_reused(folder))

    def _import_points(
        self, problem: MixtureProblem, folder: Path, objectives: ObjectiveSet
    ) -> Sequence[ImportedTrial]:
        """Earlier merges that are points of a group which has measured none."""
        if self.earlier is None or read_trials(folder):
            return ()
        imported = self.earlier.import_points(problem, objectives)
        if imported:
            use = self.earlier.describe_use()
            progress.say(f"group '{folder.name}': {len(imported)} merges of {self.earlier.source} are {use}")
        return self.earlier.complete(imported, self.evaluator, folder, problem=problem, objectives=objectives)

    def _measure(
        self, points: PointSampler, folder: Path, imported: Sequence[ImportedTrial], *, count: int
    ) -> list[Trial]:
        """The trials of a group, of which the first `count` new ones have ended."""
        problem = points.problem

        def propose(trials: Sequence[Trial], wanted: int) -> list[Suggestion]:
            with _explain_failure(folder.name, folder):
                return points.propose_batch(trials, wanted)

        search = SearchConfig(
            trials=count,
            objective=(problem.objective,),
            max_consecutive_failures=self.evaluator.config.search.max_consecutive_failures,
        )
        return run_study(
            folder,
            space=problem.space,
            config=search,
            tasks=self.evaluator.tasks,
            measure=self.evaluator.evaluate,
            announce=self.evaluator.announce_point,
            imported=imported,
            propose=propose,
            label=folder.name,
        )


def _all_alike(problem: MixtureProblem, trials: list[Trial]) -> bool:
    complete = [trial for trial in trials if trial.is_complete]
    return all(len({trial.scores[task] for trial in complete}) == 1 for task in problem.objective.tasks)


@contextmanager
def _explain_failure(group: str, folder: Path) -> Iterator[None]:
    """Name the group in errors: what fails on measured points fails again on resume, unless they are measured anew."""
    try:
        yield
    except RunFailedError as error:
        remedy = f"Mend the cause, remove {folder} and resume: the other groups are kept."
        raise RunFailedError(f"group '{group}'", error.problem.found, remedy) from error


def _build_level_design(problem: MixtureProblem, group: TreeNode) -> LevelDesignRecord:
    """`design.json` of a group, with the merge that a mixture of its members stands for."""
    embedding = problem.embedding
    rows = (name_shares(row_L, embedding.experts) for row_L in embedding.weights_KL)
    members = [{name: weight for name, weight in row.items() if weight} for row in rows]
    rest = {name: weight for name, weight in name_shares(embedding.rest_L, embedding.experts).items() if weight}
    design = build_design_record(problem)
    return LevelDesignRecord(
        **{key: value for key, value in design if key in design.model_fields_set},
        level=group.name,
        members=dict(zip(embedding.members, members, strict=True)),
        rest=rest,
    )


def _write_experts(evaluator: MergeEvaluator, run: Path, tree: TreeProblem, inner: Inner) -> None:
    """Each group's merge as a model: `base + sum_k r_k tau_k` over the experts in it."""
    for name, weights in tree.consolidate_experts(inner):
        folder = run / EXPERTS / name
        recipe = format_recipe(evaluator.config, evaluator.merger.recipe, weights, folder=folder)
        if not clear_model(run, recipe, name=f"{EXPERTS}/{name}"):
            inputs = evaluator.inputs
            write_model(evaluator.merger, weights, config=evaluator.config, output=folder, inputs=inputs)


def _build_tree_record(evaluator: MergeEvaluator, run: Path, tree: TreeProblem, inner: Inner) -> TreeRecord:
    """The whole mixture, measured on select and test items beside those that need no search."""
    results = {group.name: _read_result(run, group.name) for group in tree.groups}

    problem = tree.first_problem
    complete = [trial for trial in read_trials(locate_level(run, ROOT)) if trial.is_complete]
    utility = problem.build_utility(problem.compute_scores([trial.scores for trial in complete]))
    scorer = UtilityScorer(problem, ObjectiveSet.build((problem.objective,), tasks=evaluator.tasks), utility)
    mixture_baselines, before = MixtureBaselines.open(evaluator, scorer, run), read_earlier_seconds(run)

    weights = problem.complete_weights(multiply_shares(tree.root, inner))
    select, test = mixture_baselines.measure_items(weights, "select"), mixture_baselines.measure_items(weights, "test")
    baselines = mixture_baselines.build_records(test, list(tree.list_named_mixtures(inner[ROOT])))

    select_summary = scorer.summarise_items(select)
    candidate = CandidateRecord(trial=None, weights=weights, settings={}, search=None, select=select_summary)
    described = describe_mixture(evaluator, scorer, weights, trial=None, point="tree")
    record = TreeRecord(
        **dict(described),
        direction=tree.section.direction,
        tree=_describe_group(tree.root, tree, inner, results),
        points=PointCountsRecord(
            measured=sum(result.points.measured for result in results.values()),
            failed=sum(result.points.failed for result in results.values()),
        ),
        search=None,
        select=select_summary,
        test=scorer.summarise_items(test),
        floors_met=floors_met(scorer, select),
        candidates=(candidate,),
        baselines=baselines,
        seconds=_sum_seconds(mixture_baselines, list(results.values()), before=before),
    )
    # Keys that only some runs have.
    reused = sum_reused(locate_level(run, group.name) for group in tree.groups)
    orders = build_orders(evaluator.config, described.ratios)
    rivals = compare_rivals(evaluator, run, scorer, test, described.ratios)
    return record.model_copy(update={**reused, **orders, **rivals})


def _sum_seconds(
    baselines: MixtureBaselines, results: Sequence[GroupResult], *, before: Mapping[str, float]
) -> StageSeconds:
    """Wall seconds by stage: of all groups, and of the whole on select and test items; `before` in earlier sessions."""
    now = baselines.score_cache.seconds
    return StageSeconds(
        prepare=baselines.evaluator.prepare_s,
        search=sum_by_phase([result.search_s for result in results]),
        # Of a finished run, `before` has the groups too.
        select=max(before["select"], sum(result.select_s for result in results)) + now.get("select", 0.0),
        test=before["test"] + now.get("test", 0.0),
    )


def _read_result(run: Path, name: str) -> GroupResult:
    """The result of a group; of one that was not searched to the end, with the cost of the points in its journal."""
    folder = locate_level(run, name)
    level = read_level(folder)
    assert level is not None  # noqa: S101 - all groups are settled; for the type checker
    if isinstance(level, SearchedLevelRecord):
        return GroupResult(level, level.points, level.seconds.search, level.seconds.select)

    trials = read_trials(folder)
    failed = sum(not trial.is_complete for trial in trials)
    points = PointCountsRecord(measured=len(trials) - failed, failed=failed)
    return GroupResult(level, points, sum_by_phase([trial.seconds for trial in trials]), 0.0)


def _describe_group(
    group: TreeNode, tree: TreeProblem, inner: Inner, results: Mapping[str, GroupResult]
) -> TreeGroupRecord:
    """A group and those below it: shares within it and of the whole, and how sure they are."""
    level = results[group.name].level
    searched = level if isinstance(level, SearchedLevelRecord) else None
    return TreeGroupRecord(
        name=group.name,
        share=find_share(tree.root, group.name, inner),
        shares=dict(inner[group.name]),
        share_intervals=searched.optimum.share_intervals if searched else None,
        point=searched.winner.point if searched else None,
        measured=results[group.name].points.measured,
        note=level.note,
        groups=tuple(_describe_group(member, tree, inner, results) for member in group.members if member.is_group),
    )
