"""`aftermix search`: from one YAML to the best measured merge, its ratios, a model that serves and a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, Split, require
from aftermix.errors import SearchError
from aftermix.evaluation.harness import TaskSuite
from aftermix.files import write_json
from aftermix.jobs import run_folder
from aftermix.jobs.baselines import Baseline
from aftermix.jobs.contest import Contest, baseline_records, phase_totals, scan_record
from aftermix.jobs.live import LiveScorer, split_record
from aftermix.jobs.merge import refuse_output, write_model
from aftermix.jobs.provenance import recipe_yaml
from aftermix.merging.merge import Merger, Recipe, merged_tensors
from aftermix.merging.prepared import PreparedVectors, prepare_vectors
from aftermix.mixture.ratios import ratios_from_weights
from aftermix.report.page import write_report
from aftermix.search.journal import read_trials
from aftermix.search.objective import Objectives
from aftermix.search.records import ItemScores, Measurement, Trial, Weights
from aftermix.search.selection import Selection, choose_winner
from aftermix.search.space import Space
from aftermix.search.study import run_study
from aftermix.search.summary import summarise
from aftermix.search.warm_start import ImportedTrial, import_trials


@dataclass(frozen=True)
class Bench:
    """Everything a search measures with: prepared vectors and a living model."""

    config: Config
    prepared: PreparedVectors
    live: LiveScorer
    prepare_s: float

    @property
    def tasks(self) -> list[str]:
        """Evaluated tasks, in the file's order."""
        return list(self.live.suite.tasks)

    def measure(self, weights: Weights, split: Split) -> Measurement:
        """Score the merge at `weights` on one split."""
        return self.live.measure(self.prepared.merged(weights), split, unchanged=self.prepared.unchanged)

    def measure_baseline(self, baseline: Baseline, split: Split) -> Measurement:
        """Score a composition under its own method, every tensor given: it may differ where the search does not."""
        pool = self.prepared.merger.pool
        recipe = Recipe.of(baseline.merge_config(self.config.merge), for_search=True)
        merger = Merger.of(pool, recipe, vectors=tuple(baseline.weights))
        return self.live.measure(merged_tensors(merger, baseline.weights), split)


def search(config: Config, run: Path, *, resume: bool = False, source: Path | None = None) -> Path:
    """Search merge weights for `config` in the run folder `run`, and return it.

    Everything is checked before the folder is made: configuration, checkpoints and their values, tasks, items,
    objective. `resume` goes on with an unfinished (or longer) run; `source` names an earlier run over the same vectors
    whose trials are re-scored under this file's objective at no model cost and start the search.
    Raises :class:`AftermixError`.
    """
    require(config, "base", "vectors", "evaluate")
    assert config.evaluate is not None  # noqa: S101 - required above; for the type checker
    recipe = Recipe.of(config.merge, for_search=True)
    space = Space.of(config.vectors)
    pool = open_pool(config)
    if not resume:
        refuse_output(run, pool)
    suite = TaskSuite.build(config.evaluate)
    objectives = Objectives.build(config.search.objective, tasks=list(suite.tasks))
    split = split_record(suite)
    if resume:
        run_folder.refuse_different(run, config=config, pool=pool, split=split)
        # A run that was killed before its imported trials were written must import them again.
        source = None if read_trials(run) else run_folder.remembered_source(run)
    imported: Sequence[ImportedTrial] = ()
    if source is not None:
        run_folder.refuse_other_vectors(source, config=config, pool=pool, split=split)
        imported = import_trials(source, space=space, tasks=list(suite.tasks), objectives=objectives)
    started = perf_counter()
    prepared = prepare_vectors(Merger.of(pool, recipe))
    prepare_s = perf_counter() - started
    bench = Bench(config, prepared, LiveScorer.open(pool, config.evaluate, suite), prepare_s)
    if resume:
        run_folder.write_config(run, config)
    else:
        run_folder.begin_run(run, config=config, pool=pool, split=split, source=source)
    _run(bench, run, space=space, objectives=objectives, imported=imported)
    return run


