"""The files beside the weights that make a folder serve: configuration, tokenizer, generation settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.alignment.tokenizer_files import list_vocabulary_files
from aftermix.checkpoints.alignment.tokens import extends
from aftermix.checkpoints.alignment.vocabulary import list_vocabulary_remarks
from aftermix.checkpoints.formats.configuration import declare_dtype
from aftermix.checkpoints.pool import ModelPool
from aftermix.checkpoints.safe_files import read_companion
from aftermix.errors import Problem

TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "bpe.codes",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files of a tokenizer beside those of its vocabulary."""
MODULES_FILE = "modules.json"
SENTENCE_FILES = (MODULES_FILE, "config_sentence_transformers.json", "sentence_bert_config.json")
"""Files by which sentence-transformers makes one vector of a model's hidden states."""
WRITES_TEXT = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Ends of the names of classes that generate."""
OTHER_FILES = ("preprocessor_config.json", "processor_config.json", "image_processor_config.json")


def read_companion_files(pool: ModelPool, *, dtype: torch.dtype | None) -> dict[str, bytes]:
    """Content by file name of everything but weights, card, recipe and lock.

    Configuration comes from the frame (with `dtype` when the result is stored in another type). Tokenizer, chat
    template and generation settings come from the instruction model where one is given, since its end-of-turn tokens
    are what stops a server; the frame serves where it has none. Where the recipe names a vocabulary, they come from the
    model that has it: the numbers of tokens must be those of the rows.
    """
    frame = pool.frame.folder
    files = {"config.json": _encode_configuration(pool, dtype)}

    tokenizer_owner = find_tokenizer_folder(pool)
    files |= {
        str(path.relative_to(tokenizer_owner)): read_companion(path, tokenizer_owner)
        for path in _list_tokenizer_files(tokenizer_owner)
    }
    files |= {name: read_companion(frame / name, frame) for name in OTHER_FILES if (frame / name).is_file()}

    files |= {str(path.relative_to(frame)): read_companion(path, frame) for path in _list_sentence_files(frame)}

    settings = _find_generation_settings(pool)
    if settings is not None:
        files[settings.name] = read_companion(settings, settings.parent)
    return files


def list_input_files(pool: ModelPool) -> list[Path]:
    """Files that decide a result of `pool`: weights, configuration, tokenizer and generation settings of each model."""
    models = [*pool.experts.values(), *([pool.base] if pool.base else [])]
    beside = ("config.json", "generation_config.json", *OTHER_FILES)
    files = {file for model in models for file in model.files()}
    for folder in {model.folder for model in models}:
        files |= {folder / name for name in beside if (folder / name).is_file()}
        files |= set(_list_tokenizer_files(folder))
    return sorted(files)


def find_tokenizer_folder(pool: ModelPool) -> Path:
    """The folder whose tokenizer the result takes and an evaluation uses."""
    frame = pool.frame.folder
    if pool.vocabulary in pool.experts:
        speaker = pool.experts[pool.vocabulary].folder
    elif pool.instruction and pool.vocabulary is None and extends(frame, pool.experts[pool.instruction].folder):
        speaker = pool.experts[pool.instruction].folder
    else:
        speaker = frame

    return speaker if _list_tokenizer_files(speaker) else frame


def read_tokenizer(folder: Path) -> dict[str, bytes]:
    """Content by file name of the tokenizer in `folder`, but for its chat template."""
    files = {}
    for path in _list_tokenizer_files(folder):
        if path.name.startswith("chat_template") or path.suffix == ".jinja":
            continue
        files[path.name] = read_companion(path, folder)

    # The template may stand among the settings, too.
    settings = files.get("tokenizer_config.json")
    if settings is not None:
        values = json.loads(settings)
        values.pop("chat_template", None)
        files["tokenizer_config.json"] = json.dumps(values, sort_keys=True).encode()
    return files


def list_companion_remarks(pool: ModelPool) -> list[Problem]:
    """Problems of the files beside the weights: what a server of the result would miss."""
    owner = find_tokenizer_folder(pool)
    notes = []
    if not _list_tokenizer_files(owner):
        notes.append(Problem(str(owner), "no tokenizer files found", "Add them, or the result cannot be served."))
    if _find_generation_settings(pool) is None and writes_text(pool.frame.config):
        found = "no generation_config.json found"
        notes.append(Problem(str(owner), found, "A server may not know at which token to stop."))

    if pool.vocabulary is None and pool.instruction and owner != pool.experts[pool.instruction].folder:
        found = f"the tokenizer of '{pool.instruction}' numbers the base's tokens otherwise"
        notes.append(Problem("tokenizer.json", found, "The result takes the base's tokenizer and chat template."))
    return notes + list_vocabulary_remarks(pool.frame, pool.experts, pool.vocabulary)


def writes_text(config: Mapping[str, Any]) -> bool:
    """False for a model whose `config.json` names classes none of which generates, as of an encoder."""
    classes = config.get("architectures") or ()
    return not classes or any(str(name).endswith(WRITES_TEXT) for name in classes)


def has_language_head(config: Mapping[str, Any]) -> bool:
    """False for an encoder without one, which has nothing to tie whatever its configuration's default is."""
    return writes_text(config) or any("MaskedLM" in str(name) for name in config.get("architectures") or ())


def _list_sentence_files(folder: Path) -> list[Path]:
    """Files of sentence-transformers in `folder`, and the configuration of every module that `modules.json` names.

    Weights of such a module (a dense layer) are no tensors of the model, and are left out.
    """
    if not (folder / MODULES_FILE).is_file():
        return []
    found = [folder / name for name in SENTENCE_FILES]
    try:
        modules = json.loads((folder / MODULES_FILE).read_text(encoding="utf-8"))
        named = [str(module.get("path") or "") for module in modules]
    except (OSError, ValueError, AttributeError, TypeError):  # a stranger's file, which no merge needs
        named = []
    found += [folder / name / "config.json" for name in named if name and Path(name).name == name]
    return [path for path in found if path.is_file()]


def _find_generation_settings(pool: ModelPool) -> Path | None:
    owner, frame = find_tokenizer_folder(pool), pool.frame.folder
    for folder in (owner, frame):
        path = folder / "generation_config.json"
        if path.is_file() and (folder == owner or extends(frame, owner)):
            return path
    return None


def _list_tokenizer_files(folder: Path) -> list[Path]:
    named = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    files = [folder / name for name in dict.fromkeys([*named, *list_vocabulary_files(folder)])]
    templates = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    return files + templates if files else []


def _encode_configuration(pool: ModelPool, dtype: torch.dtype | None) -> bytes:
    """The frame's own bytes where nothing in them changes."""
    content = read_companion(pool.frame.folder / "config.json", pool.frame.folder)
    values = dict(pool.frame.config) if dtype is None else declare_dtype(pool.frame.config, dtype)
    same = dtype is None and json.loads(content) == values
    return content if same else (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
