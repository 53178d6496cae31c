"""Everything that the study trains, by `aftermix train`: experts, mixtures, continued runs, and a smaller base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aftermix.config import parse_config
from aftermix.jobs.train.command import train
from studies.mergemix.domains import DOMAINS, GENERAL, PARTS, base_text, part_text
from studies.world.layout import World
from studies.world.random_base import write_random_base

TINY_SHARE = 240
"""In a tiny world a model reads this part of the tokens."""
RATE, BATCH, WARM_UP = 3.0e-4, 4, 10
"""One constant learning rate for experts and mixtures: a ratio has no rate of its own."""
SMALL_TOKENS = 5_000_000
SMALL_RATE = 4.0e-3
SMALL_SLICE = 0.02
SMALL_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
}
"""Where it differs from the world's base."""


@dataclass(frozen=True)
class Trainer:
    """Trains from one base into one folder; what is there is not trained again."""

    world: World
    folder: Path
    """Of the study: texts, tasks, models."""
    base: str
    label: str
    """Names the base in folders of models."""
    seed: int
    threads: int

    def single(self, domain: str, *, tokens: int) -> Path:
        """The expert of a domain or sub-domain."""
        return self.mixed(domain, {domain: 1.0}, tokens=tokens)

    def mixed(self, name: str, shares: Mapping[str, float], *, tokens: int) -> Path:
        """A model really trained on a mixture of domains and sub-domains, shares in tokens."""
        kept = {domain: share for domain, share in shares.items() if share > 0}
        if self.world.tiny:
            kept = largest(shares)

        texts = {domain: str(self._text(domain)) for domain in kept}
        if len(kept) == 1:
            return self._train(name, {"data": texts[next(iter(kept))]}, {}, tokens)
        return self._train(name, {"mixture": kept}, texts, tokens)

    def _train(self, name: str, dataset: Mapping[str, Any], sources: Mapping[str, str], tokens: int) -> Path:
        output = self.folder / "models" / f"{self.label}-{self.seed}" / str(tokens)
        budget_tokens = self.world.pick(tokens, tiny=tokens // TINY_SHARE)
        section = {
            "datasets": {name: {**dataset, "tokens": budget_tokens}},
            "sources": dict(sources),
            **settings_of_training(self.world, self.folder, threads=self.threads, seed=self.seed),
        }
        if not (output / name / "train.json").is_file():
            _run({"base": self.base, "train": section}, output)
        return output / name

    def _text(self, domain: str) -> Path:
        parent, _, place = domain.rpartition("-")
        return part_text(self.folder, parent, int(place)) if parent else self.world.training_text(domain)


def largest(shares: Mapping[str, float]) -> dict[str, float]:
    """The shares above a tenth, whole again: so few sequences as a tiny world's hold no smaller ones.

    >>> largest({"a": 0.6, "b": 0.36, "c": 0.04})
    {'a': 0.625, 'b': 0.375}
    """
    kept = {name: share for name, share in shares.items() if share > 0.1}
    return {name: share / sum(kept.values()) for name, share in kept.items()}


def settings_of_training(world: World, folder: Path, *, threads: int, seed: int) -> dict[str, Any]:
    """What all runs from a base have in common."""
    return {
        "schedule": "constant",
        "learning_rate": RATE,
        "context": world.context,
        "batch_size": BATCH,
        "warmup_steps": world.pick(WARM_UP, tiny=1),
        "save_steps": 0,
        "cache": str(folder / "tokens"),
        "threads": threads,
        "seed": seed,
    }


def part_names() -> tuple[str, ...]:
    """All sub-domains."""
    return tuple(f"{domain}-{place}" for domain in DOMAINS for place in range(PARTS))


def small_base(world: World, folder: Path, *, threads: int) -> Path:
    """A base of 0.4 M parameters with the same tokenizer, trained on the same kinds of text as the world's base."""
    output = folder / "small"
    if (output / "base" / "train.json").is_file():
        return output / "base"
    start = output / "start"
    write_random_base(start, SMALL_SHAPE)
    others = DOMAINS[:3]
    sources = {name: str(base_text(folder, name)) for name in (GENERAL, *others)}
    shares = {GENERAL: 1 - SMALL_SLICE * len(others), **dict.fromkeys(others, SMALL_SLICE)}
    budget_tokens = world.pick(SMALL_TOKENS, tiny=2_048)
    section = {
        "datasets": {"base": {"mixture": shares, "tokens": budget_tokens, "learning_rate": SMALL_RATE}},
        "sources": sources,
        "context": world.context,
        "batch_size": 16,
        "warmup_steps": world.pick(30, tiny=1),
        "threads": threads,
    }
    _run({"base": str(start), "train": section}, output)
    return output / "base"


def _run(values: Mapping[str, Any], output: Path) -> None:
    text = yaml.safe_dump(dict(values), sort_keys=False)
    train(parse_config(yaml.safe_load(text), where="mergemix.yaml", folder=output), output)
