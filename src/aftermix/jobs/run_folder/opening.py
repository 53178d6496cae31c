"""The folder of a run: begun once with its configuration and the identity of its inputs, read and gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path

from aftermix.checkpoints.pool import ModelPool
from aftermix.checkpoints.safe_files import InputStamps
from aftermix.config import Config, parse_config
from aftermix.errors import AftermixError
from aftermix.files import follow_moved_paths
from aftermix.jobs.provenance import lock
from aftermix.runs.answers.requests import RequestTable, write_requests
from aftermix.runs.input_records import (
    CONFIG_FILE,
    LOCK_FILE,
    SOURCE_FILE,
    SPLIT_FILE,
    EvaluationLockRecord,
    SourceRecord,
    SplitRecord,
)
from aftermix.runs.journal import read_trials
from aftermix.runs.json_record import read_record
from aftermix.runs.mixture_records import DESIGN_FILE, MixtureDesignRecord
from aftermix.runs.reader import fill_in_missing
from aftermix.runs.records import MODEL_FOLDER
from aftermix.runs.session import RunSession, refuse_no_run
from aftermix.yaml_file import parse_yaml, read_yaml

RECIPE_FILE = "aftermix.yaml"
"""The recipe in the folder of a merged model."""


def open_run_folder(
    session: RunSession,
    *,
    resume: bool,
    config: Config,
    pool: ModelPool,
    inputs: InputStamps,
    split: SplitRecord,
    evaluation: EvaluationLockRecord,
    requests: RequestTable | None,
    source: Path | None,
    design: MixtureDesignRecord | None = None,
) -> None:
    """Make the folder of a new run, or go on with that of an earlier one: the first write of either."""
    if resume:
        session.go_on()
        write_config(session.run, config)
        return

    with session.begin():
        begin_run(
            session.run,
            config=config,
            pool=pool,
            split=split,
            evaluation=evaluation,
            requests=requests,
            source=source,
            design=design,
        )
        inputs.refuse_changed()  # its lock is of the files that were opened


def begin_run(
    run: Path,
    *,
    config: Config,
    pool: ModelPool,
    split: SplitRecord,
    evaluation: EvaluationLockRecord,
    requests: RequestTable | None,
    source: Path | None,
    design: MixtureDesignRecord | None = None,
) -> None:
    """Write `config.yaml`, `lock.json` and the files on its items of a new run.

    With `requests` it keeps the answers to them. `source`, an earlier run to start from, is remembered until its trials
    stand in the journal. A `design`, which makes it the run of a mixture, becomes `design.json`.
    """
    if source is not None:
        SourceRecord(run=str(source.resolve())).write(run / SOURCE_FILE)
    lock(pool, config).model_copy(update={"evaluation": evaluation}).write(run / LOCK_FILE)
    split.write(run / SPLIT_FILE)
    if requests is not None:
        write_requests(run, requests)
    if design is not None:
        design.write(run / DESIGN_FILE)

    # Last: a folder with config.yaml is a run that can be resumed.
    write_config(run, config)


def write_config(run: Path, config: Config) -> None:
    """Write the resolved configuration, from which the run can be made again."""
    config.write(run / CONFIG_FILE)


def read_run_config(run: Path) -> Config:
    """The configuration of the run in `run`, in which a missing key means what it meant then.

    Raises :class:`SearchError` when it is no run folder.
    """
    refuse_no_run(run)
    values = follow_moved_paths(read_yaml(run / CONFIG_FILE), run)
    return fill_in_missing(parse_config(values, where=f"{run.name}/{CONFIG_FILE}", folder=run))


def read_source(run: Path) -> Path | None:
    """The earlier run from which the run in `run` started, if any."""
    source = read_record(run / SOURCE_FILE, SourceRecord)
    return Path(follow_moved_paths(source.run, run)) if source else None


def find_pending_source(run: Path) -> Path | None:
    """The earlier run whose trials the run in `run` was to take and was killed before it had them, if any."""
    return None if read_trials(run) else read_source(run)


def clear_model(run: Path, recipe: str, *, name: str = MODEL_FOLDER) -> bool:
    """Remove a model of another recipe, from fewer trials; true when `run` already holds that of `recipe`."""
    model = run / name
    if not model.exists():
        return False

    if (model / RECIPE_FILE).is_file() and _is_same_recipe(model, recipe):
        return True
    shutil.rmtree(model)
    return False


def _is_same_recipe(model: Path, recipe: str) -> bool:
    """Say if the recipe beside the model means the same, whether its paths are relative or not."""
    if (model / RECIPE_FILE).read_text(encoding="utf-8") == recipe:
        return True
    try:
        stored, wanted = read_yaml(model / RECIPE_FILE), parse_yaml(recipe, where=RECIPE_FILE)
        return parse_config(stored, where=RECIPE_FILE, folder=model) == parse_config(
            wanted, where=RECIPE_FILE, folder=model
        )
    except AftermixError:  # a file that was changed
        return False
