"""The training job: one expert per dataset, each a complete model folder beside the others."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.reader import Checkpoint, open_checkpoint
from aftermix.config import Config, DatasetConfig, TrainConfig, VectorConfig, require
from aftermix.errors import AftermixError, Problem, TrainingError, refuse_if_any
from aftermix.files import sha256
from aftermix.training.base import document_encoder, freeze, load_base, load_tokenizer, refuse_unfit
from aftermix.training.data import Documents, read_documents
from aftermix.training.expert import (
    identity_of_base,
    is_already_trained,
    recipe_record,
    trained_tensors,
    write_expert,
)
from aftermix.training.packing import PackedTokens, pack
from aftermix.training.trainer import Recipe, Trained, train_one, uses_cuda

VERSIONS_OF = ("aftermix", "accelerate", "numpy", "safetensors", "tokenizers", "torch", "transformers")


@dataclass(frozen=True)
class _Plan:
    """One expert that is to be trained, with everything checked that can be checked before the first step."""

    name: str
    folder: Path
    data: dict[str, Any]
    """What the record says of the dataset; its texts are not kept once they are packed."""
    packed: PackedTokens
    recipe: Recipe
    record: dict[str, Any]


def train(config: Config, output: Path, *, say: Callable[[str], None] | None = None) -> dict[str, Path]:
    """Train one expert per dataset of `config.train` from `config.base`; folder `output/NAME` by dataset name.

    Each folder is a complete Hugging Face model with the base's tensor names and types, written whole or not at all,
    and a `train.json` of what was done. An expert whose folder is there with the same recipe is reused, and `say` is
    told. All inputs are checked before the first step: :class:`AftermixError` names every fault. Experts finished
    before a fault or an interruption stay.
    """
    say = say or _to_stderr
    require(config, "base", "train")
    settings, base_name = config.train, config.base
    if settings is None or base_name is None:
        raise TrainingError("train", "missing from the YAML file", "Add `base:` and `train:`.")
    base = open_checkpoint(locate(base_name), label=base_name)
    folders = {name: output / name for name in settings.datasets}
    _refuse_base_in_the_way(output, folders, base)
    uses_cuda(settings.device)
    settings = _with_scale(settings, base_name, say)
    plans = _plans(settings, base, folders)
    for name, folder in folders.items():
        if name not in {plan.name for plan in plans}:
            say(f"{name}: reused {folder}, trained before by the same recipe")
    for plan in plans:
        _train_expert(plan, settings, base)
        say(f"{plan.name}: wrote {plan.folder}")
    return folders


def _to_stderr(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


def _with_scale(settings: TrainConfig, base_name: str, say: Callable[[str], None]) -> TrainConfig:
    """The settings with a number for `scale: auto`: the mean absolute deviation of the pilot's vector.

    Raises :class:`TrainingError` for a pilot that is the base itself.
    """
    if settings.optimizer.pilot is None:
        return settings
    from aftermix.analysis.laplace import fit_whole  # SciPy's distributions take a second to import

    pilot = VectorConfig(model=settings.optimizer.pilot)
    fitted = fit_whole(open_pool(Config(base=base_name, vectors={"pilot": pilot})))["pilot"]
    if fitted is None:
        found = f"{pilot.model} equals the base, so its vector has no scale"
        raise TrainingError("train.optimizer.pilot", found, "Name an expert trained from this base.")
    say(f"scale {fitted.laplace.scale:.3g}, from {pilot.model}")
    update = {"scale": fitted.laplace.scale, "pilot": None}
    return settings.model_copy(update={"optimizer": settings.optimizer.model_copy(update=update)})


def _refuse_base_in_the_way(output: Path, folders: dict[str, Path], base: Checkpoint) -> None:
    root = base.folder.resolve()
    for place in (output, *folders.values()):
        resolved = place.resolve()
        if resolved == root or root in resolved.parents:
            found = f"the output would lie in the base's folder {base.folder}"
            raise TrainingError(str(place), found, "Name an output folder outside of it.")
    if output.exists() and not output.is_dir():
        raise TrainingError(str(output), "is a file", "Name a folder.")


def _plans(settings: TrainConfig, base: Checkpoint, folders: dict[str, Path]) -> list[_Plan]:
    """What is to be trained, checked; experts that are there already are left out.

    Raises :class:`ManyProblemsError` with the faults of all datasets.
    """
    base_identity = identity_of_base(base)
    to_prepare: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    for name, dataset in settings.datasets.items():
        try:
            data_sha256 = _sha256_of_data(Path(dataset.data))
            record = recipe_record(base_identity, data_sha256=data_sha256, dataset=dataset, config=settings)
            if not is_already_trained(folders[name], record):
                to_prepare[name] = record
        except AftermixError as error:
            problems += _labelled(name, error)
    plans = _prepared(settings, base, folders, to_prepare, problems) if to_prepare else []
    refuse_if_any(problems)
    return plans


def _prepared(
    settings: TrainConfig,
    base: Checkpoint,
    folders: dict[str, Path],
    records: dict[str, dict[str, Any]],
    problems: list[Problem],
) -> list[_Plan]:
    """Read, tokenise and pack each dataset of `records` against a model loaded once to see that all fits."""
    tokenizer = load_tokenizer(base.folder)
    encode = document_encoder(tokenizer, where=base.label)
    model = load_base(base)
    trained_tensors(model, base)
    freeze(model, settings.freeze)
    plans: list[_Plan] = []
    for name, record in records.items():
        dataset = settings.datasets[name]
        try:
            documents = read_documents(Path(dataset.data), text_field=dataset.text_field)
            packed = pack(documents, encode, context=settings.context, tokens=dataset.tokens, seed=settings.seed)
            refuse_unfit(packed, model.config, tokenizer, where=base.label)
            recipe = _recipe(settings, dataset)
            recipe.steps(len(packed))
        except AftermixError as error:
            problems += _labelled(name, error)
        else:
            data = _described(documents, packed)
            plans.append(_Plan(name, folders[name], data, packed, recipe, record))
    return plans


def _described(documents: Documents, packed: PackedTokens) -> dict[str, Any]:
    return {
        "file": str(documents.path),
        "documents": len(documents.texts),
        "empty_documents_left_out": documents.empty,
        "characters": documents.characters,
        "tokens_per_epoch": packed.tokens_per_epoch,
    }


def _recipe(settings: TrainConfig, dataset: DatasetConfig) -> Recipe:
    return Recipe(
        batch_size=settings.batch_size,
        learning_rate=dataset.learning_rate or settings.learning_rate,
        schedule=settings.schedule,
        min_lr_rate=settings.min_lr_rate,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
        max_grad_norm=settings.max_grad_norm,
        optimizer=settings.optimizer,
        seed=settings.seed,
    )


def _sha256_of_data(path: Path) -> str:
    try:
        return sha256(path)
    except OSError:
        # Missing and unreadable files get their message from the reader, which knows the remedies.
        read_documents(path)
        raise


def _labelled(name: str, error: AftermixError) -> list[Problem]:
    """The problems of `error`, saying whose dataset it is."""
    return [Problem(f"train.datasets.{name}: {each.where}", each.found, each.remedy) for each in error.problems]


def _train_expert(plan: _Plan, settings: TrainConfig, base: Checkpoint) -> None:
    model = load_base(base)
    frozen = freeze(model, settings.freeze)
    done = train_one(
        model,
        plan.packed,
        recipe=plan.recipe,
        device=settings.device,
        threads=settings.threads,
        label=f"train {plan.name}",
    )
    dtype = getattr(torch, settings.dtype) if settings.dtype else None
    write_expert(
        plan.folder, model, base, dtype=dtype, record=_record(plan, done, base, model, frozen, settings.threads)
    )
    del model
    gc.collect()  # the Trainer leaves reference cycles, and the next expert needs the room


def _record(
    plan: _Plan, done: Trained, base: Checkpoint, model: Any, frozen: list[str], threads: int | None
) -> dict[str, Any]:
    """What `train.json` says: the recipe that identifies the expert, and what really happened."""
    packed = plan.packed
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {
        "format": 1,
        "name": plan.name,
        "base": base.label,
        "recipe": plan.record,
        "data": plan.data,
        "tokens": len(packed.ids),
        "epochs": round(packed.epochs, 6),
        "documents_begun": packed.documents,
        "sequences": len(packed),
        "steps": len(done.losses),
        "learning_rate": plan.recipe.learning_rate,
        "seed": plan.recipe.seed,
        "trained_parameters": trainable,
        "frozen": frozen,
        "loss": {"first": done.losses[0], "final": done.final_loss},
        "seconds": round(done.seconds, 3),
        "tokens_per_second": round(len(packed.ids) / done.seconds, 1),
        "device": done.device,
        "threads": threads or torch.get_num_threads(),
        "versions": {name: version(name) for name in VERSIONS_OF},
    }
