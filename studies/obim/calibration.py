"""Tables 4 and 5: what the statistics are made of, and of how many samples: `python -m studies.obim.calibration`.

Three experts share every tensor equally, at lambda 1. Of one expert after the other the text is exchanged, and what
counts is that expert's own domain; the sample counts of all experts change together.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

from studies.obim.case import (
    Case,
    Measured,
    at_setting,
    distinct_experts,
    mixed_text,
)
from studies.obim.run import Rows, run
from studies.obim.settings import Rival, Setting
from studies.world.lab import Lab, Reading

OBIM = Rival("OBIM", "obim", (), needs_statistics=True)
SAMPLES = (10, 50, 100, 200)


def by_source(lab: Lab, case: Case) -> Iterator[Measured]:
    """Own text, that of the next expert, or both in turn; the figures are those of the expert in question."""
    names = list(case.models)
    for place, name in enumerate(names):
        other = names[(place + 1) % len(names)]
        texts = {
            "own": lab.world.training_text(name),
            "other": lab.world.training_text(other),
            "mixed": mixed_text(lab.world, sorted((name, other))),
        }
        for source, text in texts.items():
            readings = {**case.readings, name: Reading(text, seed=case.seed)}
            found = at_setting(lab, replace(case, readings=readings), OBIM, Setting({}), name=source, others=False)
            yield replace(found, targets=(name,))


def by_samples(lab: Lab, case: Case) -> Iterator[Measured]:
    """As many samples of each expert's own text."""
    for samples in SAMPLES:
        readings = {name: replace(reading, samples=samples) for name, reading in case.readings.items()}
        yield at_setting(lab, replace(case, readings=readings), OBIM, Setting({}), name=str(samples), others=False)


def measure(lab: Lab, seed: int, options: argparse.Namespace) -> Rows:  # noqa: ARG001 - every study has this signature
    """What is read, and how much."""
    case = distinct_experts(lab.world, seed)
    yield "source", by_source(lab, case)
    yield "samples", by_samples(lab, case)


if __name__ == "__main__":
    run("calibration", __doc__, measure)
