"""Distributions of a vector's entries: Laplace and Gaussian by maximum likelihood, and how well each fits.

Entries stream by once. They are counted in bins of the float32 line itself (sign, exponent, nine bits of mantissa), so
a bin is 0.2% wide wherever it lies. With the sum of each bin, mean and standard deviation are exact, and median and
mean absolute deviation are so but for the median's own bin: nothing where the median is near 0, as a vector's is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from aftermix.checkpoints.formats.spans import split_into_spans
from aftermix.checkpoints.pool import ModelPool
from aftermix.errors import CheckpointError
from aftermix.progress import bar

BITS = 18
"""Leading bits of a float32 that make its bin."""
SHIFT = 32 - BITS
BINS = 1 << BITS
TALLIED_ELEMENTS = 1 << 20
"""Entries counted at once: more than there are bins, or else adding up the bins would cost more than the counting."""

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EntryTally:
    """Counts and sums by bin, for occupied bins in rising order; tallies of parts add up."""

    bins: Counts
    counts: Counts
    sums: Floats
    squares: float

    @property
    def elements(self) -> int:
        """Entries counted."""
        return int(self.counts.sum())

    @property
    def edges(self) -> tuple[Floats, Floats]:
        """Lower (inclusive) and upper (exclusive) ends of the occupied bins."""
        return _invert_bins(self.bins), _invert_bins(self.bins + 1)


@dataclass(frozen=True)
class FittedDistribution:
    """A fitted distribution of a vector's entries."""

    location: float
    scale: float
    """Laplace: mean absolute deviation from the median. Gaussian: standard deviation."""
    ks_distance: float
    """Largest difference between the two distribution functions (at ends of bins: exact to 5e-4)."""
    mean_log_likelihood: float
    """In nats an entry."""


@dataclass(frozen=True)
class DistributionFit:
    """Both distributions on the same entries."""

    elements: int
    laplace: FittedDistribution
    gaussian: FittedDistribution


def tally_entries(blocks: Iterable[torch.Tensor]) -> EntryTally:
    """Count the entries of `blocks`, taken as float32; finite numbers only."""
    counts, sums, squares = np.zeros(BINS, np.int64), np.zeros(BINS), 0.0
    for block in blocks:
        # Adding zero makes -0.0 the same entry as 0.0.
        values = block.detach().reshape(-1).to(torch.float32).numpy() + np.float32(0.0)
        exact = values.astype(np.float64)
        places = _find_bins(values)
        counts += np.bincount(places, minlength=BINS)
        sums += np.bincount(places, weights=exact, minlength=BINS)
        squares += float(exact @ exact)
    occupied = np.flatnonzero(counts)
    return EntryTally(occupied, counts[occupied], sums[occupied], squares)


def join_tallies(tallies: Iterable[EntryTally]) -> EntryTally:
    """The tally of all parts together."""
    parts = list(tallies)
    counts, sums = np.zeros(BINS, np.int64), np.zeros(BINS)
    for part in parts:
        counts[part.bins] += part.counts
        sums[part.bins] += part.sums
    occupied = np.flatnonzero(counts)
    return EntryTally(occupied, counts[occupied], sums[occupied], math.fsum(part.squares for part in parts))


def fit_distributions(tallied: EntryTally) -> DistributionFit | None:
    """Both distributions by maximum likelihood; None where all entries are equal, which no density describes.

    Laplace: location the median, scale `b` the mean of `|x - median|`, log-likelihood `-log(2 b) - 1`. Gaussian: mean,
    standard deviation `s`, `-log(s sqrt(2 pi)) - 1/2`. Source: MergOPT, appendix D.1.1 and table 10.
    """
    count, means = tallied.elements, tallied.sums / np.maximum(tallied.counts, 1)
    if count == 0 or means.min() == means.max():
        return None

    median = float(means[np.searchsorted(np.cumsum(tallied.counts), count / 2)])
    deviation = float(np.abs(tallied.sums - tallied.counts * median).sum() / count)

    mean = float(tallied.sums.sum() / count)
    deviation_squared = float((tallied.counts * (means - mean) ** 2).sum() / count)
    # Within bins: what the bins' own means leave of the squares.
    within = max(0.0, (tallied.squares - float((tallied.counts * means**2).sum())) / count)
    spread = math.sqrt(deviation_squared + within)

    laplace, gaussian = stats.laplace(median, deviation), stats.norm(mean, spread)
    return DistributionFit(
        elements=count,
        laplace=FittedDistribution(
            median, deviation, measure_ks_distance(tallied, laplace.cdf), -math.log(2 * deviation) - 1.0
        ),
        gaussian=FittedDistribution(
            mean, spread, measure_ks_distance(tallied, gaussian.cdf), -math.log(spread * math.sqrt(2 * math.pi)) - 0.5
        ),
    )


