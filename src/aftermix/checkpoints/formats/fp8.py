"""FP8 checkpoints as the real numbers they stand for: value x scale, run by run, in float32.

A scale belongs to a whole tensor, to each row (output), or to each block of rows and columns:

| written by | scale of `X.weight` |
|---|---|
| DeepSeek, transformers (`fp8`) | `X.weight_scale_inv`: one, or blocks of `weight_block_size` |
| llm-compressor (`compressed-tensors`), `fbgemm_fp8`, `modelopt` | `X.weight_scale`: one, each row, or blocks |

Both names multiply. Scales of activations and of the cache serve FP8 arithmetic alone and are left out. The result is
an ordinary model in the configuration's type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.model import Span, TensorInfo
from aftermix.checkpoints.reader import FLOAT8, Checkpoint
from aftermix.errors import Problem, refuse_if_any

METHODS = ("fp8", "compressed-tensors", "fbgemm_fp8", "modelopt")
QUANTISATION = ("quantization_config", "compression_config")
SUFFIXES = ("_scale_inv", "_scale")
ACTIVATIONS = re.compile(r"(^|[._])(input_scale(_ub)?|output_scale|activation_scale|[kvq]_scale)$")
DEFAULT_BLOCK = (128, 128)
LISTED = 5
DEQUANTISE = "Name the model that it was made from, or one that was dequantised and saved in bfloat16."


@dataclass(frozen=True)
class WeightScale:
    """Scales of one tensor, seen as a stack of matrices (height x width): one for each block."""

    name: str
    shape: tuple[int, int]
    """Of the scales as one matrix: blocks of all stacked matrices x blocks of a row."""
    block: tuple[int, int]
    height: int

    def expand_rows(self, scales_SC: torch.Tensor, start: int, stop: int, width: int) -> torch.Tensor:
        """The scale of every element of rows `start` to `stop`, or of each row where all its elements share one."""
        row = torch.arange(start, stop)
        per_matrix = -(-self.height // self.block[0])
        rows_RC = scales_SC[row // self.height * per_matrix + row % self.height // self.block[0]]
        return rows_RC if self.shape[1] == 1 else rows_RC.repeat_interleave(self.block[1], dim=1)[:, :width]


@dataclass(frozen=True)
class DequantisedModel:
    """A checkpoint with FP8 tensors, as a :class:`~aftermix.checkpoints.model.Model` without them."""

    stored: Checkpoint
    scales: Mapping[str, WeightScale]
    """By the tensor that they scale."""
    left_out: tuple[str, ...]
    """Scales of activations."""

    @property
    def folder(self) -> Path:
        """Folder of the checkpoint."""
        return self.stored.folder

    @property
    def label(self) -> str:
        """Name that the user gave the checkpoint."""
        return self.stored.label

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json` of the dequantised model."""
        dtype = str(self.dtype).removeprefix("torch.")
        values = _drop_quantisation(self.stored.config)
        nested = (
            {"text_config": _drop_quantisation(text)} if isinstance(text := values.get("text_config"), dict) else {}
        )
        return values | nested | {key: dtype for key in ("dtype", "torch_dtype") if key in values}

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type of the configuration, in which a result is stored; bfloat16 where it names none."""
        return _find_dtype(self.stored.config)

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor but the scales, in the type of the dequantised model."""
        hidden = {scale.name for scale in self.scales.values()} | set(self.left_out)
        return {
            name: replace(info, dtype=self.dtype) if info.dtype in FLOAT8 else info
            for name, info in self.stored.tensors.items()
            if name not in hidden
        }

    @property
    def alias(self) -> dict[str, str]:
        """The checkpoint's."""
        return self.stored.alias

    def has(self, name: str) -> bool:
        """Tell whether the model has this tensor, stored or through a tie."""
        return self.alias.get(name, name) in self.tensors

    def info(self, name: str) -> TensorInfo:
        """Entry of `name`, through a tie if it is tied."""
        return self.tensors[self.alias.get(name, name)]

    def files(self) -> list[Path]:
        """The safetensors files, in order of name."""
        return self.stored.files()

    def read_block(self, name: str, span: Span) -> torch.Tensor:
        """Elements `span` of the flattened tensor: float32 where they are dequantised, else as stored."""
        info = self.stored.info(name)
        values = self.stored.read_block(name, span)
        if info.dtype not in FLOAT8:
            return values

        values = values.float()
        scale = self.scales.get(info.name)
        if scale is None or span[0] == span[1]:
            return values

        scales_SC = self.stored.read(scale.name).float().reshape(scale.shape)
        if scales_SC.numel() == 1:
            return values * scales_SC.view(())

        width = info.shape[-1]
        first, last = span[0] // width, -(-span[1] // width)
        factors = scale.expand_rows(scales_SC, first, last, width).expand(last - first, width).reshape(-1)
        return values * factors[span[0] - first * width : span[1] - first * width]

    def describe_storage(self) -> list[str]:
        """Number of FP8 tensors, with the kinds of their scales, and what was left out."""
        count = sum(info.dtype in FLOAT8 for name, info in self.stored.tensors.items() if name in self.tensors)
        kinds = sorted({_name_kind(scale) for scale in self.scales.values()})
        bare = count - len(self.scales)
        kinds += [f"no scale ({bare} of them)"] if bare else []

        type_name = str(self.dtype).removeprefix("torch.")
        lines = [f"is FP8: {count} tensors with {' and '.join(kinds)}, dequantised, {type_name} in a result"]
        if self.left_out:
            lines.append(f"has {len(self.left_out)} scales of activations, left out, first {self.left_out[0]}")
        return [*self.stored.describe_storage(), *lines]


