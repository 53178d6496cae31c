"""An expert's folder: the base's tensors under the base's names and types, its companion files, and `train.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from transformers import core_model_loading

from aftermix.checkpoints.alignment.recorded_base import TRAINING_FILE
from aftermix.checkpoints.formats.content_hash import hash_all_weights
from aftermix.checkpoints.model_files import read_companion_files, read_identity_files
from aftermix.checkpoints.pool import ModelPool
from aftermix.checkpoints.reader import Checkpoint
from aftermix.checkpoints.safe_files import read_json
from aftermix.checkpoints.shards import TensorSpec, plan_shards, stream_whole_tensors, write_index, write_shards
from aftermix.checkpoints.writer import describe_occupant, stage_folder, write_companions
from aftermix.config import DatasetConfig, TrainConfig
from aftermix.errors import RunFailedError, TrainingError
from aftermix.files import format_json
from aftermix.runs.verification_records import OwnVectorRecord
from aftermix.training.resuming import describe_differences
from aftermix.training.vectors.own_vector import RoundingLoss, VectorType, write_own_vector

MAX_SHARD_BYTES = 5_000_000_000
NOT_OF_THE_RECIPE = {
    *("datasets", "sources", "mixtures", "cache"),
    *("device", "threads", "accumulation", "save_steps", "checkpoint_tokens", "vector"),
}
"""Keys of the training file that decide where and how a run is worked off, and at most the last bits of its result.

What of the data decides it is told apart.
"""


def identify_base(base: Checkpoint) -> dict[str, Any]:
    """Hashes that make the base this base: one of each weight file, and one over configuration and tokenizer files."""
    digest = hashlib.sha256()
    for name, content in sorted(read_identity_files(base).items()):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)

    return {"weights": hash_all_weights(base.files()), "companions": digest.hexdigest()}


def build_recipe_record(
    base_identity: dict[str, Any],
    *,
    data: dict[str, Any],
    dataset: DatasetConfig,
    config: TrainConfig,
    noise_scale: JsonValue = None,
) -> dict[str, Any]:
    """Everything that decides the expert's weights, as plain values: two equal records mean the same expert.

    `data` is what of the data decides them, and `noise_scale` what decides a scale that is yet to be found. Where it
    ran (device, threads) is not among them: it changes the last bits only.
    """
    options = config.model_dump(mode="json", exclude=NOT_OF_THE_RECIPE)
    if config.date is None:
        del options["date"]
    options["learning_rate"] = dataset.learning_rate or config.learning_rate
    if config.optimizer.name in ("sam", "asam"):
        options["accumulation"] = config.accumulation  # each micro-batch has its own ascent

    if noise_scale is not None:
        options["optimizer"] = {**options["optimizer"], "scale": noise_scale}
    if config.lora is not None and config.optimizer.name == "merge_aware":
        options["moves"] = "folded"  # an older version moved the adapters' factors, which made other experts

    return {
        "base": base_identity,
        **data,
        "tokens": dataset.tokens,
        **options,
    }


def is_already_trained(
    folder: Path, recipe: dict[str, Any], *, checkpoint_tokens: int | tuple[int, ...] | None = None
) -> bool:
    """True when `folder` holds the expert of `recipe`, with the checkpoints asked for; False when nothing is there.

    Raises :class:`TrainingError` when something else is there.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False

    remedy = "Name another output folder, or remove this one yourself."
    if not (folder / TRAINING_FILE).is_file():
        held = f"; it holds {describe_occupant(folder)}" if folder.is_dir() else ""
        raise TrainingError(str(folder), f"exists and is no expert of ours (it has no {TRAINING_FILE}){held}", remedy)

    # A record of an older version lacks keys that it did not know; the run had their defaults.
    record = read_json(folder / TRAINING_FILE, remedy=remedy)
    different = describe_differences(record.get("recipe", {}), recipe, defaults=_collect_defaults())
    if checkpoint_tokens is not None:
        wanted = list(checkpoint_tokens) if isinstance(checkpoint_tokens, tuple) else checkpoint_tokens
        different += describe_differences(record, {"checkpoint_tokens": wanted})

    if different:
        found = f"holds an expert of another recipe ({'; '.join(different[:3])})"
        raise TrainingError(str(folder), found, remedy)
    return True


