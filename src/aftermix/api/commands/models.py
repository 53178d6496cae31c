"""Models and vectors that commands write: merge, average, diff, calibrate, push."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aftermix.api.job_files import prefetch_weights
from aftermix.extras import refuse_missing_extra

if TYPE_CHECKING:
    from aftermix.checkpoints.formats.vector_file import VectorFacts
    from aftermix.config import Config
    from aftermix.runs.merged.adapter_records import MergedAdapterRecord
    from aftermix.saliency.storage import StatisticsNote

Log = Callable[[str], object]


def configure_merge(file: Path, *, weights: str | None = None) -> Config:
    """The configuration of a merge: the recipe `file` (of aftermix or mergekit), or a run at `weights` (`a=0.3,b=1`).

    Raises :class:`AftermixError` for what is wrong with either.
    """
    if weights is None:
        from aftermix.mergekit.reading import load_recipe

        return load_recipe(file)
    from aftermix.jobs.merge.from_run import configure_run_merge
    from aftermix.jobs.search.named_weights import parse_weights

    return configure_run_merge(file, parse_weights(weights))


def write_merge(config: Config, output: Path, *, log: Log, check: bool = False) -> Path:
    """Write the merge of `config` into the new folder `output` and return it: `aftermix merge`.

    `check` holds every block of an exclusive merge against a second computation. Raises :class:`AftermixError` with
    nothing written.
    """
    prefetch_weights(config)
    from aftermix.jobs.merge.command import merge

    return merge(config, output, log=log, check=check)


def write_adapter(config: Config, output: Path, *, rank: int | None = None, log: Log) -> MergedAdapterRecord:
    """Write the merge of `config`, whose vectors are LoRA adapters, as the new adapter `output`: `merge --as-adapter`.

    Raises :class:`AftermixError` with nothing written.
    """
    prefetch_weights(config)
    from aftermix.jobs.merge.adapter import merge_as_adapter

    return merge_as_adapter(config, output, rank=rank, log=log)


def average_checkpoints(
    checkpoints: Sequence[Path],
    output: Path,
    *,
    by: Path | None = None,
    last: int | None = None,
    best: int | None = None,
    decay: Literal["linear", "cosine", "1-sqrt"] | None = None,
    min_rate: float | None = None,
    names: Path | None = None,
    as_dcp: bool = False,
    log: Log,
) -> Path:
    """Merge checkpoints of one run into the model folder `output` and return it: `aftermix average`.

    `by` is the file whose `evaluate:` scores them for `best`, `names` the one whose `tensor_names:` names tensors of
    distributed checkpoints; `as_dcp` writes such a one again. Raises :class:`AftermixError` with nothing written.
    """
    if best is not None:
        refuse_missing_extra("search", what="average --best")
    from aftermix.config import load_config

    scored_by = load_config(by) if by else None
    mapped = load_config(names).tensor_names if names else None
    from aftermix.jobs.average.command import average

    return average(
        checkpoints,
        output,
        by=scored_by,
        last=last,
        best=best,
        decay=decay,
        min_rate=min_rate,
        names=mapped,
        as_dcp=as_dcp,
        log=log,
    )


def store_vector(
    expert: str, *, base: str, output: Path, dtype: Literal["bfloat16", "int8"], prefix: Sequence[str] = ()
) -> VectorFacts:
    """Store `expert` minus `base` in the new folder `output`: `aftermix diff`. `prefix` maps names, as `OWN=BASE`.

    Raises :class:`AftermixError` with nothing written.
    """
    from aftermix.jobs.diff import diff

    return diff(expert, base=base, output=output, dtype=dtype, prefix=prefix)


def measure_statistics(file: Path, output: Path) -> dict[str, StatisticsNote]:
    """Measure what the layers of the experts of `file` are fed, into the new folder `output`: `aftermix calibrate`.

    Raises :class:`AftermixError` with nothing written.
    """
    refuse_missing_extra("search", what="calibrate")
    from aftermix.config import load_config

    config = prefetch_weights(load_config(file))
    from aftermix.jobs.calibrate.command import calibrate

    return calibrate(config, output)


def refuse_upload(repo_id: str) -> None:
    """Raise :class:`AftermixError` where nothing could be uploaded as `repo_id`: before the work that it is for."""
    from aftermix.jobs.push import refuse_push

    refuse_push(repo_id)


def upload_model(folder: Path, repo_id: str, *, private: bool) -> str:
    """Upload the model of `folder` to the hub as `repo_id` and return its address: `aftermix push`.

    Raises :class:`AftermixError` for what cannot be uploaded, and :class:`RunFailedError` where the upload breaks off.
    """
    from aftermix.jobs.push import push

    return push(folder, repo_id, private=private)
