"""The rate and schedule that all experts of a mixture were trained at, which trained mixtures get too.

A merge stands for the training on a mixture only where that training is as those of the experts. Each expert's own is
read from its `train.json`; of an expert without one, the file's `train:` is taken to say it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from aftermix.checkpoints.alignment.recorded_base import TRAINING_FILE
from aftermix.checkpoints.safe_files import read_json
from aftermix.config import Config, TrainConfig
from aftermix.errors import MixtureError

OPTIONS_OF_SCHEDULE = {
    "constant": ("warmup_steps",),
    "cosine": ("warmup_steps", "min_lr_rate"),
    "wsd": ("warmup_steps", "min_lr_rate", "decay_share", "decay_shape"),
}
"""Keys of `train:` that say how each schedule runs."""


@dataclass(frozen=True)
class ExpertTraining:
    """Rate and schedule of one expert's training."""

    learning_rate: float
    schedule: str
    options: tuple[JsonValue, ...]
    """Values of `OPTIONS_OF_SCHEDULE`, in order."""

    @classmethod
    def from_values(cls, values: Mapping[str, JsonValue]) -> ExpertTraining:
        """Rate and schedule of a recipe; a key that an older one lacks had its default."""
        known = {key: field.default for key, field in TrainConfig.model_fields.items()} | dict(values)
        schedule = str(known["schedule"])
        options = tuple(known[key] for key in OPTIONS_OF_SCHEDULE.get(schedule, ()))
        return cls(float(str(known["learning_rate"])), schedule, options)

    @property
    def rate_and_schedule(self) -> tuple[float, str]:
        """Both, without the options: what `train.mixtures` states."""
        return self.learning_rate, self.schedule

    @property
    def changes(self) -> dict[str, JsonValue]:
        """Keys of `train:` that make a training like this one."""
        named = dict(zip(OPTIONS_OF_SCHEDULE.get(self.schedule, ()), self.options, strict=True))
        unused = [key for key in OPTIONS_OF_SCHEDULE["wsd"][2:] if key not in named]
        defaults = {key: TrainConfig.model_fields[key].default for key in unused}
        return {"learning_rate": self.learning_rate, "schedule": self.schedule, **defaults, **named}

    def __str__(self) -> str:
        """Rate and schedule, and those options of the schedule that are not the default."""
        named = zip(OPTIONS_OF_SCHEDULE.get(self.schedule, ()), self.options, strict=True)
        own = [f"{key} {value}" for key, value in named if value != TrainConfig.model_fields[key].default]
        return ", ".join([f"{self.learning_rate:g}", self.schedule, *own])


def adopt_training(config: Config, domains: Sequence[str]) -> TrainConfig:
    """`config.train` with the rate and schedule that the experts of `domains` have in common.

    Where they have none in common, `train.mixtures` says what trained mixtures get. Raises :class:`MixtureError` when
    it says nothing, naming each expert's own, and when it contradicts what they have in common.
    """
    train = config.train
    assert train is not None  # noqa: S101 - the job requires it; for the type checker
    found = {name: _read_training(config, name, train) for name in domains}
    own = {training for training, _ in found.values()}

    common = own.pop() if len(own) == 1 else None
    stated = _state_training(train)

    if common is None and stated is None:
        told = "; ".join(f"{name}: {training or 'not known'} ({where})" for name, (training, where) in found.items())
        rate = next((training.learning_rate for training, _ in found.values() if training), train.learning_rate)
        remedy = (
            "Take experts that were trained alike, or state what mixtures are trained at under `train:`, as "
            f"`mixtures: {{learning_rate: {rate:g}, schedule: constant}}`."
        )
        raise MixtureError("--verify", f"expected experts of one rate and schedule, found {told}", remedy)

    if common is not None and stated is not None and stated.rate_and_schedule != common.rate_and_schedule:
        found_text = f"says {stated}, and all experts were trained at {common}"
        raise MixtureError("train.mixtures", found_text, "Remove it: trainings are held against merges of the experts.")

    chosen = common or stated
    assert chosen is not None  # noqa: S101 - refused above; for the type checker
    datasets = {name: one.model_copy(update={"learning_rate": None}) for name, one in train.datasets.items()}
    return train.model_copy(update={**chosen.changes, "datasets": datasets, "mixtures": None})


def _state_training(train: TrainConfig) -> ExpertTraining | None:
    """Rate and schedule that the file states of trained mixtures."""
    if train.mixtures is None:
        return None
    return ExpertTraining.from_values({**train.model_dump(mode="json"), **train.mixtures.model_dump(mode="json")})


def _read_training(config: Config, name: str, train: TrainConfig) -> tuple[ExpertTraining | None, str]:
    """Rate and schedule of the expert `name`, None where nothing says them; and where they stand."""
    file = Path(config.vectors[name].model) / TRAINING_FILE
    if file.is_file():
        recipe = read_json(file, remedy="Name experts that `aftermix train` wrote.").get("recipe", {})
        return ExpertTraining.from_values(recipe), str(file)

    dataset = train.datasets.get(name)
    rate = (dataset.learning_rate if dataset else None) or (
        train.learning_rate if "learning_rate" in train.model_fields_set else None
    )
    if rate is None or "schedule" not in train.model_fields_set:
        return None, f"no {TRAINING_FILE}, and `train:` says no learning_rate and schedule"
    return ExpertTraining.from_values({**train.model_dump(mode="json"), "learning_rate": rate}), "`train:` of the file"
