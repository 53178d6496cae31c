"""`best.json`: the winner on items that it was not chosen by, beside the baselines, and what it means as a mixture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aftermix.config import Config
from aftermix.errors import SearchError
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.run_folder import BEST
from aftermix.jobs.search.baselines import BaselineMerge
from aftermix.jobs.search.score_cache import ScoreCache, build_baseline_records, build_scan_record
from aftermix.merging.merge import MergeRecipe
from aftermix.mixture.ratios import convert_weights
from aftermix.runs.trials import ItemScores, Trial, Weights
from aftermix.search.objective import ObjectiveSet
from aftermix.search.selection import SelectedTrial, WinnerSelection
from aftermix.search.summary import summarise


def build_best_record(
    evaluator: MergeEvaluator, run: Path, *, trials: Sequence[Trial], chosen: WinnerSelection, objectives: ObjectiveSet
) -> dict[str, Any]:
    """Measure winner and baselines on the test items of the run in `run`; the content of `best.json`."""
    config, seed = evaluator.config, evaluator.config.search.seed
    score_cache = ScoreCache(run, evaluator.tasks, objectives, evaluator.evaluate_baseline)

    winner = chosen.winner.trial
    test = _measure_winner(evaluator, score_cache, winner)
    compared = config.search.baselines

    return {
        "winner": {"trial": winner.number, **build_merge_record(evaluator.build_merger(winner.settings).recipe)},
        "weights": winner.weights,
        "settings": winner.settings,
        **_compute_ratios(config, winner.weights),
        "vectors": build_vectors_record(config),
        "objective": objectives.as_json(),
        "metrics": build_metrics_record(evaluator),
        "search": summarise(chosen.winner.search, objectives=objectives, seed=seed),
        "select": summarise(chosen.winner.select, objectives=objectives, seed=seed),
        "test": summarise(test, objectives=objectives, seed=seed),
        "floors_met": chosen.floors_met,
        "candidates": [_build_candidate(candidate, objectives, seed) for candidate in chosen.candidates],
        "front": list(chosen.front) if chosen.front is not None else None,
        "baselines": build_baseline_records(score_cache, config, test) if compared else [],
        "scan": build_scan_record(score_cache, config) if compared else None,
        "items": count_items(evaluator),
        "seconds": _sum_seconds(evaluator, score_cache, trials, chosen, before=read_earlier_seconds(run)),
    }


def _measure_winner(evaluator: MergeEvaluator, score_cache: ScoreCache, trial: Trial) -> ItemScores:
    """Measure the winner like a baseline, under its trial's number."""
    winner_cache = ScoreCache(
        score_cache.run,
        score_cache.tasks,
        score_cache.objectives,
        lambda _, split: evaluator.evaluate(trial.point, split),
    )

    items = winner_cache.measure_items(BaselineMerge(f"winner trial {trial.number}", "winner", trial.weights), "test")
    score_cache.seconds["test"] = score_cache.seconds.get("test", 0.0) + winner_cache.seconds.get("test", 0.0)
    return items


def build_merge_record(recipe: MergeRecipe) -> dict[str, Any]:
    """Method, options and exclusions of a winner's merge, whatever its weights."""
    options = recipe.method.options | {"lambda": recipe.scale, "seed": recipe.seed}
    return {"method": recipe.method.name, "options": options, "exclude": list(recipe.exclude)}


def build_metrics_record(evaluator: MergeEvaluator) -> dict[str, str]:
    """The metric that counts, by task."""
    return {task: str(metric) for task, metric in evaluator.model_evaluator.suite.primary.items()}


def build_vectors_record(config: Config) -> dict[str, Any]:
    """`vectors` of `best.json`: model, role, tokens and range of each."""
    return {
        name: {"model": v.model, "role": v.role, "tokens": v.tokens, "range": list(v.bounds)}
        for name, v in config.vectors.items()
    }


def _compute_ratios(config: Config, weights: Weights) -> dict[str, Any]:
    if not config.search.over.weights:
        return {"ratios": None, "ratios_note": "The weights were not searched, so no data ratio follows from them."}

    data_vectors = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    try:
        return {"ratios": convert_weights(weights, data_vectors), "ratios_note": None}
    except SearchError as error:
        # The merge is found all the same; that no mixture corresponds to it is a result, and is said.
        return {"ratios": None, "ratios_note": str(error)}


def _build_candidate(candidate: SelectedTrial, objectives: ObjectiveSet, seed: int) -> dict[str, Any]:
    return {
        "trial": candidate.trial.number,
        "weights": candidate.trial.weights,
        "settings": candidate.trial.settings,
        "search": summarise(candidate.search, objectives=objectives, seed=seed),
        "select": summarise(candidate.select, objectives=objectives, seed=seed),
    }


def count_items(evaluator: MergeEvaluator) -> dict[str, Any]:
    """Numbers of items in the splits of each task, with the scheme that split them."""
    tasks = evaluator.model_evaluator.suite.tasks
    counts = {
        name: {"search": len(t.search), "select": len(t.select), "test": len(t.test), "note": t.note}
        for name, t in tasks.items()
    }

    scheme = evaluator.config.evaluate.items.scheme if evaluator.config.evaluate else None
    return {"scheme": scheme, "overlap": any(t.overlap for t in tasks.values()), "tasks": counts}


def read_earlier_seconds(run: Path) -> dict[str, float]:
    """Seconds that a finished run in `run` spent on the stages whose measurements are kept and not made again."""
    path = run / BEST
    before = json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.is_file() else {}
    return {stage: float(before.get(stage, 0.0)) for stage in ("select", "test")}


def _sum_seconds(
    evaluator: MergeEvaluator,
    score_cache: ScoreCache,
    trials: Sequence[Trial],
    chosen: WinnerSelection,
    *,
    before: Mapping[str, float],
) -> dict[str, Any]:
    """Wall seconds by stage, those of `before` included. What an interrupted session measured is not in them."""
    candidates_s = sum(sum(candidate.seconds.values()) for candidate in chosen.candidates)
    return {
        "prepare": evaluator.prepare_s,
        "search": sum_by_phase([trial.seconds for trial in trials]),
        "select": before["select"] + score_cache.seconds.get("select", 0.0) + candidates_s,
        "test": before["test"] + score_cache.seconds.get("test", 0.0),
    }


def sum_by_phase(seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums by phase."""
    phases = sorted({phase for entry in seconds for phase in entry})
    return {phase: sum(entry.get(phase, 0.0) for entry in seconds) for phase in phases}
