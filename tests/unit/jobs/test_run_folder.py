"""The day that chat templates are given: the file's, the run's, else today's, and on record."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from aftermix.config import Config, EvaluateConfig
from aftermix.jobs.run_folder import settle_date, write_config


def build_config(**options: Any) -> Config:
    return Config(base="base", evaluate=EvaluateConfig.model_validate({"tasks": ["x"], **options}))


def read_date(config: Config, *, resumed: Path | None = None, source: Path | None = None) -> str | None:
    settled = settle_date(config, resumed=resumed, source=source).evaluate
    assert settled is not None
    return settled.date


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    write_config(tmp_path, build_config(apply_chat_template=True, date="2024-07-26"))
    return tmp_path


def test_a_day_in_the_file_is_taken(earlier: Path) -> None:
    config = build_config(apply_chat_template=True, date="2025-01-02")
    assert read_date(config, source=earlier) == "2025-01-02"


def test_a_run_that_goes_on_keeps_its_day(earlier: Path) -> None:
    config = build_config(apply_chat_template=True)
    assert read_date(config, resumed=earlier) == read_date(config, source=earlier) == "2024-07-26"


def test_a_new_run_takes_today() -> None:
    before, date, after = datetime.now(), read_date(build_config(apply_chat_template=True)), datetime.now()
    assert date in {before.date().isoformat(), after.date().isoformat()}


def test_an_old_run_that_recorded_no_day_goes_on_without(tmp_path: Path) -> None:
    write_config(tmp_path, build_config(apply_chat_template=True))
    assert read_date(build_config(apply_chat_template=True), resumed=tmp_path) is None


def test_without_chat_templates_no_day_is_recorded() -> None:
    assert read_date(build_config()) is None
