"""The page on texts as a task: its file is searched by response, resumed, predicted, and mixed."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftermix.runs.journal import read_items
from conftest import run_cli

PAGE = (Path(__file__).parents[2] / "docs/how-to/texts.md").read_text(encoding="utf-8")
FILE = re.search(r"^`bits\.yaml`:\n\n```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
WORDS = ["the", "sum", "of", "the", "numbers", "is", "even", "and", "the", "answer", "is", "one", "of", "these"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, untied_family: Mapping[str, Path]) -> Path:
    """The page's file, with tiny models and forty-five documents a task."""
    folder, draw = tmp_path_factory.mktemp("texts"), random.Random(0)
    assert FILE is not None
    (folder / "bits.yaml").write_text(FILE[1])
    (folder / "models").mkdir()
    for name, of_family in {"base": "base", "ja": "a", "math": "b"}.items():
        (folder / "models" / name).symlink_to(untied_family[of_family])

    texts = [" ".join(draw.choices(WORDS, k=draw.randint(2, 40))) + f" {number}" for number in range(90)]
    (folder / "data/ja").mkdir(parents=True)
    (folder / "data/notes").mkdir()
    for part in (0, 1):
        rows = [json.dumps({"body": text}) + "\n" for text in texts[part:45:2]]
        (folder / f"data/ja/{part}.jsonl").write_text("".join(rows))
    for number, text in enumerate([" ", *texts[45:]]):
        (folder / f"data/notes/{number:02}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def run(world: Path) -> Path:
    assert run_cli("search", world / "bits.yaml", "-o", world / "run") == 0
    return world / "run"


def read_trials(run: Path) -> list[dict[str, Any]]:
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in trials]


def test_it_is_examined_planned_and_shown(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("doctor",), ("plan",), ("evaluate", "--show", 5)):
        assert run_cli(command[0], world / "bits.yaml", *command[1:]) == 0
    shown = capsys.readouterr().out
    assert "task 'ja_wiki': search 20, select 10, test 15" in shown
    assert "ja_wiki: search 20, select 10, test 15" in shown
    assert "points and more" not in shown
    assert "lm-eval warns" not in shown
    assert "task 'notes': 1 blank document left out" in shown
    assert "tokens, all of them scored, in 2 windows" in shown


def test_a_search_by_response_maximises_minus_bits_per_byte(run: Path) -> None:
    trials, best = read_trials(run), json.loads((run / "best.json").read_text())
    assert {trial["strategy"] for trial in trials} == {"response"}
    assert all(trial["objective"] < 0 for trial in trials)
    assert best["metrics"] == {"ja_wiki": "bits_per_byte,none", "notes": "bits_per_byte,none"}
    for task, score in best["response"]["tasks"].items():
        assert score["spearman"] > 0.8, task

    items = read_items(run, "search", 0)["ja_wiki"]
    assert trials[0]["scores"]["ja_wiki"] == pytest.approx(
        sum(score * weight for score, weight in zip(items, items.weights, strict=True)) / sum(items.weights)  # type: ignore[attr-defined, operator]
    )
    test = best["test"]["tasks"]["ja_wiki"]
    assert test["interval"][0] < test["score"] < test["interval"][1] < 0
    assert test["items"] == 15
    sizes = [
        len(json.loads(line)["body"].encode())
        for part in (0, 1)
        for line in (run.parent / f"data/ja/{part}.jsonl").read_text().splitlines()
    ]
    split = json.loads((run / "items/split.json").read_text())["ja_wiki"]
    assert test["bytes"] == sum(sizes[int(item.rpartition("/")[2])] for item in split["test"])
    request_kinds = json.loads((run / "items/requests.json").read_text())
    assert {(task["kind"], task["length"]) for task in request_kinds.values()} == {("reference", "bytes")}


