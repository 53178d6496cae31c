"""The file of a job, whose weights the disk begins to fetch while the job's libraries are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aftermix.config import Config


def read_job_config(file: Path | None, run: Path) -> Config:
    """The configuration that `file` holds, or without it the run's own.

    Raises :class:`AftermixError` for what is wrong with either.
    """
    if file is not None:
        from aftermix.config import load_config

        return prefetch_weights(load_config(file))
    from aftermix.jobs.run_folder import read_run_config

    return read_run_config(run)


def prefetch_weights(config: Config) -> Config:
    """`config`, whose weights are being fetched from now on."""
    from aftermix.readahead import read_ahead

    read_ahead([vector.model for vector in config.vectors.values()] + ([config.base] if config.base else []))
    return config
