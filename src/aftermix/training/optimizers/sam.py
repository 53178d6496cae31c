"""Sharpness-aware minimisation: the gradient at the worst place near by, found with a gradient of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch

from aftermix.errors import TrainingError
from aftermix.training.optimizers.local_shard import locate_shard
from aftermix.training.optimizers.perturbed import PerturbedOptimizer

Result = TypeVar("Result")


class SAM(PerturbedOptimizer):
    """Steps with the gradient at `theta + rho g / |g|`, `g` the gradient at `theta` (Foret et al. 2021, equation 2).

    Two passes a step; the first leaves `g`, which entering the block turns into the move and clears::

        optimizer = SAM(torch.optim.AdamW(model.parameters(), lr=2e-5), rho=0.05)
        loss(model(batch)).backward()
        with optimizer.perturbed():
            loss(model(batch)).backward()
        optimizer.step()

    With gradient accumulation, either every micro-batch in the first pass and again in the second, or
    :meth:`gradient_of` for each, which gives each its own ascent (m-sharpness). `|g|` is over all parameters, shards
    of other processes included. Raises :class:`TrainingError` for a `rho` that is no positive number.
    """

    def __init__(self, base: torch.optim.Optimizer, *, rho: float = 0.05) -> None:
        super().__init__(base)
        if not (math.isfinite(rho) and rho > 0):
            found = f"expected a positive number, found {rho}"
            raise TrainingError(f"{type(self).__name__}: rho", found, "Correct the option.")
        self.rho = float(rho)

    def gradient_of(self, run: Callable[[], Result]) -> Result:
        """Add the gradient of one micro-batch, and give what its first pass gave.

        `run` makes a forward and a backward pass. It is called twice: at the weights, and at their worst neighbour.
        """
        parameters = list(self.iterate_trainable())
        earlier = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None

        result = run()
        with self.perturbed():
            # Entering used the first pass's gradient up; the second pass adds to what earlier micro-batches left.
            for parameter, gradient in zip(parameters, earlier, strict=True):
                parameter.grad = gradient
            run()
        return result

    def _move(self) -> None:
        ascents = self._collect_ascents()
        if not ascents:
            found = "there is no gradient to ascend along"
            raise TrainingError(
                f"{type(self).__name__}.perturbed", found, "Run a forward and backward pass before the block."
            )

        norm = _compute_norm([direction for _, direction, _ in ascents])
        for parameter, direction, stretch in ascents:
            local, ascent = locate_shard(parameter).local, locate_shard(direction).local
            self._copies.keep(str(id(parameter)), local)
            local.add_(ascent if stretch is None else ascent * stretch, alpha=self.rho / (norm + 1e-12))
            parameter.grad = None

    def _collect_ascents(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Parameter, the direction whose norm counts, and what it is multiplied with on the way up."""
        return [(p, p.grad, None) for p in self.iterate_trainable() if p.grad is not None]


class ASAM(SAM):
    """Steps with the gradient at `theta + rho T^2 g / |T g|`, `T = |theta| + eta` (Kwon et al. 2021, equation 6).

    The neighbourhood scales with each weight, so it does not depend on how a network is scaled. Departure: `T` is used
    for every parameter, where the authors' code leaves biases out. Used like :class:`SAM`.
    """

    def __init__(self, base: torch.optim.Optimizer, *, rho: float = 0.5, eta: float = 0.01) -> None:
        super().__init__(base, rho=rho)
        if not (math.isfinite(eta) and eta >= 0):
            raise TrainingError("ASAM: eta", f"expected a number from 0, found {eta}", "Correct the option.")
        self.eta = float(eta)

    def _collect_ascents(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        ascents: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []
        for parameter, gradient, _ in super()._collect_ascents():
            scaled = gradient * (parameter.detach().abs() + self.eta)
            ascents.append((parameter, scaled, locate_shard(parameter).local.abs() + self.eta))
        return ascents


def _compute_norm(tensors: list[torch.Tensor]) -> float:
    """Euclidean norm over all of them, and over all shards."""
    total = torch.nn.utils.get_total_norm(tensors)
    whole = total.full_tensor() if hasattr(total, "full_tensor") else total
    return float(whole)