def _run(bench: Bench, run: Path, *, space: Space, objectives: Objectives, imported: Sequence[ImportedTrial]) -> None:
    settings = bench.config.search
    trials = run_study(run, space=space, config=settings, tasks=bench.tasks, measure=bench.measure, imported=imported)
    chosen = choose_winner(run, trials=trials, config=settings, tasks=bench.tasks, measure=bench.measure)
    best = _best(bench, run, trials=trials, chosen=chosen, objectives=objectives)
    weights = chosen.winner.trial.weights
    recipe = bench.prepared.merger.recipe
    if not run_folder.clear_model(run, recipe_yaml(bench.config, recipe, weights)):
        write_model(
            bench.prepared.merger, weights, config=bench.config, output=run / run_folder.MODEL, test=best["test"]
        )
    write_json(run / run_folder.BEST, best)
    write_report(run)


def _best(
    bench: Bench, run: Path, *, trials: Sequence[Trial], chosen: Selection, objectives: Objectives
) -> dict[str, Any]:
    """Measure winner and baselines on the test items; the content of `best.json`."""
    config, seed = bench.config, bench.config.search.seed
    contest = Contest(run, bench.tasks, objectives, bench.measure_baseline)
    winner = chosen.winner
    test = _winner_on_test(bench, contest, winner.trial)
    recipe = bench.prepared.merger.recipe
    record = {
        "winner": {
            "trial": winner.trial.number,
            "method": recipe.method.name,
            "options": recipe.method.options | {"lambda": recipe.scale, "seed": recipe.seed},
            "exclude": list(recipe.exclude),
        },
        "weights": winner.trial.weights,
        **_ratios(config, winner.trial.weights),
        "vectors": {
            name: {"model": v.model, "role": v.role, "tokens": v.tokens, "range": list(v.bounds)}
            for name, v in config.vectors.items()
        },
        "objective": objectives.as_json(),
        "search": summarise(winner.search, objectives=objectives, seed=seed),
        "select": summarise(winner.select, objectives=objectives, seed=seed),
        "test": summarise(test, objectives=objectives, seed=seed),
        "floors_met": chosen.floors_met,
        "candidates": [
            {
                "trial": candidate.trial.number,
                "weights": candidate.trial.weights,
                "search": summarise(candidate.search, objectives=objectives, seed=seed),
                "select": summarise(candidate.select, objectives=objectives, seed=seed),
            }
            for candidate in chosen.candidates
        ],
        "front": list(chosen.front) if chosen.front is not None else None,
        "baselines": baseline_records(contest, config, test) if config.search.baselines else [],
        "scan": scan_record(contest, config) if config.search.baselines else None,
        "items": _item_counts(bench),
    }
    select_s = contest.seconds.get("select", 0.0) + sum(sum(c.seconds.values()) for c in chosen.candidates)
    record["seconds"] = {
        "prepare": bench.prepare_s,
        "search": phase_totals([trial.seconds for trial in trials]),
        "select": select_s,
        "test": contest.seconds.get("test", 0.0),
    }
    return record


def _winner_on_test(bench: Bench, contest: Contest, trial: Trial) -> ItemScores:
    """The winner is measured like a baseline, under its trial's number."""
    measured = Contest(
        contest.run, contest.tasks, contest.objectives, lambda entry, split: bench.measure(dict(entry.weights), split)
    )
    items = measured.items(Baseline(f"winner trial {trial.number}", "winner", trial.weights), "test")
    contest.seconds["test"] = contest.seconds.get("test", 0.0) + measured.seconds.get("test", 0.0)
    return items


def _ratios(config: Config, weights: Weights) -> dict[str, Any]:
    data_vectors = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    try:
        return {"ratios": ratios_from_weights(weights, data_vectors), "ratios_note": None}
    except SearchError as error:
        # The merge is found all the same; that no mixture corresponds to it is a result, and is said.
        return {"ratios": None, "ratios_note": str(error)}


def _item_counts(bench: Bench) -> dict[str, Any]:
    tasks = bench.live.suite.tasks
    counts = {
        name: {"search": len(t.search), "select": len(t.select), "test": len(t.test), "note": t.note}
        for name, t in tasks.items()
    }
    assert bench.config.evaluate is not None  # noqa: S101 - a bench exists only with an evaluation
    scheme = bench.config.evaluate.items.scheme
    return {"scheme": scheme, "overlap": any(t.overlap for t in tasks.values()), "tasks": counts}
