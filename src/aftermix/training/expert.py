"""An expert's folder: the base's tensors under the base's names and types, its companion files, and `train.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import core_model_loading

from aftermix.checkpoints.companions import companion_files
from aftermix.checkpoints.pool import Pool
from aftermix.checkpoints.reader import Checkpoint, read_json
from aftermix.checkpoints.shards import TensorSpec, whole_tensors
from aftermix.checkpoints.writer import write_checkpoint
from aftermix.config import DatasetConfig, TrainConfig
from aftermix.errors import RunFailedError, TrainingError
from aftermix.files import fingerprint

RECORD = "train.json"
MAX_SHARD_BYTES = 5_000_000_000


def identity_of_base(base: Checkpoint) -> dict[str, Any]:
    """What makes the base this base: a hash of each weight file, and one over configuration and tokenizer files."""
    digest = hashlib.sha256()
    for name, content in sorted(companion_files(Pool(base, {}), dtype=None).items()):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return {"weights": {file.name: fingerprint(file) for file in base.files()}, "companions": digest.hexdigest()}


def recipe_record(
    base_identity: dict[str, Any], *, data_sha256: str, dataset: DatasetConfig, config: TrainConfig
) -> dict[str, Any]:
    """Everything that decides the expert's weights, as plain values: two equal records mean the same expert.

    Where it ran (device, threads) is not among them: it changes the last bits only.
    """
    options = config.model_dump(mode="json", exclude={"datasets", "device", "threads"})
    options["learning_rate"] = dataset.learning_rate or config.learning_rate
    return {
        "base": base_identity,
        "data_sha256": data_sha256,
        "text_field": dataset.text_field,
        "tokens": dataset.tokens,
        **options,
    }


def is_already_trained(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether `folder` holds the expert of `recipe`; False when nothing is there.

    Raises :class:`TrainingError` when something else is there.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    remedy = "Name another output folder, or remove this one yourself."
    if not (folder / RECORD).is_file():
        raise TrainingError(str(folder), f"exists and is no expert of ours (it has no {RECORD})", remedy)
    found = read_json(folder / RECORD, remedy=remedy).get("recipe", {})
    differing = [key for key in recipe if not isinstance(found, dict) or found.get(key) != recipe[key]]
    if differing:
        shown = "; ".join(_difference(key, found, recipe) for key in differing[:3])
        raise TrainingError(str(folder), f"holds an expert of another recipe ({shown})", remedy)
    return True


def _difference(key: str, found: Any, recipe: dict[str, Any]) -> str:
    there = found.get(key) if isinstance(found, dict) else None
    if isinstance(recipe[key], dict) or key == "data_sha256":
        return {"data_sha256": "other data", "base": "another base"}.get(key, f"other {key}")
    return f"{key} {json.dumps(there)} there, {json.dumps(recipe[key])} here"


def trained_tensors(model: Any, base: Checkpoint) -> dict[str, torch.Tensor]:
    """The model's tensors under the names that the base's files use; a tied head under both of its names.

    Raises :class:`TrainingError` when a parameter has no place in those files, or has another shape there. Called once
    before training too, so that this is known beforehand.
    """
    stored = core_model_loading.revert_weight_conversion(model, model.state_dict())
    parameters = {name for name, _ in model.named_parameters()} & set(stored)
    for name in sorted(parameters | (set(stored) & set(base.tensors))):
        if not base.has(name):
            found = f"transformers calls a weight '{name}', but the files have no such tensor"
            remedy = "Save the base again with its `save_pretrained`, and train from that copy."
            raise TrainingError(base.label, found, remedy)
        if tuple(stored[name].shape) != base.info(name).shape:
            found = f"expected {base.info(name).shape} as in the file, found {tuple(stored[name].shape)} in the model"
            raise TrainingError(name, found, "Save the base again with its `save_pretrained`.")
    return {name: stored[name] for name in base.tensors if name in stored}


def write_expert(
    folder: Path, model: Any, base: Checkpoint, *, dtype: torch.dtype | None, record: dict[str, Any]
) -> None:
    """Write `model` as the new model folder `folder`, complete or not at all, with `record` as its `train.json`.

    Every tensor is stored in the type it has in the base (real-valued ones as `dtype` where one is given). What the
    model class does not load passes through from the base and is listed in the record. Raises
    :class:`RunFailedError` when a trained tensor holds NaN or Inf in the stored type.
    """
    trained = trained_tensors(model, base)
    layout = [TensorSpec.of(info, dtype) for info in base.tensors.values()]
    unchanged = [name for name in base.tensors if name not in trained]
    content = json.dumps({**record, "passed_through": unchanged}, indent=2, ensure_ascii=False, allow_nan=False)
    companions = {**companion_files(Pool(base, {}), dtype=dtype), RECORD: f"{content}\n".encode()}
    write_checkpoint(
        folder,
        whole_tensors(_narrowed(trained, base, layout, label=folder.name)),
        layout=layout,
        companions=companions,
        max_shard_bytes=MAX_SHARD_BYTES,
    )


def _narrowed(
    trained: dict[str, torch.Tensor], base: Checkpoint, layout: list[TensorSpec], *, label: str
) -> Iterator[tuple[str, torch.Tensor]]:
    for spec in layout:
        tensor = trained[spec.name] if spec.name in trained else base.read(spec.name)
        narrow = tensor.detach().to(spec.dtype)
        if narrow.is_floating_point() and not bool(torch.isfinite(narrow).all()):
            remedy = "Lower the learning rate, or store in bfloat16 or float32; no model was written."
            raise RunFailedError(f"{label}: {spec.name}", f"holds NaN or Inf as {spec.dtype}", remedy)
        yield spec.name, narrow
