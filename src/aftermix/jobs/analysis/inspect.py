"""`aftermix inspect`: norms, angles and untouched tensors of vectors, as values, tables and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aftermix.analysis.geometry import Geometry, measure
from aftermix.analysis.geometry_tables import geometry_record
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config
from aftermix.files import write_atomically, write_json
from aftermix.jobs.analysis.targets import picture_kind, vectors_of


def inspect(
    target: str, *, base: str | None, json: Path | None = None, picture: Path | None = None
) -> tuple[Geometry, str]:
    """Measure the vectors of the file or model `target`; also written to the files `json` and `picture`.

    Returns the geometry and the base's name. Raises :class:`AftermixError`, before weights are read, for a picture of
    a kind that is not drawn, and for models that do not align; and for NaN or Inf in any of them.
    """
    kind = picture_kind(picture) if picture else None
    config = vectors_of(target, base=base)
    pool = open_pool(config)

    geometry = measure(pool)
    if json is not None:
        write_json(json, _record(geometry, config))

    if picture is not None and kind is not None:
        from aftermix.analysis.geometry_picture import picture as drawn

        write_atomically(picture, drawn(geometry, kind=kind))
    return geometry, pool.frame.label


def _record(geometry: Geometry, config: Config) -> dict[str, Any]:
    record = geometry_record(geometry)
    for name, entry in record["vectors"].items():
        entry["model"] = config.vectors[name].model
    return {"base": config.base} | record
