"""Table 6: rotation, or one order for every tensor: `python -m studies.obim.order`.

Three experts share every tensor equally, at lambda 1. All six fixed orders are measured; what counts is the domain of
the expert that comes first, or last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

from studies.obim.case import Case, Measured, arguments, at_setting, distinct_experts, open_lab
from studies.obim.page import write_page
from studies.obim.results import Study
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


def main() -> None:
    """Measure what is not measured yet, write the results and the page."""
    options = arguments(__doc__).parse_args()
    groups: dict[str, list[Measured]] = {"place": [], "order": []}
    for seed in options.seed:
        lab = open_lab(options, seed)
        case = distinct_experts(lab.world, seed)
        groups["place"] += by_place(lab, case)
        groups["order"] += whole_orders(lab, case)
    if not options.measure_alone:
        Study.of("order", groups).write(options.results)
        write_page(options.results)


if __name__ == "__main__":
    main()
