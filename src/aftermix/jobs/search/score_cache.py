"""The winner and the baselines on the test items, each measured once and kept in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from aftermix import progress
from aftermix.config import Config, Split
from aftermix.files import write_json
from aftermix.jobs.search.baselines import PAPER_INSTRUCTION_WEIGHT as PAPER_WEIGHT
from aftermix.jobs.search.baselines import (
    BaselineMerge,
    build_expert_scan,
    build_instruction_scan,
    build_single_expert,
    list_fixed_baselines,
)
from aftermix.runs.records import BaselineRecord, ScanPoint, ScanRecord
from aftermix.runs.trials import ItemMeasurement, ItemScores, average_scores, check_items
from aftermix.search.objective import ObjectiveSet
from aftermix.search.summary import compare, summarise

MeasureBaseline = Callable[[BaselineMerge, Split], ItemMeasurement]


@dataclass
class ScoreCache:
    """Measurements outside the search, by split and name; what is on disk is not measured again."""

    run: Path
    tasks: Sequence[str]
    objectives: ObjectiveSet
    measure: MeasureBaseline
    seconds: dict[str, float] = field(default_factory=dict)

    def measure_items(self, baseline: BaselineMerge, split: Split) -> ItemScores:
        """Item scores of `baseline` on `split`, measured now or read from `items/<split>/baselines/`."""
        path = self.run / "items" / split / "baselines" / f"{baseline.slug}.json"
        if path.exists():
            stored: ItemScores = json.loads(path.read_text(encoding="utf-8"))
            return check_items(stored, tasks=self.tasks, where=str(path))

        measurement = self.measure(baseline, split)
        items = check_items(measurement.items, tasks=self.tasks, where=f"baseline '{baseline.name}'")
        self.seconds[split] = self.seconds.get(split, 0.0) + sum(measurement.seconds.values())
        write_json(path, items)
        return items

    def measure_objective(self, baseline: BaselineMerge, split: Split) -> float:
        """Mean of the objectives of `baseline` on `split`."""
        return fmean(self.objectives.values(average_scores(self.measure_items(baseline, split))))

    def choose_best(self, candidates: Sequence[BaselineMerge], split: Split) -> BaselineMerge:
        """The candidate with the highest objective on `split`; ties go to the earlier one."""
        return max(candidates, key=lambda candidate: self.measure_objective(candidate, split))


def build_baseline_records(score_cache: ScoreCache, config: Config, winner: ItemScores) -> tuple[BaselineRecord, ...]:
    """Every baseline on the test items, and the winner's paired difference from it. As `baselines` in `best.json`."""
    baselines = list(list_fixed_baselines(config)) + _tune_baselines(score_cache, config)
    seed = config.search.seed

    records = []
    for baseline in progress.bar(baselines, label="Baselines", unit="model"):
        items = score_cache.measure_items(baseline, "test")
        records.append(
            BaselineRecord(
                name=baseline.name,
                kind=baseline.kind,
                method=baseline.method,
                density=baseline.density,
                weights=dict(baseline.weights),
                test=summarise(items, objectives=score_cache.objectives, seed=seed),
                difference=compare(winner, items, objectives=score_cache.objectives, seed=seed),
            )
        )
    return tuple(records)


def build_scan_record(score_cache: ScoreCache, config: Config) -> ScanRecord | None:
    """The instruction weight alone, on the select items: `scan` in `best.json`."""
    instruction = _find_instruction(config)
    if instruction is None:
        return None
    points = tuple(
        ScanPoint(weight=baseline.weights[instruction], select=score_cache.measure_objective(baseline, "select"))
        for baseline in build_instruction_scan(instruction)
    )
    return ScanRecord(vector=instruction, points=points)


def _tune_baselines(score_cache: ScoreCache, config: Config) -> list[BaselineMerge]:
    """The best instruction weight with no expert, and with the best single expert; both chosen on select items."""
    instruction = _find_instruction(config)
    if instruction is None:
        return []

    experts = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    baselines = [
        _rename_baseline(
            score_cache.choose_best(build_instruction_scan(instruction), "select"), f"{instruction} at its best weight"
        )
    ]

    if experts:
        singles = [build_single_expert(expert, instruction, PAPER_WEIGHT) for expert in experts]
        best = experts[singles.index(score_cache.choose_best(singles, "select"))]
        tuned = score_cache.choose_best(build_expert_scan(best, instruction), "select")
        baselines.append(_rename_baseline(tuned, f"{best} + {instruction} at its best weight"))
    return baselines


def _rename_baseline(baseline: BaselineMerge, name: str) -> BaselineMerge:
    # The weight stays in the name: another weight found after more trials is another file.
    weights = ", ".join(f"{vector} {weight:g}" for vector, weight in baseline.weights.items())
    return BaselineMerge(f"{name} ({weights})", "instruction scan", dict(baseline.weights), baseline.method)


def _find_instruction(config: Config) -> str | None:
    return next((name for name, vector in config.vectors.items() if vector.role == "instruction"), None)
