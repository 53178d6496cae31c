"""The list of all scenarios."""

from __future__ import annotations

from .bad_inputs import list_bad_inputs
from .jobs import list_demo, list_measures, list_starts, list_trainings
from .merges import list_merges
from .runs import list_mixtures, list_searches
from .scenario import Scenario


def list_scenarios() -> dict[str, Scenario]:
    """Return all scenarios by name, in the order in which they run: quick ones first, the demo last."""
    scenarios = [
        *list_starts(),
        *list_merges(),
        *list_bad_inputs(),
        *list_measures(),
        *list_trainings(),
        *list_searches(),
        *list_mixtures(),
        *list_demo(),
    ]
    return {scenario.name: scenario for scenario in scenarios}