def dequantise(checkpoint: Checkpoint) -> Checkpoint | DequantisedModel:
    """`checkpoint` as real numbers; itself when nothing in it is quantised.

    Raises :class:`ManyProblemsError` for another quantisation than FP8, a scale without its tensor or of another shape.
    """
    settings = _find_settings(checkpoint.config)
    has_fp8 = any(info.dtype in FLOAT8 for info in checkpoint.tensors.values())
    if settings is None and not has_fp8:
        return checkpoint
    if settings is not None:
        _refuse_other_methods(settings, checkpoint.label)

    blocks = _list_block_sizes(settings or {})
    scales: dict[str, WeightScale] = {}
    problems: list[Problem] = []
    left_out = [name for name in checkpoint.tensors if ACTIVATIONS.search(name)]
    for name, info in checkpoint.tensors.items():
        target = _find_scaled(name, checkpoint.tensors)
        if name in left_out or target is None:
            continue
        try:
            scales[target] = _build_scale(info, checkpoint.tensors.get(target), blocks)
        except ValueError as error:
            problems.append(Problem(name, str(error), DEQUANTISE))

    # A checkpoint has thousands of scales, and what is wrong with one is wrong with most.
    rest = [Problem("...", f"{len(problems) - LISTED} more scales like these", DEQUANTISE)]
    refuse_if_any(problems[:LISTED] + (rest if len(problems) > LISTED else []))
    return DequantisedModel(checkpoint, scales, tuple(left_out))


def is_scale(name: str, tensors: Mapping[str, TensorInfo]) -> bool:
    """Tell whether `name` is called like a scale of one of `tensors`, or of activations."""
    return ACTIVATIONS.search(name) is not None or _find_scaled(name, tensors) is not None


