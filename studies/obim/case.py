"""What is merged, what it is held against, and how a method's setting is chosen."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studies.obim.settings import Rival, Setting
from studies.world.data import write_mixed
from studies.world.lab import Lab, Point, Reading, Scores
from studies.world.layout import FOLDER, ROOT, World
from studies.world.store import Store
from studies.world.tiny import parse_study

EXPERTS = ("ja", "math", "code")
"""Of distinct domains, as language, mathematics and code are in the paper."""
CHECKPOINTS = 3
REACH_OF_CHECKPOINTS = 0.5
"""The best on Japanese are the last of the run, and have forgotten much."""
MEASUREMENTS = ROOT / "runs" / "studies" / "obim"
GROUPS = ("experts", "checkpoints")
QUICK_ITEMS = {"search": 5, "select": 5, "test": 20}
TASK_ARITHMETIC = {"method": "task_arithmetic"}


@dataclass(frozen=True)
class Case:
    """Models of one seed to be merged with equal weights, and the domains that count."""

    name: str
    seed: int
    models: dict[str, Path]
    targets: tuple[str, ...]
    readings: dict[str, Reading] = field(default_factory=dict)
    with_base: bool = False
    """Whether the base counts as one of the models."""
    reach: float = 1.0
    """How far the coefficients go: :func:`studies.obim.settings.rivals`."""

    @property
    def sizes(self) -> dict[str, Any]:
        """What the settings of a method depend on."""
        return {"vectors": len(self.models), "models": len(self.models) + self.with_base, "reach": self.reach}

    def point(self, rival: Rival, setting: Setting) -> Point:
        """The merge of all models under one setting."""
        weights = dict.fromkeys(self.models, setting.weight)
        readings = self.readings if rival.needs_statistics else {}
        return Point(rival.merge(setting, seed=self.seed), weights, readings)


@dataclass(frozen=True)
class Measured:
    """A row of one seed."""

    name: str
    seed: int
    setting: str
    scores: Scores
    base: Scores
    targets: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Mean over the targets, %."""
        return self.scores.mean_accuracy(self.targets)

    @property
    def relative_bits(self) -> float:
        """Mean over the targets of bits per byte, % of the base's."""
        return self.scores.relative_bits(self.base, self.targets)


def distinct_experts(world: World, seed: int) -> Case:
    """Setting A: three experts of distinct domains, each calibrated on its own text."""
    names = EXPERTS if set(EXPERTS) <= set(world.domains) else world.domains[:3]
    models = {name: world.expert(name, seed=seed) for name in names}
    readings = {name: Reading(world.training_text(name), seed=seed) for name in names}
    return Case("experts", seed, models, tuple(names), readings)


def cases(lab: Lab, seed: int, groups: Sequence[str]) -> Iterator[Case]:
    """The settings asked for."""
    if "experts" in groups:
        yield distinct_experts(lab.world, seed)
    if "checkpoints" in groups:
        yield best_checkpoints(lab, seed)


def best_checkpoints(lab: Lab, seed: int, count: int = CHECKPOINTS) -> Case:
    """Setting B: the best checkpoints of one long run by select text of its domain; base and neighbours count too.

    As in the paper, all are calibrated on text of all the domains that count.
    """
    world = lab.world
    targets = languages(world)
    folders = {path.name: path for path in world.checkpoints(seed=seed)}
    bits = {name: single(lab, folders, name, (world.long_run,), "select").bits[world.long_run] for name in folders}
    chosen = sorted(sorted(folders, key=bits.__getitem__)[:count])
    mixed = mixed_text(world, targets)
    models = {f"ckpt-{number}": folders[name] for number, name in enumerate(chosen, 1)}
    readings = {name: Reading(mixed, seed=seed) for name in models}
    return Case("checkpoints", seed, models, targets, readings, with_base=True, reach=REACH_OF_CHECKPOINTS)


def languages(world: World) -> tuple[str, ...]:
    """The long run's language first, then what it may forget: the base's, and a neighbour."""
    neighbours = [name for name in world.domains if name != world.long_run]
    return (world.long_run, "zh" if "zh" in neighbours else neighbours[0], world.general)


