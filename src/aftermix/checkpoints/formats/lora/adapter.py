"""A LoRA adapter of PEFT as a model: its difference from the base is computed from the factors, run by run.

W' = W + s B A                                   LoRA, rank-stabilised or not (s is alpha / r or alpha / sqrt(r))
W' = m (W + s B A) / ||W + s B A||               DoRA; the norm is over the inputs of each output
W' = the stored tensor                           `modules_to_save`, biases, embeddings saved whole
W'[i] = the stored row                           `trainable_token_indices`

A is (r, in), B is (out, r). Embeddings and GPT-2's Conv1D hold W as (in, out); there the transpose of s B A is added.
Arithmetic is float32. Departure from `merge_and_unload`: an embedding whose head is tied to it is refused when the
adapter moves only one of the two, since folding would move both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.formats.lora.config import CONFIG, AdapterConfig
from aftermix.checkpoints.formats.lora.names import UNCHANGED, PrefixSwap
from aftermix.checkpoints.formats.on_base import OnBase
from aftermix.checkpoints.model import Model, Span, TensorInfo
from aftermix.checkpoints.safe_files import holds_file

WEIGHTS = "adapter_model.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
ROWS_ELEMENTS = 1 << 20
"""Elements that are computed at a time where all rows of a tensor are passed over."""


@dataclass(frozen=True)
class LowRank:
    """s B A, or its transpose, row by row."""

    a_RI: torch.Tensor
    b_OR: torch.Tensor
    scale: float
    transposed: bool
    embedding: bool = False
    """True for the factors of an embedding, which PEFT stores under names of their own."""

    def compute_rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of the tensor that is added to the base's."""
        if self.transposed:
            return (self.a_RI[:, start:stop].float().T @ self.b_OR.float().T) * self.scale
        return (self.b_OR[start:stop].float() @ self.a_RI.float()) * self.scale


@dataclass
class TensorChange:
    """Change that the adapter makes to one tensor, seen as a matrix of its first dimension against all others."""

    low_rank: LowRank | None = None
    magnitude_O: torch.Tensor | None = None
    saved: torch.Tensor | None = None
    """The tensor itself, which takes the place of the base's."""
    added: torch.Tensor | None = None
    """A vector that is added to the base's."""
    tokens: dict[int, torch.Tensor] = field(default_factory=dict)
    """Rows that take the place of the base's."""

    @property
    def needs_base(self) -> bool:
        """True if the difference depends on the base's values."""
        return self.saved is not None or self.magnitude_O is not None or bool(self.tokens)


