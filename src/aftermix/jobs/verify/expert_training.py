"""Rate, schedule and adapters that all experts of a mixture were trained with, which trained mixtures get too.

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
from aftermix.config import Config, DatasetConfig, LoraConfig, TrainConfig
from aftermix.errors import MixtureError

OPTIONS_OF_SCHEDULE = {
    "constant": ("warmup_steps",),
    "cosine": ("warmup_steps", "min_lr_rate"),
    "wsd": ("warmup_steps", "min_lr_rate", "decay_share", "decay_shape"),
}
"""Keys of `train:` that say how each schedule runs."""


@dataclass(frozen=True)
class ExpertTraining:
    """Rate, schedule and adapters of one expert's training."""

    learning_rate: float
    schedule: str
    options: tuple[JsonValue, ...]
    """Values of `OPTIONS_OF_SCHEDULE`, in order."""
    lora: LoraConfig | None = None

    @classmethod
    def from_values(cls, values: Mapping[str, JsonValue]) -> ExpertTraining:
        """Rate and schedule of a recipe; a key that an older one lacks had its default."""
        known = {key: field.default for key, field in TrainConfig.model_fields.items()} | dict(values)
        schedule = str(known["schedule"])
        options = tuple(known[key] for key in OPTIONS_OF_SCHEDULE.get(schedule, ()))
        lora = known["lora"] and LoraConfig.model_validate(known["lora"])
        return cls(float(str(known["learning_rate"])), schedule, options, lora or None)

    def contradicts(self, other: ExpertTraining) -> bool:
        """True where rate, schedule or adapters differ, whatever the options of the schedule are."""
        mine = (self.learning_rate, self.schedule, self.lora)
        return mine != (other.learning_rate, other.schedule, other.lora)

    @property
    def changes(self) -> dict[str, JsonValue]:
        """Keys of `train:` that make a training like this one."""
        named = dict(zip(OPTIONS_OF_SCHEDULE.get(self.schedule, ()), self.options, strict=True))
        unused = [key for key in OPTIONS_OF_SCHEDULE["wsd"][2:] if key not in named]
        defaults = {key: TrainConfig.model_fields[key].default for key in unused}
        return {"learning_rate": self.learning_rate, "schedule": self.schedule, "lora": self.lora, **defaults, **named}

    def __str__(self) -> str:
        """Rate and schedule, those options of the schedule that are not the default, and adapters."""
        named = zip(OPTIONS_OF_SCHEDULE.get(self.schedule, ()), self.options, strict=True)
        own = [f"{key} {value}" for key, value in named if value != TrainConfig.model_fields[key].default]
        adapters = [f"lora of rank {self.lora.rank}, alpha {self.lora.alpha:g}"] if self.lora else []
        targets = [f"targets {', '.join(self.lora.targets)}"] if self.lora and self.lora.targets else []
        return ", ".join([f"{self.learning_rate:g}", self.schedule, *own, *adapters, *targets])


def adopt_training(config: Config, domains: Sequence[str]) -> TrainConfig:
    """`config.train` with the rate, the schedule and the adapters that the experts of `domains` have in common.

    Where they have none in common, `train.mixtures` says what trained mixtures get. Raises :class:`MixtureError` when
    it says nothing, naming each expert's own, and when it contradicts what they have in common.
    """
    train = config.train
    assert train is not None  # noqa: S101 - the job requires it; for the type checker
    found = {name: _read_training(config, name, train) for name in domains}
    own = {training for training, _ in found.values()}

    common = own.pop() if len(own) == 1 else None
    stated = _state_training(train, common)

    if common is None and stated is None:
        told = "; ".join(f"{name}: {training or 'not known'} ({where})" for name, (training, where) in found.items())
        adapted = " and the same `lora`" if len({training.lora for training in own if training}) > 1 else ""
        rate = next((training.learning_rate for training, _ in found.values() if training), train.learning_rate)
        remedy = (
            "Take experts that were trained alike, or state what mixtures are trained at under `train:`, as "
            f"`mixtures: {{learning_rate: {rate:g}, schedule: constant{', lora: null' if adapted else ''}}}`."
        )
        raise MixtureError("--verify", f"expected experts of one rate and schedule{adapted}, found {told}", remedy)

    if common is not None and stated is not None and stated.contradicts(common):
        found_text = f"says {stated}, and all experts were trained at {common}"
        raise MixtureError("train.mixtures", found_text, "Remove it: trainings are held against merges of the experts.")

    chosen = common or stated
    assert chosen is not None  # noqa: S101 - refused above; for the type checker
    datasets = {name: _strip_training(dataset) for name, dataset in train.datasets.items()}
    return train.model_copy(update={**chosen.changes, "datasets": datasets, "mixtures": None})


def _strip_training(dataset: DatasetConfig) -> DatasetConfig:
    """The dataset without a rate and adapters of its own."""
    kept = {key: getattr(dataset, key) for key in dataset.model_fields_set - {"learning_rate", "lora"}}
    return DatasetConfig.model_construct(**kept)


def _state_training(train: TrainConfig, common: ExpertTraining | None) -> ExpertTraining | None:
    """Training that the file states of trained mixtures; where it says nothing of `lora`, that of `common` holds."""
    stated = train.mixtures
    if stated is None:
        return None
    lora = common.lora if common is not None else train.lora
    values = {**train.model_dump(mode="json"), **stated.model_dump(mode="json")}
    values["lora"] = stated.lora if "lora" in stated.model_fields_set else lora
    return ExpertTraining.from_values(values)


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
    own = train.settle_for(name) if dataset else train
    return ExpertTraining.from_values({**own.model_dump(mode="json"), "learning_rate": rate}), "`train:` of the file"