def mixed_text(world: World, domains: Sequence[str]) -> Path:
    """Text of several domains, document by document in turn."""
    output = world.folder / "texts" / f"mixed-{'-'.join(domains)}.jsonl.gz"
    return output if output.is_file() else write_mixed([world.training_text(name) for name in domains], output)


def base_scores(lab: Lab, domains: Sequence[str], part: str) -> Scores:
    """Of the base itself."""
    return lab.measure({}, Point(TASK_ARITHMETIC, {}), domains, part)  # type: ignore[arg-type]


def single(lab: Lab, models: dict[str, Path], name: str, domains: Sequence[str], part: str) -> Scores:
    """Of one model at weight 1."""
    return lab.measure(models, Point(TASK_ARITHMETIC, {name: 1.0}), domains, part)  # type: ignore[arg-type]


def shown_domains(case: Case, world: World) -> tuple[str, ...]:
    """The targets and the base's own domain."""
    return tuple(dict.fromkeys((*case.targets, world.general)))


def best_setting(lab: Lab, case: Case, rival: Rival) -> Setting:
    """The setting with the fewest bits per byte on select text of the targets, each as a share of the base's."""
    base = base_scores(lab, case.targets, "select")

    def bits(setting: Setting) -> float:
        found = lab.measure(case.models, case.point(rival, setting), case.targets, "select")
        return found.relative_bits(base, case.targets)

    return min(rival.settings, key=bits)


def at_setting(
    lab: Lab, case: Case, rival: Rival, setting: Setting, *, name: str | None = None, others: bool = True
) -> Measured:
    """Scores of one setting on test text and items, with `others` in the base's own domain as well."""
    domains = shown_domains(case, lab.world) if others else case.targets
    scores = lab.measure(case.models, case.point(rival, setting), domains, "test")
    base = base_scores(lab, domains, "test")
    return Measured(name or rival.name, case.seed, str(setting), scores, base, case.targets)


def at_best(lab: Lab, case: Case, rival: Rival) -> Measured:
    """Scores on test text and items of the setting that is best on select text."""
    return at_setting(lab, case, rival, best_setting(lab, case, rival))


def sources(lab: Lab, case: Case) -> Iterator[Measured]:
    """The base and each model alone."""
    domains = shown_domains(case, lab.world)
    base = base_scores(lab, domains, "test")
    yield Measured("base", case.seed, "-", base, base, case.targets)
    for name in case.models:
        yield Measured(name, case.seed, "-", single(lab, case.models, name, domains, "test"), base, case.targets)


def parse_arguments(description: str | None) -> argparse.Namespace:
    """What every study takes. With `--tiny` it is quick as well."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2, help="1 on a machine that others use")
    parser.add_argument("--world", type=Path, default=FOLDER)
    parser.add_argument("--measurements", type=Path, default=MEASUREMENTS, help="folder of what has been measured")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"))
    parser.add_argument("--quick", action="store_true", help="few items and settings, to see that it runs")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS, help="what is merged")
    parser.add_argument("--measure-alone", action="store_true", help="write no results, e.g. one process for each seed")

    def tiny(folder: Path) -> dict[str, Any]:
        own = folder / "obim"
        return {"measurements": own / "measurements", "results": own / "results", "quick": True}

    return parse_study(parser, tiny)


def open_lab(options: argparse.Namespace, seed: int) -> Lab:
    """The living model of one seed; its measurements are a file of their own, so seeds can run side by side."""
    world = World.open(options.world.resolve())
    store = Store(options.measurements / f"seed-{seed}{'-quick' if options.quick else ''}.jsonl")
    return Lab(world, store, threads=options.threads, items=QUICK_ITEMS if options.quick else None)


def quickened(rivals: Sequence[Rival], *, quick: bool) -> list[Rival]:
    """With `quick`, two settings of each."""
    return [Rival(r.name, r.method, r.settings[:2], r.of_paper, r.needs_statistics) if quick else r for r in rivals]
