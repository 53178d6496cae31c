"""Tables 1 and 2: every method on three experts, and on three checkpoints of one run: `python -m studies.obim.methods`.

Each method has six settings of its coefficient and density; the one with the fewest bits per byte on select text is
reported on test text and items.
"""

from __future__ import annotations

from collections.abc import Iterator

from aftermix.merging.methods import METHODS
from studies.obim.case import (
    Case,
    Measured,
    arguments,
    at_best,
    cases,
    open_lab,
    quickened,
    sources,
)
from studies.obim.page import write_page
from studies.obim.results import Study
from studies.obim.settings import as_printed, rivals
from studies.world.lab import Lab


def rows(lab: Lab, case: Case, *, quick: bool) -> Iterator[Measured]:
    """Base, models alone, then every method that the product has."""
    yield from sources(lab, case)
    for rival in [*quickened(rivals(**case.sizes), quick=quick), as_printed(case.sizes["models"])]:
        if rival.method in METHODS:
            yield at_best(lab, case, rival)


def main() -> None:
    """Measure what is not measured yet, write the results and the page."""
    options = arguments(__doc__).parse_args()
    groups: dict[str, list[Measured]] = {name: [] for name in options.groups}
    for seed in options.seed:
        lab = open_lab(options, seed)
        for case in cases(lab, seed, options.groups):
            groups[case.name] += rows(lab, case, quick=options.quick)
            print(f"seed {seed}, {case.name}: {lab.store.measured} measured", flush=True)
    if not options.measure_alone:
        Study.of("methods", groups).write(options.results)
        write_page(options.results)


if __name__ == "__main__":
    main()
