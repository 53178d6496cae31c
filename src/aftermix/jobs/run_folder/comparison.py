"""A run that goes on, or whose scores are taken, compared with the file: one of other inputs is refused."""

from __future__ import annotations

from collections.abc import Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any

from aftermix.checkpoints.pool import ModelPool
from aftermix.config import Config, ItemsConfig, PromptConfig, as_yaml_values
from aftermix.errors import SearchError, join_place
from aftermix.files import find_moved_roots, move_roots
from aftermix.jobs.provenance import lock
from aftermix.jobs.run_folder.opening import read_run_config
from aftermix.runs.input_records import CONFIG_FILE, LOCK_FILE, SPLIT_FILE, LockRecord, SplitRecord
from aftermix.runs.mixture_records import DESIGN_FILE

LockedInput = Mapping[str, str]
BY_CONTENT = "known by its content"
"""Stands for the place of a model where files are compared."""
GROWABLE = ("trials", "budget_tokens", "top", "baselines", "max_consecutive_failures")
"""Search settings that may change on resume without making it another search."""
MACHINE = ("batch_size", "threads", "device", "workers", "cluster", "gpus_per_worker", "timeout_s")
"""Settings of the engine that depend on the machine at hand; they move scores by rounding at most."""
KEPT_ALONE = ("reference_loglikelihood",)
"""Settings that decide what is kept beside a score, and not the score."""
HASHED = ("function", "tasks", "include_path", "num_fewshot", "date", "unsafe_code", *PromptConfig.model_fields)
"""Settings whose effect on a task is in the hashes of a lock, where it has them."""


def refuse_other_kind(run: Path, *, mixture: bool) -> None:
    """Raise :class:`SearchError` when `run` is a search's and a mixture's is wanted, or the other way round."""
    if (run / CONFIG_FILE).is_file() and (run / DESIGN_FILE).is_file() != mixture:
        kinds = ("a mixture", "a search") if mixture else ("a search", "a mixture")
        remedy = f"Name the run of {kinds[0]}, or go on with this one by `aftermix {kinds[1].split()[1]}`."
        raise SearchError(str(run), f"expected the run of {kinds[0]}, found that of {kinds[1]}", remedy)


def refuse_different(run: Path, *, config: Config, pool: ModelPool, split: SplitRecord) -> None:
    """Raise :class:`SearchError` unless resuming `run` with `config` goes on with the same search.

    The number of trials and of candidates may differ; models and statistics (by hash), merge, items, ranges, seeds and
    objective may not. Where models and files lie is no part of what they are: a project that was moved goes on.
    """
    theirs, ours = _hide_places(read_run_config(run), instead_of=config), _hide_places(config)
    complaint = "the file says otherwise in"
    refuse_difference(run, select_comparable(theirs), select_comparable(ours), complaint=complaint)
    refuse_other_content(run, config=config, pool=pool)
    refuse_difference(
        run, SplitRecord.read(run / SPLIT_FILE).model_dump(), split.model_dump(), complaint="other items now make up"
    )


def refuse_other_vectors(source: Path, *, config: Config, pool: ModelPool, split: SplitRecord) -> None:
    """Raise :class:`SearchError` unless scores stored in `source` hold for `config`: same vectors, merge and items.

    Settings that either run searches are left out: they are compared trial by trial. So are those of tasks where the
    lock of `source` has their hashes, which :mod:`aftermix.jobs.search.score_lock` compares task by task.
    """
    refuse_other_measuring(source, config=config, split=split)
    refuse_other_content(source, config=config, pool=pool)


def refuse_other_measuring(
    source: Path, *, config: Config, split: SplitRecord, shared: Mapping[str, str] | None = None
) -> None:
    """Raise :class:`SearchError` unless scores in `source` were measured as `config` says; contents are not compared.

    With `shared`, the names in this file of vectors of `source`, only these vectors count.
    """
    earlier = read_run_config(source)
    hashed = LockRecord.read(source / LOCK_FILE).evaluation is not None
    searched = {*earlier.search.over.settings, *config.search.over.settings}
    select = partial(_select_deciding_values, asking=config, searched=searched, hashed=hashed)
    mine = None if shared is None else {name: name for name in shared.values()}
    theirs, ours = select(earlier, names=shared), select(config, names=mine)

    for part in ours:
        refuse_difference(
            source, theirs.get(part), ours.get(part), complaint=f"scores were measured with another {part} in"
        )

    if hashed and _read_item_settings(earlier) == _read_item_settings(config):
        return

    # Only the items of tasks that are asked for count: further tasks do no harm.
    stored, wanted = SplitRecord.read(source / SPLIT_FILE).model_dump(), split.model_dump()
    both = {task: stored.get(task) for task in wanted}
    refuse_difference(source, both, wanted, complaint="scores were measured on other items of")


