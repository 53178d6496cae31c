"""Number of layers of a model, for recipes that name them."""

from __future__ import annotations

from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.names import count_layers
from aftermix.checkpoints.safe_files import read_json
from aftermix.errors import CheckpointError, ConfigError


def read_layer_count(model: str) -> int:
    """Number of layers in the configuration of `model`. Raises :class:`CheckpointError`, :class:`ConfigError`."""
    folder = locate(model)
    try:
        config = read_json(folder / "config.json", remedy="List it under `models`.")
    except CheckpointError as error:
        found = f"has no readable config.json ({error.problem.found})"
        raise ConfigError(model, found, "List it under `models`.") from error

    nested = config.get("text_config")
    for part in (config, nested if isinstance(nested, dict) else {}):
        if (count := count_layers(part)) is not None:
            return count
    raise ConfigError(model, "does not say how many layers it has", "List it under `models`.")
