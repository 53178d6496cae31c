"""Which job a file is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from aftermix.config import Config, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.job_kind import NEEDED, find_job_kind, list_missing_sections, list_sections
from aftermix.jobs.plan.command import plan
from aftermix.jobs.train.command import train


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


def test_a_section_of_sources_alone_is_data_and_trains_nothing(tmp_path: Path) -> None:
    """A file for an export or for mixtures may have it; a training, its plan and doctor say what is missing."""
    values = {"base": "./base", "train": {"sources": {"web": "web.jsonl", "ja": "ja.jsonl"}}}
    config = parse_config(values, where="data.yaml", folder=tmp_path)
    told = (
        "train: names no dataset, only sources (web, ja), on which no expert is trained. Name those to train an expert"
    )
    for job in (lambda: train(config, tmp_path / "out"), lambda: plan(config)):
        with pytest.raises(AftermixError) as error:
            job()
        assert str(error.value).startswith(told)
    assert any(str(problem).startswith(told) for problem in doctor(config).problems)
    assert not (tmp_path / "out").exists()
    with pytest.raises(AftermixError, match="train: expected at least one of `datasets`, each an expert, or of `sou"):
        parse_config({"train": {}}, where="data.yaml", folder=tmp_path)
