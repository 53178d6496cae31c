"""How often the certificate of a replay holds, against all merges that its world can be asked for."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from benchmarks.pools import RecordedPool
from benchmarks.replays.proposer import CertifiedReplay, certify_replay
from benchmarks.replays.worlds import ReplayWorld, SeenItems

POINTS = 100.0


@dataclass(frozen=True)
class CoverageCount:
    """Replays that were certified, and how it went; bounds and gains in points."""

    replays: int
    refused: int
    """Those in which the product gives none, for its response predicts too little; they count all the same."""
    held: float
    held_certified: float
    """Of the others alone."""
    bound: float
    bound_items_fixed: float
    trivial: float
    """What is known without a model: no score is above 1."""
    gain: float
    """The best merge over the winner, on all documents of the pool."""
    gain_quantile: float
    """The same, 95 % quantile."""


def count_coverage(
    pool: RecordedPool,
    open_world: Callable[[SeenItems], ReplayWorld],
    replays: int,
    runs: int,
    *,
    share: float,
) -> CoverageCount:
    """Certify `replays` searches of so many runs, each on its own share of the documents."""
    everything = SeenItems.draw(pool, 1.0, seed=0)
    rows, useful = [], []
    for seed in range(replays):
        # All documents judge: those of the search are a sample of them.
        seen = SeenItems.draw(pool, share, seed=seed)
        world = open_world(SeenItems(seen.search, everything.search))
        with contextlib.redirect_stderr(io.StringIO()):  # the product says where it falls back to TPE
            replay = certify_replay(world, runs, seed)
        useful.append(replay.is_useful)
        trivial = 1 - float(world.score([replay.winner])[0])
        rows.append((*_read_bounds(replay), measure_gain(world, replay), trivial))

    bound, fixed, gain, trivial = POINTS * np.array(rows).T
    held, certified = gain <= bound, np.array(useful)
    return CoverageCount(
        replays=replays,
        refused=int((~certified).sum()),
        held=float(held.mean()),
        held_certified=float(held[certified].mean()) if certified.any() else float("nan"),
        bound=float(bound.mean()),
        bound_items_fixed=float(fixed.mean()),
        trivial=float(trivial.mean()),
        gain=float(gain.mean()),
        gain_quantile=float(np.quantile(gain, 0.95)),
    )


def measure_gain(world: ReplayWorld, replay: CertifiedReplay) -> float:
    """The best of the certificate's merges over the winner, on the documents that judge."""
    return float(world.judge_points(replay.points).max() - world.judge([replay.winner])[0])


def _read_bounds(replay: CertifiedReplay) -> tuple[float, float]:
    return replay.certificate.bound, replay.certificate.bound_items_fixed
