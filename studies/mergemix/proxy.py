"""Ratios by `aftermix mixture`: the product's own job over experts that are merged, never trained together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from aftermix.config import parse_config
from aftermix.jobs.mixture.command import mixture
from studies.mergemix.domains import CAPABILITIES

ITEMS = {"search": 44, "select": 20, "test": 9}
TINY_ITEMS = {"search": 4, "select": 3, "test": 2}


def find_mixture(
    run: Path,
    *,
    base: str,
    experts: Mapping[str, Path],
    tokens: Mapping[str, int],
    tasks: Path,
    seed: int,
    threads: int,
    items: Mapping[str, int],
    **section: Any,
) -> dict[str, float]:
    """Ratios in tokens: run `aftermix mixture` in the folder `run`, go on with it, or read what it found before."""
    values = {
        "base": base,
        "vectors": {name: {"model": str(path), "tokens": tokens[name]} for name, path in experts.items()},
        "evaluate": {
            "tasks": [f"bits_{name}" for name in CAPABILITIES],
            "include_path": str(tasks),
            "items": {**items, "seed": seed},
            "batch_size": 32,
            "threads": threads,
        },
        "mixture": {"seed": seed, **section},
    }
    if not (run / "best.json").is_file():
        config = parse_config(yaml.safe_load(yaml.safe_dump(values)), where="mixture.yaml", folder=run.parent)
        mixture(config, run, resume=run.is_dir())
    ratios: dict[str, float] = json.loads((run / "best.json").read_text(encoding="utf-8"))["ratios"]
    return ratios
