"""Watching a live model compute: every product of an activation with a weight adds to the sums of that weight.

Layers are recognised by what they do, not by their class. `torch.nn.Linear`, GPT-2's `Conv1D`, routers that hold a bare
parameter, tied heads and fused experts all end in one of a few functions of PyTorch, one operand of which is a
parameter of the model or a view of one (an expert's slice, a transpose).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product as pairs
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from aftermix.errors import ConfigError
from aftermix.saliency.statistics import ChannelSums, XStatistic, sum_channels


@dataclass(frozen=True)
class WatchedProduct:
    """One product: rows of inputs, the weight, which of the weight's dimensions is summed over, and the routing."""

    inputs: torch.Tensor
    """(..., C)"""
    weight: torch.Tensor
    channel: int
    ends_E: torch.Tensor | None = None
    """Of a grouped product: where the rows of each expert end."""


def _read_linear(*args: Any, **kwargs: Any) -> list[WatchedProduct]:
    inputs, weight = _pick_operands(args, kwargs, "input", "weight")
    return [WatchedProduct(inputs, weight, -1)]


def _read_matmul(*args: Any, **kwargs: Any) -> list[WatchedProduct]:
    """Either operand may be the weight."""
    left, right = _pick_operands(args, kwargs, "input", "other" if "other" in kwargs else "mat2")
    if right.dim() < 2:
        return []
    return [WatchedProduct(left, right, -2), WatchedProduct(right.transpose(-1, -2), left, -1)]


def _read_addmm(*args: Any, **kwargs: Any) -> list[WatchedProduct]:
    _, left, right = _pick_operands(args, kwargs, "input", "mat1", "mat2")
    return _read_matmul(left, right)


def _read_grouped(*args: Any, **kwargs: Any) -> list[WatchedProduct]:
    inputs, weight = _pick_operands(args[:2], kwargs, "input", "weight")
    ends_E = kwargs["offs"] if "offs" in kwargs else args[2]
    return [WatchedProduct(inputs, weight, -2, ends_E)]


def _pick_operands(args: tuple[Any, ...], kwargs: dict[str, Any], *names: str) -> list[Any]:
    return [args[place] if place < len(args) else kwargs[name] for place, name in enumerate(names)]


PRODUCTS: Mapping[Callable[..., Any], Callable[..., list[WatchedProduct]]] = {
    function: reader
    for reader, functions in {
        _read_linear: [functional.linear],
        _read_matmul: [
            getattr(owner, name)
            for owner, name in pairs((torch, torch.Tensor), ("matmul", "__matmul__", "mm", "bmm"))
            if hasattr(owner, name)
        ],
        _read_addmm: [torch.addmm],
        _read_grouped: [getattr(functional, "grouped_mm", None), getattr(torch, "_grouped_mm", None)],
    }.items()
    for function in functions
    if function is not None
}
"""Readers of the operands, by function of PyTorch."""


CASTS = (torch.Tensor.to, torch.Tensor.type, torch.Tensor.float)


