"""Models whose vocabularies differ: rows of embeddings and heads are aligned by token, never by row number.

The recipe names the vocabulary of the result, `merge.vocabulary: base | VECTOR`. Rows that are no token (padding) are
matched by number where both models have them. What a vector lacks has difference 0; where the base lacks a token of
the named vector, that vector's row takes the place of the base's, so that no weight moves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.alignment.tokenizer_files import (
    Ids,
    list_vocabulary_files,
    read_vocabulary,
    same_files,
    same_tokenizer,
)
from aftermix.checkpoints.alignment.tokens import extends, list_token_tensors
from aftermix.checkpoints.alignment.view import BlockReader, ModelView, stores_difference
from aftermix.checkpoints.model import Model, Span
from aftermix.checkpoints.names import select_text_config
from aftermix.errors import Problem

MAX_RUNS = 8
"""Runs of consecutive rows that are read one by one; more are picked out of the span that holds them all."""
SHOWN = 3
"""Tokens named in a message."""


@dataclass(frozen=True)
class VocabularyView(ModelView):
    """A model with the rows of another vocabulary."""

    rows: Mapping[str, torch.Tensor]
    """By tensor, the model's own row for each row of the view; -1 where it has none."""
    configuration: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """Configuration with the vocabulary of the view."""
        return self.configuration

    def gather(self, name: str, span: Span, *, read: BlockReader, absent: BlockReader) -> torch.Tensor:
        """Elements `span`, row by row from the model itself or from `absent`."""
        if name not in self.rows:
            return read(name, span)

        columns = math.prod(self.tensors[name].shape[1:])
        first, last = span[0] // columns, -(-span[1] // columns)
        rows = self.rows[name][first:last]
        own = rows >= 0

        if own.all():
            values = pick_rows(name, rows, columns, read)
        else:
            values = absent(name, (first * columns, last * columns)).reshape(-1, columns)
            if own.any():
                picked = pick_rows(name, rows[own], columns, read)
                values = values.to(torch.promote_types(values.dtype, picked.dtype), copy=True)
                values[own] = picked.to(values.dtype)

        return values.reshape(-1)[span[0] - first * columns : span[1] - first * columns]


