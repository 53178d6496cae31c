"""The optimizer that a recipe names, over a model's trainable parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from aftermix.checkpoints.names import build_matcher
from aftermix.config import OptimizerConfig
from aftermix.errors import TrainingError
from aftermix.seeds import derived_seed
from aftermix.training.optimizers.folded_weight import find_folded_weights
from aftermix.training.optimizers.merge_aware import MergeAware, refuse_idle_patterns
from aftermix.training.optimizers.sam import ASAM, SAM

OF_OTHERS = ("base", "momentum", "pilot")
"""Options that say what is wrapped, or where `scale` comes from."""


class OptimizerRecipe(Protocol):
    """Part of a recipe that an optimizer needs to know."""

    @property
    def optimizer(self) -> OptimizerConfig: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def noise_scale(self) -> float | Mapping[str, float] | None: ...
    @property
    def seed(self) -> int: ...


def make_optimizer(model: torch.nn.Module, recipe: OptimizerRecipe, *, fused: bool = False) -> torch.optim.Optimizer:
    """The recipe's optimizer: decay on matrices, none on parameters of fewer than two dimensions.

    AdamW decays the weights themselves (decoupled), SGD adds the decay to the gradient, each as PyTorch does.
    """
    options = recipe.optimizer
    base = _build_base(model, recipe, fused=fused)
    if options.name == "merge_aware":
        own = _select_own_options(options)
        if recipe.noise_scale is not None:
            own["scale"] = recipe.noise_scale
        if not isinstance(own["scale"], float | Mapping):
            found = "`scale` has not been given a number yet"
            raise TrainingError("train.optimizer", found, "Find it first, as `aftermix train` does.")
        seed, folded = derived_seed(recipe.seed, "merge-aware"), find_folded_weights(model)
        named = model.named_parameters()
        return MergeAware(base, seed=seed, named_parameters=named, folded=folded, **own)

    if options.name == "sam":
        return SAM(base, **_select_own_options(options))
    return ASAM(base, **_select_own_options(options)) if options.name == "asam" else base


def list_moved_names(model: torch.nn.Module, exclude: Sequence[str] = ()) -> list[str]:
    """Names of what noise moves in `model`: trained parameters, and folded weights in the place of adapters."""
    folded = find_folded_weights(model)
    factors = {id(factor) for layer in folded for factor in layer.factors}
    own = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in factors]
    is_excluded = build_matcher(exclude, where="train.optimizer.exclude")
    return [name for name in [*own, *(layer.name for layer in folded)] if not is_excluded(name)]


def refuse_idle_exclusions(model: torch.nn.Module, options: OptimizerConfig) -> None:
    """Raise :class:`TrainingError` for a pattern of `options.exclude` that means nothing that moves in `model`."""
    refuse_idle_patterns(options.exclude, list_moved_names(model), where="train.optimizer.exclude")


def _select_own_options(options: OptimizerConfig) -> dict[str, Any]:
    """The file's options under their own names, which are the arguments'; what it leaves open is left to the class."""
    values = {name: getattr(options, name) for name in options.options if name not in OF_OTHERS}
    return {name: value for name, value in values.items() if value is not None}


def _build_base(model: torch.nn.Module, recipe: OptimizerRecipe, *, fused: bool) -> torch.optim.Optimizer:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]

    options = recipe.optimizer
    if "sgd" in (options.name, options.base):
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=options.momentum)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=fused)
