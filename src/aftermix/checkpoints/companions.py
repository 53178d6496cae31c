"""The files beside the weights that make a folder serve: configuration, tokenizer, generation settings."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from aftermix.checkpoints.pool import Pool
from aftermix.checkpoints.reader import read_json
from aftermix.errors import Problem

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
)
OTHER_FILES = ("preprocessor_config.json", "processor_config.json", "image_processor_config.json")


def companion_files(pool: Pool, *, dtype: torch.dtype | None) -> dict[str, bytes]:
    """Content by file name of everything but weights, card, recipe and lock.

    Configuration comes from the frame (with `dtype` when the result is stored in another type). Tokenizer, chat
    template and generation settings come from the instruction model where one is given, since its end-of-turn tokens
    are what stops a server; the frame serves where it has none.
    """
    frame = pool.frame.folder
    files = {"config.json": _configuration(pool, dtype)}
    tokenizer_owner = tokenizer_folder(pool)
    files |= {str(path.relative_to(tokenizer_owner)): path.read_bytes() for path in _tokenizer_files(tokenizer_owner)}
    files |= {name: (frame / name).read_bytes() for name in OTHER_FILES if (frame / name).is_file()}
    for folder in (tokenizer_owner, frame):
        if (folder / "generation_config.json").is_file():
            files["generation_config.json"] = (folder / "generation_config.json").read_bytes()
            break
    return files


def tokenizer_folder(pool: Pool) -> Path:
    """The folder whose tokenizer the result takes and an evaluation uses."""
    speaker = pool.experts[pool.instruction].folder if pool.instruction else pool.frame.folder
    return speaker if _tokenizer_files(speaker) else pool.frame.folder


def companion_remarks(pool: Pool) -> list[Problem]:
    """What a server of the result would miss."""
    owner = tokenizer_folder(pool)
    notes = []
    if not _tokenizer_files(owner):
        notes.append(Problem(str(owner), "no tokenizer files found", "Add them, or the result cannot be served."))
    if (
        not (owner / "generation_config.json").is_file()
        and not (pool.frame.folder / "generation_config.json").is_file()
    ):
        notes.append(
            Problem(str(owner), "no generation_config.json found", "A server may not know at which token to stop.")
        )
    vocabularies = {name: _vocabulary_digest(expert.folder) for name, expert in pool.experts.items()}
    ours = _vocabulary_digest(pool.frame.folder)
    for name, theirs in vocabularies.items():
        if ours is not None and theirs is not None and ours != theirs:
            found = f"vector '{name}' and the base have different vocabularies"
            notes.append(Problem("tokenizer.json", found, "Rows of the embeddings may not mean the same token."))
    return notes


def _tokenizer_files(folder: Path) -> list[Path]:
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    templates = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    return found + templates if found else []


def _configuration(pool: Pool, dtype: torch.dtype | None) -> bytes:
    content = (pool.frame.folder / "config.json").read_bytes()
    if dtype is None:
        return content
    values = dict(pool.frame.config)
    key = "torch_dtype" if "torch_dtype" in values and "dtype" not in values else "dtype"
    values[key] = str(dtype).removeprefix("torch.")
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _vocabulary_digest(folder: Path) -> int | None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    vocabulary = read_json(path, remedy="Copy the tokenizer again.").get("model", {}).get("vocab")
    return hash(json.dumps(vocabulary, sort_keys=True))
