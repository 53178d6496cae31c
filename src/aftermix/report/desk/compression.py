"""Whitened outputs made small: as few directions and as few bits as a score's error allows.

A prediction is `k(c)' L^-T W`, with `W` (N, J) whitened outputs. Over the positions that the sliders reach, the rows
`k(c)' L^-T` (second moment `A`) weigh some directions of `W` far more than others:

    A^(1/2) W = U S V',    prediction = (k(c)' L^-T W V S^-1) (S V')

The first factor is `mixing`, of size 1 in the mean; the second, `basis`, is rounded to one step for all directions,
which spreads the error evenly: a byte holds most directions, two bytes the strongest (four, where items are too few for
errors to cancel), and those below the step are nothing. The step is the coarsest at which scores at other positions
stay within the tolerance.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aftermix.response.surface.coordinates import Floats

# S positions, N merges, K directions, J columns

WIDEST = {1: 2**7 - 1, 2: 2**15 - 1, 4: 2**31 - 1}
"""Largest integer of so many bytes."""
HALVINGS = range(2, 26)
"""Steps that are tried: the size of an output, halved so many times."""
EMPTY = 0.25
"""Directions that are smaller than so much of a step tell less than rounding hides."""


class ScoreMeasure(Protocol):
    """Scores that depend on the outputs, in one array."""

    def __call__(self, columns: Floats, /) -> Floats:
        """The scores of outputs (S, J)."""


@dataclass(frozen=True)
class CompressedOutputs:
    """Bytes in base 64, as the page holds them."""

    directions: int
    step: float
    mixing: str
    """(N, K) of float32, little-endian."""
    widths: tuple[int, ...]
    """(K,) bytes of each integer of a direction."""
    basis: str
    """(K, J) integers in steps, little-endian, direction by direction."""

    def decode(self, merges: int, columns: int) -> tuple[Floats, Floats]:
        """`mixing` (N, K) and `basis` (K, J) as they were written."""
        mixing_NK = np.frombuffer(base64.b64decode(self.mixing), dtype="<f4").reshape(merges, self.directions)
        data, begin, basis = base64.b64decode(self.basis), 0, []
        for width in self.widths:
            end = begin + width * columns
            basis.append(np.frombuffer(data[begin:end], dtype=f"<i{width}") * self.step)
            begin = end
        return mixing_NK.astype(np.float64), np.array(basis, dtype=np.float64).reshape(self.directions, columns)


def compress_outputs(
    whitened_NJ: Floats, rows_SN: Floats, held_out_SN: Floats, score: ScoreMeasure, *, tolerance: float
) -> CompressedOutputs:
    """The smallest form of `whitened_NJ` whose `score` at the positions `held_out_SN` is within `tolerance`.

    `rows_SN` are the rows of the process at positions as the sliders reach them. Where no step is fine enough, the
    finest is taken.
    """
    mixing_NK, basis_KJ = _find_directions(whitened_NJ, rows_SN)
    exact = score(held_out_SN @ whitened_NJ)

    made = None
    for made in _list_roundings(mixing_NK, basis_KJ):
        mixing, basis = made.decode(*whitened_NJ.shape)
        if np.abs(score(held_out_SN @ mixing @ basis) - exact).max(initial=0.0) <= tolerance:
            break
    return made or CompressedOutputs(0, 1.0, "", (), "")


def _find_directions(whitened_NJ: Floats, rows_SN: Floats) -> tuple[Floats, Floats]:
    """`mixing` and `basis`, exact, strongest direction first."""
    root_NN = np.linalg.qr(rows_SN / np.sqrt(len(rows_SN)), mode="r")
    _, sizes_K, basis_KJ = np.linalg.svd(root_NN @ whitened_NJ, full_matrices=False)
    kept = sizes_K > 1e-12 * max(float(sizes_K.max(initial=0.0)), 1e-300)
    sizes_K, basis_KJ = sizes_K[kept], basis_KJ[kept]

    # A direction and its opposite are the same: the sign is settled, so that the same run gives the same bytes.
    largest_K = np.abs(basis_KJ).argmax(axis=1)
    basis_KJ = basis_KJ * np.sign(basis_KJ[np.arange(len(basis_KJ)), largest_K])[:, None]
    return whitened_NJ @ basis_KJ.T / sizes_K, sizes_K[:, None] * basis_KJ


def _list_roundings(mixing_NK: Floats, basis_KJ: Floats) -> Iterator[CompressedOutputs]:
    """The same outputs rounded ever more finely."""
    if not basis_KJ.size:
        return
    size = float(np.sqrt((basis_KJ**2).sum() / basis_KJ.shape[1]))
    for halvings in HALVINGS:
        step = size * 2.0**-halvings
        kept_K = np.sqrt((basis_KJ**2).mean(axis=1)) >= EMPTY * step
        integers_KJ = np.rint(basis_KJ[kept_K] / step)
        yield _pack(mixing_NK[:, kept_K], integers_KJ, step)


def _pack(mixing_NK: Floats, integers_KJ: NDArray[np.float64], step: float) -> CompressedOutputs:
    widths = tuple(min(width for width, most in WIDEST.items() if np.abs(row).max() <= most) for row in integers_KJ)
    data = b"".join(row.astype(f"<i{width}").tobytes() for row, width in zip(integers_KJ, widths, strict=True))
    return CompressedOutputs(
        directions=len(widths),
        step=step,
        mixing=encode_bytes(mixing_NK.astype("<f4")),
        widths=widths,
        basis=base64.b64encode(data).decode(),
    )


def encode_bytes(array: NDArray[np.generic]) -> str:
    """The bytes of `array` in base 64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
