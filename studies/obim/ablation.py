"""Table 3: saliency or magnitude, disjoint mean or exclusive shares: `python -m studies.obim.ablation`."""

from __future__ import annotations

from studies.obim.case import (
    Measured,
    arguments,
    at_best,
    cases,
    open_lab,
    quickened,
)
from studies.obim.page import write_page
from studies.obim.results import Study
from studies.obim.settings import parts


def main() -> None:
    """Measure what is not measured yet, write the results and the page."""
    options = arguments(__doc__).parse_args()
    groups: dict[str, list[Measured]] = {name: [] for name in options.groups}
    for seed in options.seed:
        lab = open_lab(options, seed)
        for case in cases(lab, seed, options.groups):
            rivals = quickened(parts(**case.sizes), quick=options.quick)
            groups[case.name] += [at_best(lab, case, rival) for rival in rivals]
    if not options.measure_alone:
        Study.of("ablation", groups).write(options.results)
        write_page(options.results)


if __name__ == "__main__":
    main()