def _find_scaled(name: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    """The tensor that `name` is a scale of, there or not; None for what is no scale."""
    for suffix in SUFFIXES:
        target = name.removesuffix(suffix)
        if target != name and (target in tensors or target.endswith(".weight")):
            return target
    return f"{name.removesuffix('_zero_point')}" if name.endswith("weight_zero_point") else None


def _build_scale(info: TensorInfo, target: TensorInfo | None, blocks: list[tuple[int, int]]) -> WeightScale:
    """The scales `info` as they lie over `target`; `ValueError` with the reason when they do not."""
    if target is None:
        raise ValueError("is a scale without its tensor, so the weights are packed in a form that is not read")
    if info.name.endswith("zero_point") or target.dtype not in FLOAT8 or not info.mergeable:
        raise ValueError(f"is a {info.dtype} scale of a tensor in {target.dtype}, expected real scales of FP8")

    # Size of a block by the shape of its scales; where shapes agree, blocks go before whole rows and matrices.
    *stacked, height, width = (1, 1, *target.shape)[-max(2, len(target.shape)) :]
    matrices = math.prod(stacked)
    shapes = {(1,): (matrices * height, width), (): (matrices * height, width)}
    for block in blocks:
        shapes |= {(*stacked, -(-height // block[0]), -(-width // block[1])): block}
    for each_row in ((*stacked, height, 1), (*stacked, height)):
        shapes.setdefault(each_row, (1, width))
    for each_matrix in ((*stacked, 1, 1), tuple(stacked)):
        shapes.setdefault(each_matrix, (height, width))

    if info.shape not in shapes:
        expected = " or ".join(str(shape) for shape in shapes)
        raise ValueError(f"expected a scale of shape {expected} for {target.shape}, found {info.shape}")

    block = max(1, shapes[info.shape][0]), max(1, shapes[info.shape][1])  # of an empty tensor
    columns = max(1, -(-width // block[1]))
    is_single = info.elements == 1
    return WeightScale(
        info.name, (max(1, info.elements // columns), columns), block, matrices * height if is_single else height
    )


def _name_kind(scale: WeightScale) -> str:
    if scale.shape == (1, 1):
        return "one scale a tensor"
    if scale.shape[1] == 1 and scale.block[0] == 1:
        return "one scale a row"
    return f"{scale.block[0]} x {scale.block[1]} block scales"


def _find_settings(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The quantisation that the configuration tells of."""
    text = config.get("text_config")
    for holder in (config, text if isinstance(text, dict) else {}):
        for key in QUANTISATION:
            if isinstance(holder.get(key), dict):
                return dict(holder[key])
    return None


def _refuse_other_methods(settings: Mapping[str, Any], label: str) -> None:
    method = settings.get("quant_method")
    problems = []
    if method not in METHODS:
        problems.append(
            Problem(label, f"is quantised by {method!r}, only FP8 is read ({', '.join(METHODS)})", DEQUANTISE)
        )

    for weights in _list_weight_groups(settings):
        if (weights.get("num_bits"), weights.get("type")) != (8, "float"):
            found = f"holds weights of {weights.get('num_bits')} bits ({weights.get('type')}), only FP8 is read"
            problems.append(Problem(label, found, DEQUANTISE))
    refuse_if_any(problems)


def _list_weight_groups(settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Entries of `compressed-tensors` on the weights of each group of modules."""
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            yield weights


def _list_block_sizes(settings: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Sizes of blocks (rows, columns) that the configuration names, then the usual one."""
    named = [settings.get("weight_block_size")]
    for weights in _list_weight_groups(settings):
        named += [weights.get("block_structure"), [1, weights.get("group_size")]]

    blocks = [
        (value[0], value[1])
        for value in named
        if isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value)
    ]
    return [*dict.fromkeys(blocks)] or [DEFAULT_BLOCK]


def _find_dtype(config: Mapping[str, Any]) -> torch.dtype:
    text = config.get("text_config")
    for holder in (config, text if isinstance(text, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            dtype = getattr(torch, str(holder.get(key)).removeprefix("torch."), None)
            if dtype in (torch.bfloat16, torch.float16, torch.float32):
                return torch.empty(0, dtype=dtype).dtype
    return torch.bfloat16


def _drop_quantisation(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in QUANTISATION}
