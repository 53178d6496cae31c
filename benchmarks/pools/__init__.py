"""Pools of recorded merges: weights, and what every item of every task answered to each merge.

    from benchmarks.pools import load_pool
    pool = load_pool("demo")

A pool is one file `NAME.safetensors` beside this one. `record.py` makes it, `check.py` looks at it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

FOLDER = Path(__file__).resolve().parent

# M merges, V vectors, N items, R requests


@dataclass(frozen=True)
class RecordedTask:
    """What one task answered to every merge."""

    name: str
    kind: str
    """`multiple_choice`, or `generate_until`: then an item's one request is its reference answer."""
    metric: str
    """The metric that counts, as lm-eval names it."""
    loglikelihood_MR: np.ndarray
    """float32, nats, of all requests, item after item."""
    offsets: np.ndarray
    """int32, N + 1: the requests of item i are those from `offsets[i]` to before `offsets[i + 1]`."""
    gold_N: np.ndarray
    """int16, the right choice of each item, counted from its first request."""
    length_R: np.ndarray
    """int16, what the metric divides a log-likelihood by: ones for `acc`."""
    document_N: np.ndarray
    """int32, items of equal rows of the data have one number, whichever task they are of."""
    score_MN: np.ndarray
    """float32, the metric of each item."""

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.gold_N)

    def split_requests(self, item: int) -> np.ndarray:
        """Log-likelihoods of the choices of one item, (merges, choices)."""
        return self.loglikelihood_MR[:, self.offsets[item] : self.offsets[item + 1]]


@dataclass(frozen=True)
class RecordedPool:
    """Merges of one base and its vectors, measured on the same items."""

    name: str
    method: str
    vectors: tuple[str, ...]
    weights_MV: np.ndarray
    """float32; first the base (zeros), each vector alone at 1, all at 1/V, all at 0.5, then the design."""
    tasks: Mapping[str, RecordedTask]
    facts: Mapping[str, str]
    """The header as it stands: settings of the method, seed, script, commit, date, machine, positions of a merge."""

    @property
    def merges(self) -> int:
        """Number of merges."""
        return len(self.weights_MV)

    def compute_scores(self) -> np.ndarray:
        """Mean metric of each merge and task, (merges, tasks)."""
        return np.stack([task.score_MN.mean(axis=1) for task in self.tasks.values()], axis=1)


def load_pool(name: str | Path) -> RecordedPool:
    """Read a pool by its name, or by the path of its file. Raises `FileNotFoundError` naming those that are there."""
    path = Path(name) if Path(name).suffix else FOLDER / f"{name}.safetensors"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in FOLDER.glob("*.safetensors"))) or "none"
        raise FileNotFoundError(f"{path}: no such pool; there are: {there}. `record.py` makes one.")

    with safe_open(str(path), framework="numpy") as file:
        facts = dict(file.metadata())
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    tasks = {name: _read_task(name, about, arrays) for name, about in json.loads(facts["tasks"]).items()}
    vectors = tuple(json.loads(facts["vectors"]))
    return RecordedPool(facts["name"], facts["method"], vectors, arrays["weights"], tasks, facts)


def _read_task(name: str, about: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> RecordedTask:
    # Stored as float16 around the value of the request in the middle of all merges, so that merges near it are exact.
    departure_MR = arrays[f"{name}/loglikelihood"].astype(np.float32)
    return RecordedTask(
        name=name,
        kind=about["kind"],
        metric=about["metric"],
        loglikelihood_MR=arrays[f"{name}/centre"] + departure_MR,
        offsets=arrays[f"{name}/offsets"],
        gold_N=arrays[f"{name}/gold"],
        length_R=arrays[f"{name}/length"],
        document_N=arrays[f"{name}/document"],
        score_MN=arrays[f"{name}/score"].astype(np.float32),
    )
