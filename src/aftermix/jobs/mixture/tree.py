"""The mixture of a tree of domains: one search for each group, what they come to together, and consolidated experts.

Bottom up, a group is measured by itself and its merge at the shares found stands as one vector in the group above. Top
down, the whole is measured at every group: the shares above it are settled, and the other groups stand at what is known
of them. Each group is a folder in `levels/` whose `best.json`, once it is there, is not made again.

Source: MergeMix, sections 3.5 and 4.6; docs/how-to/mixture.md, "Hierarchy". We depart in measuring, top down, the
members of a group within the whole and not by themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from aftermix.config import SearchConfig
from aftermix.errors import AftermixError, RunFailedError
from aftermix.files import write_json
from aftermix.jobs import run_folder
from aftermix.jobs.evaluator import Bench
from aftermix.jobs.merge.command import write_model
from aftermix.jobs.mixture.baselines import Comparison
from aftermix.jobs.mixture.points import Points, design_record
from aftermix.jobs.mixture.problem import Setting
from aftermix.jobs.mixture.result import MixtureResult, floors_met, merged_record
from aftermix.jobs.mixture.scores import Scoring
from aftermix.jobs.mixture.tree_problem import Levels, level_folder, stored_shares
from aftermix.jobs.provenance import recipe_yaml
from aftermix.jobs.search.result import by_phase, merge_record, seconds_before
from aftermix.mixture.simplex import named
from aftermix.mixture.tree import ROOT, Inner, Node, ratios, share_of
from aftermix.runs.journal import read_trials
from aftermix.runs.trials import Suggestion, Trial
from aftermix.search.objective import Objectives
from aftermix.search.study import run_study

EXPERTS = "experts"
LEAST = 0.005
"""A group with a smaller share of the whole is not searched: its members hardly move any score."""


def mixture_of_tree(bench: Bench, run: Path, levels: Levels) -> dict[str, Any]:
    """Search each group that has not been searched in `run`, write the experts asked for, and return `best.json`."""
    inner = dict(levels.start)
    for group in levels.order:
        inner[group.name] = stored_shares(run, group.name) or _searched(bench, run, levels, group, inner)
    if levels.asked.experts:
        _write_experts(bench, run, levels, inner)
    return _record(bench, run, levels, inner)


def _searched(bench: Bench, run: Path, levels: Levels, group: Node, inner: Inner) -> dict[str, float]:
    """The shares of the group's members: those that its search finds, or its first ones where nothing can be told."""
    found = _search(bench, run, levels, group, inner)
    if isinstance(found, str):
        found = {"shares": levels.kept(group, inner), "note": found}
    write_json(level_folder(run, group.name) / run_folder.BEST, {"level": group.name, **found})
    return dict(found["shares"])


def _search(bench: Bench, run: Path, levels: Levels, group: Node, inner: Inner) -> dict[str, Any] | str:
    """The result of the search in a group, or the reason that there is nothing to find."""
    if levels.is_top_down and share_of(levels.root, group.name, inner) < LEAST:
        return f"has less than {LEAST:.1%} of the whole, so its shares are not searched"
    try:
        setting = levels.setting(group, inner)
    except AftermixError as error:
        if levels.asked.max_epochs is None:  # nothing else can differ from what was checked
            raise
        return f"the caps on epochs leave no choice: {error.problem.found}"

    folder = level_folder(run, group.name)
    write_json(folder / run_folder.DESIGN, design_record(setting) | _stands_for(setting, group))
    objectives = Objectives.build((setting.objective,), tasks=bench.tasks)
    points = Points(setting, np.zeros((0, len(setting.domains))))

    # A round needs scores that differ, so they are looked at before it.
    for count in sorted({len(points.planned), points.new}):
        trials = _measured(bench, run, points, folder, count=count)
        if group.name != ROOT and _all_alike(setting, trials):
            return "every mixture scored the same, so nothing tells its shares apart"

    with _named(group.name, folder):
        result = MixtureResult.of(bench, folder, setting, objectives=objectives, trials=trials, measured=run)
        best = result.found()
    won = next(entry for entry in best["verified"] if entry["name"] == best["winner"]["point"])
    return {"shares": won["shares"], "note": None, **best}


def _measured(bench: Bench, run: Path, points: Points, folder: Path, *, count: int) -> list[Trial]:
    """The trials of a group, of which the first `count` have ended."""
    setting = points.setting

    def propose(trials: Sequence[Trial]) -> Suggestion:
        with _named(folder.name, folder):
            return points.propose(trials)

    search = SearchConfig(
        trials=count,
        objective=(setting.objective,),
        max_consecutive_failures=bench.config.search.max_consecutive_failures,
    )
    return run_study(
        folder,
        space=setting.space,
        config=search,
        tasks=bench.tasks,
        measure=bench.measure,
        propose=propose,
        command="mixture",
        run=run,
    )


