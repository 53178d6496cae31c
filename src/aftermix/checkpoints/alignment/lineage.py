"""Trainings one after another: an expert of an expert, led back to the first base by the records of both.

Each step is held by digests: the model between must have the values that the later record tells, and its own
`train.json` those of its base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from aftermix.checkpoints.alignment.recorded_base import BaseDigests, BaseRecord, read_base_record
from aftermix.checkpoints.reader import Checkpoint, open_checkpoint
from aftermix.errors import AftermixError

MOST_TRAININGS = 16
"""Trainings that are followed back."""


def find_lineage(
    record: BaseRecord, digests: BaseDigests, *, folders: Sequence[Path], whole: bool, steps: int = MOST_TRAININGS
) -> tuple[Path, ...]:
    """Folders of the models between an expert with `record` and the base of `digests`, the expert's own base first.

    Looked at are the folder that the record names and `folders`. Empty where no chain of records leads to the base.
    """
    if steps == 0:
        return ()
    for model, origin in _find_recorded(record, folders, whole=whole):
        differing, compared = origin.compare(digests, whole=whole)
        if compared and not differing:
            return (model.folder,)
        further = find_lineage(origin, digests, folders=folders, whole=whole, steps=steps - 1)
        if further:
            return (model.folder, *further)
    return ()


def _find_recorded(
    record: BaseRecord, folders: Sequence[Path], *, whole: bool
) -> Iterator[tuple[Checkpoint, BaseRecord]]:
    """Models with the values that `record` tells, each with the record of its own base."""
    for folder in dict.fromkeys((Path(record.label), *folders)):
        origin = read_base_record(folder)
        model = _open(folder) if origin is not None else None
        if origin is None or model is None:
            continue
        differing, compared = record.compare(BaseDigests(model), whole=whole)
        if compared and not differing:
            yield model, origin


def _open(folder: Path) -> Checkpoint | None:
    try:
        return open_checkpoint(folder)
    except AftermixError:  # a record may outlive the model that it names
        return None
