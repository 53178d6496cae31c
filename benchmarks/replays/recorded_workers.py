"""Workers that answer at once, from the merges recorded in a pool."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from benchmarks.pools import load_pool
from benchmarks.pools.emulator import PoolEmulator
from benchmarks.replays.worlds import draw_answers

from aftermix.runs.answers.candidate import TaskAnswers
from aftermix.runs.trials import ItemMeasurement, Point


def open_recorded(pool: str) -> Callable[[Point], ItemMeasurement]:
    """Worker: answers to any merge, as the pool's emulator gives them."""
    emulator = PoolEmulator.fit(load_pool(pool))
    return partial(answer_recorded, emulator)


def answer_recorded(emulator: PoolEmulator, point: Point) -> ItemMeasurement:
    """Scores and log-likelihoods of all items at `point`."""
    weights_V = np.array([point.weights[name] for name in emulator.pool.vectors])
    answers = draw_answers(emulator, weights_V[None])
    kept = {
        name: TaskAnswers(
            each.loglikelihood_MR[0].astype(np.float32), np.zeros(each.loglikelihood_MR.shape[1], np.uint8)
        )
        for name, each in answers.items()
    }
    items = {name: each.score_MN[0].tolist() for name, each in answers.items()}
    return ItemMeasurement(items, {"evaluate": 0.0}, kept, tokens=1)
