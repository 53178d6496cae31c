"""Sums of independent Laplace samples, drawn at once: the magnitude of a sum is a function of one exponential sample.

For `S = z_1 + ... + z_m`, standard Laplace, `|S|` is a Gamma(J) sample whose shape J in 1..m is itself drawn, with
`P(J = m - j) = C(m - 1 + j, j) / 2^(m - 1 + j)`. So its tail is an exponential times a polynomial::

    -log P(|S| > x) = x - log(sum_{k < m} P(J > k) x^k / k!)

Setting this equal to an exponential sample `e` and solving for `x` turns `e` into a sample of `|S|`. The solution is a
smooth function of `e`, and smoother still of `sqrt(e + shift)`: a polynomial in it is within 1e-5 `(1 + x)`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Floats = NDArray[np.float64]

MOST_SUMMANDS = 64
"""For more, the polynomial is not tested."""
LARGEST = 32 * math.log(2)
"""Of the exponential samples that 32 bits give."""
DEGREE = 12
NODES = 400


def compute_sum_magnitudes(exponentials: Samples, summands: int) -> Samples:
    """Magnitudes of sums of 2 to :data:`MOST_SUMMANDS` Laplace samples, one for each exponential, which is used up."""
    place, shift, (low, high) = exponentials, _choose_shift(summands), _compute_ends(summands)
    # In place from here on: a block's cost is its passes over memory.
    place += np.float32(shift)
    np.sqrt(place, out=place)
    place *= np.float32(2 / (high - low))
    place -= np.float32((high + low) / (high - low))

    # Horner's rule, from the highest power down.
    first, *others = reversed(_fit_polynomial(summands).tolist())
    magnitudes = np.full_like(place, first)
    for coefficient in others:
        magnitudes *= place
        magnitudes += np.float32(coefficient)
    return magnitudes


@lru_cache(maxsize=MOST_SUMMANDS)
def _fit_polynomial(summands: int) -> Samples:
    """Coefficients by power of the place between the ends of the square root, scaled to -1 and 1."""
    chebyshev = np.polynomial.chebyshev
    nodes, (low, high) = chebyshev.chebpts1(NODES), _compute_ends(summands)
    magnitudes = _solve_magnitudes(
        np.maximum((low + (nodes + 1) / 2 * (high - low)) ** 2 - _choose_shift(summands), 0.0), summands
    )

    # Weighed so that the error is relative for large sums and absolute for small ones.
    fitted = chebyshev.chebfit(nodes, magnitudes, DEGREE, w=1 / (1 + magnitudes))
    coefficients: Samples = chebyshev.cheb2poly(fitted).astype(np.float32)
    return coefficients


def _choose_shift(summands: int) -> float:
    """Shift that ends the square root near where the solution has no slope. Found by trying some."""
    return 0.3 if summands == 2 else 0.7


def _compute_ends(summands: int) -> tuple[float, float]:
    return math.sqrt(_choose_shift(summands)), math.sqrt(LARGEST + _choose_shift(summands))


def _solve_magnitudes(exponentials: Floats, summands: int) -> Floats:
    """`x` with `exponential_of(x) = e`, by bisection."""
    low, high = np.zeros_like(exponentials), np.full_like(exponentials, 200.0 + 10 * summands)
    for _ in range(80):
        middle = (low + high) / 2
        is_low = compute_exponentials(middle, summands) < exponentials
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return low


def compute_exponentials(magnitudes: Floats, summands: int) -> Floats:
    """`-log P(|S| > x)`.

    >>> compute_exponentials(np.array([0.0, 2.0]), 1).tolist(), compute_exponentials(np.array([2.0]), 2).round(4).tolist()
    ([0.0, 2.0], [1.3069])
    """
    shapes = {summands - j: math.comb(summands - 1 + j, j) / 2.0 ** (summands - 1 + j) for j in range(summands)}
    terms = [
        sum(share for shape, share in shapes.items() if shape > k) * magnitudes**k / math.factorial(k)
        for k in range(summands)
    ]
    exponentials: Floats = magnitudes - np.log(sum(terms))
    return exponentials
