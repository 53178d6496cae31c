"""Ratio search by data mixing beside the search for merge weights, as the number of data sets grows.

OptiMer's Fig. 2 compares the two in GPU hours of deciding the ratios: one training on the union of n data sets, n times
the tokens, against one search over n vectors. The experts' own trainings are left out, as there: both ways train on the
same tokens once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aftermix.jobs.scale.setup import EngineSetup
from aftermix.jobs.scale.times import HOUR_S, count_waves, time_point, time_preparation

PAPER_SEARCH_GPU_HOURS, PAPER_MIXING_GPU_HOURS = 8 * 8.6, 8 * 128.9
"""OptiMer, section 5.1: 100 trials, and one training on mixed data, of 27 B parameters on eight H200."""


@dataclass(frozen=True)
class RivalHours:
    """GPU hours of deciding the ratios of `datasets`."""

    datasets: int
    search: float
    """Preparation and trials."""
    mixing: float
    """One training on the mixture, and one evaluation."""

    @property
    def ratio(self) -> float:
        """Of the training to the search."""
        return self.mixing / self.search


def list_rival_hours(setup: EngineSetup, *, tokens: int) -> Iterator[RivalHours]:
    """For 2 data sets up to as many as there are vectors, each of `tokens`."""
    work, gpus = setup.work, setup.hardware.gpus
    waves = count_waves(work.measurements["search"], batch=work.batch, engines=setup.layout.engines)
    for count in range(2, work.vectors + 1):
        fewer = setup.with_vectors(count)
        point = time_point(fewer)
        training_s = count * tokens / (setup.speeds.train * gpus)
        yield RivalHours(
            datasets=count,
            search=time_preparation(fewer).gpu_hours + gpus * waves * point.seconds / HOUR_S,
            mixing=gpus * (training_s + point.score_s + point.generate_s) / HOUR_S,
        )
