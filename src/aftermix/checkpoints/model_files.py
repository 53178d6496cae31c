"""The files beside the weights that make a folder serve: configuration, tokenizer, generation settings."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.alignment.tokenizer_files import TOKENIZER, list_vocabulary_files
from aftermix.checkpoints.alignment.tokens import extends, list_token_tensors
from aftermix.checkpoints.alignment.union.rows import UnionView
from aftermix.checkpoints.alignment.union.tokenizer import extend_tokenizer
from aftermix.checkpoints.alignment.vocabulary import list_vocabulary_remarks
from aftermix.checkpoints.companions.chat_template import choose_chat_template, set_chat_template
from aftermix.checkpoints.companions.selection import CompanionSelection, select_companions
from aftermix.checkpoints.companions.sentence_modules import (
    MODULE_WEIGHTS,
    MODULES_FILE,
    list_module_folders,
    list_weighted_modules,
)
from aftermix.checkpoints.companions.stop_tokens import (
    GENERATION,
    add_stops,
    describe_missing_stops,
    find_missing_stops,
    list_token_remarks,
    read_stop_tokens,
)
from aftermix.checkpoints.formats.configuration import declare_dtype
from aftermix.checkpoints.formats.weight_files import INDEX, SINGLE
from aftermix.checkpoints.model import Model
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
"""Files beside those of a vocabulary that make a tokenizer, and that identify it in records."""
IDENTIFYING = ("preprocessor_config.json", "processor_config.json", "image_processor_config.json")
SENTENCE_FILES = (MODULES_FILE, "config_sentence_transformers.json", "sentence_bert_config.json")
"""Files that identify a base in the records of its experts, beside its configuration and tokenizer."""
WRITES_TEXT = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Ends of the names of classes that generate."""


def read_companion_files(pool: ModelPool, *, dtype: torch.dtype | None) -> dict[str, bytes]:
    """Content by file name of everything but weights, card, recipe and lock.

    Configuration comes from the frame (with `dtype` when the result is stored in another type), and so does every file
    that goes along with its weights. Tokenizer, processor, chat template and generation settings come from the
    instruction model where one is given, since its end-of-turn tokens are what stops a server; the frame serves where
    it has none. Where the recipe names a vocabulary, they come from the model that has it: the numbers of tokens must
    be those of the rows. Weights of sentence-transformers' modules are the frame's.
    """
    files = {"config.json": _encode_configuration(pool, dtype)}
    files |= {name: read_companion(path, path_folder) for name, (path, path_folder) in _list_companions(pool).items()}

    frame = pool.frame.folder
    for module in list_weighted_modules(frame):
        if (weights := frame / module / MODULE_WEIGHTS).is_file():
            files[f"{module}/{MODULE_WEIGHTS}"] = weights.read_bytes()

    if isinstance(pool.frame, UnionView) and pool.frame.added:
        files[TOKENIZER] = extend_tokenizer(files.get(TOKENIZER), pool.frame.added)
    if template := _find_given_template(pool):
        set_chat_template(files, template)

    settings = _find_generation_settings(pool)
    if settings is not None:
        files[settings.name] = read_companion(settings, settings.parent)
    if missing := find_added_stops(pool):
        folder = settings.parent if settings is not None else pool.frame.folder
        stops = read_stop_tokens(folder, pool.frame.config)
        files[GENERATION] = add_stops(files.get(GENERATION), missing, stops)
    return files


def _find_given_template(pool: ModelPool) -> str | None:
    """The chat template that the recipe asks for; None where it asks for none, and where no model has one."""
    if pool.chat_template is None:
        return None
    folders = [model.folder for model in (pool.base, *pool.experts.values()) if model is not None]
    return choose_chat_template(pool.chat_template, dict.fromkeys(folders))


def find_added_stops(pool: ModelPool) -> dict[str, int]:
    """Ends of turns that the settings of a result get, for its chat template writes them and nothing stops there.

    They are looked for where the file names a chat template, or whose tokenizer the result has: a base alone keeps its
    own settings.
    """
    template = _find_given_template(pool)
    if pool.instruction is None and pool.vocabulary not in pool.experts and template is None:
        return {}
    owner, settings = find_tokenizer_folder(pool), _find_generation_settings(pool)
    folder = settings.parent if settings is not None else pool.frame.folder
    missing = find_missing_stops(owner, pool.frame.config, settings=folder, template=template)
    rows = max((pool.frame.info(name).shape[0] for name in list_token_tensors(pool.frame)), default=0)
    return {token: row for token, row in missing.items() if row < rows} if writes_text(pool.frame.config) else {}


def describe_stops(pool: ModelPool) -> list[str]:
    """A line on stop tokens that a result gets; none where its settings stop at the ends of its turns."""
    added = find_added_stops(pool)
    return [f"{describe_missing_stops(added)}: added as stop tokens"] if added else []


