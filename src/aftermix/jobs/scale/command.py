"""`aftermix plan --hardware`: bytes, seconds and GPU hours of a job on stated machines, from a configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from aftermix.checkpoints.names import build_matcher
from aftermix.config import Config, HardwareConfig
from aftermix.jobs.scale.holdings import (
    Holding,
    MemoryTotal,
    list_merge_holdings,
    list_search_holdings,
    list_training_holdings,
    sum_holdings,
)
from aftermix.jobs.scale.layout import EngineLayout, lay_out_engines
from aftermix.jobs.scale.limits import explain_limits
from aftermix.jobs.scale.placement import VectorPlacement
from aftermix.jobs.scale.rivals import RivalHours, list_rival_hours
from aftermix.jobs.scale.setup import EngineSetup
from aftermix.jobs.scale.shape import ModelShape, count_shape
from aftermix.jobs.scale.speeds import PlannedSpeeds, plan_speeds
from aftermix.jobs.scale.times import PhaseTime, PointTime, time_measurements, time_merge, time_point, time_training
from aftermix.jobs.scale.work import Workload, count_work
from aftermix.jobs.search.settings import leaves_vectors_as_they_are
from aftermix.jobs.search.space_from_config import build_space
from aftermix.merging.recipe import MergeRecipe


@dataclass(frozen=True)
class ScalePlan:
    """Needs of a job on stated machines. All of it is arithmetic: nothing was opened but `config.json`."""

    gpus: int
    hosts: int
    shape: ModelShape
    work: Workload
    speeds: PlannedSpeeds
    layout: EngineLayout | None
    """This and what follows is None or empty where nothing is measured."""
    placement: VectorPlacement | None
    point: PointTime | None
    """One point on search items."""
    holdings: tuple[Holding, ...]
    totals: tuple[MemoryTotal, ...]
    times: tuple[PhaseTime, ...]
    rivals: tuple[RivalHours, ...]
    limits: tuple[str, ...]
    """The first to fail, in words."""
    assumptions: tuple[str, ...]
    """Keys that the hardware file leaves out, with their values."""


def plan_scale(config: Config, hardware: HardwareConfig) -> ScalePlan:
    """Plan the job of `config` on `hardware`. Reads the base's `config.json` and no weight; writes nothing.

    Raises :class:`AftermixError` for a file that lacks a section, a base without a usable configuration, and machines
    on which the engine does not fit.
    """
    work = count_work(config, hardware)
    shape = _count_base(config, work)
    layout = lay_out_engines(shape, hardware, work) if work.measurements else None
    speeds = plan_speeds(shape, hardware, work, layout)

    setup = None
    holdings = [*list_training_holdings(shape, hardware, work)]
    times = [*time_training(hardware, work, speeds)]
    if layout is not None:
        setup = EngineSetup(shape, hardware, work, layout, speeds, _prepares_once(config))
        holdings += list_search_holdings(setup)
        times += time_measurements(setup)
    holdings += list_merge_holdings(shape, work)
    times += time_merge(shape, hardware, work)

    tokens = max(work.training.values(), default=hardware.work.training_tokens)
    totals = tuple(sum_holdings(holdings, hardware))
    return ScalePlan(
        gpus=hardware.gpus,
        hosts=hardware.hosts,
        shape=shape,
        work=work,
        speeds=speeds,
        layout=layout,
        placement=setup.placement if setup else None,
        point=time_point(setup) if setup else None,
        holdings=tuple(holdings),
        totals=totals,
        times=tuple(times),
        rivals=tuple(list_rival_hours(setup, tokens=tokens)) if setup else (),
        limits=tuple(explain_limits(holdings, totals, times, setup)),
        assumptions=hardware.list_assumptions(),
    )


def _count_base(config: Config, work: Workload) -> ModelShape:
    """Shape of the base; a search keeps the base's values in more tensors than a merge does."""
    excluded = build_matcher(config.merge.exclusions(for_search=work.job == "search"), where="merge.exclude")
    assert config.base is not None  # noqa: S101 - required by `count_work`; for the type checker
    return count_shape(config.base, moves=lambda name: not excluded(name))


def _prepares_once(config: Config) -> bool:
    """True where no searched setting changes what a vector keeps."""
    searches = config.mixture is None
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=searches)
    return leaves_vectors_as_they_are(recipe.method, build_space(config).settings if searches else {})
