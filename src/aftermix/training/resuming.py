"""Resume points: all that a run needs to go on as if it had never stopped, in a hidden folder beside its output.

A point is the Trainer's own (weights in float32, optimizer, schedule, random states) with a file `point.json` of ours,
written last: a point without it was cut off by a kill, and is removed. The folder goes when the expert is written.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aftermix.errors import RunFailedError, TrainingError
from aftermix.files import describe_write_fault, write_json
from aftermix.training.distributed.processes import count_processes, read_process_index, wait_for_all
from aftermix.training.held_out.curve import HeldOutPoint

POINT = "point.json"
OF_UNNAMED_RULES = {"labels": 1, "held_out": 0.0}
"""Values in recipes that do not name them: they were written before there was another."""
PREFIX = "checkpoint-"
"""Prefix of the Trainer's names of its points; the step follows."""


@dataclass(frozen=True)
class TrainingProgress:
    """Step, losses and seconds that an interrupted run had come to."""

    folder: Path
    step: int
    losses: list[float]
    seconds: float
    threads: int | None
    """CPU threads that it began with; None in points of earlier versions."""
    vector: str
    """`train.vector` when it began; `none` in points of earlier versions, which wrote no vector."""
    held_out: tuple[HeldOutPoint, ...] = ()
    """Losses on held-out documents so far."""
    noise: Mapping[str, Any] | None = None
    """The scale of merge-aware noise that was found when it began."""


@dataclass(frozen=True)
class StepsDone:
    """Part of a run that is written down with its weights."""

    losses: list[float]
    """Of each step."""
    seconds: float
    threads: int
    held_out: list[HeldOutPoint]


@dataclass(frozen=True)
class ResumePoints:
    """The resume points of one run."""

    folder: Path
    every_steps: int
    """A point after so many steps; 0 writes none."""
    recipe: Mapping[str, Any]
    """All that decides the weights, as plain values: only a run of the same recipe goes on."""
    vector: str = "none"
    """`train.vector` of the run, written down in each point."""
    noise: Mapping[str, Any] | None = None
    """The scale of merge-aware noise that was found, written down in each point."""

    def find_latest(self) -> TrainingProgress | None:
        """The last whole point; None where there is none.

        Raises :class:`TrainingError` when it is of another recipe or number of processes.
        """
        points = list(self._find_points())
        if not points:
            return None

        step, folder = max(points)
        point = json.loads((folder / POINT).read_text(encoding="utf-8"))
        self._refuse_foreign(point)
        threads, vector = point.get("threads"), point.get("vector", "none")
        held_out = tuple(HeldOutPoint(**measured) for measured in point.get("held_out", ()))
        losses, seconds, noise = point["losses"], point["seconds"], point.get("noise")
        return TrainingProgress(folder, step, losses, seconds, threads, vector, held_out, noise)

    def finish(self, step: int, done: StepsDone) -> None:
        """Make the Trainer's point at `step` ours: force it to disk, mark it, and remove the ones before it."""
        wait_for_all()
        if read_process_index() == 0:
            folder = self.folder / f"{PREFIX}{step}"
            for file in folder.rglob("*"):
                if file.is_file():
                    _force_to_disk(file)

            # Only now: the mark says that all else is on disk.
            content = {
                "losses": done.losses,
                "seconds": done.seconds,
                "threads": done.threads,
                "processes": count_processes(),
                "recipe": dict(self.recipe),
                "vector": self.vector,
                **({"held_out": [asdict(point) for point in done.held_out]} if done.held_out else {}),
                **({"noise": dict(self.noise)} if self.noise is not None else {}),
            }
            write_json(folder / POINT, content)

            # And only then may the earlier points go.
            for other in self.folder.glob(f"{PREFIX}*"):
                if other != folder:
                    shutil.rmtree(other)

    def give_up(self, step: int, error: Exception) -> RunFailedError:
        """The error of a point that cannot be written: what there is of it goes, and the points before it stay."""
        cause = describe_write_fault(error, self.folder)
        self.remove_unfinished()
        earlier = max(self._find_points(), default=None)
        kept = f"the run goes on after step {earlier[0]}" if earlier else "no earlier point is there"
        found = f"the resume point of step {step} cannot be written ({cause})"
        return RunFailedError(str(self.folder), found, f"Free space and give the same command again; {kept}.")

    def remove_unfinished(self) -> None:
        """Remove points that a kill or a full disk cut off."""
        if read_process_index() == 0:
            for folder in self.folder.glob(f"{PREFIX}*"):
                if not (folder / POINT).is_file():
                    shutil.rmtree(folder)

    def remove(self) -> None:
        """Remove all points: the run is finished."""
        if read_process_index() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _find_points(self) -> Iterator[tuple[int, Path]]:
        for folder in self.folder.glob(f"{PREFIX}*"):
            step = folder.name.removeprefix(PREFIX)
            if step.isdecimal() and (folder / POINT).is_file():
                yield int(step), folder

    def _refuse_foreign(self, point: dict[str, Any]) -> None:
        different = describe_differences(point["recipe"], self.recipe)
        if point["processes"] != count_processes():
            different.append(f"{point['processes']} processes there, {count_processes()} here")

        if different:
            found = f"holds an unfinished run of another recipe ({'; '.join(different[:3])})"
            remedy = "Name another output folder, take the recipe back, or remove this folder to begin anew."
            raise TrainingError(str(self.folder), found, remedy)


def describe_differences(
    stored: Any, recipe: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None
) -> list[str]:
    """Differences, in words, between a recipe read somewhere and `recipe`.

    A key that the one read lacks had its default: an older version did not know it.
    """
    there = {**OF_UNNAMED_RULES, **(defaults or {}), **(stored if isinstance(stored, dict) else {})}
    return [_describe_difference(key, there.get(key), recipe[key]) for key in recipe if there.get(key) != recipe[key]]


def _describe_difference(key: str, there: Any, here: Any) -> str:
    if key == "labels":
        return f"conversations labelled by rules {json.dumps(there)} there, by rules {json.dumps(here)} here"
    if isinstance(here, dict) or key == "data_sha256":
        return {"data_sha256": "other data", "base": "another base"}.get(key, f"other {key}")
    return f"{key} {json.dumps(there)} there, {json.dumps(here)} here"


def _force_to_disk(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