def read_identity_files(base: Model) -> dict[str, bytes]:
    """Content by file name of the configuration, tokenizer and module files by which records know `base`.

    The list is older than that of the files which go along with a model, and stays what it is: records are compared.
    """
    folder, pool = base.folder, ModelPool(base, {})
    files = {"config.json": _encode_configuration(pool, None)}
    paths = [*_list_tokenizer_files(folder), *(folder / name for name in (*IDENTIFYING, "generation_config.json"))]
    if (folder / MODULES_FILE).is_file():
        modules = [name for name in list_module_folders(folder) if "/" not in name]
        paths += [folder / name for name in (*SENTENCE_FILES, *(f"{module}/config.json" for module in modules))]
    return files | {str(path.relative_to(folder)): read_companion(path, folder) for path in paths if path.is_file()}


def list_input_files(pool: ModelPool) -> list[Path]:
    """Files that decide a result of `pool`: weights, configuration, tokenizer and generation settings of each model."""
    models = [*pool.experts.values(), *([pool.base] if pool.base else [])]
    beside = ("config.json", "generation_config.json", *IDENTIFYING)
    files = {file for model in models for file in model.files()}
    for folder in {model.folder for model in models}:
        files |= {folder / name for name in beside if (folder / name).is_file()}
        files |= set(_list_tokenizer_files(folder))
        modules = [folder / name / MODULE_WEIGHTS for name in list_weighted_modules(folder)]
        files |= {weights for weights in modules if weights.is_file()}
    files |= {path for path, _ in _list_companions(pool).values()}
    return sorted(files)


def describe_left_out(pool: ModelPool) -> list[str]:
    """Lines on files beside the weights that a result does not have, each with its reason; none for most folders."""
    owner, frame = find_tokenizer_folder(pool), pool.frame.folder
    told = _select_files(pool).describe_left_out()
    lines = [f"left out of the files beside the base: {told}"] if told else []
    if owner != frame and (other := select_companions(owner).describe_left_out(spoken=True)):
        lines.append(f"left out of the files beside the tokenizer in {owner.name}: {other}")
    return lines


def _select_files(pool: ModelPool) -> CompanionSelection:
    """The files beside the weights of the frame, sorted."""
    read = {file.name for file in pool.frame.files()}
    return select_companions(pool.frame.folder, weights=frozenset({*read, SINGLE, INDEX}))


def _list_companions(pool: ModelPool) -> dict[str, tuple[Path, Path]]:
    """Path and folder by the name in a result: the frame's own files, then those of whoever gives the vocabulary."""
    owner, frame = find_tokenizer_folder(pool), pool.frame.folder
    of_frame = _select_files(pool)
    of_owner = of_frame if owner == frame else select_companions(owner)

    # Half a tokenizer (settings and a template, as beside some adapters) is added to the frame's.
    spoken = dict.fromkeys(of_owner.list_spoken(), owner)
    if not spoken or not list_vocabulary_files(owner):
        spoken = dict.fromkeys(of_frame.list_spoken(), frame) | spoken
    seen = dict.fromkeys(of_owner.list_seen(), owner) or dict.fromkeys(of_frame.list_seen(), frame)
    folders = dict.fromkeys(of_frame.list_rest(), frame) | spoken | seen
    return {name: (folder / name, folder) for name, folder in sorted(folders.items())}


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


def list_companion_remarks(pool: ModelPool, *, refused: Collection[str] = ()) -> list[Problem]:
    """Problems of the files beside the weights: what a server of the result would miss.

    Vectors whose vocabulary is `refused` are told of elsewhere.
    """
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
    notes += list_token_remarks(pool.frame, owner="the base" if pool.base is not None else "the first model")
    missing = find_missing_stops(owner, pool.frame.config) if writes_text(pool.frame.config) else {}
    if missing and not find_added_stops(pool):
        remedy = f"Add them to `eos_token_id` in {owner / GENERATION}."
        notes.append(Problem(GENERATION, describe_missing_stops(missing), remedy))
    return notes + list_vocabulary_remarks(
        pool.frame, {name: expert for name, expert in pool.experts.items() if name not in refused}, pool.vocabulary
    )


def writes_text(config: Mapping[str, Any]) -> bool:
    """False for a model whose `config.json` names classes none of which generates, as of an encoder."""
    classes = config.get("architectures") or ()
    return not classes or any(str(name).endswith(WRITES_TEXT) for name in classes)


def has_language_head(config: Mapping[str, Any]) -> bool:
    """False for an encoder without one, which has nothing to tie whatever its configuration's default is."""
    return writes_text(config) or any("MaskedLM" in str(name) for name in config.get("architectures") or ())


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
