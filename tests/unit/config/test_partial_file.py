"""What of a file is usable beside its faults, and which faults are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aftermix.config.partial_file import PartialConfig, parse_partial_config


def read(values: dict[str, Any], folder: Path) -> PartialConfig:
    return parse_partial_config(values, where="file.yaml", folder=folder)


def test_a_misspelt_key_stands_for_the_one_that_is_meant(tmp_path: Path) -> None:
    values = {"vectors": {"a": {"model": "./a", "wieght": 0.4}}, "evaluate": {"tasks": ["x"], "include_paht": "t"}}
    partial = read(values, tmp_path)
    assert partial.config.vectors["a"].weight == 0.4
    assert partial.config.vectors["a"].model == str(tmp_path / "a")
    assert partial.config.evaluate is not None
    assert partial.config.evaluate.include_path == str(tmp_path / "t")
    told = [str(problem) for problem in partial.problems]
    assert [text.partition(". ")[0] for text in told] == [
        "file.yaml: vectors.a.wieght: is not a known key",
        "file.yaml: evaluate.include_paht: is not a known key",
    ]
    assert told[0].endswith(". Did you mean `weight`?")
    assert told[1].endswith(". Did you mean `include_path`?")


def test_a_misspelt_key_beside_the_right_one_changes_nothing(tmp_path: Path) -> None:
    partial = read({"vectors": {"a": {"model": "./a", "weight": 0.1, "weigth": 0.9}}}, tmp_path)
    assert partial.config.vectors["a"].weight == 0.1
    assert len(partial.problems) == 1


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({"base": "./b", "search": {"trials": -1, "top": 2}}, {"base", "search"}),
        ({"base": "./b", "evaluate": {"tasks": []}}, {"base"}),
        ({"base": "./b", "vectors": {"a": {"weight": 1}, "c": {"model": "./c"}}}, {"base", "vectors"}),
        ({"base": "./b", "train": {"datasets": {"x": {"data": "x", "mixture": {"y": 1}}}}}, {"base"}),
        ({"base": ["./b"], "vectors": {"c": {"model": "./c"}}}, {"vectors"}),
        ({"base": "./b", "search": {"over": {"density": [[0.1], None, 0.3, {}]}}}, {"base", "search"}),
    ],
)
def test_what_is_wrong_alone_is_left_out(values: dict[str, Any], left: set[str], tmp_path: Path) -> None:
    partial = read(values, tmp_path)
    assert partial.problems
    assert {name for name in ("base", "vectors", "search", "evaluate", "train") if name in usable(partial)} == left
    assert partial.written == set(values)


def usable(partial: PartialConfig) -> set[str]:
    return {name for name in partial.config.model_fields_set if getattr(partial.config, name)}


def test_a_sound_file_is_read_whole(tmp_path: Path) -> None:
    partial = read({"base": "./b", "vectors": {"a": {"model": "./a"}}}, tmp_path)
    assert not partial.problems
    assert partial.config.base == str(tmp_path / "b")


def test_a_file_of_another_kind_leaves_nothing(tmp_path: Path) -> None:
    partial = read({"model": "x", "lora": {}}, tmp_path)
    assert len(partial.problems) == 2
    assert not usable(partial)
