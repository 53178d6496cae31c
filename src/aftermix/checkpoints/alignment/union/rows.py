"""Rows of a union: each model has its own row of a token; what it lacks is the base's row, or the others' mean.

With n tokens in all, every embedding and head has n rows: rows that are no token of any model are left out. A token
that the base has and a vector lacks has the base's row there, so its difference is 0. A token that the base lacks has
the mean of the rows of all who have it, in the base and in every model without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from aftermix.checkpoints.alignment.union.tokenizer import AddedToken, list_new_tokens
from aftermix.checkpoints.alignment.vocabulary import (
    AlignedVocabularies,
    VocabularySpeaker,
    VocabularyView,
    find_speaking,
    pick_rows,
)
from aftermix.checkpoints.model import Model, Span
from aftermix.checkpoints.names import select_text_config
from aftermix.errors import Problem

UNION = "union"
"""The policy: `merge.vocabulary: union`."""
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class RowHolder:
    """A model and, by tensor, its row for each row of the union; -1 where it has none."""

    model: Model
    rows: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class UnionView(VocabularyView):
    """A model with the rows of a union."""

    holders: tuple[RowHolder, ...] = ()
    """Those whose rows stand in for rows that the model lacks: the base alone where it has the token, else all."""
    base: RowHolder | None = None
    added: tuple[AddedToken, ...] = ()
    """Tokens that the frame's tokenizer lacks."""
    tokens: int = 0
    """Rows that are tokens; those after them are the mean of these."""
    means: dict[str, torch.Tensor] = field(default_factory=dict, compare=False)
    """By tensor, the mean of the rows that are tokens, once it was asked for."""

    def gather(self, name: str, span: Span, *, read: Any, absent: Any) -> torch.Tensor:  # noqa: ARG002
        """Elements `span`, row by row from the model itself or from those that have the token."""
        return super().gather(name, span, read=read, absent=self._read_stand_ins)

    def _read_stand_ins(self, name: str, span: Span) -> torch.Tensor:
        """Whole rows: the base's where it has the token, else the mean of all that have it; float32."""
        columns = math.prod(self.tensors[name].shape[1:])
        first, last = span[0] // columns, span[1] // columns
        total, count = torch.zeros(last - first, columns), torch.zeros(last - first, 1)
        for holder in self.holders:
            rows = holder.rows[name][first:last]
            if self.base is not None and holder is not self.base:
                rows = torch.where(self.base.rows[name][first:last] >= 0, -1, rows)
            own = rows >= 0
            if own.any():
                total[own] += pick_rows(name, rows[own], columns, holder.model.read_block).float()
                count[own] += 1
        values = total / count.clamp(min=1)
        if last > self.tokens:
            values[max(self.tokens - first, 0) :] = self._read_mean(name, columns)
        return values.reshape(-1)

    def _read_mean(self, name: str, columns: int) -> torch.Tensor:
        """The mean of the rows that are tokens, float32."""
        if name not in self.means:
            total = torch.zeros(columns, dtype=torch.float64)
            for row in range(0, self.tokens, ROWS_AT_ONCE):
                end = min(row + ROWS_AT_ONCE, self.tokens)
                total += self.read_block(name, (row * columns, end * columns)).view(-1, columns).double().sum(dim=0)
            self.means[name] = (total / self.tokens).float()
        return self.means[name]


