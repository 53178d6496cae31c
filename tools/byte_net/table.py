"""The command: choose scenarios, run both sides, print the table."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .catalogue import list_scenarios
from .compare import FileDifference, compare_folders
from .scenario import Scenario
from .side import Scratch, run_side


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare two versions, and leave with 0 if they are the same, else with 1."""
    asked = parse(arguments)
    scenarios = choose(only=asked.only, skip=asked.skip)
    if asked.list:
        for scenario in scenarios:
            print(f"{scenario.name:24s} {len(scenario.commands):3d} commands")
        return
    print_skipped(scenarios)
    scenarios = [scenario for scenario in scenarios if not scenario.missing()]

    scratch = Scratch(asked.scratch.resolve())
    with scratch.taken():
        scratch.prepare(afresh=asked.new_world)
        run_both(asked, scenarios, scratch)
        sys.exit(print_table(scenarios, scratch))


def run_both(asked: argparse.Namespace, scenarios: Sequence[Scenario], scratch: Scratch) -> None:
    """Run OLD, then NEW, at one place; of OLD only what is not there yet, if that was asked for."""
    for side, version in (("old", asked.old), ("new", asked.new)):
        todo = scenarios
        if side == "old" and asked.reuse_old:
            todo = [scenario for scenario in scenarios if not scratch.has(side, scenario, version)]
        started = time.monotonic()
        if todo:
            run_side(version, todo, scratch=scratch, side=side)
        print(f"{side.upper()} {version}: {len(todo)} scenarios in {time.monotonic() - started:.0f} s", flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Compare what two versions write and say, byte for byte.")
    parser.add_argument("old", nargs="?", metavar="OLD", help="a commit, or a folder with a checkout")
    parser.add_argument("new", nargs="?", metavar="NEW", help="another one")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these scenarios, or all that begin so")
    parser.add_argument("--skip", nargs="+", metavar="NAME", default=[], help="not these")
    parser.add_argument("--list", action="store_true", help="print the scenarios and do nothing")
    parser.add_argument("--reuse-old", action="store_true", help="take what an earlier call with this OLD left")
    parser.add_argument("--new-world", action="store_true", help="make models and texts again first")
    scratch = Path(tempfile.gettempdir()) / "aftermix-same-bytes"
    parser.add_argument("--scratch", type=Path, default=scratch, metavar="FOLDER", help=f"default {scratch}")
    asked = parser.parse_args(arguments)
    if not asked.list and asked.new is None:
        parser.error("name OLD and NEW")
    return asked


def choose(*, only: Sequence[str] | None, skip: Sequence[str]) -> list[Scenario]:
    """Return the scenarios whose names begin with one of `only`, without those of `skip`."""
    every = list_scenarios()
    for name in [*(only or ()), *skip]:
        if not any(scenario.startswith(name) for scenario in every):
            sys.exit(f"There is no scenario '{name}'; known are: {', '.join(every)}")
    wanted = [name for name in every if not only or name.startswith(tuple(only))]
    return [every[name] for name in wanted if not name.startswith(tuple(skip))]


def print_skipped(scenarios: Sequence[Scenario]) -> None:
    """Say which of `scenarios` cannot run here, and why."""
    for scenario in scenarios:
        if library := scenario.missing():
            print(f"SKIPPED {scenario.name}: {library} is not installed")


def print_table(scenarios: Sequence[Scenario], scratch: Scratch) -> int:
    """Print a line for each scenario and the first difference of those that differ; return the exit code."""
    apart = 0
    for scenario in scenarios:
        old, new = (scratch.kept(side, scenario) for side in ("old", "new"))
        differences = compare_folders(old, new)
        apart += bool(differences)
        files = sum(1 for path in new.rglob("*") if path.is_file()) - 1
        verdict = f"DIFFERS in {len(differences)}" if differences else "same"
        print(f"{scenario.name:24s} {len(scenario.commands):3d} commands {files:4d} files  {verdict}")
        print_differences(differences)
    print(f"{len(scenarios) - apart} of {len(scenarios)} scenarios are the same")
    return int(apart > 0)


def print_differences(differences: Sequence[FileDifference]) -> None:
    """Print the first of `differences` whole, and the names of the others."""
    for first in differences[:1]:
        print(f"  {first.name}", *(f"    {line}" for line in first.lines), sep="\n")
    if names := [difference.name for difference in differences[1:9]]:
        print(f"  also: {', '.join(names)}{', ...' if len(differences) > 9 else ''}")
