"""Move of a step's weights: the draw of coefficient and experts, and the offset it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from aftermix.seeds import derived_seed
from aftermix.training.optimizers.local_shard import Placement, blocks
from aftermix.training.optimizers.noise import Key, NoiseSource


@dataclass(frozen=True)
class Offset:
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
class Draw:
    """One imagined merge: `experts` models, each at `coefficient`."""

    coefficient: float
    experts: int

    @classmethod
    def of_step(cls, seed: int, step: int, *, coefficients: tuple[float, ...], max_experts: int) -> Draw:
        """`a ~ U(coefficients)`, `K ~ U{1..max_experts}`: a function of seed and step, the same in every process."""
        # 63 uniform bits: the remainder's bias is below 1e-17.
        place = derived_seed(seed, "coefficient", step) % len(coefficients)
        return cls(coefficients[place], 1 + derived_seed(seed, "experts", step) % max_experts)

    def paper(self, *, scale: float, location: float) -> Offset:
        """`(K a - 1) z` with `z ~ location + scale * noise` (MergOPT, equation 10)."""
        factor = self.experts * self.coefficient - 1.0
        return Offset(factor * scale, factor * location)

    def own_vector(self, *, scale: float, location: float) -> Offset:
        """`(a - 1)(theta - theta_0) + a sum_{j<K} z_j` with independent draws (MergOPT, equation 5, taken at its word).

        The expert's own vector is known while it trains; only those of the K - 1 others are imagined.
        """
        a = self.coefficient
        others = self.experts - 1
        return Offset(a * scale, others * a * location, draws=others, pull=a - 1.0)


def pieces(
    placement: Placement, source: NoiseSource, key: Key, *, draws: int = 1
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Views that together are the local part, each with its noise: the sum of so many draws."""
    if placement.local.numel() == 0:  # more processes than rows
        return
    if not placement.is_one_run:
        yield placement.local, noise_of_rows(placement, source, key, draws=draws)
        return

    flat = placement.local.view(-1)
    for index, count, of_block, of_rows in blocks(placement):
        yield flat[of_rows], source.block(key, index, count, flat.device, summands=draws)[of_block]


def noise_of_rows(placement: Placement, source: NoiseSource, key: Key, *, draws: int = 1) -> torch.Tensor:
    """The noise of a local part that is no single run, in its shape: drawn for whole rows, then cut."""
    rows = torch.empty(placement.stop - placement.start, device=placement.local.device)
    for index, count, of_block, of_rows in blocks(placement):
        rows[of_rows] = source.block(key, index, count, rows.device, summands=draws)[of_block]

    whole = rows.view(placement.local.shape[:1] + torch.Size(placement.shape[1:]))
    return whole[(slice(None), *placement.columns())]


def shift(view: torch.Tensor, noise: torch.Tensor, offset: Offset) -> None:
    """Add the offset's noise and constant."""
    view.add_(noise, alpha=offset.factor)
    if offset.constant:
        view.add_(offset.constant)


def shifted(view: torch.Tensor, noise: torch.Tensor, offset: Offset) -> torch.Tensor:
    """`view` with the offset's noise and constant added; `view` itself stays."""
    found = torch.add(view, noise, alpha=offset.factor)
    return found.add_(offset.constant) if offset.constant else found


def unshift(view: torch.Tensor, noise: torch.Tensor, offset: Offset) -> torch.Tensor:
    """Take them away again, exact but for rounding. Gives `view`."""
    if offset.constant:
        view.sub_(offset.constant)
    return view.sub_(noise, alpha=offset.factor)


def move(
    placement: Placement, offset: Offset, source: NoiseSource, key: Key, *, origin: torch.Tensor | None = None
) -> None:
    """Add `offset` to the local part; `origin` is `theta_0` where the offset pulls towards it."""
    if origin is not None:
        placement.local.lerp_(origin, -offset.pull)
    if offset.draws:
        for view, noise in pieces(placement, source, (*key, 0), draws=offset.draws):
            shift(view, noise, offset)
