"""Splits of a dataset, told by the names of files and folders as the Hub does, and the one that is trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from aftermix.errors import TrainingError
from aftermix.training.data.reading.kinds import find_kind, find_suffix

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Split by the words that stand for it in names."""
SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}")
"""Name of a shard on the Hub: `train-00000-of-00002.parquet`."""
SPLITS_NOTE = "dataset_dict.json"
"""File of `save_to_disk` beside the folders of several splits."""
EVERYTHING = "all"
"""Choice of every file, whatever its split."""
SHOWN = 8

Labelled = Sequence[tuple[Path, str | None]]
"""Files, each with the split that it is of; None: its name says none."""


def choose_split(path: Path, labelled: Labelled, split: str | None) -> tuple[list[Path], str | None]:
    """Parts to read of the folder or pattern `path`, and their split where there are several or one was asked for.

    Without a choice the split `train` is taken where there are several, or the only one that is a split of training
    data (`train_sft`). Raises :class:`TrainingError` naming the splits where none is, where a part is of no split, and
    for a `split` that is not there.
    """
    splits = list(dict.fromkeys(label for _, label in labelled if label is not None))
    strangers = [part for part, label in labelled if label is None]
    everything = [part for part, _ in labelled]

    if split == EVERYTHING or (split in (None, "train") and not splits):
        return everything, None
    if split is None:
        if len(splits) == 1 and not strangers:
            return everything, splits[0] if splits[0] in ("validation", "test") else None
        split = _find_train(path, splits, strangers)

    wanted = WORDS.get(split.lower(), split)
    chosen = [part for part, label in labelled if label in (split, wanted)]
    if not chosen:
        found = f"has no split '{split}'; its splits: {_list_names(splits) or 'none'}"
        raise TrainingError(str(path), found, "Correct `split:`, or remove it.")
    return chosen, split


def _find_train(path: Path, splits: Sequence[str], strangers: Sequence[Path]) -> str:
    if strangers:
        names = _list_names([part.name for part in strangers])
        found = f"holds files of the split {_list_names(splits)} and files of no split: {names}"
        remedy = f"Set `split:` to {splits[0]}, or to `all` for every file, or name the files by a pattern."
        raise TrainingError(str(path), found, remedy)

    of_training = [name for name in splits if "train" in _find_words(name)]
    if "train" in splits:
        return "train"
    if len(of_training) == 1:
        return of_training[0]
    found = f"holds several splits, and none is `train`: {_list_names(splits)}"
    remedy = "Set `split:` to one of them, or to `all` for every file, or name the files by a pattern."
    raise TrainingError(str(path), found, remedy)


def label_parts(root: Path, parts: Sequence[Path]) -> Labelled:
    """The split of each of `parts`, which lie below `root`.

    A text file is a document, and `test.py` is one too: plain texts are of splits where the name of each says one.
    """
    labels = [_label_part(root, part) for part in parts]
    texts = [part for part in parts if find_kind(part) == "plain text"]
    if texts == list(parts) and (
        None in labels or any(find_suffix(part) not in ("", ".txt", ".raw") for part in texts)
    ):
        labels = [None] * len(labels)
    return list(zip(parts, labels, strict=True))


def _label_part(root: Path, part: Path) -> str | None:
    if (part.parent / SPLITS_NOTE).is_file():
        return WORDS.get(part.name, part.name)
    return _read_split(part.relative_to(root) if part.is_relative_to(root) else Path(part.name))


def _read_split(relative: Path) -> str | None:
    """The split of the file, or folder of a saved dataset, at `relative`; None where its path does not say one.

    >>> [_read_split(Path(name)) for name in ("data/dev/a.jsonl", "wiki.train.txt", "train_sft-00000-of-00002.parquet")]
    ['validation', 'train', 'train_sft']
    """
    shard = SHARD.match(relative.name)
    if shard:
        name = shard["split"]
        words = {WORDS[word] for word in re.split(r"[-. ]", name.lower()) if word in WORDS}
        return words.pop() if len(words) == 1 else name

    # The outermost folder that names a split decides, as on the Hub.
    for part in (*relative.parts[:-1], relative.name):
        words = _find_words(part)
        if words:
            return words.pop() if len(words) == 1 else None
    return None


def _find_words(name: str) -> set[str]:
    """Splits that words of `name` stand for."""
    return {WORDS[word] for word in re.split(r"[-._ 0-9]+", name.lower()) if word in WORDS}


def _list_names(names: Sequence[str]) -> str:
    return ", ".join([*names[:SHOWN], *(["..."] if len(names) > SHOWN else [])])