def pick_rows(name: str, rows: torch.Tensor, columns: int, read: BlockReader) -> torch.Tensor:
    """The named rows, (rows, columns)."""
    starts = [0, *(torch.nonzero(rows.diff() != 1).flatten() + 1).tolist(), len(rows)]
    if len(starts) <= MAX_RUNS + 1:
        runs = [(int(rows[a]), int(rows[b - 1]) + 1) for a, b in pairwise(starts)]
        parts = [read(name, (low * columns, high * columns)).reshape(-1, columns) for low, high in runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    low, high = int(rows.min()), int(rows.max()) + 1
    return read(name, (low * columns, high * columns)).reshape(-1, columns)[rows - low]


@dataclass(frozen=True)
class VocabularySpeaker:
    """A model with its vocabulary, as far as it is known."""

    name: str
    model: Model
    like: VocabularySpeaker | None = None
    """The model whose vocabulary it is taken to have when it has as many rows and no tokenizer files."""

    @cached_property
    def tensors(self) -> list[str]:
        return list_token_tensors(self.model)

    @cached_property
    def folder(self) -> Path:
        """Folder of the tokenizer that it is taken to have: its own, or that of a model with as many rows."""
        own = self.model.folder
        if self.like is None or list_vocabulary_files(own):
            return own
        alike = all(self.like.count_rows(name) == self.count_rows(name) for name in self.like.tensors)
        return self.like.folder if alike else own

    @cached_property
    def ids(self) -> Ids | None:
        return read_vocabulary(self.folder)

    @cached_property
    def unread(self) -> str | None:
        """A file that holds its vocabulary and is not read, if that is all there is of it."""
        return next(iter(list_vocabulary_files(self.folder)), None) if self.ids is None else None

    def count_rows(self, tensor: str) -> int:
        return self.model.info(tensor).shape[0]

    def select_tokens(self, rows: int) -> dict[str, int]:
        """Tokens that have a row: tokenizers may know more than the model."""
        return {token: row for token, row in (self.ids or {}).items() if row < rows}


@dataclass(frozen=True)
class AlignedVocabularies:
    """Models as :func:`unify_vocabularies` leaves them."""

    base: Model | None
    experts: dict[str, Model]
    problems: dict[str, Problem]
    """By vector that is refused."""


def unify_vocabularies(
    base: Model | None, experts: Mapping[str, Model], policy: str | None, *, excluded: Callable[[str], bool]
) -> AlignedVocabularies:
    """The models with the rows of one vocabulary; those that have it already are returned as they are.

    `policy` is `base`, the name of a vector, or None: then every model that differs is refused, unless `excluded` holds
    for all tensors with one row a token and their shapes agree. A model without tokenizer files is taken to speak the
    base's vocabulary if it has as many rows.
    """
    unchanged = AlignedVocabularies(base, dict(experts), {})
    if not experts:
        return unchanged
    first = min(experts)
    frame = VocabularySpeaker("base", base) if base is not None else VocabularySpeaker(first, experts[first])
    if not list_token_tensors(frame.model):
        return unchanged

    speakers = [VocabularySpeaker(name, model, frame) for name, model in experts.items() if model is not frame.model]
    frame = replace(frame, like=find_speaking(experts))
    speakers = [speaker for speaker in speakers if all(speaker.model.has(name) for name in frame.tensors)]
    if policy is not None:
        return _align_rows(base, dict(experts), frame, speakers, policy)

    differing = [speaker for speaker in speakers if _differ(frame, speaker)]
    refused = [speaker for speaker in differing if not _harmless(frame, speaker, excluded)]
    problems = {speaker.name: _explain_refusal(frame, speaker, with_base=base is not None) for speaker in refused}
    return replace(unchanged, problems=problems)


def find_speaking(experts: Mapping[str, Model]) -> VocabularySpeaker | None:
    """The first model that has a vocabulary: experts of a base without one must agree among themselves."""
    speaking = (
        VocabularySpeaker(name, model) for name, model in sorted(experts.items()) if not stores_difference(model)
    )
    return next((speaker for speaker in speaking if list_vocabulary_files(speaker.model.folder)), None)


def list_vocabulary_remarks(frame: Model, experts: Mapping[str, Model], policy: str | None) -> list[Problem]:
    """Remarks that stop no merge: vocabularies that differ where their tensors are excluded, or are not known."""
    ours = VocabularySpeaker("base", frame)
    speakers = [
        VocabularySpeaker(name, model)
        for name, model in experts.items()
        if model is not frame and ours.tensors and not stores_difference(model)
    ]

    notes = []
    for speaker in speakers:
        if ours.ids and not list_vocabulary_files(speaker.model.folder):
            found = f"vector '{speaker.name}' has no tokenizer files"
            notes.append(Problem(speaker.model.label, found, "Its rows are taken to be the base's tokens."))
        elif policy is None and all(speaker.model.has(name) for name in ours.tensors) and _differ(ours, speaker):
            found = f"vector '{speaker.name}' and the base have different vocabularies"
            notes.append(Problem("tokenizer.json", found, "The embeddings are excluded; the result keeps the base's."))
    return notes


def find_tokens_without_rows(frame: Model, speaker: Model, vector: str) -> list[Problem]:
    """Problem of an instruction model whose tokenizer, which the result would take, knows more than rows and base do.

    A token beyond the rows that the base's tokenizer has as well is the base's own trait.
    """
    ours, theirs = VocabularySpeaker("base", frame), VocabularySpeaker(vector, speaker)
    if not ours.tensors or ours.folder == theirs.folder or same_tokenizer(ours.folder, theirs.folder):
        return []

    rows = max(ours.count_rows(name) for name in ours.tensors)
    known = ours.ids or {}
    beyond = sorted((row, token) for token, row in (theirs.ids or {}).items() if row >= rows and token not in known)
    if not beyond or not extends(frame.folder, speaker.folder):  # then the result has the base's tokenizer
        return []

    row, token = beyond[0]
    more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
    found = f"the tokenizer of vector '{vector}' has tokens without a row in the result, {token!r} ({row}){more}"
    remedy = f"Remove `role: instruction` from it, or name a model that was saved with more than {rows} rows."
    return [Problem(speaker.label, f"{found}; there are {rows} rows", remedy)]


def _differ(frame: VocabularySpeaker, other: VocabularySpeaker) -> bool:
    """Tell whether a row number may mean another token, or none, in `other`."""
    if any(frame.count_rows(name) != other.count_rows(name) for name in frame.tensors):
        return True
    if frame.folder == other.folder or same_tokenizer(frame.folder, other.folder):
        return False
    if frame.unread or other.unread:
        spoken = list_vocabulary_files(frame.folder) and list_vocabulary_files(other.folder)
        return bool(spoken) and not same_files(frame.folder, other.folder)
    if frame.ids is None or other.ids is None:
        return False
    rows = max(frame.count_rows(name) for name in frame.tensors)
    return frame.select_tokens(rows) != other.select_tokens(rows)


def _harmless(frame: VocabularySpeaker, other: VocabularySpeaker, excluded: Callable[[str], bool]) -> bool:
    alias = frame.model.alias
    all_excluded = all(excluded(name) or excluded(alias.get(name, name)) for name in frame.tensors)
    return all_excluded and all(frame.count_rows(name) == other.count_rows(name) for name in frame.tensors)


def _explain_refusal(frame: VocabularySpeaker, other: VocabularySpeaker, *, with_base: bool) -> Problem:
    tensor = max(frame.tensors, key=frame.count_rows)
    title = "base" if with_base else f"vector '{frame.name}'"
    found = f"vector '{other.name}' has {_describe_size(other, tensor)}, {title} has {_describe_size(frame, tensor)}"
    if frame.ids is None or other.ids is None:
        return Problem("merge.vocabulary", found, _advise_reading(other if other.ids is None else frame))

    ours, theirs = frame.select_tokens(frame.count_rows(tensor)), other.select_tokens(other.count_rows(tensor))
    differing = [token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)]
    differing.sort(key=lambda token: (ours.get(token, theirs.get(token, 0)), token))
    if differing:
        shown = ", ".join(
            f"{token!r} ({_describe_row(theirs, token)} and {_describe_row(ours, token)})"
            for token in differing[:SHOWN]
        )
        found += f"; {len(differing)} tokens differ, first {shown}"

    if frame.folder != frame.model.folder:
        found += f"; {title} has no tokenizer of its own and is taken to speak that of {frame.folder}"
        return Problem("merge.vocabulary", found, f"Copy its tokenizer.json into {frame.model.folder}.")

    base = "`vocabulary: base` (the base's rows and tokenizer)"
    remedy = f"`vocabulary: {other.name}` (that vector's)"
    return Problem("merge.vocabulary", found, f"Add to `merge`: {f'{base} or {remedy}' if with_base else remedy}.")


