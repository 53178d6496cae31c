"""The scale of an expert's merge-aware noise where the file says what it comes from: planned, found once, recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pydantic import JsonValue

from aftermix import progress
from aftermix.checkpoints.formats.content_hash import hash_all_weights
from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.config import Config, ScaleConfig, TrainConfig, VectorConfig
from aftermix.jobs.train.expert_data import DatasetBuilder, DatasetSources, SequenceParts, list_dataset_sources
from aftermix.runs.verification_records import NoiseScaleRecord
from aftermix.training.data.collate import TokenSequence
from aftermix.training.distributed.processes import read_process_index
from aftermix.training.distributed.sharding import asks_for_fsdp
from aftermix.training.noise_scale.damage import HALVINGS, DamageMeter, DamageScale, find_damage_scale
from aftermix.training.noise_scale.pilots import measure_pilot_scales
from aftermix.training.optimizers.build import list_moved_names
from aftermix.training.trainer import uses_cuda

TOKENS = 4096
"""Most tokens that damage is measured on: the differences are between losses on the same tokens, and hardly noisy."""
EXPECTED = HALVINGS + 4
"""Measurements that the bar promises; a scale far from the first that is tried takes some more."""


@dataclass(frozen=True)
class FoundNoise:
    """A scale that was found, or one by tensor, and its record."""

    scale: float | Mapping[str, float]
    record: NoiseScaleRecord


class NoiseScalePlan(Protocol):
    """Way to the scale of one expert's noise."""

    def find(self, model: Any, settings: TrainConfig, *, label: str, earlier: NoiseScaleRecord | None) -> FoundNoise:
        """Find the scale for `model`, the base with what is trained in it; `earlier` is the record of a run begun."""


@dataclass(frozen=True)
class DamagePlan:
    """Damage that one expert's noise is to have, and the text that it is measured on."""

    damage: float
    rows: Sequence[TokenSequence]
    data: str
    """Name of the source or dataset, for the record."""

    def find(self, model: Any, settings: TrainConfig, *, label: str, earlier: NoiseScaleRecord | None) -> FoundNoise:
        """Find the scale, unless the run has begun with one. Raises as `find_damage_scale`."""
        if earlier is not None:
            return FoundNoise(earlier.scale, earlier)

        on_cuda = uses_cuda(settings.device) and not asks_for_fsdp()
        model.to("cuda" if on_cuda else "cpu", torch.float32)
        options, batch_size = settings.optimizer, max(1, settings.batch_size // settings.accumulation)
        meter = DamageMeter(
            model, self.rows, batch_size, settings.seed, distribution=options.distribution, exclude=options.exclude
        )
        found = self._find_scale(meter, label)
        record = NoiseScaleRecord(
            scale=found.scale,
            damage=self.damage,
            rise=round(found.rise, 6),
            loss=round(found.loss, 6),
            tokens=found.tokens,
            data=self.data,
        )
        return FoundNoise(found.scale, record)

    def _find_scale(self, meter: DamageMeter, label: str) -> DamageScale:
        """Find it behind a bar, which the first of several processes shows."""
        if read_process_index() != 0:
            return find_damage_scale(meter, self.damage)
        with progress.counter(label=f"noise of {label}", total=EXPECTED, unit="loss") as advance:
            return find_damage_scale(meter, self.damage, after_measurement=lambda: advance(""))


@dataclass(frozen=True)
class PilotPlan:
    """Siblings whose vectors give each tensor's scale."""

    pool: ModelPool

    def find(self, model: Any, settings: TrainConfig, *, label: str, earlier: NoiseScaleRecord | None) -> FoundNoise:
        """Measure the scales; those of a run begun are the same, since the pilots are. Raises as they do."""
        del label, earlier
        options = settings.optimizer
        names = list_moved_names(model, options.exclude)
        found = measure_pilot_scales(self.pool, names, distribution=options.distribution)

        elements = sum(self.pool.frame.info(name).elements for name in found.by_tensor)
        mean = sum(scale * self.pool.frame.info(name).elements for name, scale in found.by_tensor.items()) / elements
        pilots = tuple(model.label for model in self.pool.experts.values())
        record = NoiseScaleRecord(scale=mean, pilot=pilots, tensors=found.tensors, norm=found.norm)
        return FoundNoise(found.by_tensor, record)


@dataclass(frozen=True)
class NoiseOrigin:
    """Origin of the scale of merge-aware noise, as a training file names it: opened once for all experts."""

    settings: TrainConfig
    scale: ScaleConfig
    pilots: ModelPool | None

    @classmethod
    def open(cls, settings: TrainConfig, base: str) -> NoiseOrigin | None:
        """Open what the file names; None where the scale is a number. Raises as `open_pool` for pilots."""
        scale = settings.optimizer.scale
        if not isinstance(scale, ScaleConfig):
            return None
        pilots = None
        if scale.pilot is not None:
            vectors = {f"pilot-{number}": VectorConfig(model=path) for number, path in enumerate(scale.pilot, 1)}
            pilots = open_pool(Config(base=base, vectors=vectors))
        return cls(settings, scale, pilots)

    def identify(self) -> JsonValue:
        """Identify it in the recipe of an expert: by damage and the data named for it, or by the pilots' weights."""
        if self.pilots is not None:
            pilots: list[JsonValue] = [
                ",".join(sorted(hash_all_weights(each.files()).values())) for each in self.pilots.experts.values()
            ]
            return {"pilot": pilots}
        identity: dict[str, JsonValue] = {"damage": self.scale.damage}
        if self.scale.data is not None:
            sources = DatasetSources({self.scale.data: self._find_source(self.scale.data)}, None)
            identity["data"] = sources.build_data_record()
        return identity

    def plan(self, name: str, parts: SequenceParts, builder: DatasetBuilder) -> NoiseScalePlan:
        """Plan the scale of the noise of the expert `name`.

        Damage is measured on the source that the file names, else on the expert's own held-out documents, else on the
        first tokens that it is trained on. Raises :class:`TrainingError` for data that cannot be read.
        """
        if self.pilots is not None:
            return PilotPlan(self.pilots)
        damage = self.scale.damage or 0.0
        if self.scale.data is not None:
            rows = builder.read_first(self.scale.data, self._find_source(self.scale.data), tokens=TOKENS)
            return DamagePlan(damage, _take_rows(rows), self.scale.data)

        held = [row for rows in parts.held.values() for row in rows]
        return DamagePlan(damage, _take_rows(held or parts.trained), name)

    def _find_source(self, name: str) -> Any:
        return {**list_dataset_sources(self.settings), **self.settings.sources}[name]


def describe_noise(record: NoiseScaleRecord) -> str:
    """Line for the console."""
    if record.pilot is not None:
        return (
            f"noise has the norms of {', '.join(record.pilot)} in {record.tensors} tensors, {record.norm:.3g} in all "
            f"(scale {record.scale:.3g} in the mean)"
        )
    of = f"{record.tokens:,} tokens of {record.data}, loss {record.loss:.3f}"
    return f"noise of scale {record.scale:g} costs {record.rise:.3g} nats a token ({of})"


def _take_rows(rows: Iterable[TokenSequence]) -> list[TokenSequence]:
    """The first rows in which anything is predicted, up to `TOKENS`."""
    taken: list[TokenSequence] = []
    left = TOKENS
    for row in rows:
        if left < 2:
            break
        cut = row.truncate(min(len(row), left))
        if cut.predictions:
            taken.append(cut)
            left -= len(cut)
    return taken
