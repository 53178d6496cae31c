"""The file of a job, whose weights the disk begins to fetch while the job's libraries are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftermix.extras import refuse_missing_extra

if TYPE_CHECKING:
    from aftermix.config import Config


def read_job_config(file: Path | None, run: Path, *, search: Mapping[str, Any] | None = None) -> Config:
    """The configuration that `file` holds, or without it the run's own, with keys of `search` in place of its own.

    Raises :class:`AftermixError` for what is wrong with either.
    """
    if file is not None:
        from aftermix.config import load_config

        config = prefetch_weights(load_config(file))
    else:
        from aftermix.jobs.run_folder.opening import read_run_config

        config = read_run_config(run)
    if not search:
        return config
    from aftermix.api.sections import extend_config

    return extend_config(config, search, sections=["search"])


def refuse_missing_extras(config: Config, *, what: str) -> None:
    """Raise :class:`AftermixError` where an extra is not installed that the job of `config` needs."""
    if config.evaluate is not None or config.mixture is not None:
        refuse_missing_extra("search", what=what)
    if config.train is not None:
        refuse_missing_extra("train", what=what)


def prefetch_weights(config: Config) -> Config:
    """`config`, whose weights are being fetched from now on."""
    from aftermix.readahead import read_ahead

    read_ahead([vector.model for vector in config.vectors.values()] + ([config.base] if config.base else []))
    return config
