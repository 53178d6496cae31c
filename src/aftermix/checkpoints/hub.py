"""From what the user wrote to a folder: a local path, or a hub name fetched through `huggingface_hub`."""

from __future__ import annotations

import re
from pathlib import Path

from aftermix.checkpoints.companions.code_files import names_own_code
from aftermix.checkpoints.companions.rules import CODE, list_unwanted_patterns
from aftermix.checkpoints.safe_files import exists
from aftermix.errors import CheckpointError, ask_meant_path

HUB_NAME = re.compile(r"^[\w.\-]+(/[\w.\-]+)?$")
CACHED = re.compile(r"(?:^|/)models--([\w.\-]+?)(?:--([\w.\-]+))?/snapshots/[^/]+(?:/|$)")
"""A place in the hub's cache: owner and name, or a name alone."""


def name_cached_repository(path: str) -> str | None:
    """The hub name of a model that is named by its place in the hub's cache; None for any other path.

    >>> name_cached_repository("/cache/hub/models--org--tiny/snapshots/5f0b02c7"), name_cached_repository("models/base")
    ('org/tiny', None)
    """
    found = CACHED.search(path)
    return "/".join(part for part in found.groups() if part) if found else None


def locate(model: str) -> Path:
    """The folder of `model`; a hub name is downloaded, or found in the cache when offline.

    Downloaded are the weights that are read and the files that go along with them, Python files only where settings
    name some. Nothing of them is run.

    Raises :class:`CheckpointError` when there is neither such a folder nor such a repository at hand.
    """
    folder = Path(model)
    if exists(folder):
        return folder
    if not HUB_NAME.fullmatch(model) or model.endswith(".gguf"):
        raise CheckpointError(
            model,
            "there is no such folder",
            ask_meant_path("Correct the path; it is taken from the YAML file's folder.", folder),
        )

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        unwanted = list_unwanted_patterns()
        snapshot = Path(snapshot_download(model, ignore_patterns=[*unwanted, *CODE]))
        if names_own_code(snapshot):
            snapshot_download(model, allow_patterns=list(CODE), ignore_patterns=unwanted)
        return snapshot
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            model,
            f"is neither a folder here nor a repository that the hub or its cache gives ({reason})",
            ask_meant_path("Correct the path, or download the model while online.", folder),
        ) from error
