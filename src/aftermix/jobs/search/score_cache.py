"""The winner and the baselines on the test items, each measured once and kept in the run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean

from aftermix import progress
from aftermix.config import Config, Split
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.parallel.tasks import MeasureTask
from aftermix.jobs.search.baselines import PAPER_INSTRUCTION_WEIGHT as PAPER_WEIGHT
from aftermix.jobs.search.baselines import (
    PROBE_WEIGHTS,
    BaselineMerge,
    build_expert_scan,
    build_instruction_scan,
    build_single_expert,
    build_single_scan,
    build_uniform_scan,
    list_fixed_baselines,
    list_single_weights,
)
from aftermix.runs.answers.blocks import discard_blocks, journal_blocks
from aftermix.runs.journal import read_items_file, write_items
from aftermix.runs.records import BaselineRecord, ScanPoint, ScanRecord
from aftermix.runs.trials import ItemMeasurement, ItemScores, average_scores, check_items
from aftermix.search.objective import ObjectiveSet
from aftermix.search.summary import compare, summarise
from aftermix.seeds import derived_seed


@dataclass(frozen=True)
class ScoreCache:
    """Cache of item scores on disk, by split and name: of what is measured outside the search, each once."""

    run: Path
    tasks: Sequence[str]
    seconds: dict[str, float] = field(default_factory=dict)
    """By split, what was spent on measuring now."""

    def scores(self, name: str, split: Split, measure: Callable[[Split], ItemMeasurement]) -> ItemScores:
        """Item scores of what `name` stands for on `split`: as they are kept, else as `measure` finds them now."""
        path = self.locate(name, split)
        if path.exists():
            discard_blocks(path)
            return check_items(read_items_file(path), tasks=self.tasks, where=str(path))

        with journal_blocks(path, name):
            measurement = measure(split)
        items = check_items(measurement.items, tasks=self.tasks, where=f"baseline '{name}'")
        self.seconds[split] = self.seconds.get(split, 0.0) + sum(measurement.seconds.values())
        write_items(path, items, answers=measurement.answers)
        discard_blocks(path)
        return items

    def announce_scores(self, name: str, split: Split, announce: Callable[[Split], object]) -> None:
        """Let `announce` tell that :meth:`scores` is soon asked for, unless they are there."""
        path = self.locate(name, split)
        if not path.exists():
            with journal_blocks(path, name):
                announce(split)

    def locate(self, name: str, split: Split) -> Path:
        """The file of the item scores of what `name` stands for."""
        return self.run / "items" / split / "baselines" / f"{_build_slug(name)}.json"


def _build_slug(name: str) -> str:
    """`name` as a file name; the seed at its end keeps `a_b` and `a-b` apart."""
    cleaned = "".join(character if character.isalnum() else "-" for character in name.lower())
    return "-".join([*(part for part in cleaned.split("-") if part), f"{derived_seed(0, name):016x}"[-8:]])


@dataclass(frozen=True)
class BaselineScorer:
    """Scorer of the baselines of a search, each measured once under its own method."""

    evaluator: MergeEvaluator
    score_cache: ScoreCache
    objectives: ObjectiveSet

    def measure_items(self, baseline: BaselineMerge, split: Split) -> ItemScores:
        """Item scores of `baseline` on `split`, measured now or kept from before."""
        return self.score_cache.scores(baseline.name, split, partial(self.evaluator.evaluate_baseline, baseline))

    def announce_all(self, baselines: Iterable[BaselineMerge], split: Split) -> None:
        """Tell that all of `baselines` are soon measured on `split`."""
        for baseline in baselines:
            task = MeasureTask.of_baseline(baseline)
            self.score_cache.announce_scores(baseline.name, split, partial(self.evaluator.announce, task))

    def measure_objective(self, baseline: BaselineMerge, split: Split) -> float:
        """Mean of the objectives of `baseline` on `split`."""
        return fmean(self.objectives.values(average_scores(self.measure_items(baseline, split))))

    def choose_best(self, candidates: Sequence[BaselineMerge], split: Split) -> BaselineMerge:
        """The candidate with the highest objective on `split`; ties go to the earlier one."""
        self.announce_all(candidates, split)
        return max(candidates, key=lambda candidate: self.measure_objective(candidate, split))


def build_baseline_records(scorer: BaselineScorer, config: Config, winner: ItemScores) -> tuple[BaselineRecord, ...]:
    """Every baseline on the test items, and the winner's paired difference from it. As `baselines` in `best.json`."""
    baselines = list(list_fixed_baselines(config)) + _tune_baselines(scorer, config)
    seed = config.search.seed
    scorer.announce_all(baselines, "test")

    records = []
    for baseline in progress.bar(baselines, label="Baselines", unit="model"):
        items = scorer.measure_items(baseline, "test")
        records.append(
            BaselineRecord(
                name=baseline.name,
                kind=baseline.kind,
                method=baseline.method,
                density=baseline.density,
                weights=dict(baseline.weights),
                test=summarise(items, objectives=scorer.objectives, seed=seed),
                difference=compare(winner, items, objectives=scorer.objectives, seed=seed),
            )
        )
    return tuple(records)