class LayerObserver(TorchFunctionMode):
    """Inside `with torch.no_grad(), observer:` the model's forward passes are watched.

    Every row of every input counts as a token, so batches must hold no padding. (Where all rows go to all experts in
    one batched product, a row of zeros is one that was not routed there.) An input that several layers share is summed
    once, as long as they follow each other.
    """

    def __init__(self, statistic: XStatistic) -> None:
        super().__init__()
        self.totals: dict[str, ChannelSums] = {}
        """By the name of the parameter in the live model, the first one for a tied parameter."""
        self._statistic = statistic
        self._names: dict[int, str] = {}
        self._taken: set[int] = set()
        self._last: tuple[tuple[Any, ...], torch.Tensor, torch.Tensor] | None = None
        self._counted_BT: torch.Tensor | None = None
        self._cast: tuple[torch.Tensor, torch.Tensor] | None = None

    def watch(self, model: torch.nn.Module, *, prefix: str = "") -> None:
        """Look for the parameters of `model` as they are now, or of the part of the model whose names have `prefix`.

        Has to be called again after any of them was exchanged.
        """
        self._names = {
            id(parameter): prefix + name for name, parameter in model.named_parameters() if parameter.dim() in (2, 3)
        }
        self._last = self._cast = None

    def count_only(self, counted_BT: torch.Tensor | None) -> None:
        """Let those tokens of the batch to come count that `counted_BT` marks; None: all of them."""
        self._counted_BT, self._last = counted_BT, None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        reader = PRODUCTS.get(func)
        if reader is not None:
            for product in reader(*args, **(kwargs or {})):
                if id(product.weight) not in self._taken and self._add_product(product):
                    break
        result = func(*args, **(kwargs or {}))
        if func in CASTS and id(args[0]) in self._names:
            self._cast = (result, args[0])  # a router that computes in float32 is about to use it
        return result

    @contextmanager
    def shorten_head(self, model: Any) -> Iterator[None]:
        """Inside, the output head is computed for the last position only: its input is wanted, not its output."""
        head = model.get_output_embeddings()
        if head is None or not isinstance(head, torch.nn.Linear):
            yield
            return

        def shorten(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if len(args) != 1 or args[0].dim() != 3:
                return None
            self._add_product(WatchedProduct(args[0], head.weight, -1))
            self._taken = {id(head.weight)}
            return (args[0][:, -1:],)

        handle = head.register_forward_pre_hook(shorten)
        try:
            yield
        finally:
            handle.remove()
            self._taken = set()

    def _add_product(self, product: WatchedProduct) -> bool:
        """Add one product to its weight's sums; False when its weight is none of the model's."""
        weight = self._cast[1] if self._cast is not None and product.weight is self._cast[0] else product.weight
        owner = weight if id(weight) in self._names else weight._base
        name = self._names.get(id(owner))
        if owner is None or name is None:
            return False

        axis = _find_viewed_axis(weight, product.channel, owner)
        if axis is None or (owner.dim() == 3 and not _is_by_expert(product, owner, axis)):
            return False

        total = self.totals.get(name)
        if total is None:
            total = self.totals[name] = ChannelSums(tuple(owner.shape), axis, owner.device)

        if owner.dim() == 2:
            total.add(*self._sum_inputs(product.inputs))
        elif product.weight.dim() == 2:
            expert = (product.weight.storage_offset() - owner.storage_offset()) // owner.stride(0)
            total.add(*self._sum_inputs(product.inputs), expert=expert)
        else:
            self._add_experts(total, product)
        return True

    def _add_experts(self, total: ChannelSums, product: WatchedProduct) -> None:
        """Sums of each expert's own rows: (N, C) sorted by expert, or (E, N, C) with zeros for the others' rows."""
        if self._counted_BT is not None:
            raise _explain_uncountable()
        start = 0
        ends = product.ends_E.tolist() if product.ends_E is not None else [None] * len(total.tokens)
        for expert, end in enumerate(ends):
            if end is None:
                rows = product.inputs[expert]
                tokens = int(rows.any(dim=-1).sum())
            else:
                rows = product.inputs[start:end]
                tokens, start = len(rows), end
            if tokens:
                total.add(sum_channels(rows, self._statistic), tokens, expert=expert)

    def _sum_inputs(self, inputs: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Sums of `inputs` and their number of rows, remembered for the next layer that is fed the same."""
        counted = self._counted_BT
        rows = inputs.numel() // inputs.shape[-1]
        if counted is not None and rows != counted.numel():
            raise _explain_uncountable()
        layout = (tuple(inputs.stride()), tuple(inputs.shape))
        if inputs.is_contiguous():
            layout = ((inputs.shape[-1],), (inputs.numel(),))
        key = (inputs.data_ptr(), inputs._version, inputs.dtype, *layout)
        if self._last is None or self._last[0] != key:
            # The input itself is held as well: its memory cannot become another tensor's meanwhile.
            taken = inputs if counted is None else inputs.reshape(rows, -1)[counted.flatten()]
            self._last = (key, inputs, sum_channels(taken, self._statistic))
        return self._last[2], rows if counted is None else int(counted.sum())


def _explain_uncountable() -> ConfigError:
    found = "a layer of this model is fed a part of the tokens only (a mixture of experts), and not told which"
    return ConfigError("calibration.tokens", found, "Count `tokens: all`.")


def list_linear_weights(model: torch.nn.Module) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape and input dimension of the weight of every linear layer, by name, whether or not it sees a token."""
    return {
        f"{name}.weight": (tuple(module.weight.shape), 0 if isinstance(module, Conv1D) else 1)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    }


def _is_by_expert(product: WatchedProduct, owner: torch.Tensor, axis: int) -> bool:
    """Say if a product with a three-dimensional parameter is with one expert's slice of it, or expert by expert."""
    if axis == 0:
        return False
    if product.weight.dim() == 2:
        return product.weight.numel() * owner.shape[0] == owner.numel()
    return product.ends_E is not None or (product.inputs.dim() == 3 and len(product.inputs) == owner.shape[0])


def _find_viewed_axis(weight: torch.Tensor, channel: int, owner: torch.Tensor) -> int | None:
    """Find the dimension of the parameter `owner` that is dimension `channel` of its view `weight`."""
    if weight is owner:
        return channel % owner.dim()
    size, stride = weight.shape[channel], weight.stride(channel)
    axes = [axis for axis in range(owner.dim()) if (owner.shape[axis], owner.stride(axis)) == (size, stride)]
    return axes[-1] if axes else None
