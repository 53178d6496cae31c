"""A LoRA adapter written as PEFT writes one: names, settings and tensors of modules and of what is stored whole.

Factors have their scale in them: `lora_alpha` is the rank, of every module, so that PEFT multiplies by 1. A tied
embedding is stored under each of its names, which every version of PEFT reads alike.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from aftermix.checkpoints.formats.lora.factors import Factors
from aftermix.checkpoints.formats.lora.names import EMBEDDING_A, EMBEDDING_B, ROOT, A, B
from aftermix.checkpoints.model import Model, TensorInfo
from aftermix.checkpoints.names import HEADS

WEIGHT = ".weight"
BIAS = ".bias"
NO_MODULE = "dummy-target-modules"
"""PEFT's word for an adapter that has no factors."""


@dataclass
class PeftTensors:
    """The tensors of an adapter under PEFT's names, and what its settings have to say of them."""

    base: Model
    rename: Callable[[str], str]
    """From the base's name of a tensor to its name in the model that PEFT wraps."""
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    """By module with factors."""
    whole: list[str] = field(default_factory=list)
    """Modules that are stored whole."""
    biases: dict[str, torch.Tensor] = field(default_factory=dict)
    """By module, of those whose bias alone is stored."""

    def add_factors(self, info: TensorInfo, factors: Factors, *, turned: bool, embedding: bool) -> None:
        """Add the factors of one tensor; `turned` where the base holds it as (in, out)."""
        for name in self._list_names(info.name):
            module = self.rename(name).removesuffix(WEIGHT)
            looked_up = embedding and not name.endswith(HEADS)
            is_turned = looked_up or (turned and not embedding)
            rows, columns = factors.rows_MK, factors.columns_KN
            a, b = (rows.T, columns.T) if is_turned else (columns, rows)
            if len(info.shape) > 2:  # of a convolution
                a, b = a.reshape(-1, *info.shape[1:]), b.reshape(*b.shape, *(1 for _ in info.shape[2:]))

            endings = (f".{EMBEDDING_A}", f".{EMBEDDING_B}") if looked_up else (f".{A}.weight", f".{B}.weight")
            for ending, tensor in zip(endings, (a, b), strict=True):
                self.tensors[f"{ROOT}{module}{ending}"] = tensor.contiguous().clone()
            self.ranks[module] = factors.rank

    def add_whole(self, name: str, tensor: torch.Tensor) -> None:
        """Add one tensor of a module that is stored whole, under all its names."""
        for each in self._list_names(name):
            own = self.rename(each)
            self.tensors[f"{ROOT}{own}"] = tensor.contiguous().clone()
            module = own.rpartition(".")[0]
            if module not in self.whole:
                self.whole.append(module)

    def add_bias(self, name: str, tensor: torch.Tensor) -> None:
        """Add the bias of a module whose weight is not stored whole."""
        self.biases[self.rename(name).removesuffix(BIAS)] = tensor.contiguous().clone()

    def list_tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by PEFT's name; the bias of a module with factors lies in the layer that PEFT wraps."""
        inner = {module: ".base_layer" if module in self.ranks else "" for module in self.biases}
        return self.tensors | {f"{ROOT}{m}{inner[m]}{BIAS}": tensor for m, tensor in self.biases.items()}

    def format_settings(self, *, base_model: str | None, task_type: Any, turned: bool) -> bytes:
        """The content of `adapter_config.json`."""
        common = Counter(self.ranks.values()).most_common(1)[0][0] if self.ranks else 1
        pattern = _shorten_ranks({module: rank for module, rank in self.ranks.items() if rank != common}, self.ranks)

        settings = {
            "alpha_pattern": pattern,
            "base_model_name_or_path": base_model,
            "bias": "all" if self.biases else "none",
            "fan_in_fan_out": turned,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": common,
            "lora_dropout": 0.0,
            "modules_to_save": sorted(self.whole) or None,
            "peft_type": "LORA",
            "r": common,
            "rank_pattern": pattern,
            "target_modules": self._name_targets() or NO_MODULE,
            "task_type": task_type,
            "use_dora": False,
            "use_rslora": False,
        }

        return (json.dumps(settings, indent=2) + "\n").encode()

    def _list_names(self, stored: str) -> list[str]:
        return [stored, *(name for name, other in self.base.alias.items() if other == stored)]

    def _name_targets(self) -> list[str]:
        """Modules with factors: the last part of their names where that means no other module, else the whole."""
        modules = [self.rename(name).removesuffix(WEIGHT) for name in self.base.tensors if name.endswith(WEIGHT)]
        all_by_leaf = _group_by_leaf({*modules, *self.ranks})
        ours = _group_by_leaf(self.ranks)
        short = {leaf for leaf, paths in ours.items() if len(paths) == len(all_by_leaf[leaf])}
        return sorted({leaf if leaf in short else path for leaf, paths in ours.items() for path in paths})


def _group_by_leaf(paths: Sequence[str] | set[str] | Mapping[str, int]) -> dict[str, list[str]]:
    leaves: dict[str, list[str]] = {}
    for path in paths:
        leaves.setdefault(path.rpartition(".")[2], []).append(path)
    return leaves


def _shorten_ranks(other: Mapping[str, int], ranks: Mapping[str, int]) -> dict[str, int]:
    """The rank by pattern: a last part where all modules of that name have one rank, else the path of each."""
    pattern: dict[str, int] = {}
    for leaf, paths in sorted(_group_by_leaf(ranks).items()):
        found = {ranks[path] for path in paths}
        if len(found) == 1 and paths[0] in other:
            pattern[leaf] = ranks[paths[0]]
        elif len(found) > 1:
            pattern |= {path: ranks[path] for path in sorted(paths) if path in other}
    return pattern
