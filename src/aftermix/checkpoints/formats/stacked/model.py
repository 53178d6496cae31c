"""A model of blocks of another one: ranges of its blocks, cut out and stacked, some of them perhaps twice.

Embeddings, the last norm and the head stay. Nothing is copied: a tensor is read where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.alignment.families.unloaded import STACK
from aftermix.checkpoints.model import Model, Span, TensorInfo, describe_storage
from aftermix.checkpoints.names import LAYER_COUNTS, count_layers, select_text_config
from aftermix.errors import CheckpointError

NUMBERED = ("mlp_only_layers",)
"""Keys that list numbers of blocks."""
PERIODS = {
    "attn_layer_period": 1,
    "decoder_sparse_step": 1,
    "expert_layer_period": 1,
    "first_k_dense_replace": 0,
    "full_attention_interval": 1,
    "global_attn_every_n_layers": 1,
    "interleave_moe_layer_step": 1,
    "sliding_window_pattern": 1,
}
"""Keys that say by a rule over its number what a block is, and the value with which all are alike."""
LISTED = "layer_types"
"""Key that says it block by block, and then decides for attention."""
OF_ATTENTION = ("full_attention_interval", "sliding_window_pattern")


@dataclass(frozen=True)
class StackedModel:
    """Blocks `taken` of `source`, in this order: a :class:`~aftermix.checkpoints.model.Model`."""

    source: Model
    taken: tuple[int, ...]

    @property
    def folder(self) -> Path:
        """That of the source."""
        return self.source.folder

    @property
    def label(self) -> str:
        """That of the source."""
        return self.source.label

    @cached_property
    def config(self) -> dict[str, Any]:
        """The source's configuration for so many blocks; what it lists block by block goes with its block."""
        config = deepcopy(self.source.config)
        text = select_text_config(config)
        count = count_layers(text)
        for key, value in text.items():
            if key in LAYER_COUNTS:
                text[key] = len(self.taken)
            elif key in NUMBERED and value:
                text[key] = [number for number, block in enumerate(self.taken) if block in value]
            elif isinstance(value, list) and len(value) == count:
                text[key] = [value[block] for block in self.taken]
        return config

    @cached_property
    def _sources(self) -> dict[str, str]:
        """The source's name of each tensor."""
        return dict(sorted((own, name) for name in self.source.tensors for own in self._name_copies(name)))

    def _name_copies(self, name: str) -> Iterator[str]:
        """Names that the tensor `name` of the source has here; none where its block is left out."""
        found = STACK.match(name)
        if found is None:
            yield name
            return
        for number, block in enumerate(self.taken):
            if block == int(found[1]):
                yield f"{name[: found.start(1)]}{number}{name[found.end(1) :]}"

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by its name here, in order of name."""
        return {own: replace(self.source.tensors[name], name=own) for own, name in self._sources.items()}

    @property
    def alias(self) -> dict[str, str]:
        """The source's ties, which are of no block."""
        return self.source.alias

    def has(self, name: str) -> bool:
        """Tell whether the model has this tensor, stored or through a tie."""
        return self.alias.get(name, name) in self.tensors

    def info(self, name: str) -> TensorInfo:
        """Entry of `name`, through a tie if it is tied."""
        return self.tensors[self.alias.get(name, name)]

    def read_block(self, name: str, span: Span) -> torch.Tensor:
        """Elements `span` of the flattened tensor, as the source gives them."""
        return self.source.read_block(self._sources[self.alias.get(name, name)], span)

    def files(self) -> list[Path]:
        """Those of the source."""
        return self.source.files()

    def describe_storage(self) -> list[str]:
        """Its blocks, and what is to be said of the source."""
        return [f"is a stack of {len(self.taken)} blocks of {self._count()}", *describe_storage(self.source)]

    def _count(self) -> int:
        return count_layers(select_text_config(self.source.config)) or 0


def stack_blocks(source: Model, ranges: Sequence[tuple[int, int]], *, where: str) -> StackedModel:
    """Blocks of `source` in half-open `ranges`, one range after the other.

    Raises :class:`CheckpointError` at `where` for a range that leaves the model, a model whose blocks cannot be told by
    their names, and one of which a rule over its number says what a block is: a block would be read as another kind.
    """
    text = select_text_config(source.config)
    count = count_layers(text)
    numbers = {int(match[1]) for name in source.tensors if (match := STACK.match(name))}
    if count is None or not set(range(count)) <= numbers:
        found = f"expected blocks by number in '{source.label}', found {len(numbers)} of {count}"
        raise CheckpointError(where, found, "Take a decoder whose tensors are named `model.layers.N`, or leave it out.")

    outside = [(start, stop) for start, stop in ranges if not 0 <= start < stop <= count]
    if outside:
        start, stop = outside[0]
        found = f"expected 0 <= start < end <= {count}, the blocks of '{source.label}', found [{start}, {stop}]"
        raise CheckpointError(where, found, "Correct the range; its end is not taken.")

    ruled = [
        key
        for key, alike in PERIODS.items()
        if type(text.get(key)) is int and text[key] != alike and not (key in OF_ATTENTION and text.get(LISTED))
    ]
    if ruled:
        found = f"the kind of a block of '{source.label}' follows from its number (`{ruled[0]}: {text[ruled[0]]}`)"
        raise CheckpointError(where, found, "Such blocks cannot be stacked in another order.")

    return StackedModel(source, tuple(block for start, stop in ranges for block in range(start, stop)))
