"""Rows of tokens: the vocabulary of a tokenizer's files, and the tensors that have one row a token."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from pathlib import Path

from aftermix.checkpoints.model import Model
from aftermix.checkpoints.names import EMBEDDINGS, HEADS, select_text_config
from aftermix.checkpoints.safe_files import holds_file, read_json

TOKENIZER = "tokenizer.json"
EMBEDDING_ENDS = tuple(f".{end.removeprefix('.')}" for end in (*EMBEDDINGS, "embed_tokens_per_layer.weight"))
HEAD_ENDS = tuple(f".{end.removesuffix('weight')}{kind}" for end in HEADS for kind in ("weight", "bias"))

Ids = Mapping[str, int]
"""Row by token."""


def is_embedding(name: str) -> bool:
    """Tell whether `name` is called like an embedding of tokens."""
    return f".{name}".endswith(EMBEDDING_ENDS)


def is_head(name: str) -> bool:
    """Tell whether `name` is called like a part of an output head."""
    return f".{name}".endswith(HEAD_ENDS)


def list_token_tensors(model: Model) -> list[str]:
    """Stored tensors with one row a token: by name, or else every matrix of `vocab_size` rows."""
    embeddings = [name for name, info in model.tensors.items() if is_embedding(name) and info.shape]
    sizes = {model.tensors[name].shape[0] for name in embeddings}
    named = [
        name
        for name, info in model.tensors.items()
        if name in embeddings or (is_head(name) and info.shape and (info.shape[0] in sizes or "lm_head" in name))
    ]
    size = select_text_config(model.config).get("vocab_size")
    return named or [name for name, info in model.tensors.items() if len(info.shape) == 2 and info.shape[0] == size]


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """Row by token of the tokenizer in `folder`, added tokens included; None where there is no such file.

    Raises :class:`CheckpointError` for a file that cannot be read.
    """
    remedy = "Copy the tokenizer again."

    if holds_file(folder / TOKENIZER):
        content = read_json(folder / TOKENIZER, remedy=remedy)
        model, added = content.get("model"), content.get("added_tokens")
        entries = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(entries, list):
            entries = {entry[0]: row for row, entry in enumerate(entries) if isinstance(entry, list) and entry}
        vocabulary = dict(entries) if isinstance(entries, dict) else {}
        for token in added if isinstance(added, list) else []:
            if isinstance(token, dict):
                vocabulary[token.get("content")] = token.get("id")
    elif holds_file(folder / "vocab.json"):
        vocabulary = read_json(folder / "vocab.json", remedy=remedy)
        if holds_file(folder / "added_tokens.json"):
            vocabulary |= read_json(folder / "added_tokens.json", remedy=remedy)
    else:
        return None

    # A stranger's file may hold anything: what is no token with a row is passed over.
    ids = {token: row for token, row in vocabulary.items() if isinstance(token, str) and type(row) is int and row >= 0}
    return ids or None


def same_tokenizer(ours: Path, theirs: Path) -> bool:
    """Tell whether two folders hold the same tokenizer.json, without parsing it."""
    mine, other = ours / TOKENIZER, theirs / TOKENIZER
    try:
        return holds_file(mine) and holds_file(other) and filecmp.cmp(mine, other, shallow=False)
    except OSError:  # the reader of the file says what is wrong with it
        return False


def extends(ours: Path, theirs: Path) -> bool:
    """Tell whether each token of the tokenizer in `ours` has the same row in that of `theirs`, as far as known."""
    if ours == theirs or same_tokenizer(ours, theirs):
        return True
    mine, other = read_vocabulary(ours), read_vocabulary(theirs)
    return mine is None or other is None or all(other.get(token) == row for token, row in mine.items())
