"""What a run records and a resumed one takes up: the day that chat templates are given, and how points are proposed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from aftermix.config import Config, EvaluateConfig, SearchConfig, as_yaml_values
from aftermix.jobs.run_folder.opening import read_run_config, write_config
from aftermix.jobs.run_folder.settling import settle_for_run
from aftermix.runs.reader import read_run


def build_config(**options: Any) -> Config:
    return Config(base="base", evaluate=EvaluateConfig.model_validate({"tasks": ["x"], **options}))


def read_date(config: Config, *, resumed: Path | None = None, source: Path | None = None) -> str | None:
    settled = settle_for_run(config, resumed=resumed, source=source).evaluate
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


def settle(run: Path | None, **search: Any) -> tuple[str, int, int | None]:
    config = Config(base="base", search=SearchConfig.model_validate(search))
    settled = settle_for_run(config, resumed=run, source=None).search
    return settled.strategy, settled.batch, settled.startup


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, ("response", 4, None)),
        ({"batch": 1, "startup": 7}, ("response", 1, 7)),
        ({"strategy": "tpe"}, ("tpe", 4, 20)),
        ({"strategy": "random", "startup": None}, ("random", 4, 20)),
    ],
)
def test_a_run_records_how_its_points_are_proposed(tmp_path: Path, written: dict[str, Any], expected: Any) -> None:
    assert settle(None, **written) == expected
    strategy, batch, startup = expected
    write_config(tmp_path, Config(search=SearchConfig(strategy=strategy, batch=batch, startup=startup)))
    assert settle(tmp_path) == expected
    assert settle(tmp_path, startup=None, batch=batch) == expected
    assert settle(tmp_path, batch=9)[1] == 9  # which the comparison with the run then refuses


def test_a_run_of_old_proposes_one_at_a_time_whatever_the_default(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("base: base\nsearch: {trials: 6, startup: 5}\n")
    assert settle(tmp_path) == ("tpe", 1, 5)
    assert settle(tmp_path, trials=9, startup=20) == ("tpe", 1, 20)
    for config in (read_run_config(tmp_path), read_run(tmp_path).config):
        assert (config.search.strategy, config.search.batch) == ("tpe", 1)
    write_config(tmp_path, settle_for_run(read_run_config(tmp_path), resumed=tmp_path, source=None))
    assert settle(tmp_path) == ("tpe", 1, 5)


def test_the_paper_preset_goes_with_no_other_strategy() -> None:
    with pytest.raises(ValueError, match="`preset: paper` is `strategy: tpe`, found `strategy: random`"):
        SearchConfig(preset="paper", strategy="random")
    assert SearchConfig(preset="paper").points_at_once == 1


def read_small(config: Config, *, resumed: Path | None = None, source: Path | None = None) -> str | None:
    """The split of small tasks that a run of `config` records; None for none."""
    settled = settle_for_run(config, resumed=resumed, source=source)
    written: dict[str, Any] = as_yaml_values(settled)["evaluate"]["items"]
    return written.get("small")


def test_a_new_run_records_how_small_tasks_are_split_and_keeps_it(tmp_path: Path) -> None:
    assert read_small(build_config()) == "even"
    assert read_small(build_config(items={"seed": 3, "small": "proportion"})) == "proportion"
    write_config(tmp_path, settle_for_run(build_config(), resumed=None, source=None))
    assert read_small(build_config(), resumed=tmp_path) == "even"
    assert read_small(build_config(items={"small": "proportion"}), resumed=tmp_path) == "proportion"  # then refused


def test_a_run_of_old_goes_on_and_is_started_from_with_the_split_that_it_had(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("base: base\nevaluate: {tasks: [x], items: {seed: 4}}\n")
    assert read_small(build_config(), resumed=tmp_path) == "proportion"
    assert read_small(build_config(), source=tmp_path) == "proportion"
    assert read_small(build_config(items={"small": "even"}), source=tmp_path) == "even"
    for config in (read_run_config(tmp_path), read_run(tmp_path).config):
        assert config.evaluate is not None
        assert config.evaluate.items.small == "proportion"


def test_a_file_that_states_counts_records_nothing_more(tmp_path: Path) -> None:
    for items in ({"search": 20}, {"test": "rest"}, {"select": 300, "seed": 1}):
        config = build_config(items=items)
        settled = settle_for_run(config, resumed=None, source=None)
        assert as_yaml_values(settled)["evaluate"] == as_yaml_values(config)["evaluate"]
    (tmp_path / "config.yaml").write_text("base: base\nevaluate: {tasks: [x], items: {search: 20}}\n")
    config = read_run_config(tmp_path)
    settled = settle_for_run(config, resumed=tmp_path, source=None)
    assert as_yaml_values(settled)["evaluate"] == as_yaml_values(config)["evaluate"]
