"""Who gets an entry of an exclusive merge: turns in the product's rotation, or no order, by normalised saliency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.pytorch_utils import Conv1D

from aftermix.merging.rules.exclusive import compute_shifts
from aftermix.seeds import generator
from studies.regime.experts import CONTROL, Bench
from studies.regime.measure import compare_to_base, measure_losses
from studies.regime.worlds import load, read_windows
from studies.world.store import Store

GRID = (0.5, 0.75, 1.0, 1.5, 2.0)
"""Coefficients of all vectors among which select text chooses."""
CALIBRATION_WINDOWS = 20

Scores = NDArray[np.float32]
Owners = NDArray[np.int64]


def share_by_rotation(scores_KN: Scores, shift: int) -> Owners:
    """(N,) owner of each entry, -1 for none: vectors take turns, each its best of what is left."""
    count, elements = scores_KN.shape
    owners = np.full(elements, -1)
    for turn in range(count):
        vector = (shift + turn) % count
        free = np.flatnonzero(owners < 0)
        best = free[np.argsort(-scores_KN[vector, free], kind="stable")[: elements // count]]
        owners[best] = vector
    return owners


def share_without_order(scores_KN: Scores, shift: int) -> Owners:
    """(N,) owner of each entry: whose normalised score is the highest there, as long as its share is not full.

    Entries ask the vector with the highest score that has not refused them; a vector keeps the best of those that ask,
    up to its share. That is the walk over all scores in descending order, whatever the order of vectors.
    """
    del shift
    count, elements = scores_KN.shape
    ratios_KN = scores_KN / np.maximum(scores_KN.mean(axis=1, keepdims=True), 1e-30)
    quota, open_KN = elements // count, np.ones_like(ratios_KN, dtype=bool)
    owners = np.full(elements, -1)
    while True:
        asks = np.where(open_KN.any(axis=0), np.where(open_KN, ratios_KN, -1.0).argmax(axis=0), -1)
        owners, full = asks.copy(), False
        for vector in range(count):
            asking = np.flatnonzero(asks == vector)
            if len(asking) > quota:
                order = asking[np.argsort(-ratios_KN[vector, asking], kind="stable")]
                open_KN[vector, order[quota:]] = False
                full = True
        if not full:
            return owners


RULES: Mapping[str, Callable[[Scores, int], Owners]] = {
    "rotation": share_by_rotation,
    "without order": share_without_order,
}


def measure_sharing(bench: Bench, store: Store) -> dict[str, dict[str, float]]:
    """By rule: `best`, the loss on test text at the coefficient that select text chooses, and that `coefficient`."""
    found = {}
    for rule in RULES:
        identity = {"world": bench.world.name, "seed": bench.seed, "sharing": rule, "steps": bench.sizes.steps}
        found[rule] = store.get(identity, lambda rule=rule: _measure_rule(bench, rule))  # type: ignore[misc]
    return {name: {key: row[key] for key in ("best", "coefficient")} for name, row in found.items()}


def _measure_rule(bench: Bench, rule: str) -> dict[str, float]:
    domains = sorted(bench.world.domains)
    model = load(bench.base)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    base = {part: measure_losses(model, domains, part, bench) for part in ("select", "test")}
    kept = _share_vectors(bench, domains, start, RULES[rule])

    def merged(weight: float, part: str) -> float:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(start[name] + weight * kept[name])
        return compare_to_base(measure_losses(model, domains, part, bench), base[part])

    best = min(GRID, key=lambda weight: merged(weight, "select"))
    return {"best": merged(best, "test"), "coefficient": best}


def _share_vectors(
    bench: Bench, domains: list[str], start: Mapping[str, torch.Tensor], rule: Callable[[Scores, int], Owners]
) -> dict[str, torch.Tensor]:
    """What of the vectors is kept, added up, by tensor."""
    experts = [load(bench.expert(CONTROL, domain)) for domain in domains]
    inputs = [_measure_inputs(expert, domain, bench) for expert, domain in zip(experts, domains, strict=True)]
    parameters = [dict(expert.named_parameters()) for expert in experts]
    shifts, kept = compute_shifts(start), {}
    for name, tensor in start.items():
        deltas_KN = torch.stack([(own[name].detach() - tensor).flatten() for own in parameters])
        scores = [_score(delta, name, seen, tensor.shape, bench) for delta, seen in zip(deltas_KN, inputs, strict=True)]
        owners = torch.from_numpy(rule(np.stack(scores), shifts[name]))
        chosen = owners[None] == torch.arange(len(domains))[:, None]
        kept[name] = (deltas_KN * chosen).sum(0).view(tensor.shape)
    return kept


def _score(
    delta: torch.Tensor, name: str, inputs: Mapping[str, torch.Tensor], shape: torch.Size, bench: Bench
) -> Scores:
    """Saliency of a linear layer's weight, a draw for anything else."""
    if name not in inputs:
        draws: Scores = generator(bench.seed, "regime sharing", name, len(delta)).random(len(delta), dtype=np.float32)
        return draws
    saliency: Scores = (inputs[name] * delta.view(shape).square()).flatten().numpy()
    return saliency


def _measure_inputs(model: Any, domain: str, bench: Bench) -> dict[str, torch.Tensor]:
    """Mean squares of the input channels of linear layers, in a shape that multiplies the weight."""
    squares: dict[str, torch.Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and "lm_head" not in name:
            shape = (-1, 1) if isinstance(module, Conv1D) else (1, -1)

            def add(_: Any, args: Any, name: str = name, shape: tuple[int, int] = shape) -> None:
                own = args[0].reshape(-1, args[0].shape[-1]).square().mean(0).view(shape)
                squares[f"{name}.weight"] = squares.get(f"{name}.weight", torch.zeros(1)) + own

            handles.append(module.register_forward_pre_hook(add))
    model.eval()
    with torch.inference_mode():
        model(input_ids=read_windows(domain, "train", bench.sizes)[:CALIBRATION_WINDOWS])
    for handle in handles:
        handle.remove()
    return {name: square.clone() for name, square in squares.items()}