def _collect_defaults() -> dict[str, Any]:
    fields = {**DatasetConfig.model_fields, **TrainConfig.model_fields}.items()
    return {name: field.default for name, field in fields if isinstance(field.default, str | int | float | None)}


def collect_trained_tensors(
    model: Any, base: Checkpoint, *, state: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The model's tensors under the names that the base's files use; a tied head under both of its names.

    `state` is the model's state dict where the model cannot give it (it is sharded, or in training). Raises
    :class:`TrainingError` when a parameter has no place in those files, or has another shape there. Called once
    before training too, so that this is known beforehand.
    """
    stored = core_model_loading.revert_weight_conversion(model, model.state_dict() if state is None else state)
    # Buffers that the files lack are passed over; a parameter has to be there.
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
    folder: Path,
    model: Any,
    base: Checkpoint,
    *,
    dtype: torch.dtype | None,
    record: dict[str, Any],
    state: dict[str, torch.Tensor] | None = None,
    vector: VectorType | None = None,
    companions: Mapping[str, bytes] | None = None,
) -> OwnVectorRecord:
    """Write `model` as the new model folder `folder`, complete or not at all, with `record` as its `train.json`.

    `state` is its state dict, as for :func:`collect_trained_tensors`.

    Every tensor is stored in the type it has in the base (real-valued ones as `dtype` where one is given). What the
    model class does not load passes through from the base and is listed in the record, beside what the stored types
    lost of the vector, which is returned too. With `vector` the difference from the base lies beside the weights in
    that type, tied to both by hashes. `companions` are further files, by name. Raises :class:`RunFailedError` when a
    trained tensor holds NaN or Inf in the stored type.
    """
    trained = collect_trained_tensors(model, base, state=state)
    layout = [TensorSpec.from_info(info, dtype) for info in base.tensors.values()]
    unchanged = [name for name in base.tensors if name not in trained]
    shards = plan_shards(layout, MAX_SHARD_BYTES)
    loss = RoundingLoss()

    with stage_folder(folder) as hidden:
        narrow = _narrow_tensors(trained, base, layout, label=folder.name, loss=loss)
        write_shards(hidden, stream_whole_tensors(narrow), shards)
        if vector is not None:
            write_own_vector(hidden, trained, base, differing=loss.differing, dtype=vector)
            write_index(hidden, shards)  # servers that open every safetensors file leave the vector alone then

        rounded = loss.build_record(vector)
        content = format_json({**record, "passed_through": unchanged, "vector": rounded.model_dump()}).encode()
        own = {TRAINING_FILE: content, **(companions or {})}
        write_companions(hidden, {**read_companion_files(ModelPool(base, {}), dtype=dtype), **own})
    return rounded


def _narrow_tensors(
    trained: dict[str, torch.Tensor], base: Checkpoint, layout: list[TensorSpec], *, label: str, loss: RoundingLoss
) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor in its stored type; `loss` is told what that rounds, a tied head once."""
    for spec in layout:
        tensor = trained[spec.name] if spec.name in trained else base.read(spec.name)
        narrow = tensor.detach().to(spec.dtype)
        if narrow.is_floating_point() and not bool(torch.isfinite(narrow).all()):
            remedy = "Lower the learning rate, or store in bfloat16 or float32, in another output folder."
            raise RunFailedError(f"{label}: {spec.name}", f"holds NaN or Inf as {spec.dtype}", remedy)

        if spec.name in trained and base.info(spec.name).mergeable and spec.name not in base.alias:
            flat = (part.detach().cpu().reshape(-1) for part in (base.read(spec.name), tensor, narrow))
            loss.add(spec.name, *flat)
        yield spec.name, narrow
