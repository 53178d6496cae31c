"""Pools, merges and studies as a notebook shows them: short tables, and no name as markup."""

from __future__ import annotations

import re

import pytest

import aftermix


def list_cells(shown: str) -> list[list[str]]:
    """Texts of the cells of a table, row by row."""
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", shown)]


@pytest.fixture
def pool() -> aftermix.Pool:
    vectors = {"ja": "/m/<ja>", "math": {"model": "/m/math", "range": (-0.1, 0.9), "tokens": 2e6, "role": "expert"}}
    return aftermix.Pool("google/gemma-3-270m", vectors, merge={"method": "ties", "density": 0.4})


def test_a_pool_shows_its_vectors(pool: aftermix.Pool) -> None:
    assert list_cells(pool._repr_html_()) == [
        ["vector", "model", "role", "range", "tokens"],
        ["base", "google/gemma-3-270m", "", "", ""],
        ["ja", "/m/&lt;ja&gt;", "expert", "0.00 to 1.00", "–"],  # noqa: RUF001
        ["math", "/m/math", "expert", "−0.10 to 0.90", "2.0 M"],  # noqa: RUF001
    ]
    alone = aftermix.Pool(None, {"a": "/m/a", "b": "/m/b"}, merge={"method": "linear"})
    assert [row[0] for row in list_cells(alone._repr_html_())] == ["vector", "a", "b"]


def test_a_folder_is_called_as_from_here(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    pool = aftermix.Pool("base", {"ja": "../ja"})
    assert [row[1] for row in list_cells(pool._repr_html_())] == ["model", "base", "../ja"]


def test_a_merge_shows_its_method_and_weights(pool: aftermix.Pool) -> None:
    shown = pool.merge({"math": 0.25})._repr_html_()
    assert shown.startswith("<p>ties: density 0.4</p>")
    assert list_cells(shown) == [["vector", "merge weight"], ["ja", "0.00"], ["math", "0.25"]]


def test_a_study_shows_its_best_points(pool: aftermix.Pool) -> None:
    study = aftermix.Study(pool, seed=1)
    assert study._repr_html_() == "<p>0 points told, 0 open</p>"
    points = study.ask(9)
    for point in points[:7]:
        study.tell(point.number, {"task": 2.0 + point.number % 3})
    study.tell(points[7].number, None, error="out of memory")

    shown = study._repr_html_()
    assert shown.startswith("<p>8 points told, 1 open</p>")
    rows = list_cells(shown)
    assert rows[0] == ["best points", "number", "score"]
    assert [row[1:] for row in rows[1:]] == [
        ["2", "4.000"],
        ["5", "4.000"],
        ["1", "3.000"],
        ["4", "3.000"],
        ["0", "2.000"],
    ]
