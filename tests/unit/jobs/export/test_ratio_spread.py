"""How far the ratios of a run spread: told beside them wherever they are written, with what it is of."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from aftermix.jobs.export.mixture import ExportOptions, export_mixture
from aftermix.jobs.export.ratio_spread import OF_MIXTURE, RatioSpread, read_spread
from support.export_world import RATIOS, ExportWorld, make_export_world

FIXTURE = Path(__file__).parents[3] / "data" / "runs-0a1294b"


def write_best(folder: Path, **record: Any) -> Path:
    (folder / "best.json").write_text(json.dumps(record))
    return folder / "best.json"


def test_a_mixtures_own_intervals_are_taken(tmp_path: Path) -> None:
    best = write_best(
        tmp_path, ratios={"a": 0.56, "b": 0.44}, optimum={"share_intervals": {"a": [0.47, 0.72], "b": [0.28, 0.53]}}
    )
    assert read_spread(best) == RatioSpread({"a": (0.47, 0.72), "b": (0.28, 0.53)}, OF_MIXTURE)
    recorded = read_spread(FIXTURE / "mixture/best.json")
    assert recorded is not None
    assert recorded.bounds["b"] == (0.00018002208817905675, 0.9998155298238771)


def test_of_a_search_it_is_the_range_of_the_finalists_that_were_not_dropped(tmp_path: Path) -> None:
    finalists = [
        {"weights": {"it": 0.5, "a": 0.6, "b": 0.2}},
        {"weights": {"it": 0.5, "a": 0.5, "b": 0.5}},
        {"weights": {"it": 0.5, "a": 0.9, "b": -0.1}, "dropped_after": 1},
        {"weights": {"it": 0.5, "a": -0.2, "b": -0.1}},
    ]
    best = write_best(tmp_path, ratios={"a": 0.75, "b": 0.25}, candidates=finalists)
    source = "lowest and highest of the 2 best trials, as select items leave them"
    assert read_spread(best) == RatioSpread({"a": (0.5, 0.75), "b": (0.25, 0.5)}, source)
    assert read_spread(FIXTURE / "search/best.json") == RatioSpread({"b": (0.5, 0.5), "c": (0.5, 0.5)}, source)


@pytest.mark.parametrize(
    "record",
    [
        {"ratios": {"a": 0.5, "b": 0.5}},
        {"ratios": {"a": 0.5, "b": 0.5}, "candidates": [{"weights": {"a": 1.0, "b": 1.0}}]},
        {"ratios": None, "candidates": []},
        {"ratios": {"a": 1.0}, "candidates": [{"weights": {"a": 1.0}}, {"weights": {"a": 0.5}}]},
    ],
)
def test_where_a_run_tells_none_there_is_none(tmp_path: Path, record: dict[str, Any]) -> None:
    assert read_spread(write_best(tmp_path, **record)) is None


def test_terminal_files_and_table_tell_it(tmp_path: Path) -> None:
    world: ExportWorld = make_export_world(tmp_path)
    ends = {"ja": [0.2, 0.41], "math": [0.4, 0.6], "code": [0.1, 0.3]}
    write_best(world.run, ratios=RATIOS, optimum={"share_intervals": ends})
    said: list[str] = []
    options = ExportOptions(data=world.file, tokens=100_000)
    export_mixture(world.run, tmp_path / "out", to="trl", options=options, log=said.append)

    (line,) = [line for line in said if line.startswith("ja: ")]
    assert line.startswith("ja: 30.00% of the tokens [20%, 41%], 30,000 tokens, ")
    assert said[-1] == f"[lowest, highest]: {OF_MIXTURE}"
    comments = (tmp_path / "out/mixture.yaml").read_text()
    assert f"# {line}\n" in comments
    assert f"# {said[-1]}\n" in comments
    with (tmp_path / "out/mixture.csv").open(newline="") as file:
        rows = {row["domain"]: (row["lowest_ratio"], row["highest_ratio"]) for row in csv.DictReader(file)}
    assert rows == {"ja": ("0.2", "0.41"), "math": ("0.4", "0.6"), "code": ("0.1", "0.3")}

    shutil.rmtree(tmp_path / "out")
    write_best(world.run, ratios=RATIOS)
    export_mixture(world.run, tmp_path / "out", to="trl", options=options, log=lambda _: None)
    assert "lowest" not in (tmp_path / "out/mixture.yaml").read_text()
    assert "lowest" not in (tmp_path / "out/mixture.csv").read_text()
