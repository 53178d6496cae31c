"""The number of new trials after those that an earlier run gives.

A file that is a copy of the earlier run's, with another objective, asks for no merge to be run.
"""

from __future__ import annotations

from pathlib import Path

from aftermix.config import Config
from aftermix.errors import AftermixError
from aftermix.jobs.run_folder.opening import read_run_config
from aftermix.jobs.search.space_from_config import build_space
from aftermix.search.space import SearchSpace


def asks_for_rescoring(config: Config, source: Path, *, space: SearchSpace) -> bool:
    """True where `config` looks through the `space` of the run in `source` and asks for no trials of its own.

    It asks for none where it leaves `search.trials` out, or has the number that the earlier run's file has: a copy.
    Any other number is that of new trials. False where the earlier run cannot be read.
    """
    try:
        earlier = read_run_config(source)
        is_same = build_space(earlier) == space
    except AftermixError:
        return False
    stated = "trials" in config.search.model_fields_set
    return is_same and (not stated or config.search.trials == earlier.search.trials)


def set_no_trials(config: Config) -> Config:
    """`config` that asks for no new trial."""
    return config.model_copy(update={"search": config.search.model_copy(update={"trials": 0})})


def describe_rescoring(source: Path, count: int, *, use: str) -> str:
    """Say that `count` trials of the run in `source` are scored anew, that none is run, and how to have more."""
    noun = "trial is" if count == 1 else "trials are"
    return f"--from {source}: {count} {noun} {use} and no new merge is run; `--trials N` runs N more"
