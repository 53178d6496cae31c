"""Which job a file is for."""

from __future__ import annotations

import pytest

from aftermix.config import Config
from aftermix.jobs.job_kind import NEEDED, find_job_kind, list_missing_sections, list_sections


@pytest.mark.parametrize(
    ("sections", "job"),
    [
        ("vectors", "merge"),
        ("base vectors", "merge"),
        ("base", "merge"),
        ("base evaluate", "evaluate"),
        ("base vectors evaluate", "search"),
        ("vectors evaluate train", "search"),
        ("base vectors evaluate mixture train", "mixture"),
        ("base vectors mixture", "mixture"),
        ("base train", "train"),
        ("base evaluate train", "train"),
    ],
)
def test_the_job_follows_from_the_sections(sections: str, job: str) -> None:
    assert find_job_kind(sections.split()) == job


def test_missing_sections_are_those_that_the_job_refuses() -> None:
    told = [str(problem) for problem in list_missing_sections("search", {"vectors"})]
    assert told == [
        f"{name}: missing from the YAML file. Add `{name}:`; see docs/configuration.md."
        for name in ("base", "evaluate")
    ]
    assert not list_missing_sections("mixture", NEEDED["mixture"])


def test_empty_sections_do_not_count() -> None:
    assert list_sections(Config(base="", vectors={})) == set()
    assert list_sections(Config(base="b")) == {"base"}
