"""Table 2 at equal gain: what a merge with half of the run's gain has lost: `python -m studies.obim.recovery`.

Fewest bits over all domains mostly says how far to go. Here every method goes as far as it must to have half of what
the best checkpoint gains in bits on its own language, by its coefficient, and what counts are the other domains. The
coefficient and the better density are found on select text.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from studies.obim.case import (
    Case,
    Measured,
    at_setting,
    base_scores,
    best_checkpoints,
    quickened,
    single,
)
from studies.obim.run import Rows, run
from studies.obim.settings import Rival, Setting, rivals
from studies.world.lab import Lab, Scores

HALF = 0.5
TINY_PART = 0.05
"""Of the gain, in a tiny world: with the few settings that are tried there, no method comes as far as half."""
REFINEMENTS = 2
DIGITS = 4


@dataclass(frozen=True)
class Step:
    """One merge along a method's coefficient: bits of the run's language and of the others, % of the base's."""

    strength: float
    own: float
    others: float


START = Step(0.0, 100.0, 100.0)


def rows(lab: Lab, case: Case, *, quick: bool) -> Iterator[Measured]:
    """Every method that reaches the gain, its other domains as targets."""
    base = base_scores(lab, case.targets, "select")
    own = case.targets[:1]
    gained = min(single(lab, case.models, n, case.targets, "select").relative_bits(base, own) for n in case.models)
    target = 100 - lab.world.pick(HALF, tiny=TINY_PART) * (100 - gained)
    for rival in quickened(rivals(**case.sizes), quick=quick):
        found = matched(lab, case, rival, base, target)
        if found is not None:
            yield replace(at_setting(lab, case, rival, found), targets=case.targets[1:])


def matched(lab: Lab, case: Case, rival: Rival, base: Scores, target: float) -> Setting | None:
    """The setting with the gain wanted: of the densities the one that loses least, its coefficient refined."""

    def step(setting: Setting) -> Step:
        scores = lab.measure(case.models, case.point(rival, setting), case.targets, "select")
        own, others = (scores.relative_bits(base, part) for part in (case.targets[:1], case.targets[1:]))
        return Step(strength_of(setting), own, others)

    reached: list[tuple[float, Setting, tuple[Step, Step]]] = []
    for settings in by_density(rival.settings):
        bracket = around([START, *sorted(map(step, settings), key=lambda point: point.strength)], target)
        if bracket is not None:
            reached.append((between(bracket, target).others, settings[0], bracket))
    if not reached:
        return None
    _, setting, bracket = min(reached, key=lambda entry: entry[0])
    for _ in range(REFINEMENTS):
        middle = step(at_strength(setting, between(bracket, target).strength))
        bracket = around([bracket[0], middle, bracket[1]], target) or bracket
    return at_strength(setting, between(bracket, target).strength)


def by_density(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Settings that differ in their coefficient alone."""
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        rest = {key: value for key, value in setting.options.items() if key != "lambda"}
        groups.setdefault(str(rest), []).append(setting)
    return list(groups.values())


def strength_of(setting: Setting) -> float:
    """Its coefficient, be it a weight or `lambda`."""
    return float(setting.weight * setting.options.get("lambda", 1.0))


def at_strength(setting: Setting, strength: float) -> Setting:
    """The setting with another coefficient.

    >>> at_strength(Setting({"density": 0.5, "lambda": 1.0}), 0.25).options
    {'density': 0.5, 'lambda': 0.25}
    """
    strength = round(strength, DIGITS)
    if "lambda" in setting.options:
        return Setting({**setting.options, "lambda": strength})
    return Setting(setting.options, strength)


def around(points: Sequence[Step], target: float) -> tuple[Step, Step] | None:
    """Neighbours between which own bits first come down to `target`."""
    for before, after in pairwise(points):
        if after.own <= target < before.own:
            return before, after
    return None


def between(bracket: tuple[Step, Step], target: float) -> Step:
    """The point with `target` own bits on the straight line between two.

    >>> between((Step(0.0, 100.0, 100.0), Step(1.0, 80.0, 104.0)), 90.0)
    Step(strength=0.5, own=90.0, others=102.0)
    """
    before, after = bracket
    way = (before.own - target) / (before.own - after.own)
    return Step(
        before.strength + way * (after.strength - before.strength),
        target,
        before.others + way * (after.others - before.others),
    )


def measure(lab: Lab, seed: int, options: argparse.Namespace) -> Rows:
    """The best checkpoints of the long run."""
    yield "checkpoints", rows(lab, best_checkpoints(lab, seed), quick=options.quick)


if __name__ == "__main__":
    run("recovery", __doc__, measure)