def _select_deciding_values(
    config: Config, *, asking: Config, searched: Set[str], hashed: bool, names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Values that decide a stored score of the tasks of `asking`, besides weights, items, `searched` settings, and
    what the hashes of the lock tell where it is `hashed`. With new `names` of vectors, those of no other.
    """
    values = select_comparable(_hide_places(config))
    wanted = {task.task for task in asking.evaluate.tasks} if asking.evaluate else set()

    evaluate = {key: value for key, value in values["evaluate"].items() if key not in ("items", *KEPT_ALONE)}
    evaluate["tasks"] = {task["task"]: task for task in evaluate["tasks"] if task["task"] in wanted}
    if hashed:
        evaluate = {key: value for key, value in evaluate.items() if key not in HASHED}

    hidden = searched | ({"intra", "inter"} if searched else set())  # an unnamed pair holds its options inside
    merge = {key: value for key, value in values["merge"].items() if key not in hidden}

    vectors = values["vectors"]
    parts = [part for part in ("role", "density", "ratio") if part not in searched]
    shown = {name: name for name in vectors} if names is None else names
    own = {part: {new: vectors[old].get(part) for old, new in shown.items()} for part in parts}
    return {"merge": merge, "evaluation": evaluate} | own


def _read_item_settings(config: Config) -> ItemsConfig | None:
    return config.evaluate.items if config.evaluate else None


def refuse_other_content(run: Path, *, config: Config, pool: ModelPool) -> None:
    """Refuse models or statistics that are not, by hash, those of `run`."""
    stored, now = (record.model_dump() for record in (LockRecord.read(run / LOCK_FILE), lock(pool, config)))
    theirs, ours = (_nest_inputs(record["inputs"]) for record in (stored, now))
    refuse_difference(run, theirs, ours, complaint="another content now lies in")

    theirs, ours = stored["statistics"], now["statistics"]
    refuse_difference(run, theirs, ours, complaint="other statistics now lie in")


def _nest_inputs(inputs: Mapping[str, LockedInput]) -> dict[str, LockedInput | dict[str, LockedInput]]:
    """The models of a lock as the file has them, by content alone: the base, and vectors by name."""
    plain: dict[str, LockedInput] = {
        key: {name: each for name, each in value.items() if name != "model"} for key, value in inputs.items()
    }
    base: LockedInput = plain.get("base", {})
    return {"base": base, "vectors": {key.partition(".")[2]: each for key, each in plain.items() if key != "base"}}


def refuse_difference(run: Path, theirs: Any, ours: Any, *, complaint: str) -> None:
    """Raise :class:`SearchError` naming the first place where two nested values differ."""
    place = find_difference(theirs, ours)
    if place is not None:
        remedy = "Restore it, or start a new search in another folder."
        shown = place[0] if len(place) == 1 else join_place("", *place) or "the top"
        raise SearchError(str(run), f"{complaint} '{shown}'", remedy)


def find_difference(theirs: Any, ours: Any, place: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """Keys that lead to the first place where two nested values differ; None where they do not."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            inner = find_difference(theirs.get(key), ours.get(key), (*place, key))
            if inner is not None:
                return inner
        return None
    return None if theirs == ours else place


def select_comparable(config: Config) -> dict[str, Any]:
    """Values of the file that decide what a search measures, by section."""
    values = as_yaml_values(config)
    if "evaluate" in values:
        values["evaluate"] = {key: value for key, value in values["evaluate"].items() if key not in MACHINE}

    values["search"] = {key: value for key, value in values["search"].items() if key not in GROWABLE}
    values.pop("train", None)
    values.pop("calibrate", None)  # what is measured on texts counts by its own hash: the statistics of a merge
    for vector in values.get("vectors", {}).values():
        vector.pop("calibration", None)
    values.pop("compare", None)  # rows are measured beside a winner that is chosen without them
    values.pop("mixture", None)  # no part of a search; a mixture run compares its own
    return values


def _hide_places(config: Config, *, instead_of: Config | None = None) -> Config:
    """`config` without the places of models and statistics, which are known by their content.

    Its other paths follow the move that leads from its models to those of `instead_of`, if there is one.
    """
    old = _list_places(config)
    new = _list_places(instead_of) if instead_of is not None else {}
    roots = find_moved_roots((old[key], new[key]) for key in sorted(old.keys() & new.keys()))

    vectors = {}
    for name, vector in config.vectors.items():
        calibration = vector.calibration
        if calibration is not None and calibration.data is not None:
            calibration = calibration.model_copy(update={"data": move_roots(calibration.data, roots)})
        vectors[name] = vector.model_copy(update={"model": BY_CONTENT, "calibration": calibration})

    merge, evaluate = config.merge, config.evaluate
    if merge.statistics is not None:
        merge = merge.model_copy(update={"statistics": BY_CONTENT})
    if evaluate is not None:
        paths = {key: move_roots(getattr(evaluate, key), roots) for key in ("include_path", "function")}
        evaluate = evaluate.model_copy(update=paths)
    compare = {
        name: rival.model_copy(update={"model": move_roots(rival.model, roots)})
        for name, rival in config.compare.items()
    }
    update = {"base": config.base and BY_CONTENT, "vectors": vectors, "merge": merge, "evaluate": evaluate}
    return config.model_copy(update={**update, "compare": compare})


def _list_places(config: Config) -> dict[str, str]:
    """The places of a file's models and statistics, by name."""
    models = {f"vectors.{name}": vector.model for name, vector in config.vectors.items()}
    further = {"base": config.base, "statistics": config.merge.statistics}
    return models | {key: place for key, place in further.items() if place is not None}
