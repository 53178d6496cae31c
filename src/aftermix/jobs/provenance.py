"""What went into a result: hashes of the inputs, seeds and versions, and the recipe that makes it again."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from aftermix.checkpoints.pool import Pool
from aftermix.checkpoints.reader import Checkpoint
from aftermix.config import Config
from aftermix.files import sha256
from aftermix.merging.merge import Recipe, Weights

PACKAGES = ("aftermix", "torch", "numpy", "safetensors", "transformers", "lm_eval", "optuna")
BLOB = re.compile(r"^[0-9a-f]{64}$")


def lock(pool: Pool, config: Config) -> dict[str, Any]:
    """Content of `lock.json`. It holds no time and no machine name: the same inputs give the same bytes."""
    inputs = {f"vectors.{name}": expert for name, expert in pool.experts.items()}
    if pool.base is not None:
        inputs["base"] = pool.base
    return {
        "inputs": {key: _identity(checkpoint) for key, checkpoint in sorted(inputs.items())},
        "seeds": {"merge": config.merge.seed, "search": config.search.seed}
        | ({"items": config.evaluate.items.seed} if config.evaluate else {}),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers; absent packages are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def recipe_yaml(config: Config, recipe: Recipe, weights: Weights) -> str:
    """The merge as a file that `aftermix merge` takes: settled options, the weights used, nothing left to defaults."""
    vectors = {
        name: {"model": vector.model, "weight": float(weights.get(name, 0.0)), "role": vector.role}
        for name, vector in config.vectors.items()
    }
    merge = _method_values(config, recipe) | {
        "exclude": list(recipe.exclude),
        "seed": recipe.seed,
        "lambda": recipe.scale,
    }
    if recipe.dtype is not None:
        merge["dtype"] = str(recipe.dtype).removeprefix("torch.")
    values = ({"base": config.base} if config.base else {}) | {"vectors": vectors, "merge": merge}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _method_values(config: Config, recipe: Recipe) -> dict[str, Any]:
    if config.merge.intra is None and config.merge.inter is None:
        return {"method": recipe.method.name} | recipe.method.options
    return {"intra": config.merge.intra or "all", "inter": config.merge.inter or "sum"}


def _identity(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "model": checkpoint.label,
        "files": {file.name: _digest(file) for file in checkpoint.files()},
        "config": sha256(checkpoint.folder / "config.json"),
    }


def _digest(file: Path) -> str:
    """SHA-256 of a weight file; the hub's cache names its blobs by it, which saves reading them."""
    blob = file.resolve().name
    return blob if BLOB.match(blob) else sha256(file)
