"""Weights of the merges of a pool: the ones that everybody tries, then points that fill the box and the small one."""

from __future__ import annotations

import numpy as np
from scipy.stats import qmc

SIMPLEX_EVERY = 16
"""Each so many-th point of the design is a mixture: weights that sum to 1."""
SMALL_BOX = 0.5


def list_design(vectors: int, merges: int, *, seed: int) -> np.ndarray:
    """Weights of `merges` merges, (merges, vectors) float32.

    First the base (zeros), each vector alone at 1, all at 1/k, all at 0.5. Then in turn a scrambled Sobol point of
    [0, 1]^k and one of [0, 0.5]^k, and each sixteenth a uniform point of the simplex. A longer design begins with a
    shorter one of the same seed.
    """
    corners = np.concatenate(
        [np.zeros((1, vectors)), np.eye(vectors), np.full((1, vectors), 1 / vectors), np.full((1, vectors), 0.5)]
    )
    boxes = [
        (width, qmc.Sobol(vectors, scramble=True, rng=np.random.default_rng([seed, place])))
        for place, width in enumerate((1.0, SMALL_BOX))
    ]
    simplex = np.random.default_rng([seed, len(boxes)])

    points = list(corners)
    for number in range(merges - len(corners)):
        width, sequence = boxes[number % 2]
        mixed = number % SIMPLEX_EVERY == SIMPLEX_EVERY - 1
        points.append(simplex.dirichlet(np.ones(vectors)) if mixed else width * sequence.random(1)[0])
    return np.stack(points[:merges]).astype(np.float32)
