"""`aftermix inspect`: norms, angles and untouched tensors of vectors, as values, tables and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aftermix.analysis.geometry import VectorGeometry, measure_geometry
from aftermix.analysis.geometry_tables import dump_geometry
from aftermix.analysis.storage.rounding import survey_rounding
from aftermix.config import Config
from aftermix.files import write_atomically
from aftermix.jobs.analysis.targets import (
    NumberSink,
    determine_picture_kind,
    hand_over,
    load_target,
    open_target_pool,
    parse_prefixes,
)


def inspect(
    target: str,
    *,
    base: str | None,
    json: NumberSink | None = None,
    picture: Path | None = None,
    prefix: Sequence[str] = (),
) -> tuple[VectorGeometry, str]:
    """Measure the vectors of the file or model `target`; `prefix` maps names of a model, as `OWN=BASE`.

    All numbers also go to `json`, a file or a function that takes their text, and a drawing to the file `picture`.

    Returns the geometry and the base's name. Raises :class:`AftermixError`, before weights are read, for a picture of
    a kind that is not drawn, and for models that do not align; and for NaN or Inf in any of them.
    """
    kind = determine_picture_kind(picture) if picture else None
    config = load_target(target, base=base, prefixes=parse_prefixes(prefix))
    pool = open_target_pool(config, base=base)

    geometry = replace(measure_geometry(pool), rounding=survey_rounding(pool))
    if json is not None:
        hand_over(_build_record(geometry, config), json)

    if picture is not None and kind is not None:
        from aftermix.analysis.geometry_picture import draw_geometry as draw

        write_atomically(picture, draw(geometry, kind=kind))
    return geometry, pool.frame.label


def _build_record(geometry: VectorGeometry, config: Config) -> dict[str, Any]:
    record = dump_geometry(geometry)
    for name, entry in record["vectors"].items():
        entry["model"] = config.vectors[name].model
    return {"base": config.base} | record
