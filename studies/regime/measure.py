"""Losses of the experts alone and of their merges, as shares of the base's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from studies.regime.experts import Bench
from studies.regime.worlds import load, read_windows
from studies.world.store import Store

GRID = (0.3, 0.45, 0.6, 0.75, 0.9, 1.05)
"""Coefficients of both experts among which select text chooses."""
BEYOND = (0.5, 0.75, 1.0)
"""Coefficients whose mean loss tells how far off the best one may be."""


def measure(bench: Bench, store: Store, variants: Iterable[str]) -> dict[str, dict[str, float]]:
    """By variant: `best` (merged at the coefficient chosen), `beyond` (the mean over `BEYOND`), `home`, `coefficient`.

    Losses are shares of the base's in %, each the mean over the two domains.
    """
    found = {}
    for variant in variants:
        identity = {"world": bench.world.name, "seed": bench.seed, "variant": variant, "steps": bench.sizes.steps}
        found[variant] = store.get(identity, lambda variant=variant: _measure_variant(bench, variant))  # type: ignore[misc]
    return {name: {key: row[key] for key in ("best", "beyond", "home", "coefficient")} for name, row in found.items()}


def measure_losses(model: Any, domains: Sequence[str], part: str, bench: Bench) -> dict[str, float]:
    """Nats a token of each domain."""
    losses = {}
    model.eval()
    with torch.inference_mode():
        for domain in domains:
            windows = read_windows(domain, part, bench.sizes)
            total = sum(float(model(input_ids=ids, labels=ids).loss) * len(ids) for ids in windows.split(8))
            losses[domain] = total / len(windows)
    return losses


def compare_to_base(losses: Mapping[str, float], base: Mapping[str, float]) -> float:
    """Mean over the domains of the losses as shares of the base's, in %."""
    return 100 * sum(losses[domain] / base[domain] for domain in losses) / len(losses)


def _measure_variant(bench: Bench, variant: str) -> dict[str, float]:
    domains = bench.world.domains[:2]
    model = load(bench.base)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    base = {part: measure_losses(model, domains, part, bench) for part in ("select", "test")}
    vectors = [
        {
            name: parameter.detach() - start[name]
            for name, parameter in load(bench.expert(variant, domain)).named_parameters()
        }
        for domain in domains
    ]

    def merged(weights: Sequence[float], part: str, measured: Sequence[str]) -> float:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(start[name] + sum(w * v[name] for w, v in zip(weights, vectors, strict=True)))
        return compare_to_base(measure_losses(model, measured, part, bench), base[part])

    best = min(GRID, key=lambda weight: merged([weight, weight], "select", domains))
    return {
        "best": merged([best, best], "test", domains),
        "beyond": sum(merged([weight, weight], "test", domains) for weight in BEYOND) / len(BEYOND),
        "home": (merged([1, 0], "test", domains[:1]) + merged([0, 1], "test", domains[1:])) / 2,
        "coefficient": best,
    }
