"""A search by response on real parts: what it proposes and certifies, resumed, asked for another merge or objective."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aftermix.config import load_config
from aftermix.jobs.search.command import search
from aftermix.jobs.search.predict import predict
from aftermix.runs.answers.response_files import read_response_files
from conftest import run_cli

Family = Mapping[str, Path]


def write_file(folder: Path, family: Family, tasks: Path, *, name: str = "file.yaml", **search_options: Any) -> Path:
    values = {
        "base": str(family["base"]),
        "vectors": {"a": {"model": str(family["a"])}, "b": {"model": str(family["b"]), "range": [0.2, 0.8]}},
        "merge": {"method": "task_arithmetic", "exclude": []},
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(tasks),
            "items": {"search": 30, "select": 10, "test": 10},
            "threads": 1,
        },
        "search": {"trials": 11, "startup": 7, "batch": 2, "top": 2, "baselines": False, **search_options},
    }
    path = folder / name
    path.write_text(json.dumps(values))
    return path


def read_trials(run: Path) -> list[dict[str, Any]]:
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in trials]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, family: Family, tasks: Path) -> Path:
    folder = tmp_path_factory.mktemp("response")
    return search(load_config(write_file(folder, family, tasks)), folder / "run")


def test_a_short_first_design_has_base_priors_and_scattered_merges(finished: Path) -> None:
    first = read_trials(finished)[:7]
    assert first[0]["origin"] == "base"
    assert first[0]["weights"] == {"a": 0.0, "b": 0.0}
    assert {trial["origin"] for trial in first} == {"base", "prior", "startup"}
    assert {trial["strategy"] for trial in first} == {"response"}
    # Base and vector a alone lie outside the range of b: looked at, and never chosen.
    outside = [trial for trial in first if not 0.2 <= trial["weights"]["b"] <= 0.8]
    assert outside
    assert not any(trial["feasible"] for trial in outside)
    best = json.loads((finished / "best.json").read_text())
    assert 0.2 <= best["weights"]["b"] <= 0.8


def test_batches_are_recorded_with_the_strategy_that_proposed_them(finished: Path) -> None:
    later = read_trials(finished)[7:]
    assert {(trial["strategy"], trial["origin"]) for trial in later} <= {
        ("response", "sampled optimum"),
        ("tpe", "sampler"),
    }
    proposals = [json.loads(line) for line in (finished / "proposals.jsonl").read_text().splitlines()]
    assert [line["weights"] for line in proposals][: len(later) + 7] == [
        trial["weights"] for trial in read_trials(finished)
    ]


def test_the_result_tells_response_and_certificate(finished: Path) -> None:
    best = json.loads((finished / "best.json").read_text())
    assert set(best["response"]["tasks"]) == {"colours", "numbers"}
    for task in best["response"]["tasks"].values():
        assert set(task) == {
            "temperature", "slope", "spearman", "rmse", "spearman_upper", "rmse_upper", "used",
        }  # fmt: skip
    certificate = best["certificate"]
    assert certificate["status"] in {"met", "flat", "trials"}
    assert certificate["runs"] == len(read_trials(finished))
    # Finalists are measured in rounds; whoever is not dropped has all select items, in the files of any candidate.
    whole = [each for each in best["candidates"] if "dropped_after" not in each]
    assert best["winner"]["trial"] in [each["trial"] for each in whole]
    for each in whole:
        assert each["select"]["tasks"]["colours"]["items"] == 10
        assert (finished / "items" / "select" / f"{each['trial']:05d}.safetensors").is_file()
    assert list((finished / "items" / "select").glob("*.partial")) == []
    if len(best["candidates"]) > 1:
        assert best["elimination"]["rounds"] == 3
        assert best["elimination"]["tokens"] > 0
    optimism = best["optimism"]
    assert (optimism["repetitions"], optimism["finalists"]) in {(200, 1 if certificate["status"] == "flat" else 2)}
    assert optimism["runs"] <= certificate["runs"]
    assert set(optimism["search"]) == set(optimism["select"]) == {"mean", "deviation"}
    assert optimism["select"]["deviation"] > optimism["search"]["deviation"] > 0  # 20 items against 60
    text = (finished / "report.html").read_text()
    assert "(mean of 200 simulated repetitions, deviations " in text
    record, _ = read_response_files(finished)
    assert record.trials == tuple(range(certificate["runs"]))


def test_a_search_cut_short_goes_on_as_the_whole_one(
    finished: Path, tmp_path: Path, family: Family, tasks: Path
) -> None:
    """The file that was stopped after six trials, and the response that is fitted anew, propose the same points."""
    run = search(load_config(write_file(tmp_path, family, tasks, trials=6)), tmp_path / "run")
    search(load_config(write_file(tmp_path, family, tasks, name="whole.yaml")), run, resume=True)
    assert read_trials(run) == read_trials(finished)
    assert (run / "response.safetensors").read_bytes() == (finished / "response.safetensors").read_bytes()
    ours, theirs = (json.loads((folder / "best.json").read_text()) for folder in (run, finished))
    # The first end may have looked at another finalist: that was spent, too.
    assert ours["certificate"].pop("tokens") >= theirs["certificate"].pop("tokens")
    assert ours["certificate"] == theirs["certificate"]
    assert ours["optimism"] == theirs["optimism"]


def test_the_certificate_is_met_of_the_winner_or_before_all_trials(finished: Path) -> None:
    certificate = json.loads((finished / "best.json").read_text())["certificate"]
    is_met = certificate["bound_items_fixed"] <= certificate["precision"]
    if certificate["runs"] == 11:
        assert certificate["status"] != "met" or is_met


def test_a_measured_merge_is_predicted_near_its_score(finished: Path) -> None:
    errors = []
    for trial in read_trials(finished):
        prediction = predict(finished, trial["weights"])
        assert prediction.objective.low <= prediction.objective.mean <= prediction.objective.high
        errors.append(prediction.objective.mean - trial["objective"])
    assert float(np.sqrt(np.mean(np.square(errors)))) < 0.1


def test_predictions_are_printed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("predict", finished, "--weights", "a=0.3,b=0.5", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["weights"] == {"a": 0.3, "b": 0.5}
    assert set(printed["tasks"]) == {"colours", "numbers"}
    assert printed["inside"] is True
    assert run_cli("predict", finished, "--weights", "b=0.5,a=-1") == 0
    assert "outside the ranges of the search" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ("a=0.3,x=1", "expected a vector of the run (a, b), found 'x'"),
        ("a", "expected NAME=NUMBER, found 'a'"),
        ("a=nan", "expected a number as the weight of 'a', found 'nan'"),
        ("a=1,a=2", "expected each vector once, found 'a' twice"),
    ],
)
def test_weights_that_say_nothing_are_refused(
    weights: str, found: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("predict", finished, "--weights", weights) == 2
    assert found in capsys.readouterr().err


def test_a_precision_that_the_items_cannot_tell_is_refused(
    tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_file(tmp_path, family, tasks, precision=0.001)
    for command in (("search", file, "-o", tmp_path / "run"), ("plan", file), ("doctor", file)):
        assert run_cli(*command) == 2
        told = capsys.readouterr()
        found = "search.precision: expected 0.017 or more, which one search item changes in the objective, found 0.001"
        assert f"{found}. Raise it or `evaluate.items.search`" in told.out + told.err
    assert not (tmp_path / "run").exists()


def test_a_run_without_likelihoods_cannot_predict(capsys: pytest.CaptureFixture[str]) -> None:
    old = Path(__file__).parents[1] / "data" / "runs-0a1294b" / "search"
    assert run_cli("predict", old, "--weights", "b=0.3") == 2
    told = "expected log-likelihoods of its trials, found a run that keeps none. Start a new run"
    assert f"{old}: {told}" in capsys.readouterr().err


def test_three_trials_are_too_few_to_predict_from(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in ("best.json", "response.json", "response.safetensors"):
        (run / name).unlink()
    lines = (run / "trials.jsonl").read_text().splitlines(keepends=True)
    (run / "trials.jsonl").write_text("".join(lines[:3]))
    assert run_cli("predict", run, "--weights", "a=0.3") == 2
    told = f"{run}: expected 4 complete trials with log-likelihoods, found fewer. Go on with it: "
    assert f"{told}`aftermix search FILE --resume {run}`." in capsys.readouterr().err


def test_a_tree_cannot_predict(capsys: pytest.CaptureFixture[str]) -> None:
    tree = Path(__file__).parents[1] / "data" / "runs-0a1294b" / "tree"
    assert run_cli("predict", tree, "--weights", "b=0.3") == 2
    told = "expected the run of a search or of a mixture without a tree, found that of a tree. Look at its report"
    assert f"{tree}: {told}" in capsys.readouterr().err


def test_a_damaged_response_is_refused(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    arrays = run / "response.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-40])
    assert run_cli("predict", run, "--weights", "a=0.3,b=0.5") == 2
    assert f"{arrays}: expected a fitted response, found" in capsys.readouterr().err

    record = json.loads((run / "response.json").read_text())
    record["kernel"]["variances"] = record["kernel"]["variances"][:-1]
    (run / "response.json").write_text(json.dumps(record))
    assert run_cli("predict", run, "--weights", "a=0.3,b=0.5") == 2
    assert "response.json: kernel.variances" in capsys.readouterr().err


def test_a_search_that_has_not_ended_is_fitted_to_what_it_has(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in ("best.json", "response.json", "response.safetensors"):
        (run / name).unlink()
    ours, theirs = (predict(folder, {"a": 0.3, "b": 0.5}) for folder in (run, finished))
    assert ours.objective.mean == pytest.approx(theirs.objective.mean, abs=1e-6)


def test_another_objective_needs_no_merge_to_be_run(
    finished: Path, tmp_path: Path, family: Family, tasks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    file = write_file(tmp_path, family, tasks, trials=0, objective={"tasks": {"numbers": 1}})
    run = search(load_config(file), tmp_path / "run", source=finished)
    best = json.loads((run / "best.json").read_text())
    assert set(best["response"]["tasks"]) == {"colours", "numbers"}
    taken, before = read_trials(run), read_trials(finished)
    assert all("#" in trial["origin"] for trial in taken)
    # What was looked at outside the ranges tells the response the same again, and is no candidate.
    assert [trial["weights"] for trial in taken] == [trial["weights"] for trial in before]
    assert [trial["feasible"] for trial in taken] == [trial["feasible"] for trial in before]
    assert best["certificate"]["runs"] == len(before)
    # What a further merge promises is told, where the response can promise anything.
    assert ("of merges not run the response expects most of a=" in caplog.text) == (
        best["certificate"]["model"] == "response"
    )
    assert "resume" not in caplog.text or f"`--resume {run} --trials N` runs N more" in caplog.text


def test_several_objectives_end_with_points_of_the_predicted_front(tmp_path: Path, family: Family, tasks: Path) -> None:
    objectives = [{"name": "one", "tasks": {"colours": 1}}, {"name": "two", "tasks": {"numbers": 1}}]
    run = search(load_config(write_file(tmp_path, family, tasks, trials=14, objective=objectives)), tmp_path / "run")
    trials = read_trials(run)
    assert len(trials) == 14
    origins = [trial["origin"] for trial in trials[7:]]
    front = origins.count("predicted front")
    assert origins[len(origins) - front :] == ["predicted front"] * front
    # Where the response tells too little at the end, the last points are the sampler's.
    assert 0 < front <= 5 or origins[-1] == "sampler"
    assert json.loads((run / "best.json").read_text())["front"]