def measure_ks_distance(tallied: EntryTally, cdf: Callable[[Floats], Floats]) -> float:
    """Largest `|F_n - F|` over the ends of the occupied bins."""
    below, above = tallied.edges
    cumulative = np.cumsum(tallied.counts) / tallied.elements
    before = cumulative - tallied.counts / tallied.elements
    return float(max(np.abs(before - cdf(below)).max(), np.abs(cumulative - cdf(above)).max()))


@dataclass(frozen=True)
class VectorFit:
    """One vector: all its entries together, and each tensor by itself. None stands for entries that are all equal."""

    tallied: EntryTally
    whole: DistributionFit | None
    tensors: dict[str, DistributionFit | None]


def fit_vectors(pool: ModelPool) -> dict[str, VectorFit]:
    """Fits by vector. Tied tensors count once.

    Raises :class:`CheckpointError` for the first tensor that holds NaN or Inf.
    """
    fits = {}
    for vector, parts in _tally_pool(pool).items():
        whole = join_tallies(parts.values())
        fits[vector] = VectorFit(
            whole, fit_distributions(whole), {name: fit_distributions(part) for name, part in parts.items()}
        )
    return fits


def fit_whole(pool: ModelPool) -> dict[str, DistributionFit | None]:
    """Fits by vector, of all its tensors together. Raises as :func:`fit_vectors`."""
    return {vector: fit_distributions(join_tallies(parts.values())) for vector, parts in _tally_pool(pool).items()}


def _tally_pool(pool: ModelPool) -> dict[str, dict[str, EntryTally]]:
    """By vector and tensor."""
    counted = [info for info in pool.layout if info.mergeable and info.name not in pool.frame.alias]
    tallies: dict[str, dict[str, EntryTally]] = {vector: {} for vector in pool.experts}
    for info in bar(counted, label="Fitting", unit="tensor"):
        for vector in pool.experts:
            tallies[vector][info.name] = tally_entries(_stream_differences(pool, info.name, vector, info.elements))
    return tallies


def _stream_differences(pool: ModelPool, name: str, vector: str, elements: int) -> Iterable[torch.Tensor]:
    for span in split_into_spans(elements, size=TALLIED_ELEMENTS):
        base = pool.read_base_block(name, span).to(torch.float32)
        block = pool.read_difference_block(name, vector, span, base=base, out=torch.empty(span[1] - span[0]))
        if not bool(block.isfinite().all()):
            remedy = "Use an earlier checkpoint of that model, or train it again."
            raise CheckpointError(name, f"vector '{vector}' holds NaN or Inf", remedy)
        yield block


def _find_bins(values: NDArray[np.float32]) -> Counts:
    """Bin of each value: its bits, in the order of the values, without the last `SHIFT`."""
    bits = values.view(np.int32)
    ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return (ordered >> SHIFT).astype(np.int64) + BINS // 2


def _invert_bins(bins: Counts) -> Floats:
    """The lowest value of each bin; beyond the largest number, infinity."""
    ordered = ((bins - BINS // 2) << SHIFT).clip(-(2**31), 2**31 - 1).astype(np.int32)
    bits = ordered ^ ((ordered >> 31) & np.int32(0x7FFFFFFF))
    with np.errstate(invalid="ignore"):
        values = bits.view(np.float32).astype(np.float64)
    return np.nan_to_num(values, nan=np.inf, posinf=np.inf, neginf=-np.inf)
