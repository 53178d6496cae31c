"""Tables 1 and 2: every method on three experts, and on three checkpoints of one run: `python -m studies.obim.methods`.

Each method has six settings of its coefficient and density; the one with the fewest bits per byte on select text is
reported on test text and items.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from aftermix.merging.methods import METHODS
from studies.obim.case import (
    Case,
    Measured,
    at_best,
    cases,
    quickened,
    sources,
)
from studies.obim.run import Rows, run
from studies.obim.settings import as_printed, rivals
from studies.world.lab import Lab


def rows(lab: Lab, case: Case, *, quick: bool) -> Iterator[Measured]:
    """Base, models alone, then every method that the product has."""
    yield from sources(lab, case)
    for rival in [*quickened(rivals(**case.sizes), quick=quick), as_printed(case.sizes["models"])]:
        if rival.method in METHODS:
            yield at_best(lab, case, rival)


def measure(lab: Lab, seed: int, options: argparse.Namespace) -> Rows:
    """All rows, by case."""
    for case in cases(lab, seed, options.groups):
        yield case.name, rows(lab, case, quick=options.quick)
        print(f"seed {seed}, {case.name}: {lab.store.measured} measured", flush=True)


if __name__ == "__main__":
    run("methods", __doc__, measure)
