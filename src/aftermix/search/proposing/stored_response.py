"""The response of a run: written at its end, read again by whoever predicts."""

from __future__ import annotations

from pathlib import Path

from aftermix.response.response_model import ResponseModel
from aftermix.response.stored import pack_response, unpack_response
from aftermix.response.surface.coordinates import MergeCoordinates
from aftermix.runs.answers.response_files import (
    RESPONSE_FILE,
    ResponseRecord,
    read_response_files,
    write_response_files,
)
from aftermix.search.proposing.response_fit import FittedResponse


def write_response(fitted: FittedResponse) -> None:
    """Write the model of `fitted` into its run folder."""
    trials = tuple(trial.number for trial in fitted.trials)
    description, arrays = pack_response(fitted.model, fitted.coordinates, trials)
    write_response_files(fitted.run, ResponseRecord.model_validate(description), arrays)


def read_response(run: Path) -> tuple[ResponseModel, MergeCoordinates]:
    """The response that is stored in `run`. Raises :class:`AftermixError` for files that are missing or damaged."""
    record, arrays = read_response_files(run)
    return unpack_response(record.model_dump(), arrays, where=str(run / RESPONSE_FILE))
