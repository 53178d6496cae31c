"""`mixture --table`: the RegMix tables, a made-up one with a known optimum, and refusals with nothing written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aftermix.config import parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.run_table.command import mix_by_table
from aftermix.mixture.surrogates.run_table import RunTable
from aftermix.report.console.run_table import list_run_table_notes
from aftermix.runs.mixture_records import TableMixtureRecord
from conftest import run_cli

REGMIX = Path(__file__).parents[3] / "data" / "regmix"
BEST = np.array([0.6, 0.3, 0.1])


def write_table(path: Path, *, runs: int = 30, loss: bool = True) -> Path:
    """Runs of which the two losses are least together at `BEST`."""
    shares_NK = np.random.default_rng(0).dirichlet(np.ones(3), size=runs)
    distance_N = ((shares_NK - BEST) ** 2).sum(axis=1)
    kind, sign = ("loss", 1) if loss else ("score", -1)
    lines = [f"share.ja,share.math,share.code,{kind}.en,{kind}.zh"]
    lines += [
        ",".join(f"{value:.9f}" for value in (*row, sign * (2 + far), sign * (3 + 2 * far)))
        for row, far in zip(shares_NK, distance_N, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def parse(folder: Path, **sections: Any) -> Any:
    return parse_config(sections, where="file", folder=folder)


@pytest.mark.parametrize("loss", [True, False])
def test_the_optimum_of_a_known_table_is_found(tmp_path: Path, loss: bool) -> None:
    found = read(mix_by_table(write_table(tmp_path / "runs.csv", loss=loss), tmp_path / "out"))
    assert [found["ratios"][name] for name in ("ja", "math", "code")] == pytest.approx(BEST.tolist(), abs=0.06)
    for name, (low, high) in found["optimum"]["share_intervals"].items():
        assert low <= found["ratios"][name] <= high
    assert found["table"]["runs"] == 30
    assert found["table"]["losses"] == (["en", "zh"] if loss else [])
    assert found["proxies"][0]["trained"] == 30
    assert found["proxies"][0]["spearman"] > 0.9
    assert found["capabilities"] == {"en": ["en"], "zh": ["zh"]}


def test_utility_bounds_and_capabilities_are_the_files(tmp_path: Path) -> None:
    config = parse(
        tmp_path,
        mixture={
            "capabilities": {"both": ["en", "zh"]},
            "bounds": {"ja": [0.0, 0.2]},
            "utility": {"normalisation": "raw"},
            "priors": {"ours": {"ja": 0.1, "math": 0.5, "code": 0.4}},
        },
    )
    found = read(mix_by_table(write_table(tmp_path / "runs.csv"), tmp_path / "out", config=config))
    assert found["ratios"]["ja"] == pytest.approx(0.2, abs=0.01)
    assert found["capabilities"] == {"both": ["en", "zh"]}
    assert found["best_run"]["shares"]["ja"] <= 0.2
    lines = (tmp_path / "runs.csv").read_text().splitlines()
    row = [float(cell) for cell in lines[found["best_run"]["line"] - 1].split(",")]
    assert found["best_run"]["utility"] == pytest.approx(-(row[3] + row[4]) / 2)
    inside = [[float(cell) for cell in line.split(",")] for line in lines[1:]]
    assert row == min((each for each in inside if each[0] <= 0.2), key=lambda each: each[3] + each[4])


def test_on_the_regmix_tables_a_few_runs_rank_the_others(tmp_path: Path) -> None:
    tables = {}
    for kind in ("mixture", "pile_loss"):
        with (REGMIX / f"train_{kind}_1m.csv").open(newline="") as stream:
            tables[kind] = list(csv.reader(stream))
    domains = [name.removeprefix("train_the_pile_") for name in tables["mixture"][0][1:]]
    losses = [name.removeprefix("metric/the_pile_").removesuffix("_val_loss") for name in tables["pile_loss"][0][1:]]
    kept = [place for place, name in enumerate(losses, 1) if name in ("pile_cc", "github")]
    losses = [losses[place - 1] for place in kept]
    rows = [
        [*shares[1:], *(values[place] for place in kept)]
        for shares, values in zip(tables["mixture"][1:], tables["pile_loss"][1:], strict=True)
    ]
    path = tmp_path / "runs.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([f"share.{name}" for name in domains] + [f"loss.{name}" for name in losses])
        writer.writerows(rows[:40])

    config = parse(tmp_path, mixture={"utility": {"weights": {"pile_cc": 1}}})
    file = mix_by_table(path, tmp_path / "out", config=config)
    found = read(file)
    assert sum(found["ratios"].values()) == pytest.approx(1)
    assert max(found["ratios"], key=lambda name: found["ratios"][name]) == "pile_cc"
    assert found["proxies"][0]["spearman"] > 0.8, "utility out of fold, on one loss"
    notes = list_run_table_notes(TableMixtureRecord.read(file))
    assert f"Out of fold the surrogates rank the runs with Spearman {found['proxies'][0]['spearman']:.2f}" in notes[2]
    assert found["surrogates"]["pile_cc"]["choice"] in found["surrogates"]["pile_cc"]["candidates"]


def test_a_training_takes_the_ratios(tmp_path: Path) -> None:
    from aftermix.config import TrainConfig
    from aftermix.jobs.train.expert_data import collect_sources

    file = mix_by_table(write_table(tmp_path / "runs.csv", runs=10), tmp_path / "out")
    datasets = {"mixed": {"mixture": str(file), "tokens": 1000}} | {name: f"{name}.jsonl" for name in BEST_NAMES}
    settings = TrainConfig.model_validate({"datasets": datasets})
    assert collect_sources("mixed", settings).ratios == pytest.approx(read(file)["ratios"])


def test_runs_from_before_there_was_a_domain_lie_on_its_face() -> None:
    """The RegMix table with empty cells where a run had nothing of a domain, and one column that no run has any of."""
    with (REGMIX / "train_mixture_1m.csv").open(newline="") as stream:
        header, *rows = [row[1:] for row in csv.reader(stream)][:41]
    names = [f"share.{name.removeprefix('train_the_pile_')}" for name in header]

    def parse_rows(cells: list[list[str]], *further: str) -> RunTable:
        heads = [*names, *further, "score.a"]
        return RunTable.parse("\n".join(",".join(row) for row in [heads, *([*row, "1"] for row in cells)]), where="t")

    full = parse_rows(rows)
    sparse = parse_rows([["" if float(cell) == 0 else cell for cell in row] for row in rows])
    np.testing.assert_array_equal(sparse.shares_NK, full.shares_NK)
    assert full.empty == {}
    assert sparse.empty["arxiv"] == sum(float(row[names.index("share.arxiv")]) == 0 for row in rows) > 0
    assert sum(sparse.empty.values()) == (full.shares_NK == 0).sum()
    with pytest.raises(
        AftermixError, match=r"t, share\.new: no run has a share of 'new', so that nothing is known of it"
    ):
        parse_rows([[*row, ""] for row in rows], "share.new")


BEST_NAMES = ("ja", "math", "code")


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"mixture": {"bounds": {"jaa": [0, 1]}}}, "jaa"),
        ({"mixture": {"utility": {"weights": {"enn": 1}}}}, "expected names among en, zh, found 'enn'"),
        ({"mixture": {"tree": {"all": ["ja", "math"]}}}, "mixture.tree: is searched by merging"),
        ({"vectors": {"ja": {"model": "x"}}}, "vectors: expected the domains of the table .ja, math, code., found ja"),
        (
            {"mixture": {"budget_tokens": 1000, "max_epochs": 1}},
            "vectors.ja.tokens: missing, but `mixture.max_epochs` caps",
        ),
    ],
)
def test_what_the_file_has_wrong_is_told_and_nothing_written(tmp_path: Path, sections: Any, told: str) -> None:
    table = write_table(tmp_path / "runs.csv")
    with pytest.raises(AftermixError, match=told):
        mix_by_table(table, tmp_path / "out", config=parse(tmp_path, **sections))
    assert not (tmp_path / "out").exists()


def test_the_command_prints_ratios_and_what_they_rest_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, file = write_table(tmp_path / "runs.csv"), tmp_path / "limits.yaml"
    file.write_text("mixture: {bounds: {ja: [0.0, 0.2]}}\n")
    assert run_cli("mixture", file, "--table", table, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    for text in (
        "Data ratios in tokens",
        "promised at the optimum by 30 trained runs",
        "Losses, whose sign is changed",
        "best.json",
    ):
        assert text in printed
    assert read(tmp_path / "out" / "best.json")["ratios"]["ja"] <= 0.2

    few = write_table(tmp_path / "few.csv", runs=10)
    assert run_cli("mixture", "--table", few, "-o", tmp_path / "plain", "--json") == 0
    assert json.loads(capsys.readouterr().out)["best"] == read(tmp_path / "plain" / "best.json")

    assert run_cli("mixture", "--table", table, "-o", tmp_path / "again", "--doremi") == 2
    assert "--table takes FILE and -o/--output, a new folder, and of the others --json alone" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_few_runs_a_missing_table_and_an_occupied_folder(tmp_path: Path) -> None:
    with pytest.raises(AftermixError, match="expected at least 5 different mixtures for 3 domains, found 4"):
        mix_by_table(write_table(tmp_path / "runs.csv", runs=4), tmp_path / "out")
    with pytest.raises(AftermixError, match=r"none.csv: expected a CSV in UTF-8, found .*No such file"):
        mix_by_table(tmp_path / "none.csv", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(AftermixError, match="exists and is not empty"):
        mix_by_table(write_table(tmp_path / "runs.csv"), tmp_path / "full")
