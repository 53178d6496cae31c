"""Randomness keyed by name: every stream is a function of (seed, what it is for), never of who drew before.

A mask or a noise block is therefore the same for every shard layout, thread count, tensor order and machine. Keys are
hashed with BLAKE2b, streams are NumPy's SFC64, whose raw output NumPy keeps stable between releases.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def derived_seed(seed: int, *key: str | int) -> int:
    """A 63-bit seed for one purpose.

    >>> derived_seed(0, "sampler", 3) == derived_seed(0, "sampler", 3) != derived_seed(0, "sampler", 4)
    True
    """
    text = "\x1f".join([str(seed), *map(str, key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """A NumPy generator for one purpose, e.g. `generator(0, "items", "gsm8k")`."""
    return np.random.Generator(np.random.SFC64(derived_seed(seed, *key)))


def keep_mask(elements: int, probability: float | NDArray[np.float64], seed: int, *key: str | int) -> NDArray[np.bool_]:
    """`elements` independent draws that are true with `probability`, one for all or one for each.

    Formula: `u < floor(probability * 2^32)` with `u` uniform on 32-bit integers, so the probability is exact to 2^-32
    and 1 keeps everything.
    """
    if isinstance(probability, float) and probability >= 1:
        return np.ones(elements, dtype=np.bool_)
    raw = np.random.SFC64(derived_seed(seed, *key)).random_raw((elements + 1) // 2)
    # Little-endian whatever the machine, so that the same key gives the same mask everywhere.
    halves = raw.astype("<u8", copy=False).view("<u4")[:elements]
    threshold = np.uint32(probability * (1 << 32)) if isinstance(probability, float) else np.floor(probability * 2**32)
    mask: NDArray[np.bool_] = halves < threshold
    return mask
