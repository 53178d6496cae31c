"""What is done for one seed, step by step; each step reads what the steps before it have found."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from aftermix.config import parse_config
from aftermix.jobs.verify.doremi import doremi_ratios
from aftermix.mixture.regmix import find_regmix
from aftermix.mixture.utility import MixtureUtility
from studies.mergemix.domains import CAPABILITIES, DOMAINS, MANIFEST, PARTS
from studies.mergemix.measure import Bits, Floats, Scale, scores
from studies.mergemix.models import TINY_SHARE, Trainer, part_names, settings_of_training, small_base
from studies.mergemix.plan import (
    LEVELS,
    LONG,
    MANUAL,
    PART_TOKENS,
    SHORT,
    TINY_CHECKED,
    TINY_LEVELS,
    TINY_SEARCH,
    Shares,
    checked,
    uniform,
)
from studies.mergemix.proxy import ITEMS, TINY_ITEMS, find_mixture
from studies.world.layout import World


@dataclass(frozen=True)
class Seed:
    """Experts, mixtures and ratios of one seed on the world's base."""

    world: World
    folder: Path
    seed: int
    threads: int
    scale: Scale

    @cached_property
    def sizes(self) -> dict[str, Any]:
        """Tokens of corpora and sub-domains."""
        found: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        return found

    @property
    def trainer(self) -> Trainer:
        """From the world's base."""
        return Trainer(self.world, self.folder, self.world.base, "large", self.seed, self.threads)

    @property
    def experts(self) -> dict[str, Path]:
        """One a domain."""
        return {name: self.trainer.single(name, tokens=SHORT) for name in DOMAINS}

    @property
    def checked(self) -> dict[str, Shares]:
        """The mixtures that were trained to check the ranks."""
        return checked(self.sizes["corpora"], most=self.world.pick(None, tiny=TINY_CHECKED))

    def merged(self) -> list[Bits]:
        """Of the merges that stand for the checked mixtures."""
        return [self.scale.merge(self.experts, shares) for shares in self.checked.values()]

    def trained(self) -> list[Bits]:
        """Of the models really trained on them."""
        return [
            self.scale.model(self.trainer.mixed(name, shares, tokens=SHORT)) for name, shares in self.checked.items()
        ]

    @cached_property
    def mergemix(self) -> Shares:
        """Ratios by merging the experts."""
        return self._found("flat", self.world.base, self.experts)

    def regmix(self) -> Shares:
        """Ratios by RegMix over the trained mixtures and the experts, measured on select text."""
        corners = {name: {other: float(other == name) for other in DOMAINS} for name in DOMAINS}
        mixtures = {**self.checked, **corners}
        folders = [self.trainer.mixed(name, shares, tokens=SHORT) for name, shares in mixtures.items()]
        scores_NM = scores([self.scale.model(folder, "select") for folder in folders])
        shares_K = find_regmix(
            table_of(mixtures.values()),
            scores_NM,
            MixtureUtility.build(CAPABILITIES, scores_NM),
            prior_K=table_of([uniform()])[0],
            seed=self.seed,
        )
        return dict(zip(DOMAINS, map(float, shares_K), strict=True))

    def doremi(self) -> Shares:
        """Ratios by DoReMi: the world's base is the proxy, the model trained on all alike the reference."""
        section = {
            "sources": {name: str(self.world.training_text(name)) for name in DOMAINS},
            "datasets": {"unused": str(self.world.training_text(DOMAINS[0]))},
            **settings_of_training(self.world, self.folder, threads=self.threads, seed=self.seed),
        }
        reference = self.trainer.mixed("uniform", uniform(), tokens=SHORT)
        found = doremi_ratios(
            parse_config({"base": self.world.base, "train": section}, where="doremi.yaml", folder=self.folder),
            self.folder / "runs" / f"doremi-{self.seed}",
            domains=DOMAINS,
            reference=reference,
            tokens=self.world.pick(SHORT, tiny=SHORT // TINY_SHARE),
        )
        return dict(found.ratios)

    def small(self) -> Shares:
        """Ratios by merging experts of the smaller base."""
        return self._found("small", str(self._small.base), self._small_experts)

    def merged_small(self) -> list[Bits]:
        """Of the merges of the smaller base that stand for the checked mixtures."""
        scale = Scale(self.world, self.folder, base=self._small.base, label="small", threads=self.threads)
        return [scale.merge(self._small_experts, shares) for shares in self.checked.values()]

    def nested(self) -> Shares:
        """Ratios of the sub-domains, domains first: the tree has two levels."""
        tree = {name: [f"{name}-{place}" for place in range(PARTS)] for name in DOMAINS}
        experts = {name: self.trainer.single(name, tokens=PART_TOKENS) for name in part_names()}
        levels = self.world.pick(LEVELS, tiny=TINY_LEVELS)
        return self._found("nested", self.world.base, experts, tree=tree, direction="top_down", levels=levels)

    def ratios(self) -> dict[str, Shares]:
        """All flat ratios that are compared, by method."""
        return {
            "uniform": uniform(),
            "tokens": self.checked["tokens"],
            "manual": MANUAL,
            "regmix": self.regmix(),
            "doremi": self.doremi(),
            "mergemix": self.mergemix,
            "mergemix-small": self.small(),
        }

    def retrained(self, ratios: dict[str, Shares], tokens: int) -> dict[str, Bits]:
        """Of models really trained at the found ratios."""
        return {
            name: self.scale.model(self.trainer.mixed(name, shares, tokens=tokens)) for name, shares in ratios.items()
        }

    def recalibrated(self) -> tuple[Shares, dict[str, Bits]]:
        """The second half from the middle: at the ratios of the first half, and at ratios found anew there."""
        middle = self.trainer.mixed("mergemix", self.mergemix, tokens=SHORT)
        trainer = replace(self.trainer, base=str(middle), label="middle")
        experts = {name: trainer.single(name, tokens=PART_TOKENS) for name in DOMAINS}
        anew = self._found("middle", str(middle), experts)
        second = {"static": self.mergemix, "recalibrated": anew}
        rest = LONG - SHORT
        return anew, {
            name: self.scale.model(trainer.mixed(name, shares, tokens=rest)) for name, shares in second.items()
        }

    @cached_property
    def _small(self) -> Trainer:
        base = small_base(self.world, self.folder, threads=self.threads)
        return replace(self.trainer, base=str(base), label="small")

    @property
    def _small_experts(self) -> dict[str, Path]:
        return {name: self._small.single(name, tokens=SHORT) for name in DOMAINS}

    def _found(self, name: str, base: str, experts: dict[str, Path], **section: Any) -> Shares:
        return find_mixture(
            self.folder / "runs" / f"{name}-{self.seed}",
            base=base,
            experts=experts,
            tokens={**self.sizes["corpora"], **self.sizes["parts"]},
            tasks=self.folder / "tasks",
            seed=self.seed,
            threads=self.threads,
            items=self.world.pick(ITEMS, tiny=TINY_ITEMS),
            **{**self.world.pick({}, tiny=TINY_SEARCH), **section},
        )


def table_of(mixtures: Iterable[Shares]) -> Floats:
    """(N, K) shares."""
    return np.array([[shares[name] for name in DOMAINS] for shares in mixtures])
