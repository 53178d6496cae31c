"""Curvature of one domain along the gradient of another: the premise under which a merge stands for a mixture.

To first order a training on a mixture and the same mixture of experts arrive at the same point. They part where the
Hessian of one domain bends the gradient of another (MergeMix, appendix B): `gamma_kj` measures by how much.

Derivatives are exact, by automatic differentiation twice (Pearlmutter, 1994): no Hessian is ever held. Besides the
graph of one batch, memory is one gradient for each domain, on the host, and three of them on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from aftermix.analysis.geometry import Floats
from aftermix.progress import counter

# K domains, B sequences, T tokens of a sequence

Direction = tuple[torch.Tensor, ...]
"""One tensor for each parameter, in the order of the parameters."""
Loss = Callable[[torch.Tensor], torch.Tensor]
"""Token numbers (B, T) to the sum of the negative log-likelihoods of B * (T - 1) predicted tokens, in nats."""


@dataclass(frozen=True)
class CurvatureDomain:
    """Text that one domain's loss is measured on."""

    name: str
    batches: Sequence[torch.Tensor]
    """Token numbers (B, T), without padding."""

    @property
    def predicted_tokens(self) -> int:
        """Tokens that have one before them."""
        return sum(tokens_BT.numel() - len(tokens_BT) for tokens_BT in self.batches)


@dataclass(frozen=True)
class LossCurvature:
    """First and second derivatives of K domains' mean token losses at one point."""

    domains: tuple[str, ...]
    losses_nats_K: Floats
    gradient_norms_K: Floats
    gradient_cosines_KK: Floats
    """NaN for a gradient of 0."""
    responses_KK: Floats
    """`|H_k g_j| / |g_j|`, row k and column j, in nats; NaN for a gradient of 0."""

    @property
    def gamma_KK(self) -> Floats:  # noqa: N802 - the shape, as in the fields
        """`gamma_kj = (|H_k g_j| / |g_j|) / (|H_k g_k| / |g_k|)`: 1 on the diagonal, NaN without own curvature.

        Below 1, the gradient of domain j runs where the loss of domain k is flatter than along its own gradient.
        Source: MergeMix, appendix B, equation 9.
        """
        own_K = np.diagonal(self.responses_KK)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(own_K[:, None] > 0, self.responses_KK / own_K[:, None], np.nan)


def measure_curvature(
    loss: Loss, parameters: Sequence[torch.Tensor], domains: Sequence[CurvatureDomain]
) -> tuple[LossCurvature, list[Direction]]:
    """The derivatives of the mean losses of `domains` at `parameters`, and each domain's gradient, on the host.

    Every domain is read K + 1 times: once for its gradient, once along each gradient.
    """
    count = len(domains)
    losses_K, responses_KK = np.zeros(count), np.full((count, count), np.nan)
    gradients: list[Direction] = []
    with counter(label="Curvature", total=count * (count + 1), unit="pass") as done:
        for place, domain in enumerate(domains):
            losses_K[place], direction = compute_gradient(loss, parameters, domain)
            gradients.append(tuple(part.cpu() for part in direction))
            done(domain.name)

        norms_K = np.array([measure_norm(direction) for direction in gradients])
        for column, direction in enumerate(gradients):
            along = [part.to(held.device) for part, held in zip(direction, parameters, strict=True)]
            for row, domain in enumerate(domains):
                if norms_K[column] > 0:
                    bent = multiply_hessian(loss, parameters, domain, along)
                    responses_KK[row, column] = measure_norm(bent) / norms_K[column]
                done(f"{domain.name} along {domains[column].name}")

    names = tuple(domain.name for domain in domains)
    products_KK = np.array([[multiply_inner(one, other) for other in gradients] for one in gradients])
    return LossCurvature(
        names, losses_K, norms_K, _divide_by_norms(products_KK, norms_K, norms_K), responses_KK
    ), gradients


@dataclass(frozen=True)
class SecondOrderError:
    """Second-order difference of a training on a mixture from the merge of experts, over the way of first order.

    With ratios `r`, a gradient descent whose rates add up to `t`, and the mixture's gradient `g = sum_k r_k g_k`,

        cross = t / 2 |sum_{k != j} r_k r_j H_k g_j| / |g|
        own   = t / 2 |sum_k (r_k^2 - r_k) H_k g_k| / |g|

    and `whole` the same of the sum of both. Source: MergeMix, appendix B, equation 8.
    """

    whole: float
    cross: float
    own: float


