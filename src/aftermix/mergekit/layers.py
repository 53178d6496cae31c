"""Number of layers of a model, for recipes that name them."""

from __future__ import annotations

from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.safe_files import read_json
from aftermix.errors import CheckpointError, ConfigError

KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def count_layers(model: str) -> int:
    """Number of layers in the configuration of `model`. Raises :class:`CheckpointError`, :class:`ConfigError`."""
    folder = locate(model)
    try:
        config = read_json(folder / "config.json", remedy="List it under `models`.")
    except CheckpointError as error:
        found = f"has no readable config.json ({error.problem.found})"
        raise ConfigError(model, found, "List it under `models`.") from error

    nested = config.get("text_config")
    for part in (config, nested if isinstance(nested, dict) else {}):
        for key in KEYS:
            if isinstance(part.get(key), int):
                return int(part[key])
    raise ConfigError(model, "does not say how many layers it has", "List it under `models`.")
