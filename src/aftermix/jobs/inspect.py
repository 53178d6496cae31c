"""`aftermix inspect`: norms, angles and untouched tensors of vectors, as values, tables and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aftermix.analysis.geometry import Geometry, measure
from aftermix.analysis.record import geometry_record
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, VectorConfig, load_config, require
from aftermix.errors import ConfigError
from aftermix.files import write_atomically, write_json

FORMATS = ("svg", "png")
FILES = (".yaml", ".yml")


def inspect(
    target: str, *, base: str | None, json: Path | None = None, picture: Path | None = None
) -> tuple[Geometry, str]:
    """Measure the vectors of the file or model `target`; also written to the files `json` and `picture`.

    Returns the geometry and the base's name. Raises :class:`AftermixError`, before weights are read, for a picture of
    a kind that is not drawn, and for models that do not align; and for NaN or Inf in any of them.
    """
    kind = picture.suffix.lower().removeprefix(".") if picture else None
    if kind is not None and kind not in FORMATS:
        found = f"expected a name that ends in .svg or .png, found '{picture}'"
        raise ConfigError("--picture", found, "Name the picture by its kind.")
    config = _config(target, base)
    require(config, "base", "vectors")
    pool = open_pool(config)
    geometry = measure(pool)
    if json is not None:
        write_json(json, _record(geometry, config))
    if picture is not None and kind is not None:
        from aftermix.analysis.picture import picture as drawn

        write_atomically(picture, drawn(geometry, kind=kind))
    return geometry, pool.frame.label


def _config(target: str, base: str | None) -> Config:
    if Path(target).suffix in FILES:
        if base is not None:
            raise ConfigError("--base", f"{target} names its own base", "Leave --base out.")
        return load_config(Path(target))
    if base is None:
        raise ConfigError("--base", f"{target} is a model, whose vector needs a base", "Name it, or name a YAML file.")
    return Config(base=base, vectors={_name(target): VectorConfig(model=target)})


def _name(model: str) -> str:
    """The last part of the model's name, as far as a vector may be called that."""
    kept = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in Path(model).name
    )
    return kept.lstrip("._-")[:64] or "expert"


def _record(geometry: Geometry, config: Config) -> dict[str, Any]:
    record = geometry_record(geometry)
    for name, entry in record["vectors"].items():
        entry["model"] = config.vectors[name].model
    return {"base": config.base} | record