def test_a_run_that_was_cut_short_goes_on_to_the_same_trials(world: Path, run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    lines = (copied / "trials.jsonl").read_text().splitlines(keepends=True)
    (copied / "trials.jsonl").write_text("".join(lines[:3]))
    for name in ("best.json", "report.html", "response.json", "response.safetensors"):
        (copied / name).unlink()
    for path in (copied / "items/search").glob("0000[3-9]*"):
        path.unlink()
    assert run_cli("search", world / "bits.yaml", "--resume", copied) == 0
    assert read_trials(copied) == read_trials(run)


def test_another_document_ends_a_resume_and_another_path_starts_from_it(
    world: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, note = yaml.safe_load((world / "bits.yaml").read_text()), world / "data/notes/01.txt"
    values["evaluate"]["tasks"][1]["text"] = str(shutil.copytree(world / "data/notes", tmp_path / "notes"))
    (world / "moved.yaml").write_text(yaml.safe_dump(values))
    before = note.read_text()
    note.write_text("another text")
    assert run_cli("search", world / "bits.yaml", "--resume", run) == 2
    assert "task 'notes'" in capsys.readouterr().err
    note.write_text(before)

    assert run_cli("search", world / "moved.yaml", "-o", tmp_path / "warm", "--from", run) == 0
    taken = [trial for trial in read_trials(tmp_path / "warm") if "#" in trial["origin"]]
    assert [trial["scores"] for trial in taken] == [trial["scores"] for trial in read_trials(run)]


def test_a_merge_is_predicted_and_evaluated(world: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("predict", run, "--weights", "ja=0.4,math=0.6", "--json") == 0
    predicted = json.loads(capsys.readouterr().out)["tasks"]
    values = yaml.safe_load((world / "bits.yaml").read_text())
    for name, weight in {"ja": 0.4, "math": 0.6}.items():
        values["vectors"][name] = {"model": f"models/{name}", "weight": weight}
    values["merge"]["exclude"] = ["kind:embeddings", "kind:head", "kind:positions"]  # as a search does by itself
    (world / "at.yaml").write_text(yaml.safe_dump(values))
    assert run_cli("evaluate", world / "at.yaml", "--split", "search", "--json") == 0
    measured = json.loads(capsys.readouterr().out)["tasks"]
    for task in ("ja_wiki", "notes"):
        assert predicted[task]["mean"] == pytest.approx(measured[task]["score"], abs=2e-3)
    assert run_cli("evaluate", world / "at.yaml", "--split", "search") == 0
    shown = capsys.readouterr().out
    assert (
        f"on 20 items: {-measured['notes']['score']:.3f} bits per byte over {measured['notes']['bytes']:,} bytes"
        in shown
    )


@pytest.mark.whole
def test_a_mixture_weighs_texts_and_is_compared_with_the_search(
    world: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load((world / "bits.yaml").read_text())
    for vector in values["vectors"].values():
        del vector["range"]
    values["mixture"] = {"points": 6}
    (world / "mixture.yaml").write_text(yaml.safe_dump(values))
    assert run_cli("mixture", world / "mixture.yaml", "-o", world / "mixed") == 0
    best = json.loads((world / "mixed/best.json").read_text())
    assert set(best["test"]["capabilities"]) == {"ja_wiki", "notes"}
    assert all(entry["score"] < 0 for entry in best["test"]["capabilities"].values())
    assert sum(best["ratios"].values()) == pytest.approx(1)

    # Two runs are compared by what their winners scored on the documents that both have: here the same test items.
    capsys.readouterr()
    assert run_cli("compare", run, world / "mixed", "--json") == 0
    found, ours = json.loads(capsys.readouterr().out), json.loads((run / "best.json").read_text())
    for task, entry in found["tasks"].items():
        means = [each["test"]["tasks"][task]["score"] for each in (ours, best)]
        assert (entry["a"], entry["b"]) == pytest.approx(means)
        assert entry["difference"] == pytest.approx(means[0] - means[1])
        assert entry["documents"] == entry["clusters"] == 15
        assert entry["unmatched"] == {"a": 0, "b": 0}
        assert entry["interval"][0] <= entry["difference"] <= entry["interval"][1]
    assert run_cli("compare", run, world / "mixed", "--split", "select") == 0
    assert "on 10 documents" in capsys.readouterr().out


def test_a_run_whose_documents_changed_is_compared_with_nothing(
    world: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = world / "data/notes/01.txt"
    before = note.read_text()
    note.write_text("another text")
    assert run_cli("compare", run, run) == 2
    assert "its documents of task 'notes' are not those that lie there now" in capsys.readouterr().err
    note.write_text(before)
