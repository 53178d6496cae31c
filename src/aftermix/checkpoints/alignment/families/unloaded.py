"""Tensors of a file that loaders leave out or compute, so that one file may store them and another not.

| tensor | known by |
|---|---|
| layers for multi-token prediction | a number from `num_hidden_layers` on, or `mtp` in the name |
| counters, indexes, masks | integers or flags |
| rotary frequencies, tables of sines and cosines, float masks | their values, under whatever name |

Where base and vector both have such a tensor of real numbers, it is merged as any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from aftermix.checkpoints.model import Model, TensorInfo, read_tensor
from aftermix.checkpoints.names import select_text_config

STACK = re.compile(
    r"^(?:(?:model|language_model|text_model|transformer|backbone|gpt_neox)\.)*(?:layers|h|blocks)\.(\d+)\."
)
PREDICTION = re.compile(r"(^|\.)(mtp|mtp_\w+|nextn_\w+)(\.|$)")
LEAST_ELEMENTS, MOST_ELEMENTS = 3, 1 << 24
"""Of a tensor whose values are looked at."""
LEARNED = (".weight", ".bias")
"""Ends of names whose values are learned, whatever they look like."""
EPSILON = 1e-3


def is_unloaded(name: str, config: Mapping[str, Any]) -> bool:
    """Tell whether a model of `config` leaves the tensor `name` in its file: a layer for multi-token prediction.

    >>> is_unloaded("model.layers.61.eh_proj.weight", {"num_hidden_layers": 61}), is_unloaded("mtp.fc.weight", {})
    (True, True)
    """
    if PREDICTION.search(name):
        return True
    layers = select_text_config(dict(config)).get("num_hidden_layers")
    found = STACK.match(name)
    return found is not None and type(layers) is int and int(found[1]) >= layers > 0


def is_dispensable(model: Model, info: TensorInfo) -> bool:
    """Tell whether `model` would be the same without its tensor `info`, which another model of its kind lacks."""
    if is_unloaded(info.name, model.config) or not info.dtype.is_floating_point:
        return True
    named = info.name.endswith(LEARNED) or info.dtype.itemsize < 2
    if named or not LEAST_ELEMENTS <= info.elements <= MOST_ELEMENTS:
        return False
    return holds_computed_values(read_tensor(model, info.name))


def holds_computed_values(tensor: torch.Tensor) -> bool:
    """Tell whether `tensor` has the values of rotary frequencies, of a table of sines or cosines, or of a mask."""
    values = tensor.detach().to(torch.float64)
    if values.dim() == 1:
        return _is_geometric(values)
    table_TD = values.reshape(-1, values.shape[-1]) if values.numel() == values.shape[-1] * values.shape[-2] else None
    return table_TD is not None and (_is_wave(table_TD) or _is_mask(table_TD))


def _is_geometric(values: torch.Tensor) -> bool:
    """1, r, r^2 ... with r below 1: the inverse frequencies of rotary positions."""
    if values[0] != 1 or not bool((values > 0).all()):
        return False
    ratios = values[1:] / values[:-1]
    return bool(ratios[0] < 1) and bool(torch.allclose(ratios, ratios[0].expand_as(ratios), rtol=1e-2))


def _is_wave(table_TD: torch.Tensor) -> bool:
    """cos(t f) or sin(t f), or both side by side, for t = 0, 1, 2: the second row gives the third."""
    if len(table_TD) < 3 or bool((table_TD.abs() > 1 + EPSILON).any()):
        return False
    start, one, two = table_TD[:3]
    cosines, sines = start == 1, start == 0
    if not bool((cosines | sines).all()) or not bool((one != start).any()):
        return False

    doubled = torch.where(cosines, (2 * one**2 - 1 - two).abs(), (4 * one**2 * (1 - one**2) - two**2).abs())
    return bool((doubled < 0.02).all())


def _is_mask(table_TD: torch.Tensor) -> bool:
    """0 with one further value, as attention masks have, on one side of the diagonal or in blocks."""
    others = table_TD[table_TD != 0]
    if others.numel() in (0, table_TD.numel()) or not bool((others == others[0]).all()):
        return False
    other = float(others[0])
    return other <= -100 or (other == 1 and (table_TD.equal(table_TD.tril()) or table_TD.equal(table_TD.triu())))
