"""Settings that a file leaves to its run: settled once and written to `config.yaml`, where a resumed run takes them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from aftermix.config import Config
from aftermix.jobs.run_folder.opening import read_run_config
from aftermix.runs.input_records import CONFIG_FILE
from aftermix.runs.reader import set_small_split

PROPOSING = ("strategy", "batch", "startup")
"""Search settings that a file may leave to the run that it goes on with."""


def settle_for_run(config: Config, *, resumed: Path | None, source: Path | None) -> Config:
    """`config` in which nothing is left to the run: how points are proposed, the day of chat templates, small tasks.

    What the file leaves out is as in `resumed`, the run that goes on; the day and the split of small tasks as in
    `source` too, the earlier run whose scores are taken; else the default. A second settling changes nothing.
    """
    goes_on = _read_recorded(resumed)
    earlier = goes_on or _read_recorded(source)
    config = _settle_search(config, goes_on)
    config = _settle_date(config, earlier, resumes=resumed is not None)
    return _settle_items(config, earlier)


def _read_recorded(run: Path | None) -> Config | None:
    return read_run_config(run) if run is not None and (run / CONFIG_FILE).is_file() else None


def _settle_search(config: Config, goes_on: Config | None) -> Config:
    """`config` whose search says how it proposes points, for `config.yaml` to record.

    What the file leaves out is as in the run that goes on, or else the default.
    """
    search = config.search
    left_out = [key for key in PROPOSING if key not in search.model_fields_set or getattr(search, key) is None]
    if goes_on is not None:
        search = search.model_copy(update={key: getattr(goes_on.search, key) for key in left_out})
    if search.strategy != "response":  # whose first design follows from the dimensions
        search = search.model_copy(update={"startup": search.startup_trials})
    return config.model_copy(update={"search": search})


def _settle_date(config: Config, earlier: Config | None, *, resumes: bool) -> Config:
    """`config` with the day that chat templates are given, for `config.yaml` to record.

    It is the file's own; else that of the run that goes on, or of the earlier one whose scores are taken; else today.
    Without chat templates there is none.
    """
    evaluate = config.evaluate
    if evaluate is None or not evaluate.applies_chat_template or evaluate.date is not None:
        return config

    stored = earlier.evaluate if earlier is not None else None
    date = stored.date if stored is not None else None
    if date is None and not resumes:  # an old run that goes on has recorded none, which must not differ
        date = datetime.now().astimezone().date().isoformat()
    return config.model_copy(update={"evaluate": evaluate.model_copy(update={"date": date})})


def _settle_items(config: Config, earlier: Config | None) -> Config:
    """`config` whose items say how small tasks are split, for `config.yaml` to record.

    It is the file's own; else that of the run that goes on, or of the earlier one whose scores are taken; else the
    default. A file that states counts of items says it by these.
    """
    evaluate = config.evaluate
    if evaluate is None or evaluate.items.states_counts:
        return config

    stated = "small" in evaluate.items.model_fields_set
    stored = earlier.evaluate if earlier is not None and not stated else None
    settled = stored.items.small if stored is not None and not stored.items.states_counts else evaluate.items.small
    return config.model_copy(update={"evaluate": set_small_split(evaluate, settled)})
