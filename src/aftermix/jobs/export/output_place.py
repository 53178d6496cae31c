"""Place of a new file or folder, looked at before anything is reckoned or written."""

from __future__ import annotations

from pathlib import Path

from aftermix.checkpoints.writer import refuse_occupied
from aftermix.errors import ConfigError


def refuse_output(output: Path, *, is_file: bool, makes_parents: bool = False) -> None:
    """Raise :class:`AftermixError` for an output that is there, or that no folder is there for.

    A file must be new; a folder may exist if it is empty. With `makes_parents` the folders above are made.
    """
    parent = output.absolute().parent
    if not parent.is_dir() and not makes_parents:
        raise ConfigError(str(output.parent), "is no folder", "Make it, or name another place.")
    if not is_file:
        refuse_occupied(output)
    elif output.exists() or output.is_symlink():
        there = "it is a folder" if output.is_dir() else "a file is never written over"
        raise ConfigError(str(output), "exists", f"Name a new file with -o, or remove this one yourself: {there}.")
