"""Table 6: rotation, or one order for every tensor: `python -m studies.obim.order`.

Three experts share every tensor equally, at lambda 1. All six fixed orders are measured; what counts is the domain of
the expert that comes first, or last.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

from studies.obim.case import Case, Measured, at_setting, distinct_experts
from studies.obim.run import Rows, run
from studies.obim.settings import Rival, Setting
from studies.world.lab import Lab

OBIM = Rival("OBIM", "obim", (), needs_statistics=True)


def by_place(lab: Lab, case: Case) -> Iterator[Measured]:
    """Every expert first, between and last in each order, and under rotation."""
    places = ("first", *["between"] * (len(case.models) - 2), "last")
    for order in permutations(case.models):
        found = at_setting(lab, case, OBIM, Setting({"order": order}), others=False)
        for name, place in zip(order, places, strict=True):
            yield replace(found, name=place, targets=(name,))
    rotated = at_setting(lab, case, OBIM, Setting({}), name="rotation", others=False)
    for name in case.models:
        yield replace(rotated, targets=(name,))


def whole_orders(lab: Lab, case: Case) -> Iterator[Measured]:
    """Each order over all the targets."""
    yield at_setting(lab, case, OBIM, Setting({}), name="rotation", others=False)
    for order in permutations(case.models):
        yield at_setting(lab, case, OBIM, Setting({"order": order}), name=", ".join(order), others=False)


def measure(lab: Lab, seed: int, options: argparse.Namespace) -> Rows:  # noqa: ARG001 - every study has this signature
    """By an expert's place, and by whole order."""
    case = distinct_experts(lab.world, seed)
    yield "place", by_place(lab, case)
    yield "order", whole_orders(lab, case)


if __name__ == "__main__":
    run("order", __doc__, measure)
