"""Adapters whose embedding and head are stored whole, with more or fewer rows than the base has.

A training with added tokens stores them so, and one whose base was cut to its tokenizer. The adapter is read on a base
with the rows of the adapter's own tokenizer, matched by token, and stands as a full model from then on: its vocabulary
differs from the base's, and `merge.vocabulary` says which the result has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.alignment.tokenizer_files import read_vocabulary
from aftermix.checkpoints.alignment.tokens import list_token_tensors
from aftermix.checkpoints.alignment.view import BlockReader
from aftermix.checkpoints.alignment.vocabulary import VocabularyView, match_tokens
from aftermix.checkpoints.formats.lora.adapter import LoraAdapter
from aftermix.checkpoints.model import Model, Span, TensorInfo
from aftermix.errors import Problem, refuse_if_any

RESIZE = "Fold it into its base with PEFT (`resize_token_embeddings`, then `merge_and_unload`), and name the result."


@dataclass(frozen=True)
class ResizedBase(VocabularyView):
    """A base with the rows of an adapter's tokenizer; a row that it lacks is 0, for the adapter stores it whole."""

    def gather(self, name: str, span: Span, *, read: BlockReader, absent: BlockReader) -> torch.Tensor:  # noqa: ARG002
        """Elements `span`, row by row from the base itself, or 0."""
        dtype = self.tensors[name].dtype
        zeros: BlockReader = lambda _, part: torch.zeros(part[1] - part[0], dtype=dtype)  # noqa: E731
        return super().gather(name, span, read=read, absent=zeros)


@dataclass(frozen=True)
class FoldedAdapter:
    """An adapter with rows of its own as a full :class:`~aftermix.checkpoints.model.Model`: base + difference."""

    adapter: LoraAdapter

    @property
    def folder(self) -> Path:
        """Folder of the adapter, which has its tokenizer."""
        return self.adapter.home

    @property
    def label(self) -> str:
        """Name that the user gave the adapter."""
        return self.adapter.label

    @property
    def config(self) -> dict[str, Any]:
        """The base's, with the adapter's number of rows."""
        return self.adapter.config

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """The base's, with the adapter's number of rows."""
        return self.adapter.tensors

    @property
    def alias(self) -> dict[str, str]:
        """The base's ties."""
        return self.adapter.alias

    def has(self, name: str) -> bool:
        """Tell whether the base has this tensor."""
        return self.adapter.has(name)

    def info(self, name: str) -> TensorInfo:
        """The entry of `name`, through a tie if it is tied."""
        return self.adapter.info(name)

    def read_block(self, name: str, span: Span) -> torch.Tensor:
        """Elements `span` of base + difference."""
        return self.adapter.read_block(name, span)

    def files(self) -> list[Path]:
        """Settings and factors of the adapter."""
        return self.adapter.files()

    def describe_storage(self) -> list[str]:
        """Sentences on the adapter, and on the rows that are its own."""
        base = self.adapter.base
        lines = self.adapter.describe_storage()
        return [*lines, *base.notes] if isinstance(base, ResizedBase) else lines


def resize_base(base: Model, saved: Mapping[str, int], *, home: Path, label: str) -> Model:
    """`base` with the rows that an adapter has: `saved` are rows by the base's name of each tensor it stores whole.

    It is `base` itself where they are the base's. Raises :class:`ManyProblemsError` where no tokenizer of the adapter
    or of the base says which row is which token, and where only some of the tensors with one row a token are stored.
    """
    rows = {name: base.info(name).shape[0] for name in list_token_tensors(base)}
    other = {name: saved[name] for name in rows if saved.get(name, rows[name]) != rows[name]}
    if not other:
        return base

    ours, theirs = read_vocabulary(base.folder), read_vocabulary(home)
    refuse_if_any(list(_find_faults(base, rows, other, home=home, label=label, known=bool(ours and theirs))))
    assert ours is not None  # noqa: S101 - refused above
    assert theirs is not None  # noqa: S101 - refused above

    matched, tensors = {}, dict(base.tensors)
    for name, count in other.items():
        mine, own = ({t: r for t, r in ids.items() if r < n} for ids, n in ((ours, rows[name]), (theirs, count)))
        matched[name] = match_tokens(own, count, mine, rows[name])
        tensors[name] = replace(tensors[name], shape=(count, *tensors[name].shape[1:]))

    count, before = max(other.values()), max(rows.values())
    added = len([token for token, row in theirs.items() if row < count and token not in ours])
    note = f"stores its embedding whole: {count} rows for the {before} of the base, {added} tokens of its own"
    return ResizedBase(base, base, tensors, dict(base.alias), (note,), matched, _resize_config(base.config, count))


def _find_faults(
    base: Model, rows: Mapping[str, int], other: Mapping[str, int], *, home: Path, label: str, known: bool
) -> list[Problem]:
    stored = ", ".join(f"'{name}' with {count} rows for {rows[name]}" for name, count in other.items())
    left = [name for name in rows if name not in other and name not in base.alias]
    if len(set(other.values())) > 1 or left:
        found = f"stores {stored}" + (f", and leaves '{left[0]}' at {rows[left[0]]}" if left else "")
        return [Problem(label, found, RESIZE)]
    if not known:
        found = f"stores {stored}, and no tokenizer beside both it and its base says which tokens these are"
        return [Problem(label, found, f"Copy its tokenizer.json into {home}, and the base's into {base.folder}.")]
    return []


def _resize_config(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    if isinstance(text := config.get("text_config"), dict):
        return {**config, "text_config": {**text, "vocab_size": rows}}
    return {**config, "vocab_size": rows}
