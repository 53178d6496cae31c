"""Before a job: its first file, what is wrong with a file, what its job needs, prompts as the model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aftermix.api.job_files import prefetch_weights, refuse_missing_extras
from aftermix.extras import refuse_missing_extra

if TYPE_CHECKING:
    from aftermix.config import Split
    from aftermix.jobs.doctor.diagnosis import ConfigDiagnosis
    from aftermix.jobs.plan.estimate import JobEstimate
    from aftermix.jobs.scale.command import ScalePlan


def write_first_file(base: str, experts: Sequence[str], output: Path) -> list[str]:
    """Write a commented file for `experts` of `base` and return what is to be done next: `aftermix init`.

    Raises :class:`AftermixError` where `output` exists, and for models that cannot be opened.
    """
    from aftermix.jobs.init.command import init

    return init(base, experts, output)


def diagnose_file(file: Path) -> ConfigDiagnosis:
    """Problems, notes and facts about the YAML file or recipe `file`: `aftermix doctor`.

    Raises :class:`AftermixError` only for what cannot be read at all.
    """
    from aftermix.mergekit.reading import load_partial_recipe

    usable = load_partial_recipe(file)
    refuse_missing_extras(usable.config, what="doctor")
    prefetch_weights(usable.config)
    from aftermix.jobs.doctor.command import doctor

    return doctor(usable.config, faults=usable.problems, written=usable.written)


def estimate_file(file: Path, *, source: Path | None = None) -> JobEstimate:
    """Disk, memory, evaluations, tokens and time of the job of `file`, started from the run in `source` if any.

    `aftermix plan`.     Raises :class:`AftermixError` as the job itself would.
    """
    from aftermix.config import load_config

    config = load_config(file)
    refuse_missing_extra("search", what="plan")
    if config.iterate is not None:
        from aftermix.jobs.iterate.plan import plan_rounds

        return plan_rounds(config)
    from aftermix.jobs.plan.command import plan

    return plan(config, source=source)


def estimate_scale(file: Path, hardware: Path) -> ScalePlan:
    """Bytes, seconds and GPU hours of the job of `file` on the machines of `hardware`: `aftermix plan --hardware`.

    Raises :class:`AftermixError` for faults of either file, and for machines on which the engine does not fit.
    """
    from aftermix.config import load_config, load_hardware

    config, machines = load_config(file), load_hardware(hardware)
    refuse_missing_extra("search", what="plan")
    from aftermix.jobs.scale.command import plan_scale

    return plan_scale(config, machines)


def show_file_prompts(file: Path, *, split: Split, count: int) -> list[str]:
    """Lines that show `count` prompts of each task of `file`: `aftermix evaluate --show`."""
    refuse_missing_extra("search", what="evaluate --show")
    from aftermix.config import load_config
    from aftermix.jobs.evaluate.prompts import show_prompts

    return show_prompts(load_config(file), split=split, count=count)
