"""Table 10: two to six models, OBIM against DARE: `python -m studies.obim.count`.

As in the paper, the base counts as one of the models: with K models, K - 1 checkpoints each have 1/K of every tensor,
and the base keeps the rest. Beside it, two to six experts without the base.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

from aftermix.seeds import generator
from studies.obim.case import Case, Measured, at_best, best_checkpoints, quickened, sources
from studies.obim.run import Rows, run
from studies.obim.settings import rivals
from studies.world.lab import Lab, Reading

COUNTS = (2, 3, 4, 5, 6)
COMPARED = ("OBIM", "DARE")


def by_checkpoints(lab: Lab, seed: int, *, quick: bool) -> Iterator[Measured]:
    """The base and its best checkpoints."""
    for count in COUNTS[:2] if quick else COUNTS:
        case = best_checkpoints(lab, seed, count - 1)
        yield from _compared(lab, case, count, quick=quick)
    yield from sources(lab, case)


def by_experts(lab: Lab, seed: int, *, quick: bool) -> Iterator[Measured]:
    """Experts added one by one, in an order of the seed; all domains count at every number."""
    world = lab.world
    names = [world.domains[i] for i in generator(seed, "count", "order").permutation(len(world.domains))]
    for count in COUNTS[:1] if quick else COUNTS:
        models = {name: world.expert(name, seed=seed) for name in names[:count]}
        readings = {name: Reading(world.training_text(name), seed=seed) for name in models}
        case = Case("experts", seed, models, world.domains, readings)
        yield from _compared(lab, case, count, quick=quick)


def _compared(lab: Lab, case: Case, count: int, *, quick: bool) -> Iterator[Measured]:
    for rival in quickened([rival for rival in rivals(**case.sizes) if rival.name in COMPARED], quick=quick):
        yield replace(at_best(lab, case, rival), name=f"{rival.name} of {count}")


MEASURES = {"experts": by_experts, "checkpoints": by_checkpoints}


def measure(lab: Lab, seed: int, options: argparse.Namespace) -> Rows:
    """Two to six models, by what they are."""
    for name in options.groups:
        yield name, MEASURES[name](lab, seed, quick=options.quick)


if __name__ == "__main__":
    run("count", __doc__, measure)