def _advise_reading(speaker: VocabularySpeaker) -> str:
    """Remedy for a model whose vocabulary is not known."""
    folder = speaker.model.folder
    if not speaker.unread:
        return f"Copy its tokenizer.json into {folder}, so that rows can be aligned by token."
    command = f"from transformers import AutoTokenizer as T; T.from_pretrained('{folder}').save_pretrained('{folder}')"
    return f'Make its tokenizer.json, so that rows can be aligned by token: python -c "{command}"'


def _describe_size(speaker: VocabularySpeaker, tensor: str) -> str:
    rows = speaker.count_rows(tensor)
    if speaker.unread:
        return f"a tokenizer that is not read ({speaker.unread}) and {rows} rows"
    return f"{len(speaker.select_tokens(rows)) if speaker.ids else 'unknown'} tokens in {rows} rows"


def _describe_row(ids: Ids, token: str) -> str:
    return f"row {ids[token]}" if token in ids else "none"


def _align_rows(
    base: Model | None,
    experts: dict[str, Model],
    frame: VocabularySpeaker,
    speakers: list[VocabularySpeaker],
    policy: str,
) -> AlignedVocabularies:
    """All models with the rows of `policy`."""
    unchanged = AlignedVocabularies(base, experts, {})
    if policy == "base" and base is None:
        problem = Problem("merge.vocabulary", "is 'base', and there is no base", "Name one of the vectors.")
        return replace(unchanged, problems=dict.fromkeys(experts, problem))

    owner = next((speaker for speaker in (frame, *speakers) if speaker.name == policy), None)
    if owner is None:  # it does not align by name, which is told elsewhere
        return unchanged

    others = [speaker for speaker in (frame, *speakers) if speaker is not owner]
    unknown = [s for s in others if _differ(owner, s) and (s.ids is None or owner.ids is None)]
    if unknown:
        return replace(
            unchanged, problems={s.name: _explain_refusal(owner, s, with_base=base is not None) for s in unknown}
        )

    # A base that lacks the owner's tokens is viewed first: the experts' differences are taken from that view.
    lacking = _match_rows(owner, frame) if base is not None and _differ(owner, frame) else {}
    viewed = _build_view(frame, owner, lacking, owner.model) if lacking else base
    for speaker in others:
        if speaker is frame and base is not None:
            continue

        rows = _match_rows(owner, speaker)
        for name in lacking.keys() & rows.keys():
            rows[name][lacking[name] < 0] = -1  # no origin to differ from
        if lacking or _differ(owner, speaker):
            experts[speaker.name] = _build_view(speaker, owner, rows, viewed or owner.model)
    return replace(unchanged, base=viewed)


