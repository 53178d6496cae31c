"""Lines that `aftermix train` prints before the first step: documents, tokens, shares, steps without a label."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aftermix.checkpoints.companions.stop_tokens import STOPS, describe_missing_stops, find_missing_stops
from aftermix.checkpoints.reader import Checkpoint
from aftermix.config import SourceConfig
from aftermix.jobs.train.expert_data import DatasetSources
from aftermix.training.data.examples import find_unread_columns
from aftermix.training.data.files import choose_files
from aftermix.training.data.mixture import SequenceMixture
from aftermix.training.data.packing import PackedTokens, SequenceStream
from aftermix.training.data.packing_whole import WholeStream


def describe_datasets(sources: DatasetSources, sequences: PackedTokens | SequenceMixture, *, batch: int) -> list[str]:
    """Lines on the data of one expert, which is trained on `batch` sequences a step."""
    if isinstance(sequences, PackedTokens):
        ((_, source),) = sources.by_name.items()
        read = [_describe_stream(source, sequences.stream), *_describe_unread(source)]
        given = [f"trains on {sequences.tokens} tokens, {sequences.epochs:.2f} epochs"]
    else:
        by_name = {name: sources.by_name[name] for name in sequences.streams}
        read = [_describe_stream(by_name[name], stream) for name, stream in sequences.streams.items()]
        read += [line for source in by_name.values() for line in _describe_unread(source)]
        given = [*_describe_shares(sequences)]
    return [*read, *given, *_describe_unlabelled(sequences, batch)]


def describe_chat_stops(sources: DatasetSources, base: Checkpoint) -> list[str]:
    """A line where conversations are learnt whose ends no setting of the base stops at; none for other data."""
    if not any(source.format == "chat" for source in sources.by_name.values()):
        return []
    missing = find_missing_stops(base.folder, base.config)
    return [f"{describe_missing_stops(missing)}: add them to its `{STOPS}`"] if missing else []


def _describe_stream(source: SourceConfig, stream: SequenceStream) -> str:
    store, unit = stream.store, "document" if source.format == "text" else "example"
    documents = store.documents - store.left_out
    unit += "s" if documents != 1 else ""
    choice = str(choose_files(Path(source.data), split=source.split))
    line = f"{source.data}: {choice}{choice and '; '}{documents} {unit}, {store.characters_of_all} characters, "

    # A budget below the dataset's size is met by its first documents.
    line += f"{store.tokens} tokens" if store.complete else f"{store.tokens} tokens in the {len(store.ends)} needed"
    if store.empty:
        line += f"; {store.empty} without text left out"
    if isinstance(stream, WholeStream) and stream.skipped:
        line += f"; {stream.skipped} longer than the context skipped"
    if store.thoughts_left_out:
        line += f"; the chat template leaves out {store.thoughts_left_out} of {store.thoughts} thoughts"
    return line


def _describe_unread(source: SourceConfig) -> Iterator[str]:
    """Fields of documents that hold text beside the one that is read; other formats refuse them."""
    if source.format == "text":
        path, ignored = Path(source.data), source.ignore_columns
        names = find_unread_columns(path, text_field=source.text_field, split=source.split, ignore_columns=ignored)
        if names:
            yield f"{source.data}: '{source.text_field}' is read, and nothing of {', '.join(map(repr, names))}"


def _describe_shares(mixture: SequenceMixture) -> Iterator[str]:
    """A line for each domain: the tokens and epochs that it really gives."""
    for name, given in mixture.given.items():
        share = f"{given.share:.2%} for {given.ratio:.2%}"
        yield f"{name} gives {given.tokens} tokens ({share}), {given.epochs:.2f} epochs"


def _describe_unlabelled(sequences: PackedTokens | SequenceMixture, batch: int) -> Iterator[str]:
    """The share of steps that nothing is learnt from, where there are any."""
    without = sequences.unlabelled
    steps = [bool(without[start : start + batch].all()) for start in range(0, len(without), batch)]
    if any(steps):
        count, share = sum(steps), np.mean(steps)
        yield f"{count} of {len(steps)} steps ({share:.1%}) hold no token that is learnt; their loss is 0"
