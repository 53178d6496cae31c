"""Table 3: saliency or magnitude, disjoint mean or exclusive shares: `python -m studies.obim.ablation`."""

from __future__ import annotations

import argparse

from studies.obim.case import (
    at_best,
    cases,
    quickened,
)
from studies.obim.run import Rows, run
from studies.obim.settings import parts
from studies.world.lab import Lab


def measure(lab: Lab, seed: int, options: argparse.Namespace) -> Rows:
    """The four parts, by case."""
    for case in cases(lab, seed, options.groups):
        yield case.name, (at_best(lab, case, rival) for rival in quickened(parts(**case.sizes), quick=options.quick))


if __name__ == "__main__":
    run("ablation", __doc__, measure)
