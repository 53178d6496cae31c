"""Scores outside the search are measured once, and their files have the names that old runs know."""

from __future__ import annotations

from pathlib import Path

import pytest

from aftermix.config import Split
from aftermix.errors import AftermixError
from aftermix.jobs.search.score_cache import ScoreCache
from aftermix.runs.trials import ItemMeasurement


def test_scores_are_measured_once_by_split_and_name(tmp_path: Path) -> None:
    calls: list[Split] = []

    def measure(split: Split) -> ItemMeasurement:
        calls.append(split)
        return ItemMeasurement({"x": [0.5, 1.0]}, {"combine": 1.0, "evaluate": 2.0})

    for _ in range(2):
        cache = ScoreCache(tmp_path, ["x"])
        assert cache.scores("math + 0.6 it", "test", measure) == {"x": [0.5, 1.0]}
        assert cache.scores("math + 0.6 it", "select", measure) == {"x": [0.5, 1.0]}

    assert calls == ["test", "select"]
    assert cache.seconds == {}, "what is kept costs nothing"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("base", "base-f5773589.json"),
        ("math + 0.6 it", "math-0-6-it-9dec6b91.json"),
        ("mixture 1a29e11802f1ba56", "mixture-1a29e11802f1ba56-40c953f0.json"),
        ("Ü_b", "ü-b-58e5d076.json"),
    ],
)
def test_file_names_are_those_of_old_runs(name: str, file: str, tmp_path: Path) -> None:
    ScoreCache(tmp_path, ["x"]).scores(name, "test", lambda _: ItemMeasurement({"x": [1.0]}, {}))
    assert [path.name for path in tmp_path.rglob("*.json")] == [file]


def test_scores_without_a_task_are_refused_by_the_name(tmp_path: Path) -> None:
    with pytest.raises(AftermixError, match="baseline 'base'"):
        ScoreCache(tmp_path, ["x"]).scores("base", "test", lambda _: ItemMeasurement({}, {}))
    assert not list(tmp_path.rglob("*.json"))
