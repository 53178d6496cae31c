"""`compare:` on real parts: models, merges and trainings beside the winner of a search, scored, resumed, refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftermix.config import load_config
from aftermix.jobs.search.command import search
from conftest import run_cli

Family = Mapping[str, Path]
Json = dict[str, Any]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "compare.md"
MEMBERS = {"base": "base", "it": "a", "colours": "b", "numbers": "c", "last-month": "b"}
"""Members of the family that stand for the models of the page."""
EXPERT_TOKENS = 320


def write_file(folder: Path, family: Family, tasks: Path, rows: Json | None = None) -> Path:
    """The file of the page over the family, on little data; `rows` in place of its own."""
    text = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert text is not None
    found = {name: str(family[member]) for name, member in MEMBERS.items()}
    values = yaml.safe_load(re.sub(r"models/([\w-]+)", lambda model: found[model[1]], text[1]))
    if rows is not None:
        values["compare"] = rows

    for domain in ("colours", "numbers"):
        words = {"colours": "the sum of the numbers is even ", "numbers": "one of these is the answer "}[domain]
        lines = [json.dumps({"text": words * (2 + number % 3)}) + "\n" for number in range(40)]
        (folder / f"{domain}.jsonl").write_text("".join(lines))
        values["train"]["datasets"][domain] = {"data": f"{domain}.jsonl", "tokens": EXPERT_TOKENS}
        values["vectors"][domain]["tokens"] = EXPERT_TOKENS
    values["evaluate"] |= {"include_path": str(tasks), "threads": 1}
    values["train"] |= {"device": "cpu", "threads": 1}
    path = folder / "aftermix.yaml"
    path.write_text(json.dumps(values))
    return path


def best_of(run: Path) -> Json:
    found: Json = json.loads((run / "best.json").read_text())
    return found


def rows_of(run: Path) -> dict[str, Json]:
    return {row["name"]: row for row in best_of(run)["compared"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, family: Family, tasks: Path) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    return search(load_config(write_file(folder, family, tasks)), folder / "run")


def test_the_fixed_expert_stays_where_it_is(finished: Path) -> None:
    trials = [json.loads(line) for line in (finished / "trials.jsonl").read_text().splitlines()]
    assert {trial["weights"]["colours"] for trial in trials if trial["origin"] not in ("base", "single")} == {1.0}
    assert best_of(finished)["weights"]["colours"] == 1.0


def test_rows_stand_beside_the_winner_on_its_own_test_items(finished: Path) -> None:
    best, rows = best_of(finished), rows_of(finished)
    assert list(rows) == ["datamix", "again", "last-month", "chatty", "by-hand"]
    for row in rows.values():
        expected = best["test"]["objective"][0] - row["test"]["objective"][0]
        assert row["difference"]["objective"][0] == pytest.approx(expected)
        assert {task["items"] for task in row["test"]["tasks"].values()} == {20}
    assert (rows["last-month"]["instruction"], rows["last-month"]["note"]) == (None, None)
    assert rows["chatty"]["instruction"] == {"vector": "it", "weight": 0.6, "tuned": False}
    assert rows["chatty"]["test"] != rows["last-month"]["test"]
    assert rows["by-hand"]["weights"] == {"it": 0.25, "colours": 0.5, "numbers": 0.0}


@pytest.mark.parametrize("row", ["last-month", "by-hand"])
def test_a_row_scores_what_evaluate_says(finished: Path, family: Family, tmp_path: Path, capsys: Any, row: str) -> None:
    """A finished model is whole; a merge leaves out what the search leaves out."""
    values = json.loads((finished.parent / "aftermix.yaml").read_text())
    weights = {"last-month": {"b": 1.0}, "by-hand": {"a": 0.25, "b": 0.5}}[row]
    exclude = [] if row == "last-month" else ["kind:embeddings", "kind:head", "kind:positions"]
    vectors = {name: {"model": str(family[name]), "weight": weight} for name, weight in weights.items()}
    alone = {"base": values["base"], "evaluate": values["evaluate"], "vectors": vectors, "merge": {"exclude": exclude}}
    (tmp_path / "alone.yaml").write_text(json.dumps(alone))
    assert run_cli("evaluate", tmp_path / "alone.yaml", "--split", "test", "--json") == 0
    told = {name: task["score"] for name, task in json.loads(capsys.readouterr().out)["tasks"].items()}
    assert told == {name: task["score"] for name, task in rows_of(finished)[row]["test"]["tasks"].items()}


def test_trainings_are_run_once_and_told_with_their_cost(finished: Path) -> None:
    rows = rows_of(finished)
    datamix, again = rows["datamix"], rows["again"]
    assert datamix["ratios"] == {"colours": 0.5, "numbers": 0.5}
    assert again["ratios"] == best_of(finished)["ratios"]
    assert (datamix["note"], again["note"]) == ("one training", "mean of 2 trainings")
    assert [model["seed"] for model in again["trained"]] == [0, 1]
    for row in (datamix, again):
        for model in row["trained"]:
            record = json.loads((finished / model["folder"] / "train.json").read_text())
            given = {name: part["share"] for name, part in record["data"]["mixture"].items()}
            assert given == pytest.approx({name: share for name, share in row["ratios"].items() if share}, abs=0.05)
            assert (record["tokens"], record["seed"]) == (model["tokens"], model["seed"])
    means = [model["test"]["objective"][0] for model in again["trained"]]
    assert again["test"]["objective"][0] == pytest.approx(sum(means) / 2)

    assert datamix["instruction"]["vector"] == "it"
    assert datamix["instruction"]["tuned"] is True
    assert datamix["instruction"]["weight"] in (0.2, 0.4, 0.6, 0.8, 1.0)
    assert datamix["cost"]["tokens_trained"] == 2 * EXPERT_TOKENS, "as many as both experts together"
    assert again["cost"]["tokens_trained"] == 4 * EXPERT_TOKENS
    test, select = (rows["last-month"]["cost"]["tokens_evaluated"], datamix["cost"]["tokens_evaluated"])
    assert again["cost"]["tokens_evaluated"] == 2 * test
    assert test < select, "five weights were tried on select items"
    assert rows["by-hand"]["cost"]["tokens_trained"] == 0
    assert rows["last-month"]["cost"]["tokens_trained"] is None, "nobody knows"
    assert all(row["cost"]["seconds"] > 0 for row in rows.values())


def test_a_run_that_goes_on_repeats_nothing_and_takes_other_rows(
    finished: Path, family: Family, tasks: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "best.json").unlink()
    lost = sorted((run / "items" / "test" / "baselines").glob("compared-*.json"))[0]
    lost.unlink()
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}
    (tmp_path / "later").mkdir()
    written = json.loads((finished.parent / "aftermix.yaml").read_text())["compare"]
    rows = {name: row for name, row in written.items() if name != "chatty"} | {"other": {"model": str(family["c"])}}
    search(load_config(write_file(tmp_path / "later", family, tasks, rows)), run, resume=True)

    kept = [file for file in before if "compared-" in file.name or "trained" in file.parts]
    assert len(kept) > 10
    assert {file.stem for file in kept if before[file] != file.stat().st_mtime_ns} <= {lost.stem}
    ours, theirs = rows_of(run), rows_of(finished)
    assert list(ours) == list(rows)
    for name in ours.keys() & theirs.keys():
        assert {**ours[name], "cost": None} == {**theirs[name], "cost": None}
        assert ours[name]["cost"]["tokens_evaluated"] == theirs[name]["cost"]["tokens_evaluated"]


def test_plan_and_doctor_count_the_rows_before_anything_is_paid(finished: Path, capsys: Any) -> None:
    file = finished.parent / "aftermix.yaml"
    assert run_cli("plan", file, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    # Five weights are tuned for `datamix`; six models are tested, two of them of `again`.
    assert told["measurements"]["select"] == 1 + 5
    assert told["measurements"]["test"] == 1 + 6
    assert (told["compared"], told["compared_tokens"]) == (5, 3 * 2 * EXPERT_TOKENS)
    assert told["compared_trainings"] == "trainings: datamix 640 tokens, again 2 x 640 tokens"
    assert told["compared_tokens_per_s"] > 0

    assert run_cli("doctor", file) == 0
    assert (
        "compare: 5 models beside the winner, trainings: datamix 640 tokens, again 2 x 640" in capsys.readouterr().out
    )


def test_doctor_plan_and_search_refuse_the_same_row(family: Family, tasks: Path, tmp_path: Path, capsys: Any) -> None:
    file = write_file(tmp_path, family, tasks, {"x": {"train": {"ratios": {"colours": 0.5, "shapes": 0.5}}}})
    before = sorted(tmp_path.rglob("*"))
    for command in (["doctor", file], ["plan", file], ["search", file, "-o", tmp_path / "run"]):
        assert run_cli(*command) == 2
        shown = capsys.readouterr()
        assert "compare.x.train: no data of domain 'shapes'; known are: colours, numbers" in " ".join(
            (shown.out + shown.err).split()
        )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.whole
def test_a_mixture_has_rivals_too(family: Family, tasks: Path, tmp_path: Path, capsys: Any) -> None:
    rows = {"datamix": {"train": {"ratios": "found"}, "instruction": 0.5}, "even": {"weights": {"it": 0.5}}}
    file = write_file(tmp_path, family, tasks, rows)
    values = json.loads(file.read_text())
    values["vectors"]["it"]["weight"] = 0.5
    values["mixture"] = {"points": 5, "repeats": 0, "verify": 0}
    file.write_text(json.dumps(values))

    assert run_cli("mixture", file, "-o", tmp_path / "run") == 0
    best, found = best_of(tmp_path / "run"), rows_of(tmp_path / "run")
    assert found["datamix"]["ratios"] == best["ratios"]
    assert found["datamix"]["instruction"] == {"vector": "it", "weight": 0.5, "tuned": False}
    for row in found.values():
        expected = best["test"]["utility"]["value"] - row["test"]["utility"]["value"]
        assert row["difference"]["utility"]["value"] == pytest.approx(expected)
        assert set(row["test"]["capabilities"]) == {"colours", "numbers"}
    assert "Compared models, on the same test items" in capsys.readouterr().out
