"""A scenario: files to begin with, commands to run over them, and what is left of it all to be compared."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Section = Mapping[str, Any]

WORLD = "$WORLD"
"""Stands for the folder of the shared world, in files and in arguments."""


@dataclass(frozen=True)
class KillMoment:
    """The moment at which a command dies by SIGKILL: when files are there, or one of them has so many lines."""

    pattern: str
    """Files below the folder of the scenario, as a glob."""
    lines: int = 0
    """Lines that one of them has; by default it need only exist."""


@dataclass(frozen=True)
class Command:
    """One call of the command line in the folder of its scenario."""

    line: str
    """What stands behind `aftermix`, quoted as in a shell."""
    kill: KillMoment | None = None
    is_fresh: bool = False
    """Started as `python -m aftermix`, not in a copy of a process that has the libraries loaded."""

    def arguments(self, world: Path) -> list[str]:
        """Return the words of the line."""
        return shlex.split(self.line.replace(WORLD, str(world)))


@dataclass(frozen=True)
class Scenario:
    """A row of the table: independent of all other rows."""

    name: str
    files: Mapping[str, str | Section] = field(default_factory=dict)
    """Content by path; a mapping is written as JSON, which is YAML too."""
    commands: tuple[Command, ...] = ()
    needs: str = ""
    """A library without which the scenario is skipped, and says so."""
    runs_in_tree: bool = False
    """Runs in the checkout itself, whose folder `runs` is then compared."""

    def missing(self) -> str:
        """Return the library that the scenario needs and this interpreter lacks, or nothing."""
        return self.needs if self.needs and find_spec(self.needs) is None else ""

    def write_files(self, folder: Path, world: Path) -> None:
        """Write the files to begin with into `folder`."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, str) else json.dumps(content, indent=1)
            path.write_text(text.replace(WORLD, str(world)), encoding="utf-8")


def commands(*lines: str | Command) -> tuple[Command, ...]:
    """Return each of `lines` as a command."""
    return tuple(line if isinstance(line, Command) else Command(line) for line in lines)


def vectors(names: str = "abc", *, family: str = "tied", **own: Section) -> dict[str, Any]:
    """Return a section `vectors` of experts of the world; `a` is the instruction model. `own` adds keys by vector."""
    counts = {"b": 1000, "c": 3000, "d": 2000, "e": 2000}
    section: dict[str, Any] = {}
    for name in names:
        about = {"role": "instruction", "weight": 0.5} if name == "a" else {"tokens": counts[name]}
        section[name] = {"model": f"{WORLD}/{family}/{name}", **about, **own.get(name, {})}
    return section


def job(names: str = "abc", *, family: str = "tied", own: Section | None = None, **sections: Any) -> dict[str, Any]:
    """Return a file with a base, the vectors `names` and further sections."""
    return {"base": f"{WORLD}/{family}/base", "vectors": vectors(names, family=family, **(own or {})), **sections}


def evaluated(**changed: Any) -> dict[str, Any]:
    """Return a section `evaluate` over both tasks of the world."""
    return {
        "tasks": ["colours", "numbers"],
        "include_path": f"{WORLD}/tasks",
        "items": {"search": 20, "select": 20},
        "threads": 1,
        "batch_size": 32,
        "device": "cpu",
        **changed,
    }


def trained(*names: str, tokens: int = 640, **changed: Any) -> dict[str, Any]:
    """Return a section `train` of a few steps for each of the domains `names`."""
    return {
        "datasets": {name: {"data": f"{WORLD}/texts/{name}.jsonl", "tokens": tokens} for name in names},
        "context": 32,
        "batch_size": 4,
        "learning_rate": 2.0e-3,
        "schedule": "constant",
        "device": "cpu",
        "threads": 1,
        **changed,
    }