def unite_vocabularies(base: Model | None, experts: Mapping[str, Model], *, multiple: int = 1) -> AlignedVocabularies:
    """The models with the tokens of all of them; where all have exactly these rows, they are returned as they are.

    The rows are filled up to a `multiple` with their mean.
    """
    unchanged = AlignedVocabularies(base, dict(experts), {})
    first = min(experts, default=None)
    if first is None:
        return unchanged
    frame = VocabularySpeaker("base", base) if base is not None else VocabularySpeaker(first, experts[first])
    names = [name for name in frame.tensors if name not in frame.model.alias]
    rest = {name: model for name, model in sorted(experts.items()) if model is not frame.model}
    others = [VocabularySpeaker(name, model, frame) for name, model in rest.items()]
    speakers = [replace(frame, like=find_speaking(experts)), *others]
    if problem := _find_problem(speakers, names):
        return replace(unchanged, problems=dict.fromkeys(experts, problem))

    # Tokens beyond a model's rows are none of its own.
    ids = [speaker.select_tokens(min(speaker.count_rows(name) for name in names)) for speaker in speakers]
    pairs = [(own, speaker.folder) for own, speaker in zip(ids[1:], speakers[1:], strict=True)]
    added = list_new_tokens(ids[0], pairs)
    union = {**ids[0], **{str(token["content"]): int(token["id"]) for token in added}}
    padding = -len(union) % multiple
    sizes = {speaker.count_rows(name) for speaker in speakers for name in names}
    if all(own == union for own in ids) and sizes == {len(union)} and not padding:
        return unchanged

    numbered = _by_number(union)
    matched = [torch.tensor([own.get(token, -1) for token in numbered] + [-1] * padding) for own in ids]
    holders = tuple(
        RowHolder(speaker.model, dict.fromkeys(names, rows)) for speaker, rows in zip(speakers, matched, strict=True)
    )
    stand_ins = holders[0] if base is not None else None
    views = {
        speaker.name: _build_view(speaker, holder, frame.model, holders, stand_ins, added, len(union))
        for speaker, holder in zip(speakers, holders, strict=True)
    }
    united: dict[str, Model] = {name: views["base" if model is base else name] for name, model in experts.items()}
    return AlignedVocabularies(views["base"] if base is not None else None, united, {})


def _find_problem(speakers: list[VocabularySpeaker], names: list[str]) -> Problem | None:
    """The reason that there is no union of the vocabularies, if so."""
    for speaker in speakers:
        title = "the base" if speaker.name == "base" else f"vector '{speaker.name}'"
        lacking = [name for name in names if not speaker.model.has(name)]
        if lacking:
            return Problem("merge.vocabulary", f"{title} has no '{lacking[0]}'", "Name one model's vocabulary.")
        if speaker.ids is None:
            found = f"{title} has no tokenizer that is read"
            return Problem("merge.vocabulary", found, f"Copy its tokenizer.json into {speaker.model.folder}.")
    first = speakers[0]
    ids = first.select_tokens(min(first.count_rows(name) for name in names))
    if sorted(ids.values()) != list(range(len(ids))):
        found = "the base's tokens are not numbered without gaps"
        return Problem("merge.vocabulary", found, "Name one model's vocabulary: `base`, or a vector.")
    return None


def _by_number(ids: Mapping[str, int]) -> list[str]:
    return sorted(ids, key=lambda token: ids[token])


def _build_view(
    speaker: VocabularySpeaker,
    holder: RowHolder,
    frame: Model,
    holders: tuple[RowHolder, ...],
    base: RowHolder | None,
    added: list[AddedToken],
    tokens: int,
) -> UnionView:
    tensors = dict(speaker.model.tensors)
    rows = next(iter(holder.rows.values()))
    for name in holder.rows:
        tensors[name] = replace(tensors[name], shape=(len(rows), *tensors[name].shape[1:]))

    config = dict(speaker.model.config)
    text = dict(select_text_config(config)) | {"vocab_size": len(rows)}
    config = config | {"text_config": text} if isinstance(config.get("text_config"), dict) else text
    own = int((rows >= 0).sum())
    note = f"has the {len(rows)} rows of the union of all vocabularies: {own} of its own, {len(rows) - own} of others"
    alias = dict(speaker.model.alias)
    view = UnionView(speaker.model, frame, tensors, alias, (note,), holder.rows, config)
    return replace(view, holders=holders, base=base, added=tuple(added), tokens=tokens)
