"""Trackers that are told the numbers of a job while it runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from aftermix.config.fields import ConfigSection

TrackerName = Literal["tensorboard", "trackio"]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class TrackConfig(ConfigSection):
    """Trackers of `search`, `mixture`, `train` and `iterate` (docs/how-to/track.md)."""

    to: Annotated[tuple[TrackerName, ...], Field(min_length=1), BeforeValidator(_listed)]
    """One of them, or a list."""
    project: Annotated[str, Field(min_length=1)] = "aftermix"
    """Name of the project, of trackio."""


def build_track_section(value: Any) -> Any:
    """`track: tensorboard` in place of the whole section."""
    return {"to": value} if isinstance(value, str | list | tuple) else value
