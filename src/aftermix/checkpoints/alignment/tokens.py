"""Rows of tokens: the tensors that have one row a token, and tokenizers that number them alike."""

from __future__ import annotations

from pathlib import Path

from aftermix.checkpoints.alignment.tokenizer_files import (
    list_vocabulary_files,
    read_vocabulary,
    same_files,
    same_tokenizer,
)
from aftermix.checkpoints.model import Model
from aftermix.checkpoints.names import EMBEDDINGS, HEADS, select_text_config

EMBEDDING_ENDS = tuple(f".{end.removeprefix('.')}" for end in (*EMBEDDINGS, "embed_tokens_per_layer.weight"))
BIAS_ENDS = (".predictions.bias", ".vocab_projector.bias", ".generator_lm_head.bias")
"""Ends of the names of a head's bias that stands apart from its weight, as of masked language models."""
HEAD_ENDS = tuple(f".{end.removesuffix('weight')}{kind}" for end in HEADS for kind in ("weight", "bias"))


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
        if name in embeddings
        or (is_head(name) and info.shape and (info.shape[0] in sizes or "lm_head" in name))
        or (f".{name}".endswith(BIAS_ENDS) and info.shape and info.shape[0] in sizes)
    ]
    size = select_text_config(model.config).get("vocab_size")
    return named or [name for name, info in model.tensors.items() if len(info.shape) == 2 and info.shape[0] == size]


def extends(ours: Path, theirs: Path) -> bool:
    """Tell whether each token of the tokenizer in `ours` has the same row in that of `theirs`.

    A folder without a vocabulary is taken to have the other's; files that are not read are compared by their bytes.
    """
    if ours == theirs or same_tokenizer(ours, theirs):
        return True
    if not list_vocabulary_files(ours) or not list_vocabulary_files(theirs):
        return True
    mine, other = read_vocabulary(ours), read_vocabulary(theirs)
    if mine is None or other is None:
        return same_files(ours, theirs)
    return all(other.get(token) == row for token, row in mine.items())
