"""Findings about a file: what stops its job, what its user should know, and what was looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from aftermix.errors import AftermixError, Problem

Result = TypeVar("Result")


@dataclass
class ConfigDiagnosis:
    """Findings about a file: `problems` stop a job, `notes` do not, `facts` say what was looked at."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def run_check(self, check: Callable[[], Result], *, where: str = "") -> Result | None:
        """Run one check and keep what it raises, with `where` it belongs to before its own place; then it is None."""
        try:
            return check()
        except AftermixError as error:
            prefix = f"{where}: " if where else ""
            self.problems += [Problem(f"{prefix}{each.where}", each.found, each.remedy) for each in error.problems]
        return None
