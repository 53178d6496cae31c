"""From what the user named to a model: which reader takes it, by what lies in the folder."""

from __future__ import annotations

from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.model import Model
from aftermix.checkpoints.reader import open_checkpoint


def open_model(model: str, *, base: Model | None = None) -> Model:  # noqa: ARG001 - what is stored against a base needs it
    """Open the folder or hub name `model`; no weights are read.

    `base` is the model that an expert is read against, where it is stored as a difference. Raises
    :class:`CheckpointError` for what no reader takes.
    """
    return open_checkpoint(locate(model), label=model)
