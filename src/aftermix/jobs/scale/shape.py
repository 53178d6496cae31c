"""`ModelShape`: parameters and sizes of a model, counted on tensors without content.

The model is built by transformers under `torch.device("meta")`: names and shapes are those of the real one, and nothing
is allocated. Of a mixture of experts, a token meets `top` of `experts` in every such layer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.formats.configuration import find_declared_dtype
from aftermix.checkpoints.hub import HUB_NAME
from aftermix.errors import CheckpointError, EvaluationError, ask_meant_path, describe_cause

CONFIG = "config.json"
MOST_LAYERS = 10_000
"""Layers that are built; a stranger's file could ask for billions."""
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
TOP_COUNTS = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "top_k_experts")
"""Spellings of a configuration."""


@dataclass(frozen=True)
class ModelShape:
    """Counts of a model, all of parameters unless said."""

    label: str
    architecture: str
    parameters: int
    moved: int
    """Of tensors that the merge changes."""
    active: int
    """Met by one token: all, less the experts that it is not sent to."""
    multiplied: int
    """Of `active`, what a token is multiplied with: less an embedding that is only looked up."""
    routed: int
    """Of experts that a token is sent to or not."""
    replicated: int
    """Of tensors of one dimension, which every GPU of an engine holds."""
    largest_tensor: int
    largest_layer: int
    stored_bytes: int
    """Bytes of one parameter on disk."""
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    cached_per_head: int
    """Numbers that a layer keeps of a token for each key-value head."""
    widths: int
    """Numbers of one token and layer that the backward pass needs: inputs and outputs of its matrices."""
    vocabulary: int
    windows: tuple[int | None, ...]
    """By layer, the tokens that its cache holds at most; None for all, 0 for a state of fixed size."""
    experts: int = 0
    top: int = 0

    @property
    def file_bytes(self) -> int:
        """Bytes of the weights on disk."""
        return self.stored_bytes * self.parameters

    def cache_bytes(self, tokens: int, *, gpus: int = 1, width: int = 2) -> int:
        """Bytes of the key-value cache of one sequence of `tokens` on one of `gpus`, in numbers of `width` bytes.

        Heads are shared out; where there are fewer of them than GPUs, each GPU holds one.
        """
        heads = max(1, math.ceil(self.kv_heads / gpus))
        kept = sum(tokens if window is None else min(tokens, window) for window in self.windows)
        return width * heads * self.cached_per_head * kept

    def weight_bytes(self, *, gpus: int, width: int) -> int:
        """Bytes of the weights on one of `gpus` that share the tensors of two dimensions and more."""
        return width * (self.replicated + math.ceil((self.parameters - self.replicated) / gpus))

    def met_parameters(self, tokens: float) -> float:
        """Parameters that a pass over `tokens` reads: all experts that any token is sent to, if it chooses evenly.

        `1 - (1 - top / experts)^tokens` of them in the mean.
        """
        if not self.experts:
            return float(self.parameters)
        share = 1 - float((1 - self.top / self.experts) ** tokens)
        return self.parameters - self.routed * (1 - share)


def count_shape(model: str, *, moves: Callable[[str], bool]) -> ModelShape:
    """Shape of the model whose `config.json` lies in the folder, or hub repository, called `model`; reads no weight.

    `moves` says of a tensor's name if a merge changes it. Raises :class:`CheckpointError` where there is no such file,
    and :class:`EvaluationError` for an architecture that transformers does not know without remote code.
    """
    values = read_configuration(model)
    architecture = _open_architecture(model, values)
    text = architecture.get_text_config()
    layers = int(getattr(text, "num_hidden_layers", 0))
    if not 0 < layers <= MOST_LAYERS:
        found = f"`num_hidden_layers` is {layers:,}, expected 1 to {MOST_LAYERS:,}"
        raise EvaluationError(f"{model}/{CONFIG}", found, "Check that it is the model's own file.")

    tensors, stored = _build_tensors(model, architecture), find_declared_dtype(values) or torch.bfloat16
    try:
        return measure_shape(model, tensors, text, stored=stored, moves=moves)
    except (AttributeError, TypeError, ArithmeticError) as error:  # no heads, no vocabulary: nothing that generates
        raise _refuse_architecture(model, error) from error


def read_configuration(model: str) -> Any:
    """The mapping in the `config.json` of a folder, or of a hub repository, of which nothing else is fetched."""
    path = Path(model) / CONFIG
    if not path.is_file() and not Path(model).exists() and HUB_NAME.fullmatch(model):
        path = _fetch_configuration(model)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        remedy = "Name a folder with the model's config.json; a plan needs no weights."
        raise CheckpointError(model, f"has no {CONFIG}", ask_meant_path(remedy, Path(model))) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(str(path), f"cannot be read ({error})", "Take the model's own file.") from error
    if not isinstance(values, dict):
        raise CheckpointError(str(path), "expected a mapping", "Take the model's own file.")
    return values


