"""Orders of a mixture's ratios: to first order, merge weights are data ratios only of experts that were trained alike.

A merge moves the base by `sum_k w_k v_k`, and to first order `v_k = h_k S_k g_k`: the mean rate of expert k, its steps,
and the mean direction of a step on its data. A training on a mixture moves the base by `h S sum_k r_k g_k`. The same
move has the ratios

    r_k = w_k h_k S_k / sum_j w_j h_j S_j,

the weights themselves where all experts have one `h_k S_k`. Steps are tokens at one batch size. Source: MergeMix,
section 3.3 and its protocol in 3.1, whose experts are alike. The second order is that of
:mod:`aftermix.jobs.analysis.second_order`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from aftermix.checkpoints.alignment.recorded_base import TRAINING_FILE
from aftermix.checkpoints.safe_files import read_json
from aftermix.config import Config
from aftermix.errors import Problem
from aftermix.jobs.analysis.second_order import measure_second_order, open_second_order_texts
from aftermix.jobs.verify.expert_training import ExpertTraining
from aftermix.runs.mixture_records import FirstOrderRecord, SecondOrderRecord
from aftermix.training.schedules import SCHEDULES, compute_mean_factor

LEVEL = 1.02
"""Largest ratio of two experts' `h_k S_k` that counts as alike: whole batches never come out even."""
REMEDY = "Train experts alike (one rate, schedule, optimizer and number of steps)"


@dataclass(frozen=True)
class ExpertPace:
    """Length and rate of one expert's training."""

    training: ExpertTraining
    steps: int
    tokens: int
    kind: str
    """Optimizer, and whether it moved all weights or an adapter."""

    @classmethod
    def read(cls, file: Path) -> ExpertPace | None:
        """The pace that a `train.json` tells; None where it tells none that is known."""
        record = read_json(file, remedy="Restore it, or remove it.")
        recipe, steps, tokens = record.get("recipe"), record.get("steps"), record.get("tokens")
        if not isinstance(recipe, dict) or not isinstance(steps, int) or not isinstance(tokens, int) or steps < 1:
            return None
        training = ExpertTraining.from_values(recipe)
        if training.schedule not in SCHEDULES or training.learning_rate <= 0:
            return None
        return cls(training, steps, tokens, _describe_kind(recipe))

    @property
    def distance(self) -> float:
        """`h S`: mean rate times steps."""
        changes = self.training.changes
        factor = compute_mean_factor(
            self.training.schedule,
            steps=self.steps,
            warmup_steps=int(str(changes["warmup_steps"])),
            min_lr_rate=float(str(changes.get("min_lr_rate", 0.0))),
            decay_share=float(str(changes["decay_share"])),
            decay_shape=str(changes["decay_shape"]),
        )
        return self.training.learning_rate * factor * self.steps

    def __str__(self) -> str:
        return f"{self.training}, {self.steps:,} steps, {self.tokens:,} tokens"


def read_paces(config: Config, experts: Sequence[str]) -> dict[str, ExpertPace | None]:
    """Expert -> pace by its `train.json`; None where there is none."""
    files = {name: Path(str(config.vectors[name].model)) / TRAINING_FILE for name in experts}
    return {name: ExpertPace.read(file) if file.is_file() else None for name, file in files.items()}


def build_first_order(paces: Mapping[str, ExpertPace | None], ratios: Mapping[str, float]) -> FirstOrderRecord | None:
    """Ratios corrected to first order, with the reason; None where experts were trained alike.

    Where a training is not known, or experts differ in what no rate corrects, there is a reason and no ratios.
    """
    unknown = [name for name, pace in paces.items() if pace is None]
    known = {name: pace for name, pace in paces.items() if pace is not None}
    if unknown:
        found = f"nothing is known of how {', '.join(unknown)} {'was' if len(unknown) == 1 else 'were'} trained"
        return FirstOrderRecord(note=found, ratios=None)

    kinds = {pace.kind for pace in known.values()}
    if len(kinds) > 1:
        told = "; ".join(f"{name}: {pace.kind}" for name, pace in known.items())
        return FirstOrderRecord(note=f"experts were trained in unlike ways ({told})", ratios=None)

    distances = {name: pace.distance for name, pace in known.items()}
    if max(distances.values()) <= LEVEL * min(distances.values()):
        return None
    told = "; ".join(f"{name}: {pace}" for name, pace in known.items())
    moved = {name: ratio * distances[name] for name, ratio in ratios.items()}
    total = sum(moved.values())
    return FirstOrderRecord(
        note=f"experts were not trained alike ({told})",
        ratios={name: value / total for name, value in moved.items()} if total > 0 else None,
    )


def build_orders(config: Config, ratios: Mapping[str, float]) -> dict[str, FirstOrderRecord | SecondOrderRecord | None]:
    """The keys of `best.json` on the `ratios` of all experts; the second order where the file asks for it."""
    first = build_first_order(read_paces(config, list(ratios)), ratios)
    if config.mixture is None or not config.mixture.second_order:
        return {"first_order": first}
    return {"first_order": first, "second_order": measure_second_order(open_second_order_texts(config), ratios)}


def note_unlike_trainings(config: Config) -> Problem | None:
    """Warning of a mixture whose experts were not trained alike, or not known to be; None where they were."""
    experts = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    found = build_first_order(read_paces(config, experts), dict.fromkeys(experts, 1 / max(1, len(experts))))
    if found is None:
        return None
    if found.ratios is None:
        return Problem(
            "mixture", f"{found.note}, and shares of a merge are data ratios of alike experts only", f"{REMEDY}."
        )
    text = f"{found.note}, so that shares of a merge are no data ratios as they stand"
    return Problem("mixture", text, f"{REMEDY}, or take the ratios of first order that stand beside the plain ones.")


def _describe_kind(recipe: Mapping[str, JsonValue]) -> str:
    optimizer = recipe.get("optimizer")
    name = str(optimizer.get("name")) if isinstance(optimizer, dict) else "adamw"
    return f"{name}, {'an adapter' if recipe.get('lora') else 'all weights'}"
