"""The RegMix tables: 512 + 256 mixtures over 17 domains with 13 losses of trained models."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[1] / "data" / "regmix"


@cache
def table(name: str) -> np.ndarray:
    """All columns but the index."""
    return np.loadtxt(DATA / f"{name}_1m.csv", delimiter=",", skiprows=1)[:, 1:]


@cache
def losses() -> tuple[str, ...]:
    """Names of the columns of the losses."""
    header = (DATA / "train_pile_loss_1m.csv").read_text().splitlines()[0].split(",")[1:]
    return tuple(name.removeprefix("metric/the_pile_").removesuffix("_val_loss") for name in header)


def drawn(draw: int, points: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """`points` random training mixtures with their losses."""
    rows = np.random.default_rng(draw).choice(512, points, replace=False)
    return table("train_mixture")[rows], table("train_pile_loss")[rows]
