"""Faults are collected over statements that go on, in their order, with places in the file."""

from __future__ import annotations

import pytest

from aftermix.errors import ManyProblemsError, MixtureError, Problem
from aftermix.jobs.mixture.faults import ProblemCollector


def test_blocks_keep_problems_in_order_and_place_them() -> None:
    problems, reached = ProblemCollector(), None
    with problems.collect("mixture"):
        raise MixtureError("bounds.ja", "is wrong", "Mend it.")
    problems.add(Problem("vectors.ja.tokens", "is missing", "Add it."))
    with problems.collect("mixture"):
        raise ManyProblemsError([Problem("prior 'mine', row 0", "is off", "Mend."), Problem("domain 'x'", "?", "!")])
    with problems.collect("mixture"):
        reached = "the last block"

    wanted = ["mixture.bounds.ja", "vectors.ja.tokens", "mixture, prior 'mine'", "mixture, domain 'x'"]
    assert [problem.where for problem in problems.collected] == wanted
    assert reached == "the last block"
    with pytest.raises(ManyProblemsError, match="4 problems"):
        problems.refuse()


def test_other_errors_leave_the_block() -> None:
    problems = ProblemCollector()
    with pytest.raises(KeyError), problems.collect("mixture"):
        raise KeyError("a fault of the program, not of the file")
    problems.refuse()
