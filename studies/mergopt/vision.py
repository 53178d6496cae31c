"""Table 9 of the paper at small scale: vision experts of several optimizers, merged by the product's own methods."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import ViTForImageClassification

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.files import fingerprint
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.stream import stream_merged_tensors
from studies.mergopt.bench import NotMeasured
from studies.mergopt.measure import Grouped, whole
from studies.mergopt.methods import METHODS, Method, lowest
from studies.mergopt.results import Groups, Row
from studies.mergopt.vision_data import TASKS, images
from studies.mergopt.vision_train import VARIANTS, VisionSizes, is_made, make
from studies.world.lab import Point
from studies.world.store import Store


def measure(
    folder: Path, seeds: Sequence[int], *, threads: int, sizes: VisionSizes, found_only: bool = False
) -> Groups:
    """Rows by group: each expert at home, and all four merged by each method. Their `bits` are nats an image."""
    torch.set_num_threads(threads)
    groups: Groups = {}
    for seed in seeds:
        models = folder / f"vision-{seed}"
        if found_only and not is_made(models):
            continue
        make(models, seed=seed, sizes=sizes)
        store = Store(folder / "measurements" / f"vision-{seed}.jsonl")
        room = Room(models, store, sizes, found_only=found_only)
        for group, row in whole(room.rows(seed=seed)):
            groups.setdefault(group, []).append(row)
    return groups


class Room:
    """The base of one seed in memory, in which its experts' merges are measured."""

    def __init__(self, folder: Path, store: Store, sizes: VisionSizes, *, found_only: bool = False) -> None:
        self.folder, self.store, self._found_only, self._sizes = folder, store, found_only, sizes
        self.model = ViTForImageClassification.from_pretrained(folder / "base").eval()

    def rows(self, *, seed: int) -> Grouped:
        """All of one seed, by group."""
        yield "base", self.base(seed=seed)
        for variant in VARIANTS:
            yield from (("alone", self.row(variant, (task,), METHODS[0], seed=seed)) for task in TASKS)
            for method in METHODS:
                yield method.name, self.row(variant, tuple(TASKS), method, seed=seed)

    def row(self, variant: str, tasks: tuple[str, ...], method: Method, *, seed: int) -> Row:
        """Experts of one variant merged, their coefficient chosen by the loss on select images."""
        coefficient = 1 / len(tasks)
        if method.grid:
            loss = partial(self._loss, variant, tasks, method, seed=seed)
            start = method.start[len(tasks)]
            coefficient = lowest(loss, (start,) if self._sizes.images else method.grid, start=start)
        point = method.point(tasks, coefficient, seed=seed)
        losses, accuracies = self._measured(variant, tasks, point, "test")
        return Row(variant, seed, tasks, coefficient, _mean(losses), _mean(accuracies))

    def base(self, *, seed: int) -> Row:
        """The base on all tasks."""
        losses, accuracies = self._measured(None, tuple(TASKS), Point({}, {}), "test")
        return Row("base", seed, tuple(TASKS), 0.0, _mean(losses), _mean(accuracies))

    def _loss(self, variant: str, tasks: tuple[str, ...], method: Method, coefficient: float, *, seed: int) -> float:
        point = method.point(tasks, coefficient, seed=seed)
        return _mean(self._measured(variant, tasks, point, "select")[0])

    def _measured(
        self, variant: str | None, tasks: tuple[str, ...], point: Point, part: str
    ) -> tuple[list[float], list[float]]:
        folders = {name: self.folder / str(variant) / name for name in point.weights}
        identity = {
            "part": part,
            "tasks": list(tasks),
            "merge": dict(point.merge),
            "weights": dict(point.weights),
            "models": {name: _print(path) for name, path in {"base": self.folder / "base", **folders}.items()},
        }
        row = self.store.get(identity, lambda: self._now(folders, tasks, point, part))
        return row["loss"], row["accuracy"]

    def _now(self, folders: dict[str, Path], tasks: tuple[str, ...], point: Point, part: str) -> dict[str, list[float]]:
        if self._found_only:
            raise NotMeasured
        if folders:
            vectors = {name: VectorConfig(model=str(path)) for name, path in folders.items()}
            pool = open_pool(Config(base=str(self.folder / "base"), vectors=vectors))
            recipe = MergeRecipe.from_config(MergeConfig.model_validate({"exclude": (), **point.merge}))
            merger = Merger.build(pool, recipe, vectors=tuple(point.weights))
            self.model.load_state_dict(dict(stream_merged_tensors(merger, point.weights)))
        else:
            self.model = ViTForImageClassification.from_pretrained(self.folder / "base").eval()
        found = [self._scores(task, part) for task in tasks]
        return {"loss": [loss for loss, _ in found], "accuracy": [accuracy for _, accuracy in found]}

    def _scores(self, task: str, part: str) -> tuple[float, float]:
        """Mean cross-entropy in nats, and the share of images recognised, %."""
        data = images(task, part)
        if self._sizes.images:
            data = data.first(self._sizes.images)
        with torch.inference_mode():
            logits_NC = self.model(pixel_values=data.pixels_N1HW).logits
        right = (logits_NC.argmax(-1) == data.labels_N).double().mean()
        return float(cross_entropy(logits_NC, data.labels_N)), 100 * float(right)


def _print(folder: Path) -> str:
    return fingerprint(folder / "model.safetensors")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
