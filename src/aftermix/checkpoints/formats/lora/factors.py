"""A matrix of low rank as two factors: side by side, cut to fewer ranks, and found for a matrix of any rank.

Everything is float64 within and float32 at the end. The difference of two products of factors is measured through
their Gram matrices, so that no matrix of full size is made.
"""

# Shapes: M rows and N columns of the matrix, K its rank; D is the shorter side.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from aftermix.checkpoints.formats.lora.adapter import LowRank

ROWS_AT_ONCE = 4096
"""Rows of a matrix that are widened at a time."""


@dataclass(frozen=True)
class Factors:
    """`rows_MK @ columns_KN`."""

    rows_MK: torch.Tensor
    columns_KN: torch.Tensor

    @property
    def rank(self) -> int:
        """Number of columns of the first factor."""
        return self.rows_MK.shape[1]

    @staticmethod
    def from_low_rank(change: LowRank, coefficient: float) -> Factors:
        """The factors of `coefficient` times the difference that an adapter makes, its scale folded in."""
        scale = change.scale * coefficient
        if change.transposed:
            return Factors(change.a_RI.float().T * scale, change.b_OR.float().T)
        return Factors(change.b_OR.float() * scale, change.a_RI.float())

    @staticmethod
    def concatenate(parts: Sequence[Factors]) -> Factors:
        """The factors of the sum of `parts`: their ranks side by side."""
        rows = torch.cat([part.rows_MK for part in parts], dim=1)
        return Factors(rows, torch.cat([part.columns_KN for part in parts], dim=0))

    def to(self, dtype: torch.dtype) -> Factors:
        """The factors in another type."""
        return Factors(self.rows_MK.to(dtype), self.columns_KN.to(dtype))

    def truncate(self, rank: int) -> Factors:
        """The best factors of at most `rank` (Eckart, Young, 1936), from the QR of both sides: no M x N is made."""
        if rank >= self.rank:
            return self
        left_MK, upper_KK = torch.linalg.qr(self.rows_MK.double())
        right_NK, lower_KK = torch.linalg.qr(self.columns_KN.double().T)
        u, s, vh = torch.linalg.svd(upper_KK @ lower_KK.T, full_matrices=False)
        root = s[:rank].sqrt()
        return Factors((left_MK @ u[:, :rank] * root).float(), (root[:, None] * vh[:rank] @ right_NK.T).float())


def factorise(matrix_MN: torch.Tensor, rank: int) -> Factors:
    """The best factors of `rank` for any matrix, from the eigenvectors of its Gram matrix on the shorter side."""
    if matrix_MN.shape[0] < matrix_MN.shape[1]:
        turned = factorise(matrix_MN.T, rank)
        return Factors(turned.columns_KN.T.contiguous(), turned.rows_MK.T.contiguous())

    gram_DD = sum((part.double().T @ part.double() for part in _cut_rows(matrix_MN)), torch.zeros(()).double())
    values_D, vectors_DD = torch.linalg.eigh(gram_DD)  # in ascending order
    basis_DK = vectors_DD[:, -rank:].flip(1)
    singular_K = values_D[-rank:].flip(0).clamp_min(0).sqrt()

    # Both factors get a root of the singular values; a direction that is not there gets none.
    root_K = singular_K.sqrt()
    inverse_K = torch.where(root_K > 0, 1 / root_K, torch.zeros_like(root_K))
    rows = torch.cat([(part.double() @ basis_DK * inverse_K).float() for part in _cut_rows(matrix_MN)])
    return Factors(rows, (root_K[:, None] * basis_DK.T).float())


@dataclass(frozen=True)
class SquaredError:
    """Squares of the Frobenius norms of an error and of what it is an error of."""

    error: float
    norm: float

    @property
    def relative(self) -> float:
        """Root of their quotient; 0 where there is nothing to lose."""
        return (self.error / self.norm) ** 0.5 if self.norm else 0.0


def measure_factor_error(wanted: Factors, stored: Factors) -> SquaredError:
    """Error of `stored` as the product of `wanted`; exactly 0 for the same factors."""
    norm = _square_product(wanted)
    if torch.equal(wanted.rows_MK, stored.rows_MK) and torch.equal(wanted.columns_KN, stored.columns_KN):
        return SquaredError(0.0, norm)
    difference = Factors.concatenate([wanted.to(torch.float64), Factors(-stored.rows_MK.double(), stored.columns_KN)])
    return SquaredError(_square_product(difference), norm)


def measure_matrix_error(wanted_MN: torch.Tensor, stored: Factors) -> SquaredError:
    """Error of `stored` as the matrix `wanted_MN`, a few rows at a time."""
    error = norm = 0.0
    columns = stored.columns_KN.double()
    for part, rows in zip(_cut_rows(wanted_MN), _cut_rows(stored.rows_MK), strict=True):
        error += float((part.double() - rows.double() @ columns).square().sum())
        norm += float(part.double().square().sum())
    return SquaredError(error, norm)


def _cut_rows(matrix: torch.Tensor) -> list[torch.Tensor]:
    """The matrix a few rows at a time."""
    return [matrix[start : start + ROWS_AT_ONCE] for start in range(0, len(matrix), ROWS_AT_ONCE)]


def _square_product(factors: Factors) -> float:
    """`||rows @ columns||^2`, as the trace of the product of both Gram matrices."""
    rows, columns = factors.rows_MK.double(), factors.columns_KN.double()
    return max(0.0, float(((rows.T @ rows) * (columns @ columns.T)).sum()))