def _fetch_configuration(model: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, CONFIG))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        found = f"is neither a folder here nor a repository that the hub or its cache gives ({reason})"
        raise CheckpointError(model, found, "Correct the path, or fetch its config.json while online.") from error


def _open_architecture(model: str, values: Any) -> Any:
    from transformers import AutoConfig

    from aftermix.evaluation.engines.filled import BAD_ARCHITECTURE

    try:
        return AutoConfig.for_model(**{key: value for key, value in values.items() if key != "auto_map"})
    except BAD_ARCHITECTURE as error:
        raise _refuse_architecture(model, error) from error


def _refuse_architecture(model: str, error: Exception) -> EvaluationError:
    found = f"its architecture cannot be planned ({describe_cause(error)})"
    return EvaluationError(f"{model}/{CONFIG}", found, "Take a model that transformers knows without remote code.")


def _build_tensors(model: str, architecture: Any) -> Any:
    """The model on the meta device: shapes and names, no content."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(architecture, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, TypeError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise _refuse_architecture(model, error) from error


def measure_shape(
    label: str, model: Any, text: Any, *, stored: torch.dtype, moves: Callable[[str], bool]
) -> ModelShape:
    """Counts of `model`, of whose text part `text` is the configuration; its weights are `stored` in that type."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    total = sum(sizes.values())

    experts, top = _read_count(text, EXPERT_COUNTS), _read_count(text, TOP_COUNTS)
    routed = sum(size for name, size in sizes.items() if "experts" in name.split(".")) if experts and top else 0
    active = total - routed + round(routed * top / experts) if routed else total
    heads, hidden = int(text.num_attention_heads), int(text.hidden_size)
    kv_heads, cached = _count_cached(text, heads, hidden)

    return ModelShape(
        label=label,
        architecture=type(model).__name__,
        parameters=total,
        moved=sum(size for name, size in sizes.items() if moves(name)),
        active=active,
        multiplied=active - _count_lookups(model),
        routed=routed,
        replicated=sum(size for name, size in sizes.items() if len(shapes[name]) < 2),
        largest_tensor=max(sizes.values()),
        largest_layer=_find_largest_layer(sizes),
        stored_bytes=stored.itemsize,
        layers=int(text.num_hidden_layers),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        cached_per_head=cached,
        widths=_count_widths(shapes, int(text.num_hidden_layers), experts=experts, top=top),
        vocabulary=int(text.vocab_size),
        windows=_list_windows(text),
        experts=experts if routed else 0,
        top=top if routed else 0,
    )


def _read_count(text: Any, spellings: tuple[str, ...]) -> int:
    return next((int(value) for name in spellings if isinstance(value := getattr(text, name, None), int)), 0)


def _count_lookups(model: Any) -> int:
    """Parameters of an embedding that no head shares."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding is None or (head is not None and head.weight is embedding.weight):
        return 0
    return int(embedding.weight.numel())


def _count_cached(text: Any, heads: int, hidden: int) -> tuple[int, int]:
    """Key-value heads, and the numbers that each keeps of a token: a key and a value, or one compressed vector."""
    rank = getattr(text, "kv_lora_rank", None)
    if isinstance(rank, int) and rank > 0:
        return 1, rank + int(getattr(text, "qk_rope_head_dim", 0) or 0)
    width = int(getattr(text, "head_dim", None) or hidden // heads)
    return int(getattr(text, "num_key_value_heads", None) or heads), 2 * width


def _find_largest_layer(sizes: Mapping[str, int]) -> int:
    """Parameters of the largest block: tensors whose names agree up to their first number."""
    blocks: dict[str, int] = {}
    for name, size in sizes.items():
        parts = name.split(".")
        first = next((place for place, part in enumerate(parts) if part.isdigit()), None)
        if first is not None:
            block = ".".join(parts[: first + 1])
            blocks[block] = blocks.get(block, 0) + size
    return max(blocks.values(), default=0)


def _count_widths(shapes: Mapping[str, tuple[int, ...]], layers: int, *, experts: int, top: int) -> int:
    """Inputs and outputs of all matrices that a token meets in the blocks, over the number of blocks."""
    total = 0
    for name, shape in shapes.items():
        parts = name.split(".")
        if not any(part.isdigit() for part in parts) or len(shape) < 2:
            continue
        if "experts" not in parts:
            total += sum(shape[-2:])
        elif len(shape) == 3:  # all experts in one tensor, of which a token meets the top ones
            total += top * sum(shape[-2:])
        else:
            total += round(top / max(experts, 1) * sum(shape))
    return round(total / layers)


def _list_windows(text: Any) -> tuple[int | None, ...]:
    """By layer, the tokens that the cache holds at most."""
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * int(text.num_hidden_layers)
    sizes = {
        "sliding_attention": getattr(text, "sliding_window", None),
        "chunked_attention": getattr(text, "attention_chunk_size", None),
        "linear_attention": 0,
    }
    return tuple(sizes.get(kind) for kind in kinds)