def build_scan_record(scorer: BaselineScorer, config: Config) -> ScanRecord | None:
    """The instruction weight alone, on the select items: `scan` in `best.json`."""
    instruction = _find_instruction(config)
    if instruction is None:
        return None
    scorer.announce_all(build_instruction_scan(instruction), "select")
    points = tuple(
        ScanPoint(weight=baseline.weights[instruction], select=scorer.measure_objective(baseline, "select"))
        for baseline in build_instruction_scan(instruction)
    )
    return ScanRecord(vector=instruction, points=points)


def _tune_baselines(scorer: BaselineScorer, config: Config) -> list[BaselineMerge]:
    """The baselines of one tuned number, each chosen on select items; no merge twice."""
    tuned = tune_instruction(scorer, config)
    single = tune_single(scorer, config)
    if single.name not in {baseline.name for baseline in tuned}:
        tuned.append(single)
    return [*tuned, tune_uniform(scorer, config)]


def tune_instruction(scorer: BaselineScorer, config: Config) -> list[BaselineMerge]:
    """The best instruction weight with no expert, and with the best single expert."""
    instruction = _find_instruction(config)
    if instruction is None:
        return []

    experts = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    alone = scorer.choose_best(build_instruction_scan(instruction), "select")
    baselines = [_name_tuned(alone, f"{instruction} at its best weight")]

    if experts:
        singles = [build_single_expert(expert, instruction, PAPER_WEIGHT) for expert in experts]
        best = experts[singles.index(scorer.choose_best(singles, "select"))]
        tuned = replace(scorer.choose_best(build_expert_scan(best, instruction), "select"), kind="instruction scan")
        baselines.append(_name_tuned(tuned, f"{best} + {instruction} at its best weight"))
    return baselines


def tune_single(scorer: BaselineScorer, config: Config) -> BaselineMerge:
    """The best single vector at its best weight: every vector at two weights, then the best one at all of the scan."""
    probes = [probe for name in config.vectors for probe in build_single_scan(name, PROBE_WEIGHTS)]
    (best,) = scorer.choose_best(probes, "select").weights

    weights = list_single_weights(config.vectors[best].bounds[1])
    tuned = scorer.choose_best(build_single_scan(best, weights), "select")
    return _name_tuned(tuned, f"{best} at its best weight")


def tune_uniform(scorer: BaselineScorer, config: Config) -> BaselineMerge:
    """All vectors at one weight each, at the best scale."""
    tuned = scorer.choose_best(build_uniform_scan(config.vectors), "select")
    each = next(iter(tuned.weights.values()))
    return replace(tuned, name=f"uniform Task Arithmetic at its best scale (each {each:g})")


def _name_tuned(baseline: BaselineMerge, name: str) -> BaselineMerge:
    # The weight stays in the name: another weight found after more trials is another file.
    weights = ", ".join(f"{vector} {weight:g}" for vector, weight in baseline.weights.items())
    return replace(baseline, name=f"{name} ({weights})")


def _find_instruction(config: Config) -> str | None:
    return next((name for name, vector in config.vectors.items() if vector.role == "instruction"), None)
