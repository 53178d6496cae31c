"""A new run whose folder is that of another: whether `--resume` goes on with it, or what it is."""

from __future__ import annotations

from pathlib import Path

from pydantic import JsonValue

from aftermix.config import Config, as_yaml_values
from aftermix.errors import AftermixError, OccupiedRunError, SearchError, join_place
from aftermix.jobs.run_folder.comparison import GROWABLE, find_difference, select_comparable
from aftermix.jobs.run_folder.opening import read_run_config
from aftermix.jobs.run_folder.settling import PROPOSING
from aftermix.runs.input_records import CONFIG_FILE
from aftermix.runs.journal import TRIALS_FILE
from aftermix.runs.mixture_records import DESIGN_FILE
from aftermix.runs.records import BEST_FILE

MAY_CHANGE = {"mixture": ("verify", "experts"), "evaluate": ("date",), "search": (*GROWABLE, *PROPOSING)}
"""Keys of each section that a resumed run may have otherwise, or that a run settles by itself."""


def refuse_occupied_run(run: Path, *, config: Config, mixture: bool) -> None:
    """Raise :class:`OccupiedRunError` where `run` is one that the file of `config` began, of a `mixture` or a search.

    Raises :class:`SearchError` where it is the run of another file, naming the first key that differs, or of the other
    kind. A folder that is no run is let pass.
    """
    if not (run / CONFIG_FILE).is_file():
        return
    command = "mixture" if (run / DESIGN_FILE).is_file() else "search"
    found = f"exists and is not empty: it holds the run of a {command}, {_describe_progress(run)}"
    other = f"Name a new folder; `aftermix {command} --resume {run}` goes on with that run by its own file."

    if (command == "mixture") != mixture:
        raise SearchError(str(run), found, other)
    place = _find_other_key(run, config, mixture=mixture)
    if place is not None:
        raise SearchError(str(run), f"{found}, of a file that differs in '{place}'", other)
    raise OccupiedRunError(str(run), f"{found}, of this file", "Resume it, or name a new folder.")


def _describe_progress(run: Path) -> str:
    """`finished`, or the number of trials that have ended."""
    if (run / BEST_FILE).is_file():
        return "finished"
    journals = [run / TRIALS_FILE, *sorted(run.glob(f"levels/*/{TRIALS_FILE}"))]
    count = sum(file.read_bytes().count(b"\n") for file in journals if file.is_file())
    return f"unfinished, with {count} trial{'' if count == 1 else 's'}"


def _find_other_key(run: Path, config: Config, *, mixture: bool) -> str | None:
    """The first key in which the file of `run` is another than `config`; the whole file where it cannot be read."""
    try:
        theirs = read_run_config(run)
    except AftermixError:
        return CONFIG_FILE
    stated, wanted = (_select_stated(side, mixture=mixture) for side in (theirs, config))
    place = find_difference(stated, wanted)
    return join_place("", *place) if place is not None else None


def _select_stated(config: Config, *, mixture: bool) -> dict[str, JsonValue]:
    values = select_comparable(config)
    if mixture:
        values["mixture"] = as_yaml_values(config).get("mixture", {})
    for section, keys in MAY_CHANGE.items():
        if section in values:
            values[section] = {key: value for key, value in values[section].items() if key not in keys}
    if "evaluate" in values:
        items = values["evaluate"].get("items", {})
        values["evaluate"]["items"] = {key: value for key, value in items.items() if key != "small"}
    return values
