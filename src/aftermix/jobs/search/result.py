"""`best.json`: the winner on items that it was not chosen by, beside the baselines, and what it means as a mixture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aftermix.config import Config
from aftermix.errors import SearchError
from aftermix.jobs.evaluator import Bench
from aftermix.jobs.run_folder import BEST
from aftermix.jobs.search.baselines import Baseline
from aftermix.jobs.search.score_cache import Contest, baseline_records, scan_record
from aftermix.merging.merge import Recipe
from aftermix.mixture.ratios import ratios_from_weights
from aftermix.runs.trials import ItemScores, Trial, Weights
from aftermix.search.objective import Objectives
from aftermix.search.selection import Candidate, Selection
from aftermix.search.summary import summarise


def best_record(
    bench: Bench, run: Path, *, trials: Sequence[Trial], chosen: Selection, objectives: Objectives
) -> dict[str, Any]:
    """Measure winner and baselines on the test items of the run in `run`; the content of `best.json`."""
    config, seed = bench.config, bench.config.search.seed
    contest = Contest(run, bench.tasks, objectives, bench.measure_baseline)

    winner = chosen.winner.trial
    test = _winner_on_test(bench, contest, winner)
    compared = config.search.baselines

    return {
        "winner": {"trial": winner.number, **merge_record(bench.merger_at(winner.settings).recipe)},
        "weights": winner.weights,
        "settings": winner.settings,
        **_ratios(config, winner.weights),
        "vectors": vectors_record(config),
        "objective": objectives.as_json(),
        "metrics": metrics_record(bench),
        "search": summarise(chosen.winner.search, objectives=objectives, seed=seed),
        "select": summarise(chosen.winner.select, objectives=objectives, seed=seed),
        "test": summarise(test, objectives=objectives, seed=seed),
        "floors_met": chosen.floors_met,
        "candidates": [_candidate(candidate, objectives, seed) for candidate in chosen.candidates],
        "front": list(chosen.front) if chosen.front is not None else None,
        "baselines": baseline_records(contest, config, test) if compared else [],
        "scan": scan_record(contest, config) if compared else None,
        "items": item_counts(bench),
        "seconds": _seconds(bench, contest, trials, chosen, before=seconds_before(run)),
    }


def _winner_on_test(bench: Bench, contest: Contest, trial: Trial) -> ItemScores:
    """Measure the winner like a baseline, under its trial's number."""
    measured = Contest(
        contest.run, contest.tasks, contest.objectives, lambda _, split: bench.measure(trial.point, split)
    )

    items = measured.items(Baseline(f"winner trial {trial.number}", "winner", trial.weights), "test")
    contest.seconds["test"] = contest.seconds.get("test", 0.0) + measured.seconds.get("test", 0.0)
    return items


def merge_record(recipe: Recipe) -> dict[str, Any]:
    """Method, options and exclusions of a winner's merge, whatever its weights."""
    options = recipe.method.options | {"lambda": recipe.scale, "seed": recipe.seed}
    return {"method": recipe.method.name, "options": options, "exclude": list(recipe.exclude)}


def metrics_record(bench: Bench) -> dict[str, str]:
    """The metric that counts, by task."""
    return {task: str(metric) for task, metric in bench.live.suite.primary.items()}


def vectors_record(config: Config) -> dict[str, Any]:
    """`vectors` of `best.json`: model, role, tokens and range of each."""
    return {
        name: {"model": v.model, "role": v.role, "tokens": v.tokens, "range": list(v.bounds)}
        for name, v in config.vectors.items()
    }


def _ratios(config: Config, weights: Weights) -> dict[str, Any]:
    if not config.search.over.weights:
        return {"ratios": None, "ratios_note": "The weights were not searched, so no data ratio follows from them."}

    data_vectors = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    try:
        return {"ratios": ratios_from_weights(weights, data_vectors), "ratios_note": None}
    except SearchError as error:
        # The merge is found all the same; that no mixture corresponds to it is a result, and is said.
        return {"ratios": None, "ratios_note": str(error)}


def _candidate(candidate: Candidate, objectives: Objectives, seed: int) -> dict[str, Any]:
    return {
        "trial": candidate.trial.number,
        "weights": candidate.trial.weights,
        "settings": candidate.trial.settings,
        "search": summarise(candidate.search, objectives=objectives, seed=seed),
        "select": summarise(candidate.select, objectives=objectives, seed=seed),
    }


def item_counts(bench: Bench) -> dict[str, Any]:
    """Numbers of items in the splits of each task, with the scheme that split them."""
    tasks = bench.live.suite.tasks
    counts = {
        name: {"search": len(t.search), "select": len(t.select), "test": len(t.test), "note": t.note}
        for name, t in tasks.items()
    }

    scheme = bench.config.evaluate.items.scheme if bench.config.evaluate else None
    return {"scheme": scheme, "overlap": any(t.overlap for t in tasks.values()), "tasks": counts}


def seconds_before(run: Path) -> dict[str, float]:
    """Seconds that a finished run in `run` spent on the stages whose measurements are kept and not made again."""
    path = run / BEST
    before = json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.is_file() else {}
    return {stage: float(before.get(stage, 0.0)) for stage in ("select", "test")}


def _seconds(
    bench: Bench, contest: Contest, trials: Sequence[Trial], chosen: Selection, *, before: Mapping[str, float]
) -> dict[str, Any]:
    """Wall seconds by stage, those of `before` included. What an interrupted session measured is not in them."""
    candidates_s = sum(sum(candidate.seconds.values()) for candidate in chosen.candidates)
    return {
        "prepare": bench.prepare_s,
        "search": by_phase([trial.seconds for trial in trials]),
        "select": before["select"] + contest.seconds.get("select", 0.0) + candidates_s,
        "test": before["test"] + contest.seconds.get("test", 0.0),
    }


def by_phase(seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums by phase."""
    phases = sorted({phase for entry in seconds for phase in entry})
    return {phase: sum(entry.get(phase, 0.0) for entry in seconds) for phase in phases}
