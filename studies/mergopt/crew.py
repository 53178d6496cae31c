"""Who is merged with whom: rows of the tables, groups of tasks, and which experts are there already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.mergopt.experts import FEW, MAIN, SENSITIVITY, TABLE, VARIANTS, expert
from studies.world.layout import World

GROUPS: dict[int, tuple[tuple[str, ...], ...]] = {
    2: (("ja", "math"), ("zh", "code")),
    4: (("ja", "de", "math", "problems"),),
    6: (("ja", "zh", "de", "math", "code", "problems"),),
}
"""Tasks that are merged, by their number; fixed before anything was measured."""
TASKS = GROUPS[6][0]
HALF = "-half-steps"


@dataclass(frozen=True)
class Kind:
    """A row: experts of one variant, after all their steps or after half of them."""

    name: str
    variant: str
    half: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """What there are experts of."""
        return VARIANTS[self.variant].tasks

    def model(self, world: World, task: str, *, seed: int) -> Path:
        """Model folder of one expert."""
        return expert(world, self.variant, task, seed=seed, half=self.half)

    def models(self, world: World, tasks: Iterable[str], *, seed: int) -> dict[str, Path]:
        """Model folders by task."""
        return {task: self.model(world, task, seed=seed) for task in tasks}

    def is_trained(self, world: World, *, seed: int) -> bool:
        """Whether all its experts are there."""
        folder = expert(world, self.variant, TASKS[0], seed=seed).parent
        return all((folder / task / "train.json").is_file() for task in self.tasks)


EQUAL_STEPS = tuple(Kind(variant.name, variant.name) for variant in MAIN)
EQUAL_TIME = tuple(Kind(f"{name}{HALF}", name, half=True) for name in ("sam", "asam", "constant"))
"""SAM and ASAM take two passes a step, so half the steps in the time of the others; the control to tell both apart."""
OF_FEW = tuple(Kind(variant.name, variant.name) for variant in (*SENSITIVITY, *TABLE))


def trained(world: World, kinds: Sequence[Kind], *, seed: int) -> Iterator[Kind]:
    """Those of `kinds` that can be measured."""
    return (kind for kind in kinds if kind.is_trained(world, seed=seed))


def missing(world: World, seeds: Iterable[int]) -> list[str]:
    """`VARIANT-SEED` of all that is not trained yet."""
    kinds = (*EQUAL_STEPS, *OF_FEW)
    return [f"{kind.name}-{seed}" for seed in seeds for kind in kinds if not kind.is_trained(world, seed=seed)]


__all__ = ["EQUAL_STEPS", "EQUAL_TIME", "FEW", "GROUPS", "HALF", "OF_FEW", "TASKS", "Kind", "missing", "trained"]
