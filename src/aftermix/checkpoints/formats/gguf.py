"""A GGUF file of llama.cpp as a model: converted once through transformers to a safetensors folder, and cached.

The cache lies in `$AFTERMIX_CACHE`, `$XDG_CACHE_HOME/aftermix` or the platform's place for caches, one folder for each
content of a file. Weights take the type of most of the file: float32, float16, or bfloat16 for anything quantised.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.formats.weight_files import INDEX, SINGLE
from aftermix.checkpoints.reader import Checkpoint, open_checkpoint
from aftermix.checkpoints.safe_files import holds_file
from aftermix.checkpoints.writer import stage_folder
from aftermix.errors import CheckpointError, describe_cause
from aftermix.extras import format_install
from aftermix.files import fingerprint
from aftermix.terminal import quiet_transformers

SUFFIX = ".gguf"
PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
UNQUANTISED = {"F32": torch.float32, "F16": torch.float16}
INSTALL = f"Install it: {format_install('gguf')}."
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError, OSError)
"""Errors that gguf raises on a file which it cannot read."""
RECIPE = "1"
"""Part of a cached folder's name: another recipe of conversion gets other folders."""


@dataclass(frozen=True)
class GGUFCheckpoint(Checkpoint):
    """The cached folder of a GGUF file."""

    source: Path = Path()
    """The file of the user."""

    def files(self) -> list[Path]:
        """The GGUF file: the folder is made from it alone."""
        return [self.source]

    def describe_storage(self) -> list[str]:
        """Sentence on the origin of the weights and of the tokenizer."""
        types = ", ".join(sorted({str(info.dtype).removeprefix("torch.") for info in self.tensors.values()}))
        return [f"is a GGUF file, converted to {types}; its tokenizer is what transformers makes of it"]


def find_gguf_file(path: Path) -> Path | None:
    """The GGUF file that `path` is, or the one in the folder `path` where it holds no model in safetensors.

    Raises :class:`CheckpointError` when such a folder holds several and nothing else of a model.
    """
    if path.suffix == SUFFIX and holds_file(path):
        return path
    if not path.is_dir() or holds_file(path / SINGLE) or holds_file(path / INDEX):
        return None

    files = sorted(file for file in path.glob(f"*{SUFFIX}") if holds_file(file))
    if len(files) > 1 and not holds_file(path / "config.json"):
        raise CheckpointError(str(path), f"holds {len(files)} GGUF files", "Name one of them with its path.")
    return files[0] if len(files) == 1 else None


def open_gguf(file: Path, *, label: str) -> GGUFCheckpoint:
    """The model of `file`, from the cache where it was converted before.

    Raises :class:`CheckpointError` without the `gguf` package, for one of several parts, and for a file that
    transformers cannot read.
    """
    part = PART.search(file.name)
    if part and int(part[1]) > 1:
        remedy = "Join the parts with llama.cpp: `llama-gguf-split --merge FIRST-PART WHOLE.gguf`."
        raise CheckpointError(label, f"is one of {int(part[1])} parts", remedy)

    folder = locate_cache_folder() / "gguf" / f"{fingerprint(file).replace(':', '-')}-{RECIPE}"
    if not holds_file(folder / "config.json"):
        try:
            convert_gguf(file, folder)
        except CheckpointError:
            if not holds_file(folder / "config.json"):  # else another process has made it meanwhile
                raise

    stored = open_checkpoint(folder, label=label)
    return GGUFCheckpoint(folder, label, stored.tensors, stored.config, source=file)


def locate_cache_folder() -> Path:
    """The folder in which this machine keeps what can be made again."""
    if own := os.environ.get("AFTERMIX_CACHE"):
        return Path(own)

    home = Path.home()
    usual = {"darwin": home / "Library" / "Caches", "win32": Path(os.environ.get("LOCALAPPDATA", home))}
    return Path(os.environ.get("XDG_CACHE_HOME") or usual.get(sys.platform, home / ".cache")) / "aftermix"


def convert_gguf(file: Path, folder: Path) -> Path:
    """Write the model of `file` as the new Hugging Face folder `folder`: weights, configuration and tokenizer.

    Raises :class:`CheckpointError` as :func:`open_gguf` does.
    """
    dtype, pre_tokenizer = _examine(file)
    with quiet_transformers():
        try:
            model, tokenizer = _load_model(file), _load_tokenizer(file, pre_tokenizer)
        except Exception as error:  # transformers and what it calls raise errors of many kinds on such a file
            reason = describe_cause(error)
            remedy = "Name the safetensors model that it was made from."
            raise CheckpointError(str(file), f"cannot be read by transformers ({reason})", remedy) from error

        tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
        with stage_folder(folder) as hidden:
            model.to(dtype).save_pretrained(hidden)
            tokenizer.save_pretrained(hidden)
    return folder


def _examine(file: Path) -> tuple[torch.dtype, str]:
    """The type of most elements, and the pre-tokenizer that the file names."""
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError(str(file), "is a GGUF file, which needs the package gguf", INSTALL) from error

    try:
        reader = gguf.GGUFReader(file)
        elements: Counter[str] = Counter()
        for tensor in reader.tensors:
            elements[tensor.tensor_type.name] += int(tensor.n_elements)
        field = reader.get_field("tokenizer.ggml.pre")
        pre_tokenizer = str(field.contents()) if field else ""
        layers = max((int(f.contents()) for key, f in reader.fields.items() if key.endswith(".block_count")), default=0)
    except UNREADABLE as error:
        reason = describe_cause(error)
        raise CheckpointError(str(file), f"cannot be read as GGUF ({reason})", "Download it again.") from error

    if layers > len(reader.tensors):  # a table of names is made for each layer, however many are announced
        found = f"announces {layers} layers and holds {len(reader.tensors)} tensors"
        raise CheckpointError(str(file), found, "Download it again.")
    if not elements:
        raise CheckpointError(str(file), "holds no tensors", "Name the file of the weights, not of a vocabulary.")
    return UNQUANTISED.get(elements.most_common(1)[0][0], torch.bfloat16), pre_tokenizer


def _load_model(file: Path) -> Any:
    """The weights in float32, as a model that no longer knows that it was quantised (or it could not be saved)."""
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True)
    model.hf_quantizer = None
    model.is_quantized = False

    for attribute in ("quantization_config", "gguf_file"):
        if hasattr(model.config, attribute):
            delattr(model.config, attribute)
    return model


def _load_tokenizer(file: Path, pre_tokenizer: str) -> Any:
    """The tokenizer with its chat template.

    A file whose pre-tokenizer is `smollm` cuts out every digit before anything else; transformers builds GPT-2's and
    leaves that step out, so the blank lines before a number would get tokens that the model was not trained on.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    if pre_tokenizer == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        bytes_of_text = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_of_text])
    return tokenizer
