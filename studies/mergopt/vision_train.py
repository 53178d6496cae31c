"""A small ViT of transformers, trained in a plain loop with one optimizer or another."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification

from aftermix.analysis.distribution import fit_whole
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, VectorConfig
from aftermix.files import write_atomically
from aftermix.seeds import derived_seed, generator
from aftermix.training import ASAM, SAM, MergeAware
from studies.mergopt.vision_data import TASKS, Images, all_views, images

BATCH = 32
BASE_RATE, RATE = 1e-3, 5e-4
PILOT = "constant"
VARIANTS: dict[str, Callable[[torch.optim.Optimizer, float, int], torch.optim.Optimizer]] = {
    PILOT: lambda base, fitted, seed: base,  # noqa: ARG005 - all variants are called alike
    "aware": lambda base, fitted, seed: MergeAware(base, seed=seed),  # noqa: ARG005
    "fitted": lambda base, fitted, seed: MergeAware(base, scale=fitted, seed=seed),
    "sam": lambda base, fitted, seed: SAM(base),  # noqa: ARG005
    "asam": lambda base, fitted, seed: ASAM(base),  # noqa: ARG005
}
"""An optimizer around AdamW, given the scale of the pilot's vector and a seed; the pilot comes first."""


@dataclass(frozen=True)
class VisionSizes:
    """How large a model is, how long it is trained, and on how much it is measured."""

    layers: int = 4
    base_steps: int = 500
    steps: int = 120
    images: int | None = None
    """Of a part and a task; None for all."""


TINY_VISION = VisionSizes(layers=1, base_steps=2, steps=2, images=32)


def make(folder: Path, *, seed: int, sizes: VisionSizes) -> None:
    """The base of one seed and its experts, `VARIANT/TASK`, what is not there yet."""
    if not (folder / "base").is_dir():
        model = new_model(seed, layers=sizes.layers)
        optimizer = _adamw(model, BASE_RATE)
        train(model, all_views("pretrain"), optimizer=optimizer, steps=sizes.base_steps, seed=seed)
        save(model, folder / "base")
    for variant in VARIANTS:
        for task in TASKS:
            if not (folder / variant / task).is_dir():
                expert = _expert(folder, variant, task, seed=seed, steps=sizes.steps)
                save(expert, folder / variant / task)


def is_made(folder: Path) -> bool:
    """Whether :func:`make` would find everything there."""
    return all((folder / variant / task).is_dir() for variant in VARIANTS for task in TASKS)


def new_model(seed: int, *, layers: int = VisionSizes.layers) -> ViTForImageClassification:
    """Layers of width 64 over 16 patches of 2 x 2 pixels."""
    torch.manual_seed(derived_seed(seed, "vit") % 2**32)
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ViTForImageClassification(config)


def train(
    model: ViTForImageClassification, data: Images, *, optimizer: torch.optim.Optimizer, steps: int, seed: int
) -> None:
    """Constant rate; batches follow the seed alone, so all variants see the same."""
    model.train()
    for chosen in _batches(len(data), steps, seed=seed):
        pixels, labels = data.pixels_N1HW[chosen], data.labels_N[chosen]

        def loss(pixels: torch.Tensor = pixels, labels: torch.Tensor = labels) -> torch.Tensor:
            return cross_entropy(model(pixel_values=pixels).logits, labels)

        if isinstance(optimizer, SAM):
            loss().backward()
        if isinstance(optimizer, SAM | MergeAware):
            with optimizer.perturbed():
                loss().backward()
        else:
            loss().backward()
        optimizer.step()
        optimizer.zero_grad()


def save(model: ViTForImageClassification, folder: Path) -> None:
    """Whole or not at all."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished, save_original_format=False)  # names as they are in the living model
    write_atomically(unfinished / "finished", "")
    unfinished.rename(folder)


def _expert(folder: Path, variant: str, task: str, *, seed: int, steps: int) -> ViTForImageClassification:
    model = ViTForImageClassification.from_pretrained(folder / "base")
    fitted = _fitted_scale(folder, task) if variant == "fitted" else 0.0
    optimizer = VARIANTS[variant](_adamw(model, RATE), fitted, derived_seed(seed, "noise", task))
    train(model, images(task, "train"), optimizer=optimizer, steps=steps, seed=seed)
    return model


def _fitted_scale(folder: Path, task: str) -> float:
    """Mean absolute deviation of the pilot's vector, as `scale: auto` takes it."""
    vectors = {"pilot": VectorConfig(model=str(folder / PILOT / task))}
    found: Any = fit_whole(open_pool(Config(base=str(folder / "base"), vectors=vectors)))["pilot"]
    return float(found.laplace.scale)


def _adamw(model: torch.nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1, betas=(0.9, 0.95))


def _batches(count: int, steps: int, *, seed: int) -> Iterator[torch.Tensor]:
    stream = generator(seed, "batches")
    for _ in range(steps):
        yield torch.from_numpy(stream.choice(count, BATCH, replace=False))
