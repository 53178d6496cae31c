"""`config.json` held against the tensors that it stands beside: where they disagree, the tensors decide.

| `config.json` says | the file stores | what is done |
|---|---|---|
| head tied to the embedding | both, with other values | two tensors; `tie_word_embeddings` is false in a result |
| weights quantised | plain real numbers | read as stored; the entry is left out of a result |
| a type (`dtype`, `torch_dtype`) | most numbers in another type | read as stored; a result names the type it has |
| a number of layers, of rows | another number | told: transformers decides whether it loads |

transformers unties such a head itself. Of an encoder-decoder the entry stays as it is: T5 scales its outputs by it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from aftermix.checkpoints.formats.fp8 import QUANTISATION, is_scale
from aftermix.checkpoints.names import EMBEDDINGS, SHARED, select_text_config
from aftermix.checkpoints.reader import FLOAT8, Checkpoint

TIE = "tie_word_embeddings"
LEFTOVERS = (*QUANTISATION, "quantization")
"""Entries on quantisation, that of MLX included."""
DTYPE_KEYS = ("dtype", "torch_dtype")
"""Entries on the stored type: that of transformers 5, and that of earlier versions."""
DECLARED = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}
LAYER = re.compile(r"(^|\.)(layers|layer|h|blocks)\.(\d+)\.")


def settle_configuration(checkpoint: Checkpoint) -> Checkpoint:
    """`checkpoint` with the configuration that its tensors have, and notes on what they contradict."""
    config, notes = checkpoint.config, []
    for head, embedding in checkpoint.own_heads.items():
        notes.append(f"stores {head} with other values than {embedding}, to which config.json ties it: two tensors")
        config = untie_configuration(config, checkpoint.tensors)

    left = drop_leftovers(replace(checkpoint, config=config, notes=()))
    config, notes = left.config, [*notes, *left.notes]

    declared, counts = find_declared_dtype(config), _count_numbers(checkpoint)
    if declared and counts and not counts.keys() & FLOAT8 and counts[declared] < max(counts.values()):
        stored = max(counts, key=lambda dtype: (counts[dtype], dtype.itemsize))
        notes.append(_describe_type(config, stored, is_only=len(counts) == 1))
        config = declare_dtype(config, stored)

    notes += _describe_numbers(checkpoint)
    return replace(checkpoint, config=config, notes=(*checkpoint.notes, *notes)) if notes else checkpoint


def drop_leftovers(checkpoint: Checkpoint) -> Checkpoint:
    """`checkpoint` without an entry on quantisation that nothing stored needs, and with a note on it."""
    leftovers = _list_leftovers(checkpoint.config) if not _stores_quantised(checkpoint) else {}
    if not leftovers:
        return checkpoint

    note = f"has {_name_methods(leftovers)} in config.json and no quantised weights: read as stored, the entry is left "
    config = drop_entries(checkpoint.config, LEFTOVERS)
    return replace(checkpoint, config=config, notes=(*checkpoint.notes, f"{note}out"))


def describe_quantisation(checkpoint: Checkpoint) -> str | None:
    """Evidence that weights of `checkpoint` are stored quantised; None where there is none."""
    types = {str(info.dtype).removeprefix("torch.") for info in checkpoint.tensors.values() if info.dtype in FLOAT8}
    if types:
        return f"weights in {', '.join(sorted(types))}"
    entries = _list_leftovers(checkpoint.config)
    return f"{_name_methods(entries)} in config.json" if entries and _stores_quantised(checkpoint) else None


def untie_configuration(config: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """`config` of a model with the tensors `names`, without its tie of the head."""
    if config.get("is_encoder_decoder") or any(f".{name}".endswith(f".{SHARED}") for name in names):
        return dict(config)
    values = {key: False if key == TIE else value for key, value in config.items()}
    if isinstance(text := config.get("text_config"), dict):
        values["text_config"] = {key: False if key == TIE else value for key, value in text.items()}
    return values


def drop_entries(config: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """`config` without `keys`, in the part on the language model too."""
    values = {key: value for key, value in config.items() if key not in keys}
    if isinstance(text := values.get("text_config"), dict):
        values["text_config"] = {key: value for key, value in text.items() if key not in keys}
    return values


def find_declared_dtype(config: Mapping[str, Any]) -> torch.dtype | None:
    """The type in which `config` says that the weights are stored; None where it names none of real numbers."""
    named = (DECLARED.get(str(config.get(key)).removeprefix("torch.")) for key in DTYPE_KEYS)
    return next((dtype for dtype in named if dtype is not None), None)


def declare_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """`config` of weights that are stored in `dtype`: every entry on the type names it, in its parts too.

    A configuration without such an entry gets one.
    """
    name = str(dtype).removeprefix("torch.")

    def name_dtype(part: Mapping[str, Any]) -> dict[str, Any]:
        return {key: name if key in DTYPE_KEYS and value is not None else value for key, value in part.items()}

    values = {key: name_dtype(value) if isinstance(value, dict) else value for key, value in name_dtype(config).items()}
    return values if any(values.get(key) for key in DTYPE_KEYS) else values | {DTYPE_KEYS[0]: name}


def _count_numbers(checkpoint: Checkpoint) -> Counter[torch.dtype]:
    """Learned real numbers by stored type."""
    counts: Counter[torch.dtype] = Counter()
    for info in checkpoint.tensors.values():
        if info.mergeable:
            counts[info.dtype] += info.elements
    return counts


def _describe_type(config: Mapping[str, Any], stored: torch.dtype, *, is_only: bool) -> str:
    name, share = str(stored).removeprefix("torch."), "its weights" if is_only else "most of its weights"
    said = ", ".join(f"`{key}` = {config[key]}" for key in DTYPE_KEYS if config.get(key))
    return f"stores {share} in {name}, config.json says {said}: read as stored"


def _name_methods(entries: Mapping[str, str]) -> str:
    return ", ".join(f"`{key}` ({method})" for key, method in entries.items())


def _list_leftovers(config: Mapping[str, Any]) -> dict[str, str]:
    """Method by entry on quantisation."""
    holders = [config, select_text_config(dict(config))]
    return {
        key: str(entry.get("quant_method", entry.get("bits", "unnamed")))
        for holder in holders
        for key in LEFTOVERS
        if isinstance(entry := holder.get(key), dict)
    }


def _stores_quantised(checkpoint: Checkpoint) -> bool:
    """Tell whether anything stored needs the entry: FP8, scales, or integers that are not computed."""
    return any(
        info.dtype in FLOAT8
        or is_scale(name, checkpoint.tensors)
        or not (info.dtype.is_floating_point or info.computed)
        for name, info in checkpoint.tensors.items()
    )


def _describe_numbers(checkpoint: Checkpoint) -> Iterator[str]:
    config = select_text_config(checkpoint.config)
    named = [info for name, info in checkpoint.tensors.items() if name.endswith(EMBEDDINGS) and len(info.shape) == 2]
    rows = {info.shape[0] for info in named}
    announced = config.get("vocab_size")
    if type(announced) is int and rows and announced not in rows:
        stored = ", ".join(map(str, sorted(rows)))
        yield f"has {stored} rows of tokens, config.json says `vocab_size` = {announced}: transformers will not load it"

    numbers = {int(found[3]) for name in checkpoint.tensors if (found := LAYER.search(name))}
    layers = config.get("num_hidden_layers")
    if type(layers) is int and numbers and layers > max(numbers) + 1 and len(numbers) > 1:
        yield f"stores {max(numbers) + 1} layers, config.json says {layers}: transformers fills the others at random"
