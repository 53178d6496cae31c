"""The next merges to run: optima of sampled responses, one for each place in the batch.

A sampled response is as good a guess of the truth as any other, and where its optimum lies is worth a run with the
probability that the truth has it there: where little is known, optima scatter; where much is, they meet.

Several objectives are led together by random weights: `max over w of min_k (S_k(w) - low_k) / (span_k lambda_k)`.

Source: Thompson (1933); Knowles, ParEGO (2006), for the random weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aftermix.response.surface.coordinates import Floats

# B draws, C candidates, K objectives


def choose_sampled_optima(
    draws: Sequence[NDArray[np.float32]], allowed: NDArray[np.bool_], count: int, *, rng: np.random.Generator
) -> list[int]:
    """Numbers of `count` different candidates, or fewer where fewer are `allowed`.

    `draws` has (B, C) draws of each objective; draw b of all belongs together. Draws after the first `count` stand in
    where an optimum was taken before.
    """
    chosen: list[int] = []
    open_C = allowed.copy()
    for number in range(len(draws[0])):
        if len(chosen) == count or not open_C.any():
            break
        values_C = _combine_objectives([draw_BC[number] for draw_BC in draws], allowed, rng)
        best = int(np.argmax(np.where(allowed, values_C, -np.inf)))
        if open_C[best]:
            chosen.append(best)
            open_C[best] = False

    # All draws agree on what is taken: the next best of the last one follows.
    for best in np.argsort(-np.where(open_C, _average_ranks(draws), -np.inf), kind="stable"):
        if len(chosen) == count or not open_C[best]:
            break
        chosen.append(int(best))
        open_C[best] = False
    return chosen


def find_front(values_CK: Floats) -> NDArray[np.int64]:
    """Numbers of the candidates that no other one is better than in every objective, by the first objective's order."""
    order = np.lexsort((-values_CK[:, -1], -values_CK[:, 0]))
    front: list[int] = []
    for number in order:
        if not any(np.all(values_CK[other] >= values_CK[number]) for other in front):
            front.append(int(number))
    return np.array(front, dtype=np.int64)


def _combine_objectives(
    values: Sequence[NDArray[np.float32]], allowed: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float32]:
    """(C,) one draw of each objective as one number by random weights; of a single objective itself."""
    if len(values) == 1:
        return values[0]
    weights_K = rng.dirichlet(np.ones(len(values)))
    scaled = []
    for weight, values_C in zip(weights_K, values, strict=True):
        low, high = values_C[allowed].min(), values_C[allowed].max()
        scaled.append((values_C - low) / max(float(high - low), 1e-12) / max(float(weight), 1e-6))
    return np.asarray(np.minimum.reduce(scaled), dtype=np.float32)


def _average_ranks(draws: Sequence[NDArray[np.float32]]) -> Floats:
    """(C,) mean over objectives and draws of the standardised values."""
    standard = [(draw_BC - draw_BC.mean()) / (draw_BC.std() or 1.0) for draw_BC in draws]
    return np.asarray(np.mean([draw_BC.mean(axis=0) for draw_BC in standard], axis=0), dtype=np.float64)