def measure_mixture_error(
    loss: Loss,
    parameters: Sequence[torch.Tensor],
    domains: Sequence[CurvatureDomain],
    gradients: Sequence[Direction],
    *,
    ratios_K: Floats,
    reach: float,
) -> SecondOrderError:
    """The error at `ratios_K` after descent by `reach`, which is `t`; every domain is read twice. NaN without gradient.

    `gradients` are those of :func:`measure_curvature`, on the host.
    """
    mean = _add_up(gradients, ratios_K)
    length = measure_norm(mean)
    if not length:
        return SecondOrderError(float("nan"), float("nan"), float("nan"))

    along = [part.to(held.device) for part, held in zip(mean, parameters, strict=True)]
    shape = tuple(torch.zeros_like(part) for part in mean)
    bent, own, squared = shape, shape, shape
    for domain, gradient, ratio in zip(domains, gradients, ratios_K.tolist(), strict=True):
        if ratio:
            alone = [part.to(held.device) for part, held in zip(gradient, parameters, strict=True)]
            by_mean, by_own = (multiply_hessian(loss, parameters, domain, step) for step in (along, alone))
            bent = _move(bent, by_mean, ratio)
            own, squared = _move(own, by_own, ratio), _move(squared, by_own, ratio**2)

    scale = reach / 2 / length
    return SecondOrderError(
        whole=scale * measure_norm(_move(bent, own, -1.0)),
        cross=scale * measure_norm(_move(bent, squared, -1.0)),
        own=scale * measure_norm(_move(squared, own, -1.0)),
    )


def measure_reach(vector: Mapping[str, torch.Tensor], names: Sequence[str], gradient: Direction) -> float:
    """`-v g / |g|^2`: the rates of a descent along `gradient` that add up to the part of `vector` which runs along it.

    At least 0; NaN for a gradient of 0. Parameters are as in :func:`measure_descent_cosines`.
    """
    at = [(place, vector[name]) for place, name in enumerate(names) if name in vector]
    along = multiply_inner(tuple(part for _, part in at), tuple(gradient[place] for place, _ in at))
    squared = measure_norm(gradient) ** 2
    return max(0.0, -along / squared) if squared else float("nan")


def compute_gradient(
    loss: Loss, parameters: Sequence[torch.Tensor], domain: CurvatureDomain
) -> tuple[float, Direction]:
    """Mean loss of `domain` in nats, and its gradient."""
    total, mean = tuple(torch.zeros_like(held) for held in parameters), 0.0
    for tokens_BT in domain.batches:
        value = loss(tokens_BT) / domain.predicted_tokens
        parts = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        _add(total, parts)
        mean += float(value.detach())
    return mean, total


def multiply_hessian(
    loss: Loss, parameters: Sequence[torch.Tensor], domain: CurvatureDomain, along: Sequence[torch.Tensor]
) -> Direction:
    """`H v`: the Hessian of the mean loss of `domain` times `along`."""
    total = tuple(torch.zeros_like(held) for held in parameters)
    for tokens_BT in domain.batches:
        value = loss(tokens_BT) / domain.predicted_tokens
        parts = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
        slope = torch.stack([(part * step).sum() for part, step in zip(parts, along, strict=True)]).sum()
        if slope.requires_grad:
            _add(total, torch.autograd.grad(slope, parameters, allow_unused=True, materialize_grads=True))
    return total


def measure_descent_cosines(
    vectors: Iterable[Mapping[str, torch.Tensor]], names: Sequence[str], gradients: Sequence[Direction]
) -> Floats:
    """(V, K) cosine between each vector, given by name of the parameter, and minus each gradient; NaN for one of 0.

    `names` are the parameters' names in the order of the gradients. A parameter that a vector lacks did not move.
    """
    rows, lengths = [], []
    for vector in vectors:
        at = [(place, vector[name]) for place, name in enumerate(names) if name in vector]
        moved = tuple(part for _, part in at)
        rows.append([-multiply_inner(moved, tuple(found[place] for place, _ in at)) for found in gradients])
        lengths.append(measure_norm(moved))
    return _divide_by_norms(np.array(rows), np.array(lengths), np.array([measure_norm(found) for found in gradients]))


def multiply_inner(one: Direction, other: Direction) -> float:
    """Inner product, added up in float64."""
    return sum(
        float(torch.dot(a.flatten().to(torch.float64), b.flatten().to(torch.float64)))
        for a, b in zip(one, other, strict=True)
    )


def measure_norm(direction: Direction) -> float:
    """L2 norm, added up in float64."""
    return float(np.sqrt(sum(float(part.to(torch.float64).square().sum()) for part in direction)))


def _add_up(directions: Sequence[Direction], factors_K: Floats) -> Direction:
    total = tuple(torch.zeros_like(part) for part in directions[0])
    for direction, factor in zip(directions, factors_K.tolist(), strict=True):
        total = _move(total, direction, factor)
    return total


def _move(start: Direction, step: Direction, factor: float) -> Direction:
    """`start + factor * step`, where `start` lies."""
    return tuple(held + factor * part.to(held.device) for held, part in zip(start, step, strict=True))


def _add(total: Direction, parts: Sequence[torch.Tensor]) -> None:
    for held, part in zip(total, parts, strict=True):
        held.add_(part.detach())


def _divide_by_norms(products: Floats, rows: Floats, columns: Floats) -> Floats:
    """Inner products over both norms."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.clip(products / np.outer(rows, columns), -1.0, 1.0))
