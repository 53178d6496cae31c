"""Tensors as 8-bit integers with one float32 scale per row, symmetric around 0.

value ~ integer * scale, with scale = (largest magnitude of the row) / 127 and the integer rounded to the nearest in
[-127, 127]: no element is off by more than half of its row's scale.
"""

from __future__ import annotations

import torch

from aftermix.checkpoints.formats.spans import cut_rows
from aftermix.checkpoints.model import Span

LEVELS = 127
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""Smaller scales would lose their own precision; a row of zeros has this one too."""


def compute_scales(largest_R: torch.Tensor) -> torch.Tensor:
    """Scale of each row from its largest magnitude, both float32."""
    return (largest_R / LEVELS).clamp_min(SMALLEST_SCALE)


def raise_largest(largest_R: torch.Tensor, values: torch.Tensor, span: Span, *, row: int) -> None:
    """Take the magnitudes of the run `values` into the largest of each row so far."""
    for rows, part in cut_rows(values, span, row):
        torch.maximum(largest_R[rows], part.abs().amax(dim=1), out=largest_R[rows])


def quantise(values: torch.Tensor, span: Span, scales_R: torch.Tensor, *, row: int) -> torch.Tensor:
    """The run `values` as integers. The quotient is taken in float64, so a tie is the only doubt in rounding."""
    result = torch.empty(values.shape, dtype=torch.int8)
    for (rows, part), (_, out) in zip(cut_rows(values, span, row), cut_rows(result, span, row), strict=True):
        quotient = part.to(torch.float64) / scales_R[rows, None].to(torch.float64)
        out.copy_(quotient.round_().clamp_(-LEVELS, LEVELS))
    return result


def dequantise(integers: torch.Tensor, span: Span, scales: torch.Tensor, *, row: int) -> torch.Tensor:
    """The run `integers` as float32; `scales` begin with that of the run's first row."""
    result = integers.to(torch.float32)
    first = span[0] // row
    for rows, part in cut_rows(result, span, row):
        part.mul_(scales[rows.start - first : rows.stop - first, None])
    return result