def _all_alike(setting: Setting, trials: list[Trial]) -> bool:
    complete = [trial for trial in trials if trial.is_complete]
    return all(len({trial.scores[task] for trial in complete}) == 1 for task in setting.objective.tasks)


@contextmanager
def _named(group: str, folder: Path) -> Iterator[None]:
    """Name the group in errors: what fails on measured points fails again on resume, unless they are measured anew."""
    try:
        yield
    except RunFailedError as error:
        remedy = f"Mend the cause, remove {folder} and resume: the other groups are kept."
        raise RunFailedError(f"group '{group}'", error.problem.found, remedy) from error


def _stands_for(setting: Setting, group: Node) -> dict[str, Any]:
    """The merge that a mixture of the group's members stands for: `rest + sum_k share_k * members_k`."""
    embedding = setting.embedding
    rows = (named(row_L, embedding.experts) for row_L in embedding.weights_KL)
    members = [{name: weight for name, weight in row.items() if weight} for row in rows]
    rest = {name: weight for name, weight in named(embedding.rest_L, embedding.experts).items() if weight}
    return {"level": group.name, "members": dict(zip(embedding.members, members, strict=True)), "rest": rest}


def _write_experts(bench: Bench, run: Path, levels: Levels, inner: Inner) -> None:
    """Each group's merge as a model: `base + sum_k r_k tau_k` over the experts in it."""
    for name, weights in levels.consolidated(inner):
        recipe = recipe_yaml(bench.config, bench.merger.recipe, weights)
        if not run_folder.clear_model(run, recipe, name=f"{EXPERTS}/{name}"):
            write_model(bench.merger, weights, config=bench.config, output=run / EXPERTS / name)


def _record(bench: Bench, run: Path, levels: Levels, inner: Inner) -> dict[str, Any]:
    """The whole mixture, measured on select and test items beside those that need no search."""
    found = {group.name: _level(run, group.name) for group in levels.groups}

    setting = levels.first_setting
    complete = [trial for trial in read_trials(level_folder(run, ROOT)) if trial.is_complete]
    utility = setting.utility(setting.scores([trial.scores for trial in complete]))
    scoring = Scoring(setting, Objectives.build((setting.objective,), tasks=bench.tasks), utility)
    comparison, before = Comparison.of(bench, scoring, run), seconds_before(run)

    weights = setting.merge_of(ratios(levels.root, inner))
    select, test = comparison.items(weights, "select"), comparison.items(weights, "test")
    baselines = comparison.records(test, list(levels.compared(inner[ROOT])))

    told = scoring.summary(select)
    return {
        "winner": {"trial": None, "point": "tree", **merge_record(bench.merger.recipe)},
        **merged_record(bench, scoring, weights),
        "direction": levels.asked.direction,
        "tree": _told(levels.root, levels, inner, found),
        "points": {kind: sum(one["points"][kind] for one in found.values()) for kind in ("measured", "failed")},
        "search": None,
        "select": told,
        "test": scoring.summary(test),
        "floors_met": floors_met(scoring, select),
        "candidates": [{"trial": None, "weights": weights, "settings": {}, "search": None, "select": told}],
        "baselines": baselines,
        "seconds": _seconds(comparison, list(found.values()), before=before),
    }


def _seconds(
    comparison: Comparison, levels: Sequence[Mapping[str, Any]], *, before: Mapping[str, float]
) -> dict[str, Any]:
    """Wall seconds by stage: of all groups, and of the whole on select and test items; `before` in earlier sessions."""
    now = comparison.contest.seconds
    return {
        "prepare": comparison.bench.prepare_s,
        "search": by_phase([one["seconds"]["search"] for one in levels]),
        # Of a finished run, `before` has the groups too.
        "select": max(before["select"], sum(one["seconds"]["select"] for one in levels)) + now.get("select", 0.0),
        "test": before["test"] + now.get("test", 0.0),
    }


def _level(run: Path, name: str) -> dict[str, Any]:
    """`best.json` of a group; of one that was not searched to the end, with the cost of its points."""
    folder = level_folder(run, name)
    best: dict[str, Any] = json.loads((folder / run_folder.BEST).read_text(encoding="utf-8"))

    trials = read_trials(folder)
    failed = sum(not trial.is_complete for trial in trials)
    spent = {"search": by_phase([trial.seconds for trial in trials]), "select": 0.0}
    return {"points": {"measured": len(trials) - failed, "failed": failed}, "seconds": spent, **best}


def _told(group: Node, levels: Levels, inner: Inner, found: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A group and those below it: shares within it and of the whole, and how sure they are."""
    best = found[group.name]
    optimum = best.get("optimum", {})
    return {
        "name": group.name,
        "share": share_of(levels.root, group.name, inner),
        "shares": inner[group.name],
        "share_intervals": optimum.get("share_intervals"),
        "point": best.get("winner", {}).get("point"),
        "measured": best["points"]["measured"],
        "note": best["note"],
        "groups": [_told(member, levels, inner, found) for member in group.members if member.is_group],
    }