@dataclass(frozen=True)
class LoraAdapter(OnBase):
    """An opened adapter: a :class:`~aftermix.checkpoints.model.Model` known by its difference from `base`."""

    home: Path
    """Folder of the factors."""
    label: str
    base: Model
    settings: AdapterConfig
    changes: dict[str, TensorChange]
    """By name in the base; of a tied embedding the one that is stored."""
    swap: PrefixSwap = UNCHANGED
    left_out: tuple[str, ...] = ()
    """Excluded tensors of its own that the base lacks."""
    _norms: dict[str, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """Its own where it brings a tokenizer, else the base's: its rows are the base's rows."""
        return self.home if any(holds_file(self.home / name) for name in TOKENIZERS) else self.base.folder

    @property
    def config(self) -> dict[str, Any]:
        """The base's."""
        return self.base.config

    def files(self) -> list[Path]:
        """Settings and factors: both decide the difference."""
        return [self.home / CONFIG, self.home / WEIGHTS]

    def difference(self, name: str, span: Span) -> torch.Tensor | None:
        """Elements `span` of expert - base in float32; None for a tensor that the adapter leaves alone."""
        stored = self.base.alias.get(name, name)
        if stored not in self.changes or span[0] == span[1]:
            return None

        width = compute_width(self.base.info(stored))
        first, last = span[0] // width, -(-span[1] // width)
        return self.compute_rows(stored, first, last).reshape(-1)[span[0] - first * width : span[1] - first * width]

    def compute_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows of the difference of the base's tensor `name`, as a matrix."""
        change = self.changes[name]
        base = self._read_base_rows(name, start, stop) if change.needs_base else torch.zeros(1)

        # DoRA scales the sum of base and factors, so the factors come first.
        moved = base if change.saved is None else _reshape_to_matrix(change.saved)[start:stop].float()
        if change.low_rank is not None:
            moved = moved + change.low_rank.compute_rows(start, stop)
        if change.added is not None:
            moved = moved + _reshape_to_matrix(change.added)[start:stop].float()
        if change.magnitude_O is not None:
            moved = moved * self._compute_dora_factor(name, moved, start)

        # Single rows take the place of all that came before.
        if change.tokens:
            moved = moved.clone()
            for row in change.tokens.keys() & set(range(start, stop)):
                moved[row - start] = change.tokens[row].float()
        return moved - base if change.needs_base else moved

    def describe_storage(self) -> list[str]:
        """Kind, rank, number of moved tensors, and what the user did not write."""
        settings = self.settings
        ranks = sorted({settings.r, *(c.low_rank.a_RI.shape[0] for c in self.changes.values() if c.low_rank)})
        kinds = {"DoRA": settings.use_dora, "rank-stabilised": settings.use_rslora}
        kind = ", ".join(["LoRA adapter", *(name for name, used in kinds.items() if used)])

        rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
        lines = [f"is a {kind}: {rank}, {len(self.changes)} tensors moved"]
        if self.home.parent.resolve() == Path(self.label).resolve():
            lines.append(f"is read from its subfolder {self.home.name}")
        if self.swap != UNCHANGED:
            lines.append(f"has other names than the base: prefix {self.swap}")
        if self.left_out:
            lines.append(f"has more than the base in what is excluded, which is left out: {', '.join(self.left_out)}")
        trained_from = settings.base_model_name_or_path
        if trained_from and trained_from != self.base.label:
            lines.append(f"names '{trained_from}' as its base; here it moves '{self.base.label}'")
        return lines

    def _read_base_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        width = compute_width(self.base.info(name))
        return self.base.read_block(name, (start * width, stop * width)).float().view(stop - start, width)

    def _compute_dora_factor(self, name: str, moved: torch.Tensor, start: int) -> torch.Tensor:
        """m / ||W + s B A|| for the outputs that the rows `moved` of W + s B A belong to, or reach."""
        change = self.changes[name]
        assert change.low_rank is not None  # noqa: S101 - checked on opening
        assert change.magnitude_O is not None  # noqa: S101 - the caller looked

        magnitude_O: torch.Tensor = change.magnitude_O.reshape(-1).float()
        if change.low_rank.transposed:
            if name not in self._norms:
                self._norms[name] = self._compute_column_norms(name)
            return magnitude_O / self._norms[name]

        factor_R: torch.Tensor = magnitude_O[start : start + len(moved)] / torch.linalg.vector_norm(moved, dim=1)
        return factor_R.view(-1, 1)

    def _compute_column_norms(self, name: str) -> torch.Tensor:
        """||W + s B A|| over all rows: outputs are columns there."""
        change, info = self.changes[name], self.base.info(name)
        assert change.low_rank is not None  # noqa: S101 - the caller looked

        squares_O = torch.zeros(compute_width(info), dtype=torch.float64)
        for start, stop in split_rows(info):
            saved = change.saved
            weight = (
                self._read_base_rows(name, start, stop)
                if saved is None
                else _reshape_to_matrix(saved)[start:stop].float()
            )
            squares_O += (weight + change.low_rank.compute_rows(start, stop)).double().square().sum(dim=0)
        return squares_O.sqrt().float()


def compute_width(info: TensorInfo) -> int:
    """Columns of a tensor seen as a matrix of its first dimension against all others."""
    return math.prod(info.shape[1:])


def split_rows(info: TensorInfo) -> list[Span]:
    """All rows of that matrix, as many at a time as make `ROWS_ELEMENTS`."""
    rows = info.shape[0] if info.shape else 1
    step = max(1, ROWS_ELEMENTS // max(1, compute_width(info)))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def compute_matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor of `shape` seen as that matrix."""
    return (shape[0] if shape else 1), math.prod(shape[1:])


def _reshape_to_matrix(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(compute_matrix_shape(tuple(tensor.shape)))
