"""Faults of a section of the file, collected over statements that go on after one of them, and told together."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType

from aftermix.errors import AftermixError, Problem, refuse_if_any


@dataclass(frozen=True)
class ProblemCollector:
    """Problems so far, in the order in which they were met.

    >>> problems = ProblemCollector()
    >>> with problems.collect("mixture"):
    ...     raise AftermixError("bounds", "the lowest shares sum to 1.2, above 1", "Widen the bounds.")
    >>> [problem.where for problem in problems.collected]
    ['mixture.bounds']
    """

    collected: list[Problem] = field(default_factory=list)

    def add(self, *problems: Problem) -> None:
        """Keep problems that were found without an error, their places in the file as they are."""
        self.collected.extend(problems)

    def collect(self, section: str) -> CollectingBlock:
        """A block that an :class:`AftermixError` ends and does not leave: its problems are kept, as of `section`."""
        return CollectingBlock(self, section)

    def refuse(self) -> None:
        """Raise :class:`ManyProblemsError` when there are any."""
        refuse_if_any(self.collected)


@dataclass(frozen=True)
class CollectingBlock:
    """One `with` block of a collector."""

    collector: ProblemCollector
    section: str

    def __enter__(self) -> None:
        """Begin; what goes wrong in the block is told by :meth:`ProblemCollector.refuse`."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, AftermixError):
            return False
        for each in error.problems:
            self.collector.add(Problem(_locate_fault(self.section, each.where), each.found, each.remedy))
        return True


def _locate_fault(section: str, where: str) -> str:
    """Place in the file of a fault that is known by its place in the section, or by a name.

    >>> _locate_fault("mixture", "bounds.ja"), _locate_fault("mixture", "prior 'mine', row 0")
    ('mixture.bounds.ja', "mixture, prior 'mine'")
    """
    is_named = where.startswith(("prior '", "domain '"))
    return f"{section}, {where.removesuffix(', row 0')}" if is_named else f"{section}.{where}"
