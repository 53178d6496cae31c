"""Move of a step's weights: the draw of coefficient and experts, and the offset it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from aftermix.seeds import derived_seed
from aftermix.training.optimizers.local_shard import LocalShard, iterate_blocks
from aftermix.training.optimizers.noise import NoiseKey, NoiseSource


@dataclass(frozen=True)
class Perturbation:
    """`pull * (theta - theta_0) + factor * (n_1 + ... + n_draws) + constant`, `n_j` standard noise."""

    factor: float
    constant: float
    draws: int = 1
    pull: float = 0.0

    @property
    def is_nothing(self) -> bool:
        """True when it leaves every weight where it is."""
        still = self.draws == 0 or (self.factor == 0.0 and self.constant == 0.0)
        return still and self.pull == 0.0


@dataclass(frozen=True)
class MergeDraw:
    """One imagined merge: `experts` models, each at `coefficient`."""

    coefficient: float
    experts: int

    @classmethod
    def draw_for_step(cls, seed: int, step: int, *, coefficients: tuple[float, ...], max_experts: int) -> MergeDraw:
        """`a ~ U(coefficients)`, `K ~ U{1..max_experts}`: a function of seed and step, the same in every process."""
        # 63 uniform bits: the remainder's bias is below 1e-17.
        place = derived_seed(seed, "coefficient", step) % len(coefficients)
        return cls(coefficients[place], 1 + derived_seed(seed, "experts", step) % max_experts)

    def build_paper_perturbation(self, *, scale: float, location: float) -> Perturbation:
        """`(K a - 1) z` with `z ~ location + scale * noise` (MergOPT, equation 10)."""
        factor = self.experts * self.coefficient - 1.0
        return Perturbation(factor * scale, factor * location)

    def build_own_vector_perturbation(self, *, scale: float, location: float) -> Perturbation:
        """`(a - 1)(theta - theta_0) + a sum_{j<K} z_j` with independent draws (MergOPT, equation 5, taken at its word).

        The expert's own vector is known while it trains; only those of the K - 1 others are imagined.
        """
        a = self.coefficient
        others = self.experts - 1
        return Perturbation(a * scale, others * a * location, draws=others, pull=a - 1.0)


def iterate_pieces(
    shard: LocalShard, source: NoiseSource, key: NoiseKey, *, draws: int = 1
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Views that together are the local part, each with its noise: the sum of so many draws."""
    if shard.local.numel() == 0:  # more processes than rows
        return
    if not shard.is_one_run:
        yield shard.local, draw_noise_of_rows(shard, source, key, draws=draws)
        return

    flat = shard.local.view(-1)
    for index, count, of_block, of_rows in iterate_blocks(shard):
        yield flat[of_rows], source.draw_block(key, index, count, flat.device, summands=draws)[of_block]


def draw_noise_of_rows(shard: LocalShard, source: NoiseSource, key: NoiseKey, *, draws: int = 1) -> torch.Tensor:
    """The noise of a local part that is no single run, in its shape: drawn for whole rows, then cut."""
    rows = torch.empty(shard.stop - shard.start, device=shard.local.device)
    for index, count, of_block, of_rows in iterate_blocks(shard):
        rows[of_rows] = source.draw_block(key, index, count, rows.device, summands=draws)[of_block]

    whole = rows.view(shard.local.shape[:1] + torch.Size(shard.shape[1:]))
    return whole[(slice(None), *shard.select_columns())]


def shift_weights(view: torch.Tensor, noise: torch.Tensor, perturbation: Perturbation) -> None:
    """Add the offset's noise and constant."""
    view.add_(noise, alpha=perturbation.factor)
    if perturbation.constant:
        view.add_(perturbation.constant)


def compute_shifted(view: torch.Tensor, noise: torch.Tensor, perturbation: Perturbation) -> torch.Tensor:
    """`view` with the offset's noise and constant added; `view` itself stays."""
    moved = torch.add(view, noise, alpha=perturbation.factor)
    return moved.add_(perturbation.constant) if perturbation.constant else moved


def unshift_weights(view: torch.Tensor, noise: torch.Tensor, perturbation: Perturbation) -> torch.Tensor:
    """Take them away again, exact but for rounding. Gives `view`."""
    if perturbation.constant:
        view.sub_(perturbation.constant)
    return view.sub_(noise, alpha=perturbation.factor)


def move_shard(
    shard: LocalShard,
    perturbation: Perturbation,
    source: NoiseSource,
    key: NoiseKey,
    *,
    origin: torch.Tensor | None = None,
) -> None:
    """Add `perturbation` to the local part; `origin` is `theta_0` where the offset pulls towards it."""
    if origin is not None:
        shard.local.lerp_(origin, -perturbation.pull)
    if perturbation.draws:
        for view, noise in iterate_pieces(shard, source, (*key, 0), draws=perturbation.draws):
            shift_weights(view, noise, perturbation)
