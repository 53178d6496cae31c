"""The frame of every study: measure seed by seed what is not measured yet, then write the results and the page."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from studies.obim.case import Measured, open_lab, parse_arguments
from studies.obim.page import write_page
from studies.obim.results import Study
from studies.world.lab import Lab

Rows = Iterable[tuple[str, Iterable[Measured]]]
"""Measured rows by group; a group may come several times."""


def run(name: str, description: str | None, measure: Callable[[Lab, int, argparse.Namespace], Rows]) -> None:
    """The study `name`: `measure` gives the rows of one seed."""
    options = parse_arguments(description)
    groups: dict[str, list[Measured]] = {}
    for seed in options.seed:
        for group, rows in measure(open_lab(options, seed), seed, options):
            groups.setdefault(group, []).extend(rows)
    if not options.measure_alone:
        Study.of(name, groups).write(options.results)
        write_page(options.results)
