"""Experts of one world and seed, trained in a plain loop by AdamW alone or at moved weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, VectorConfig
from aftermix.seeds import derived_seed
from aftermix.training import MergeAware
from aftermix.training.data.collate import TokenSequence
from aftermix.training.noise_scale.damage import DamageMeter, find_damage_scale
from aftermix.training.noise_scale.pilots import measure_pilot_scales
from aftermix.training.optimizers.local_shard import locate_shard
from studies.regime.worlds import Sizes, SmallWorld, iterate_batches, load, open_base, read_windows

DAMAGE = 0.05
WARMUP = 5
CONTROL = "adamw"


@dataclass(frozen=True)
class Bench:
    """One world and seed, with what its trainings have in common."""

    world: SmallWorld
    seed: int
    folder: Path
    sizes: Sizes

    @property
    def base(self) -> Path:
        """Folder of the base."""
        return open_base(self.world, self.folder, self.sizes)

    def expert(self, variant: str, domain: str) -> Path:
        """Folder of an expert."""
        return self.folder / f"{self.world.name}-{self.seed}" / variant / domain

    def find_sibling(self, domain: str) -> Path:
        """The control's expert of the other of the first two domains."""
        (other,) = (each for each in self.world.domains[:2] if each != domain)
        return self.expert(CONTROL, other)

    @cached_property
    def damage_scale(self) -> float:
        """The scale whose noise costs the base `DAMAGE` nats a token of the domain that it knows."""
        rows = [TokenSequence(row, row) for row in read_windows(self.world.general, "select", self.sizes)]
        return find_damage_scale(DamageMeter(load(self.base), rows, 8, seed=self.seed), DAMAGE).scale


class SiblingOffset(MergeAware):
    """Moves by `(K a - 1) v`, `v` the vector of a real sibling in the place of noise."""

    vector: Mapping[str, torch.Tensor]

    def _move(self) -> None:
        factor = self.next_draw.experts * self.next_draw.coefficient - 1.0
        for name, parameter in self.iterate_moved():
            shard = locate_shard(parameter)
            self._copies.keep(name, shard.local)
            shard.local.add_(self.vector[name], alpha=factor)


Wrap = Callable[[Bench, Any, torch.optim.Optimizer, str, int], torch.optim.Optimizer]


def wrap_damage(**options: Any) -> Wrap:
    """An optimizer whose scale is that of the damage."""

    def wrap(bench: Bench, model: Any, base: torch.optim.Optimizer, domain: str, seed: int) -> torch.optim.Optimizer:
        del domain
        return MergeAware(
            base, scale=bench.damage_scale, seed=seed, named_parameters=model.named_parameters(), **options
        )

    return wrap


def wrap_pilot(bench: Bench, model: Any, base: torch.optim.Optimizer, domain: str, seed: int) -> torch.optim.Optimizer:
    """Noise with the norms of the sibling's vector, by tensor."""
    vectors = {"pilot": VectorConfig(model=str(bench.find_sibling(domain)))}
    pool = open_pool(Config(base=str(bench.base), vectors=vectors))
    names = [name for name, _ in model.named_parameters()]
    scales = measure_pilot_scales(pool, names, distribution="laplace").by_tensor
    return MergeAware(base, scale=scales, seed=seed, named_parameters=model.named_parameters())


def wrap_sibling(
    bench: Bench, model: Any, base: torch.optim.Optimizer, domain: str, seed: int
) -> torch.optim.Optimizer:
    """The sibling's vector itself in the place of noise."""
    sibling = dict(load(bench.find_sibling(domain)).named_parameters())
    optimizer = SiblingOffset(base, seed=seed, named_parameters=model.named_parameters())
    optimizer.vector = {n: (sibling[n] - p).detach() for n, p in model.named_parameters()}
    return optimizer


VARIANTS: Mapping[str, Wrap] = {
    CONTROL: lambda bench, model, base, domain, seed: base,  # noqa: ARG005 - all are called alike
    "damage": wrap_damage(),
    "pilot norms": wrap_pilot,
    "pilot vectors": wrap_sibling,
    "own_vector": wrap_damage(offset="own_vector"),
}
"""An optimizer around AdamW; the control comes first, since its experts are the siblings of others."""


def make_experts(bench: Bench, variants: Iterable[str]) -> None:
    """Train what is not there yet of `variants`."""
    for variant in variants:
        domains = bench.world.domains if variant == CONTROL else bench.world.domains[:2]
        for domain in domains:
            if not (bench.expert(variant, domain) / "config.json").is_file():
                _train(bench, variant, domain)


def _train(bench: Bench, variant: str, domain: str) -> None:
    model = load(bench.base)
    adamw = torch.optim.AdamW(model.parameters(), lr=bench.world.rate, weight_decay=0.1, betas=(0.9, 0.95))
    seed = derived_seed(bench.seed, "regime noise", domain)
    optimizer = VARIANTS[variant](bench, model, adamw, domain, seed)
    windows = read_windows(domain, "train", bench.sizes)

    model.train()
    batches = iterate_batches(windows, bench.sizes, steps=bench.sizes.steps, key=(bench.seed, domain))
    for step, ids in enumerate(batches, 1):
        for group in adamw.param_groups:
            group["lr"] = bench.world.rate * min(1.0, step / WARMUP)
        _take_step(model, optimizer, ids)
    model.save_pretrained(bench.expert(variant, domain))


def _take_step(model: Any, optimizer: torch.optim.Optimizer, ids: torch.Tensor) -> None:
    if isinstance(optimizer, MergeAware):
        with optimizer.perturbed():
            model(input_ids=ids, labels=ids).loss.backward()
    else:
        model(input_ids=ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