def _match_rows(owner: VocabularySpeaker, speaker: VocabularySpeaker) -> dict[str, torch.Tensor]:
    """By tensor, the speaker's row for each of the owner's; -1 where it has none."""
    row_by_size: dict[tuple[int, int], torch.Tensor] = {}
    tensors = [name for name in speaker.tensors if owner.model.has(name) and name not in speaker.model.alias]
    sizes = {name: (owner.count_rows(name), speaker.count_rows(name)) for name in tensors}
    for size in set(sizes.values()):
        row_by_size[size] = match_tokens(owner.select_tokens(size[0]), size[0], speaker.select_tokens(size[1]), size[1])
    return {name: row_by_size[size].clone() for name, size in sizes.items()}


def match_tokens(ours: Ids, our_rows: int, theirs: Ids, their_rows: int) -> torch.Tensor:
    """Row among `their_rows` for each of `our_rows` by token, -1 for none; what is no token by its number."""
    rows = [-1] * our_rows
    for token, row in ours.items():
        rows[row] = max(rows[row], theirs.get(token, -1))

    # Padding has no token to go by, only its number.
    tokens, others = set(ours.values()), set(theirs.values())
    for row in range(min(our_rows, their_rows)):
        if row not in tokens and row not in others:
            rows[row] = row
    return torch.tensor(rows, dtype=torch.int64)


def _build_view(
    speaker: VocabularySpeaker, owner: VocabularySpeaker, rows: dict[str, torch.Tensor], frame: Model
) -> VocabularyView:
    tensors = dict(speaker.model.tensors)
    for name, matched in rows.items():
        tensors[name] = replace(tensors[name], shape=(len(matched), *tensors[name].shape[1:]))
    configuration = _combine_configuration(speaker.model.config, owner.model.config)
    notes = (_describe_rows(speaker, owner, rows),)
    return VocabularyView(speaker.model, frame, tensors, dict(speaker.model.alias), notes, rows, configuration)


def _describe_rows(speaker: VocabularySpeaker, owner: VocabularySpeaker, rows: Mapping[str, torch.Tensor]) -> str:
    tensor = max(rows, key=lambda name: len(rows[name]))
    own = int((rows[tensor] >= 0).sum())
    dropped = len(
        speaker.select_tokens(speaker.count_rows(tensor)).keys() - owner.select_tokens(owner.count_rows(tensor)).keys()
    )
    title = "the base" if owner.name == "base" else f"vector '{owner.name}'"
    lacking = f"{title}'s own values" if speaker.name == "base" else "difference 0"
    return (
        f"has {len(rows)} tensors aligned by token to the vocabulary of {title}: {own} of {len(rows[tensor])} rows are "
        f"its own, {len(rows[tensor]) - own} have {lacking}, {dropped} tokens of its own are dropped"
    )


def _combine_configuration(config: dict[str, Any], owner: dict[str, Any]) -> dict[str, Any]:
    """`config` with the vocabulary's size and token numbers of `owner`."""
    combined = dict(config)
    ours, theirs = select_text_config(config), select_text_config(owner)
    text = dict(ours) | {key: value for key, value in theirs.items() if _counts_tokens(key)}
    if ours is config:
        return text

    combined["text_config"] = text
    if theirs is not owner:
        combined |= {key: value for key, value in owner.items() if _counts_tokens(key)}
    return combined


def _counts_tokens(key: str) -> bool:
    return key == "vocab_size" or key.endswith(("_token_id", "_token_index", "_token_ids"))
