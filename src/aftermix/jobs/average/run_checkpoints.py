"""Checkpoints of one training run: those of `aftermix train`, and those of transformers' Trainer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from aftermix.checkpoints.alignment.recorded_base import TRAINING_FILE
from aftermix.checkpoints.formats.distributed.metadata import METADATA, is_distributed
from aftermix.checkpoints.safe_files import holds_file, read_json
from aftermix.errors import TrainingError
from aftermix.training.resuming import describe_differences

STATE_FILE = "trainer_state.json"
"""Beside every checkpoint of transformers' Trainer, and so of what is built on it (TRL, axolotl, LLaMA-Factory)."""
STEP = re.compile(r"(?:^|[-_])(?:step|steps|iter|checkpoint|global_step)[-_]?0*(\d+)$")
"""End of the name of a folder that a trainer names by its step: `step-1000`, `iter_0000100`."""
WEIGHTS = ("*.safetensors", "*.bin")
RATE_TOLERANCE = 1e-6
"""Rates of a log that differ by less, as a share, are one rate."""


@dataclass(frozen=True)
class RunCheckpoint:
    """One checkpoint of a run."""

    folder: Path
    place: int
    """Tokens seen, or steps taken where nobody counted tokens."""
    unit: Literal["tokens", "steps"]
    recipe: dict[str, Any] | None = None
    """Of `aftermix train`."""
    log: tuple[str, ...] = ()
    """The Trainer's log until then, each line as JSON."""
    rates: tuple[float | None, ...] = ()
    """The learning rate of each line of the log."""
    score: float | None = None
    """Objective on the select items, where it was measured."""
    weight: float = 1.0

    @property
    def name(self) -> str:
        """Its name as a vector of the recipe."""
        return f"{self.unit}-{self.place:012d}"

    def describe_rate(self, *, since: RunCheckpoint) -> str | None:
        """The schedule of the rate between `since` and this later checkpoint: `constant`, or other words.

        None where nothing tells it: a Trainer without a log.
        """
        if self.recipe is not None:
            schedule = self.recipe.get("schedule")
            return schedule if schedule == "constant" else f"'{schedule}'"

        rates = [rate for rate in self.rates[len(since.log) :] if rate is not None]
        if not rates:
            return None
        low, high = min(rates), max(rates)
        return "constant" if high - low <= RATE_TOLERANCE * high else f"between {low:.3g} and {high:.3g}"


def find_checkpoints(places: Sequence[Path]) -> list[RunCheckpoint]:
    """The checkpoints in `places` in the order of the run; one that is there twice (the last and the end) counts once.

    Raises :class:`TrainingError` when there are fewer than two, or they are of several runs.
    """
    checkpoints = [_read_checkpoint(folder) for place in places for folder in _find_model_folders(place)]
    if any(checkpoint.unit == "steps" for checkpoint in checkpoints):
        checkpoints = [_read_checkpoint(checkpoint.folder, by_steps=True) for checkpoint in checkpoints]
    checkpoints.sort(key=lambda checkpoint: checkpoint.place)

    for earlier, checkpoint in pairwise(checkpoints):
        different = _explain_other_run(earlier, checkpoint)
        if different:
            found = f"is of another run than {earlier.folder} ({different})"
            raise TrainingError(
                str(checkpoint.folder), found, "Average checkpoints of one run; `merge` takes any models."
            )

    # Compared before: the same number of tokens of another run is no repetition.
    distinct = list({checkpoint.place: checkpoint for checkpoint in reversed(checkpoints)}.values())[::-1]
    if len(distinct) < 2:
        found = f"expected at least two checkpoints, found {len(distinct)}"
        raise TrainingError(str(places[0]), found, "Train with `checkpoint_tokens`, and name NAME-checkpoints.")
    return distinct


def _find_model_folders(place: Path) -> list[Path]:
    """`place` itself if `train` wrote it, else the checkpoints in it, and the end that a Trainer saved there."""
    if (place / TRAINING_FILE).is_file():
        return [place]

    if is_distributed(place):
        return [place]
    below = {path.parent for name in (TRAINING_FILE, STATE_FILE) for path in place.glob(f"*/{name}")}
    below |= {path for path in place.iterdir() if STEP.search(path.name) and is_distributed(path)}
    folders = sorted(folder for folder in below if not folder.name.startswith("."))
    if (place / STATE_FILE).is_file() and any(path for pattern in WEIGHTS for path in place.glob(pattern)):
        folders.append(place)
    if not folders:
        found = f"holds no checkpoint (no {TRAINING_FILE}, {STATE_FILE} or {METADATA} in it or one level below)"
        remedy = (
            "Name NAME-checkpoints of a run with `checkpoint_tokens`, the output folder of a Trainer, or their folders."
        )
        raise TrainingError(str(place), found, remedy)
    return folders


def _read_checkpoint(folder: Path, *, by_steps: bool = False) -> RunCheckpoint:
    """The checkpoint in `folder`; a Trainer's by tokens where it counted them, unless `by_steps`."""
    if (folder / TRAINING_FILE).is_file():
        record = read_json(folder / TRAINING_FILE, remedy="Name folders that `aftermix train` wrote.")
        return RunCheckpoint(folder.absolute(), int(record["tokens"]), "tokens", recipe=record["recipe"])

    if not holds_file(folder / STATE_FILE):
        step = STEP.search(folder.name)
        if step is None:
            found = f"has no {STATE_FILE}, and its name does not end with its step, as step-1000 or iter_0000100 do"
            raise TrainingError(str(folder), found, "Rename it.")
        return RunCheckpoint(folder.absolute(), int(step[1]), "steps")

    state = read_json(folder / STATE_FILE, remedy="Name folders that a Trainer wrote.")
    tokens, steps = state.get("num_input_tokens_seen") or 0, state.get("global_step")
    if not isinstance(steps, int):
        raise TrainingError(str(folder / STATE_FILE), "has no `global_step`", "Name folders that a Trainer wrote.")
    lines = [line for line in state.get("log_history") or () if "train_runtime" not in line]  # the end's summary
    log = tuple(json.dumps(line, sort_keys=True) for line in lines)
    rates = tuple(line.get("learning_rate") for line in lines)
    if tokens and not by_steps:
        return RunCheckpoint(folder.absolute(), int(tokens), "tokens", log=log, rates=rates)
    return RunCheckpoint(folder.absolute(), steps, "steps", log=log, rates=rates)


def _explain_other_run(earlier: RunCheckpoint, later: RunCheckpoint) -> str | None:
    """The sign that two checkpoints are of unlike runs: other recipes, or logs that part."""
    if (earlier.recipe is None) != (later.recipe is None):
        return "one has a train.json, one has not"
    if earlier.recipe is not None and later.recipe is not None:
        return "; ".join(describe_differences(earlier.recipe, later.recipe)[:3]) or None

    for mine, theirs in zip(earlier.log, later.log, strict=False):
        if mine != theirs:
            return f"their logs part at step {json.loads(mine).get('step')}"
    if len(earlier.log) > len(later.log):
        return "its log is the shorter one"
    return None
