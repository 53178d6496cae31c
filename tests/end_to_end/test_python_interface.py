"""A search, a score and a run folder from Python: the same files and figures as by the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

import aftermix
from aftermix.errors import AftermixError
from conftest import run_cli

Family = Mapping[str, Path]
ITEMS = {"search": 12, "select": 6, "test": 8}
ROW = ["number", "state", "origin", "objective", "weights.a", "weights.b", "scores.colours", "scores.numbers"]


@pytest.fixture(scope="module")
def pool(family: Family) -> aftermix.Pool:
    return aftermix.Pool(family["base"], {"a": family["a"], "b": family["b"]}, merge={"exclude": []})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pool: aftermix.Pool, tasks: Path) -> aftermix.Run:
    return aftermix.search(
        pool,
        output=tmp_path_factory.mktemp("api") / "run",
        tasks=["colours", "numbers"],
        include_path=str(tasks),
        items=ITEMS,
        threads=1,
        ranges={"b": (0.2, 0.8)},
        trials=8,
        startup=8,
        top=2,
        baselines=False,
    )


def test_a_run_shows_its_trials_and_items(run: aftermix.Run) -> None:
    assert repr(run) == f"Run({str(run.path)!r}, 8 trials, finished)"
    assert list(run.trials.columns) == [*ROW, "seconds.combine", "seconds.evaluate", "seconds.overhead"]
    items = run.items()
    assert list(items.columns) == ["number", "task", "item", "score"]
    means = items.groupby(["number", "task"])["score"].mean().unstack()
    assert means["colours"].tolist() == pytest.approx(run.trials["scores.colours"].tolist())
    assert set(run.items("select")["number"]) == {candidate.trial for candidate in run.best.candidates}
    assert run.items("test").empty


def test_the_result_is_that_of_the_files(run: aftermix.Run) -> None:
    stored = json.loads((run.path / "best.json").read_text())
    assert run.best is not None
    assert run.best.weights == stored["weights"]
    assert run.ratios == stored["ratios"]
    assert run.config.search.trials == 8
    assert "<table>" in run._repr_html_()
    assert f"{stored['weights']['a']:.2f}" in run._repr_html_()
    assert list(run.charts) == ["progress", "space", "optimism"]


def test_the_command_line_reads_and_predicts_the_same(run: aftermix.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("predict", run.path, "--weights", "a=0.3", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(run.predict({"a": 0.3}).to_bytes())
    shown = run.predict({"a": 0.3})._repr_html_()
    assert "log-likelihoods" in shown
    assert "colours</td>" in shown
    assert "<iframe" in run.desk()._repr_html_()
    with pytest.raises(AftermixError, match=r"expected a vector of the run \(a, b\), found 'c'"):
        run.predict({"c": 0.3})


def test_a_finished_run_is_told_again_as_json(run: aftermix.Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_cli("search", "--resume", run.path, "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert document["best"] == json.loads((run.path / "best.json").read_text())
    assert (document["run"], document["report"]) == (str(run.path), str(run.path / "report.html"))


def test_a_merge_of_the_run_is_the_winner_again(run: aftermix.Run, tmp_path: Path) -> None:
    assert run.best is not None
    saved = run.merge(run.best.weights).save(tmp_path / "again")
    assert (saved / "model.safetensors").read_bytes() == (run.path / "model" / "model.safetensors").read_bytes()


def test_an_unfinished_run_opens_and_goes_on(run: aftermix.Run, pool: aftermix.Pool) -> None:
    (run.path / "best.json").rename(run.path / "kept.json")
    assert repr(aftermix.open_run(run.path)).endswith("8 trials, unfinished)")
    assert aftermix.open_run(run.path).best is None
    again = aftermix.search(run.path / "config.yaml", output=run.path, resume=True)
    assert json.loads((run.path / "best.json").read_text())["weights"] == again.best.weights
    (run.path / "kept.json").unlink()


def test_trials_of_the_command_line_count_before_those_of_the_run(
    run: aftermix.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("search", "--resume", run.path, "--trials", 10) == 0
    again = aftermix.open_run(run.path)
    assert len(again.trials) == again.config.search.trials == 10
    assert again.trials.iloc[:8].equals(run.trials)

    # A refusal names what was given, and what the budget has to hold.
    assert run_cli("search", "--resume", run.path, "--budget-tokens", 1) == 2
    assert "search.budget_tokens" in capsys.readouterr().err


def test_a_score_is_that_of_the_winner(run: aftermix.Run, pool: aftermix.Pool, tasks: Path) -> None:
    assert run.best is not None
    scores = aftermix.evaluate(
        pool,
        weights=run.best.weights,
        tasks=["colours", "numbers"],
        include_path=str(tasks),
        items=ITEMS,
        threads=1,
    )
    assert scores.objective == run.best.test.objective
    assert f"{100 * scores.tasks['numbers'].score:.1f}" in scores._repr_html_()
    assert {name: task.score for name, task in scores.tasks.items()} == {
        name: task.score for name, task in run.best.test.tasks.items()
    }


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AftermixError, match=r"expected a run folder, found no such folder"):
        aftermix.open_run(tmp_path / "none")
