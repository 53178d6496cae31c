"""One living model in which every merge of a study is measured, over the product's own merge and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.config import CalibrateConfig, CalibrationConfig, Config, MergeConfig, VectorConfig
from aftermix.config.evaluate import EvaluateConfig, ItemsConfig, TaskConfig
from aftermix.evaluation.suites.harness_suite import HarnessSuite
from aftermix.files import fingerprint
from aftermix.jobs.calibrate.command import calibrate
from aftermix.jobs.evaluator import ModelEvaluator
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.stream import stream_merged_tensors
from aftermix.saliency.storage import StoredStatistics, read_statistics
from studies.world.bits import HeldOut, bits_per_byte
from studies.world.data import texts_of
from studies.world.layout import World
from studies.world.store import Store, key_of

Part = Literal["select", "test"]
ITEMS = {"search": 200, "select": 150, "test": 500}
TINY_ITEMS = {"search": 2, "select": 2, "test": 6}


@dataclass(frozen=True)
class Reading:
    """The text by which one expert's statistics are made."""

    text: Path
    samples: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Point:
    """One merge: the section `merge` of a file, weights by vector, and what each vector read for its statistics."""

    merge: Mapping[str, Any]
    weights: Mapping[str, float]
    readings: Mapping[str, Reading] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """Of one merge on one part of the held-out text, by domain."""

    bits: dict[str, float]
    """Bits per byte, lower is better."""
    accuracy: dict[str, float]
    """Share of items answered right, in %; empty on select text."""

    def relative_bits(self, base: Scores, domains: Iterable[str]) -> float:
        """Mean over `domains` of the bits per byte as a share of the base's, in %: no domain outweighs the others."""
        return 100 * _mean([self.bits[domain] / base.bits[domain] for domain in domains])

    def mean_accuracy(self, domains: Iterable[str]) -> float:
        """Plain mean over `domains`."""
        return _mean([self.accuracy[domain] for domain in domains])


class Lab:
    """The base in memory with its tasks; `seat` the models of a seed, then `measure` their merges."""

    def __init__(self, world: World, store: Store, *, threads: int, items: Mapping[str, int] | None = None) -> None:
        self.world, self.store = world, store
        self._items = dict(world.pick(items or ITEMS, tiny=TINY_ITEMS))
        base = open_pool(Config(base=world.base, vectors={"base": VectorConfig(model=world.base)}))
        tasks = tuple(TaskConfig(task=f"continue_{domain}") for domain in world.measured)
        config = EvaluateConfig(
            tasks=tasks,
            include_path=str(world.tasks),
            items=ItemsConfig(**self._items),  # type: ignore[arg-type]
            batch_size=64,
            threads=threads,
        )
        self._evaluate = config
        self._suites: dict[tuple[str, ...], HarnessSuite] = {}
        self._live = ModelEvaluator.open(base, config, HarnessSuite.build(config))

    def pool(self, models: Mapping[str, Path], *, method: str | None = None) -> ModelPool:
        """The base and `models`, aligned; models alone for `linear`, which may come from other bases."""
        vectors = {name: VectorConfig(model=str(path)) for name, path in models.items()}
        return open_pool(Config(base=None if method == "linear" else self.world.base, vectors=vectors))

    def measure(
        self, models: Mapping[str, Path], point: Point, domains: Sequence[str], part: Part, *, items: bool = True
    ) -> Scores:
        """Scores of the merge `point` of `models` on one part of the held-out text of `domains`.

        Without `items` only bits per byte: answering items takes longer.
        """
        used, answered = {name: models[name] for name in point.weights}, items and part == "test"
        row = self.store.get(
            self._identity(used, point, domains, part, answered),
            lambda: self._measured(used, point, domains, part, answered),
        )
        return Scores(row["bits"], row["accuracy"])

    def statistics(self, models: Mapping[str, Path], readings: Mapping[str, Reading]) -> dict[str, StoredStatistics]:
        """Statistics by vector, calibrated now where they are not there yet."""
        return {name: self._calibrated(name, models[name], reading) for name, reading in readings.items()}

    def _measured(
        self, models: Mapping[str, Path], point: Point, domains: Sequence[str], part: Part, answered: bool
    ) -> dict[str, Any]:
        started = perf_counter()
        recipe = MergeRecipe.from_config(MergeConfig.model_validate({"exclude": (), **point.merge}))
        # A merge without vectors is the base; a pool needs one all the same.
        pool = self.pool(models or {"base": Path(self.world.base)}, method=point.merge.get("method"))
        statistics = self.statistics(models, point.readings)
        merger = Merger.build(pool, recipe, vectors=tuple(point.weights), statistics=statistics)
        self._live.engine.load(stream_merged_tensors(merger, point.weights))
        merged = perf_counter()
        bits = {domain: bits_per_byte(self._live.engine.lm.model, self._held_out(domain, part)) for domain in domains}
        accuracy = self._accuracy(domains) if answered else {}
        seconds = {"merge": round(merged - started, 3), "measure": round(perf_counter() - merged, 3)}
        return {"bits": bits, "accuracy": accuracy, "seconds": seconds}

    def _accuracy(self, domains: Sequence[str]) -> dict[str, float]:
        names = tuple(f"continue_{domain}" for domain in domains)
        if names not in self._suites:
            tasks = tuple(TaskConfig(task=name) for name in names)
            self._suites[names] = HarnessSuite.build(self._evaluate.model_copy(update={"tasks": tasks}))
        scores = self._suites[names].evaluate(self._live.engine.lm, "test").scores
        return {domain: 100 * scores[name] for domain, name in zip(domains, names, strict=True)}

    @lru_cache  # noqa: B019 - a lab lives as long as its process
    def _held_out(self, domain: str, part: Part) -> HeldOut:
        texts = texts_of(self.world.held_out(domain, part))
        return HeldOut.of(texts, self._live.engine.lm.tokenizer, context=self.world.context)

    def _calibrated(self, name: str, model: Path, reading: Reading) -> StoredStatistics:
        identity = {"model": _model_print(model), "reading": _described(reading)}
        folder = self.world.folder / "statistics" / f"{name}-{key_of(identity)}"
        if not folder.is_dir():
            vector = VectorConfig(model=str(model), calibration=CalibrationConfig(data=str(reading.text)))
            settings = CalibrateConfig(
                samples=reading.samples, seed=reading.seed, context=self.world.context, long_texts="cut"
            )
            calibrate(Config(base=self.world.base, vectors={name: vector}, calibrate=settings), folder)
        return read_statistics(folder, name)

    def _identity(
        self, models: Mapping[str, Path], point: Point, domains: Sequence[str], part: Part, answered: bool
    ) -> dict[str, Any]:
        return {
            "world": self.world.fingerprint,
            "part": part,
            "items": self._items["test"] if answered else 0,
            "domains": list(domains),
            "merge": {key: list(value) if isinstance(value, tuple) else value for key, value in point.merge.items()},
            "weights": dict(point.weights),
            "models": {name: _model_print(path) for name, path in models.items()},
            "readings": {name: _described(reading) for name, reading in point.readings.items()},
        }


@lru_cache
def _model_print(folder: Path) -> str:
    return "+".join(fingerprint(path) for path in sorted(folder.glob("*.safetensors")))


@lru_cache
def _described(reading: Reading) -> str:
    return f"{fingerprint(reading.text)} {reading.samples} samples, seed {reading.seed}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
