"""Trackers are told the numbers of a job, are imported where they are named alone, and change nothing of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aftermix.config import Config, TrackConfig, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.search.command import search
from aftermix.jobs.tracking.tracker import JobTracker, open_tracker
from aftermix.jobs.train.command import train
from aftermix.runs.trials import Trial
from aftermix.training.held_out.curve import HeldOutPoint
from support.training_world import MakeConfig

MISSING = "is not installed here: pip install 'aftermix[{}]' has this test run"


class ListWriter:
    """A tool that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []

    def write(self, values: Mapping[str, float], step: int) -> None:
        self.told.append((step, dict(values)))

    def close(self) -> None:
        self.told.append((-1, {}))


def end_trial(number: int, scores: dict[str, float], objective: Any, **more: Any) -> Trial:
    return Trial(number=number, state="complete", scores=scores, objective=objective, **more)


def test_trials_and_steps_as_numbers() -> None:
    tool = ListWriter()
    tracker = JobTracker([tool])
    tracker.note_trial(
        Trial(
            number=0,
            state="complete",
            weights={"a": 0.5},
            scores={"t": 0.25},
            objective=0.25,
            seconds={"evaluate": 2.0},
        )
    )
    tracker.note_trial(Trial(number=1, state="failed", weights={"a": 1.0}, error="out of memory"))
    tracker.note_trial(end_trial(2, {"t": 0.2, "u": 1.0}, (0.2, 1.0), weights={"a": 0.1}))
    tracker.note_step(1, [3.0], held_out=[HeldOutPoint(0, 4.0, {"d": 4.0})])
    tracker.note_step(2, [3.0, 2.0], held_out=[HeldOutPoint(0, 4.0, {"d": 4.0}), HeldOutPoint(2, 3.5, {"d": 3.5})])
    assert tool.told == [
        (0, {"weights/a": 0.5, "objective": 0.25, "best objective": 0.25, "scores/t": 0.25, "seconds/evaluate": 2.0}),
        (1, {"weights/a": 1.0, "failed": 1.0}),
        (2, {"weights/a": 0.1, "objective/0": 0.2, "best objective/0": 0.2, "objective/1": 1.0, "best objective/1": 1.0}
         | {"scores/t": 0.2, "scores/u": 1.0}),
        (1, {"loss": 3.0}),
        (0, {"held out/d": 4.0}),
        (2, {"loss": 2.0}),
        (2, {"held out/d": 3.5}),
    ]  # fmt: skip


def test_a_file_without_trackers_writes_nothing(tmp_path: Path) -> None:
    with open_tracker(None, tmp_path, name="search") as tracker:
        tracker.note_trial(end_trial(0, {}, 0.25, weights={"a": 0.5}))
    assert not tracker.writers
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_what_is_not_installed_is_refused_before_work(
    name: str, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    track = TrackConfig.model_validate({"to": name})
    config = make_config().model_copy(update={"track": track})
    text = rf"track: {name}: needs the extra `{name}` of aftermix, of which {name} is not installed. Install it: pip in"
    with pytest.raises(AftermixError, match=text):
        train(config, tmp_path / "out")
    values = {"base": "b", "vectors": {"a": {"model": "a"}}, "evaluate": {"tasks": ["t"]}}
    with pytest.raises(AftermixError, match=text):
        search(Config.model_validate(values).model_copy(update={"track": track}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_section_is_short_or_long() -> None:
    def parse(value: Any) -> TrackConfig | None:
        return parse_config({"track": value}, where="f", folder=Path("/")).track

    assert parse("trackio") == parse(["trackio"]) == parse({"to": "trackio", "project": "aftermix"})
    assert parse(["tensorboard", "trackio"]) == TrackConfig(to=("tensorboard", "trackio"))
    assert parse(None) is None
    with pytest.raises(AftermixError, match=r"track.to.0: Input should be 'tensorboard' or 'trackio', found 'wandb'"):
        parse("wandb")


def test_tensorboard_reads_a_training(make_config: MakeConfig, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason=MISSING.format("tensorboard"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(make_config().model_copy(update={"track": TrackConfig(to=("tensorboard",))}), tmp_path / "out")
    events = EventAccumulator(str(tmp_path / "out/tensorboard/cats"))
    events.Reload()
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == [1, 2, 3, 4, 5]
    train(make_config(), tmp_path / "plain")
    trained = [(tmp_path / folder / "cats/model.safetensors").read_bytes() for folder in ("out", "plain")]
    assert trained[0] == trained[1]


def test_trackio_keeps_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # which is read at import
    pytest.importorskip("trackio", reason=MISSING.format("trackio"))
    from trackio.sqlite_storage import SQLiteStorage

    with open_tracker(TrackConfig(to=("trackio",), project="p"), tmp_path / "run", name="search") as tracker:
        for number, score in enumerate((0.25, 0.5)):
            tracker.note_trial(end_trial(number, {"t": score}, score, weights={"a": 0.5}))
    logs = SQLiteStorage.get_logs("p", "run/search")
    assert [(row["step"], row["objective"], row["best objective"]) for row in logs] == [(0, 0.25, 0.25), (1, 0.5, 0.5)]
