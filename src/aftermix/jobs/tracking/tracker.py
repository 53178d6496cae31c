"""A tracker of one job: it is told numbers by step, and hands them to every tool that the file names.

The tools are extras of the package. None is imported without being named, and what they keep is no part of a run: a
search goes on without them as it does with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from aftermix.config import TrackConfig
from aftermix.extras import refuse_missing_extra
from aftermix.runs.trials import Trial
from aftermix.training.distributed.processes import read_process_index
from aftermix.training.held_out.curve import HeldOutPoint


class ScalarWriter(Protocol):
    """One tool."""

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Keep the numbers of one step."""

    def close(self) -> None:
        """Force to disk what is left."""


@dataclass
class JobTracker:
    """The tools of one job; none where the file names none."""

    writers: Sequence[ScalarWriter] = ()
    best: dict[str, float] = field(default_factory=dict)
    """Best value so far by objective."""
    points: int = 0
    """Held-out points that were told."""

    def note(self, values: Mapping[str, float], step: int) -> None:
        """Tell numbers of one step."""
        for writer in self.writers:
            writer.write(values, step)

    def note_trial(self, trial: Trial) -> None:
        """Tell an ended trial: weights, scores of tasks, objectives and the best so far, or that it failed."""
        if not self.writers:
            return
        values = {f"weights/{name}": weight for name, weight in trial.weights.items()}
        if not trial.is_complete or trial.objective is None:
            self.note(values | {"failed": 1.0}, trial.number)
            return

        objectives = trial.objective if isinstance(trial.objective, tuple) else (trial.objective,)
        for place, value in enumerate(objectives):
            name = "objective" if len(objectives) == 1 else f"objective/{place}"
            self.best[name] = max(value, self.best.get(name, value))
            values |= {name: value, f"best {name}": self.best[name]}
        values |= {f"scores/{task}": score for task, score in trial.scores.items()}
        self.note(values | {f"seconds/{name}": spent for name, spent in trial.seconds.items()}, trial.number)

    def note_step(self, step: int, losses: Sequence[float], *, held_out: Sequence[HeldOutPoint] = ()) -> None:
        """Tell the loss of a step of a training, and points of its held-out losses that were not told before."""
        if not self.writers:
            return
        self.note({"loss": losses[-1]}, step)
        for point in held_out[self.points :]:
            self.note({f"held out/{name}": loss for name, loss in point.domains.items()}, point.step)
        self.points = len(held_out)


def refuse_missing_trackers(track: TrackConfig | None) -> None:
    """Raise :class:`AftermixError` for a tool that the file names and that is not installed. Nothing is imported."""
    for name in track.to if track is not None else ():
        refuse_missing_extra(name, what=f"track: {name}")


@contextmanager
def open_tracker(track: TrackConfig | None, folder: Path, *, name: str) -> Iterator[JobTracker]:
    """The tracker of the job called `name` in `folder`, closed at the end; the first of several processes tells.

    TensorBoard's files lie in `folder`/tensorboard/`name`, trackio's where it keeps them.
    """
    with ExitStack() as stack:
        writers: list[ScalarWriter] = []
        for tool in track.to if track is not None and read_process_index() == 0 else ():
            if tool == "tensorboard":
                from aftermix.jobs.tracking.tensorboard_writer import TensorBoardWriter

                writers.append(TensorBoardWriter.open(folder / "tensorboard" / name))
            else:
                from aftermix.jobs.tracking.trackio_writer import TrackioWriter

                assert track is not None  # noqa: S101 - it names a tool
                writers.append(TrackioWriter.open(track.project, f"{folder.name}/{name}"))
            stack.callback(writers[-1].close)
        yield JobTracker(writers)
