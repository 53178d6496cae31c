"""The winner and the baselines on the test items, each measured once and kept in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from aftermix import progress
from aftermix.config import Config, Split
from aftermix.files import write_json
from aftermix.jobs.search.baselines import PAPER_INSTRUCTION_WEIGHT as PAPER_WEIGHT
from aftermix.jobs.search.baselines import Baseline, fixed_baselines, instruction_scan, single_expert, tuned_expert
from aftermix.runs.trials import ItemScores, Measurement, checked_items, mean_scores
from aftermix.search.objective import Objectives
from aftermix.search.summary import compare, summarise

MeasureBaseline = Callable[[Baseline, Split], Measurement]


@dataclass
class Contest:
    """Measurements outside the search, by split and name; what is on disk is not measured again."""

    run: Path
    tasks: Sequence[str]
    objectives: Objectives
    measure: MeasureBaseline
    seconds: dict[str, float] = field(default_factory=dict)

    def items(self, baseline: Baseline, split: Split) -> ItemScores:
        """Item scores of `baseline` on `split`, measured now or read from `items/<split>/baselines/`."""
        path = self.run / "items" / split / "baselines" / f"{baseline.slug}.json"
        if path.exists():
            stored: ItemScores = json.loads(path.read_text(encoding="utf-8"))
            return checked_items(stored, tasks=self.tasks, where=str(path))

        measurement = self.measure(baseline, split)
        items = checked_items(measurement.items, tasks=self.tasks, where=f"baseline '{baseline.name}'")
        self.seconds[split] = self.seconds.get(split, 0.0) + sum(measurement.seconds.values())
        write_json(path, items)
        return items

    def value(self, baseline: Baseline, split: Split) -> float:
        """Mean of the objectives of `baseline` on `split`."""
        return fmean(self.objectives.values(mean_scores(self.items(baseline, split))))

    def best_of(self, candidates: Sequence[Baseline], split: Split) -> Baseline:
        """The candidate with the highest objective on `split`; ties go to the earlier one."""
        return max(candidates, key=lambda candidate: self.value(candidate, split))


def baseline_records(contest: Contest, config: Config, winner: ItemScores) -> list[dict[str, Any]]:
    """Every baseline on the test items, and the winner's paired difference from it. As `baselines` in `best.json`."""
    field_ = list(fixed_baselines(config)) + _tuned(contest, config)
    seed = config.search.seed

    records = []
    for baseline in progress.bar(field_, label="Baselines", unit="model"):
        items = contest.items(baseline, "test")
        records.append(
            {
                "name": baseline.name,
                "kind": baseline.kind,
                "method": baseline.method,
                "density": baseline.density,
                "weights": dict(baseline.weights),
                "test": summarise(items, objectives=contest.objectives, seed=seed),
                "difference": compare(winner, items, objectives=contest.objectives, seed=seed),
            }
        )
    return records


def scan_record(contest: Contest, config: Config) -> dict[str, Any] | None:
    """The instruction weight alone, on the select items: `scan` in `best.json`."""
    instruction = _instruction(config)
    if instruction is None:
        return None
    points = [
        {"weight": baseline.weights[instruction], "select": contest.value(baseline, "select")}
        for baseline in instruction_scan(instruction)
    ]
    return {"vector": instruction, "points": points}


def _tuned(contest: Contest, config: Config) -> list[Baseline]:
    """The best instruction weight with no expert, and with the best single expert; both chosen on select items."""
    instruction = _instruction(config)
    if instruction is None:
        return []

    experts = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    found = [_renamed(contest.best_of(instruction_scan(instruction), "select"), f"{instruction} at its best weight")]

    if experts:
        singles = [single_expert(expert, instruction, PAPER_WEIGHT) for expert in experts]
        best = experts[singles.index(contest.best_of(singles, "select"))]
        tuned = contest.best_of(tuned_expert(best, instruction), "select")
        found.append(_renamed(tuned, f"{best} + {instruction} at its best weight"))
    return found


def _renamed(baseline: Baseline, name: str) -> Baseline:
    # The weight stays in the name: another weight found after more trials is another file.
    weights = ", ".join(f"{vector} {weight:g}" for vector, weight in baseline.weights.items())
    return Baseline(f"{name} ({weights})", "instruction scan", dict(baseline.weights), baseline.method)


def _instruction(config: Config) -> str | None:
    return next((name for name, vector in config.vectors.items() if vector.role == "instruction"), None)
