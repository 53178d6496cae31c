"""The files that a path of data means: a file, a folder as it was downloaded, or a pattern; their split and kind."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aftermix.errors import TrainingError, ask_meant_path
from aftermix.training.data.reading.hub_card import read_configuration
from aftermix.training.data.reading.kinds import (
    find_kind,
    is_card,
    refuse_mixed_kinds,
    refuse_twins,
    refuse_unread,
)
from aftermix.training.data.reading.splits import SPLITS_NOTE, choose_split, label_parts

SHOWN = 3


@dataclass(frozen=True)
class DataFiles:
    """The files, and folders of saved datasets, that are read, in order of name."""

    parts: tuple[Path, ...]
    split: str | None = None
    """The split that was chosen or is the only one; None where names tell of none."""
    left_out: tuple[str, ...] = ()
    """Names and counts of what was not taken."""

    def __str__(self) -> str:
        """A note on the choice; empty where nothing was chosen or left out."""
        count = f"{len(self.parts)} file{'s' if len(self.parts) > 1 else ''}"
        chosen = [f"the split {self.split} ({count})"] if self.split else []
        return "; ".join([*chosen, *([f"left out: {', '.join(self.left_out)}"] if self.left_out else [])])


def choose_files(path: Path, *, split: str | None = None) -> DataFiles:
    """The files that `path` means.

    Of a folder these are all below it that are not hidden, in order of name, without cards and licences; of several
    splits the one called `split`, by default `train`. A pattern (`**` for any depth) is taken as a folder of what
    matches. Raises :class:`TrainingError` for nothing, for splits that leave a choice, and for kinds that are mixed.
    """
    if _exists(path):
        root, parts = path, list(_find_parts(path))
        absent = TrainingError(str(path), "is a folder without files", "Put data into it, or name another.")
    elif (pattern := _build_pattern(path)) is not None:
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob would give other names
        root, parts = _find_root(path), [part for match in matches for part in _find_parts(Path(match))]
        absent = TrainingError(str(path), "matches no file", "Correct the pattern.")
    else:
        remedy = ask_meant_path("Correct `data:`; it is taken from the YAML file's folder.", path)
        raise TrainingError(str(path), "there is no such file", remedy)

    if not parts:
        raise absent
    if parts == [path]:  # named by itself: read, whatever its name
        choose_split(path, [(path, None)], split)
        refuse_unread(path)
        return DataFiles((path,))
    return _choose_parts(path, root, list(dict.fromkeys(parts)), split)


def _choose_parts(path: Path, root: Path, parts: Sequence[Path], split: str | None) -> DataFiles:
    data = _drop_cards(path, parts)
    if not data:
        names = ", ".join(part.name for part in parts[:SHOWN])
        raise TrainingError(str(path), f"holds no data, only {names}", "Name the folder of the data.")

    configuration = read_configuration(path) if path.is_dir() else None
    by_card = configuration.label_files(path) if configuration else {}
    labelled = [(part, by_card[part]) for part in data if part in by_card] or label_parts(root, data)
    chosen, name = choose_split(path, labelled, split)

    for part in chosen:
        refuse_unread(part)
    refuse_mixed_kinds(path, chosen)
    refuse_twins(path, chosen)

    cards = [part.name for part in parts if part not in data]
    return DataFiles(tuple(chosen), name, (*_count_splits(data, chosen, dict(labelled)), *_shorten(cards)))


def _drop_cards(path: Path, parts: Sequence[Path]) -> list[Path]:
    """`parts` without cards: all of them beside records; of texts, which may be anything, those at the folder's top."""
    data = [part for part in parts if not is_card(part)]
    if any(find_kind(part) != "plain text" for part in data):
        return data
    return [part for part in parts if part in data or not (path.is_dir() and part.parent == path)]


def _count_splits(data: Sequence[Path], chosen: Sequence[Path], labels: dict[Path, str | None]) -> Iterator[str]:
    rest = Counter(labels.get(part) for part in data if part not in chosen)
    for label, count in rest.items():
        files = f"{count} file{'s' if count > 1 else ''}"
        yield f"split {label} ({files})" if label else f"{files} of no split"


def _shorten(names: Sequence[str]) -> list[str]:
    rest = len(names) - SHOWN
    return [*names[:SHOWN], *([f"{rest} more like these"] if rest > 0 else [])]


def _build_pattern(path: Path) -> str | None:
    """`path` as a pattern in which folders that are there stand for themselves; None where it has no wildcard."""
    folder = _find_root(path)
    below = str(path.relative_to(folder))
    return str(Path(glob.escape(str(folder))) / below) if glob.has_magic(below) else None


def _find_root(path: Path) -> Path:
    """The innermost folder on the way to `path` that is there."""
    return next((parent for parent in path.parents if _exists(parent)), Path())


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no name that this file system can hold
        return False


def _find_parts(path: Path) -> Iterator[Path]:
    """Files and saved datasets at `path` or below it, in order of name, without hidden ones."""
    is_saved = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    if is_saved or not path.is_dir():
        yield path
        return

    for entry in sorted(path.iterdir()):
        if not entry.name.startswith(".") and entry.name != SPLITS_NOTE:
            yield from _find_parts(entry)
