"""`aftermix mixture` on real parts: points, surrogates, verification, test; resumed, re-used, refused."""

from __future__ import annotations

import html
import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from aftermix.config import load_config, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.mixture.command import mixture
from aftermix.jobs.plan.command import plan
from conftest import run_cli
from support.forked import run_forked
from support.killed_mixture import KILLED

Family = Mapping[str, Path]
CAPABILITIES = ("colours", "numbers")


def write_file(
    folder: Path, family: Family, tasks: Path, *, name: str = "aftermix.yaml", tokens: bool = True, **asked: Any
) -> Path:
    own = {"b": {"tokens": 1000}, "c": {"tokens": 3000}} if tokens else {"b": {}, "c": {}}
    values = {
        "base": str(family["base"]),
        "vectors": {
            "a": {"model": str(family["a"]), "role": "instruction", "weight": 0.5},
            "b": {"model": str(family["b"]), **own["b"]},
            "c": {"model": str(family["c"]), **own["c"]},
        },
        "evaluate": {
            "tasks": list(CAPABILITIES),
            "include_path": str(tasks),
            "items": {"search": 20, "select": 20},
            "threads": 1,
        },
        "mixture": {"points": 8, "repeats": 2, "verify": 1, "priors": {"ours": {"b": 0.7, "c": 0.3}}, **asked},
    }
    path = folder / name
    path.write_text(json.dumps(values))  # YAML is a superset of JSON
    return path


def trials_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def best_of(run: Path) -> dict[str, Any]:
    best: dict[str, Any] = json.loads((run / "best.json").read_text())
    del best["seconds"]
    return best


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, family: Family, tasks: Path) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    return mixture(load_config(write_file(folder, family, tasks)), folder / "run")


def test_every_point_is_a_merge_on_the_simplex(finished: Path) -> None:
    trials = trials_of(finished)
    assert [trial["origin"] for trial in trials[:5]] == [
        "uniform",
        "prior ours",
        "prior tokens",
        "vertex b",
        "vertex c",
    ]
    assert {trial["origin"] for trial in trials[5:]} <= {"lattice", "fill"}
    for trial in trials:
        assert trial["state"] == "complete"
        assert trial["weights"]["a"] == 0.5
        assert trial["weights"]["b"] + trial["weights"]["c"] == pytest.approx(1)
        assert trial["objective"] == pytest.approx(sum(trial["scores"].values()) / 2)
    design = json.loads((finished / "design.json").read_text())
    assert design["domains"] == ["b", "c"]
    assert [point["shares"]["b"] for point in design["points"]] == [trial["weights"]["b"] for trial in trials]


@pytest.mark.whole
def test_the_papers_preset_merges_the_optimum_of_lightgbm_and_takes_it(
    tmp_path: Path, family: Family, tasks: Path
) -> None:
    values = json.loads(write_file(tmp_path, family, tasks).read_text())
    values["mixture"] = {"points": 8, "preset": "paper", "second_order": True}
    with pytest.raises(AftermixError, match=r"b\.calibration: missing, but `mixture\.second_order` is"):
        mixture(parse_config(values, where="file", folder=tmp_path), tmp_path / "run")
    for name, text in (("b", "the sum of the numbers is even "), ("c", "one of these is the answer ")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": text * 20}) + "\n")
        values["vectors"][name]["calibration"] = f"{name}.jsonl"
    values["calibrate"] = {"samples": 1, "context": 16}
    with pytest.raises(AftermixError, match="text 1: expected at most 16 tokens, found"):
        mixture(parse_config(values, where="file", folder=tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    values["calibrate"]["long_texts"] = "cut"
    config = parse_config(values, where="file", folder=tmp_path)
    best = best_of(mixture(config, tmp_path / "run"))
    assert {entry["choice"] for entry in best["surrogates"].values()} == {"lightgbm"}
    assert [entry["name"] for entry in best["verified"]] == ["optimum"]
    assert best["ratios"] == pytest.approx(best["optimum"]["shares"])
    assert best["winner"]["point"] == "optimum"
    second = best["second_order"]
    assert second["tokens"].keys() == {"b", "c"}
    assert abs(second["cross"] - second["own"]) - 1e-9 <= second["error"] <= second["cross"] + second["own"] + 1e-9
    assert "To second order a training at these ratios" in (tmp_path / "run" / "report.html").read_text()
    assert len(list((tmp_path / "run" / "items" / "select").rglob("*.json"))) == 1
    assert plan(config).measurements["select"] == 1


def test_the_winner_is_the_best_verified_mixture(finished: Path) -> None:
    best, trials = best_of(finished), trials_of(finished)
    names = [entry["name"] for entry in best["verified"]]
    assert names == ["optimum", "neighbour 1", "best measured"]
    measured = [entry["select"]["utility"]["value"] for entry in best["verified"]]
    won = best["verified"][int(np.argmax(measured))]
    assert best["winner"]["point"] == won["name"]
    assert best["select"] == won["select"]
    assert best["ratios"] == pytest.approx(won["shares"])
    assert best["weights"] == {"a": 0.5, **won["shares"]}
    assert sum(best["ratios"].values()) == pytest.approx(1)

    # z-scores over the points, reckoned from the raw scores.
    scores = np.array([[trial["scores"][task] for task in CAPABILITIES] for trial in trials])
    for entry in [best["select"], best["test"], *(baseline["test"] for baseline in best["baselines"])]:
        raw = np.array([entry["tasks"][task]["score"] for task in CAPABILITIES])
        expected = ((raw - scores.mean(axis=0)) / scores.std(axis=0)).mean()
        assert entry["utility"]["value"] == pytest.approx(expected)
        assert entry["utility"]["interval"][0] <= expected <= entry["utility"]["interval"][1]
    utility = ((scores - scores.mean(axis=0)) / scores.std(axis=0)).mean(axis=1)
    assert best["verified"][-1]["trial"] == int(utility.argmax())


def test_the_result_shows_surrogates_optimum_noise_and_baselines(finished: Path) -> None:
    best = best_of(finished)
    for name in CAPABILITIES:
        entry = best["surrogates"][name]
        assert entry["choice"] in entry["candidates"]
        # Points of a new run keep their log-likelihoods, so the response of the items is one to choose from.
        assert {"gaussian_process", "lightgbm", "ridge", "log_linear", "response"} <= entry["candidates"].keys()
        assert set(entry["candidates"]["ridge"]) == {"spearman", "rmse", "regret", "optimism", "error"}
        assert -1 <= entry["candidates"]["ridge"]["spearman"] <= 1
        assert best["noise"]["sd"][name] >= 0
    assert best["noise"]["points"] == ["uniform", "prior ours"]
    for name, (low, high) in best["optimum"]["share_intervals"].items():
        assert 0 <= low <= high <= 1, name
    low, high = best["optimum"]["interval"]
    assert low <= best["optimum"]["utility"] <= high
    names = [entry["name"] for entry in best["baselines"]]
    assert names == ["uniform", "in proportion to tokens", "prior ours", "b alone", "c alone", "base"]
    for entry in best["baselines"]:
        expected = best["test"]["utility"]["value"] - entry["test"]["utility"]["value"]
        low, high = entry["difference"]["utility"]["interval"]
        assert entry["difference"]["utility"]["value"] == pytest.approx(expected)
        assert low <= expected <= high
    assert best["baselines"][1]["weights"] == {"a": 0.5, "b": 0.25, "c": 0.75}
    assert best["points"] == {"measured": 8, "failed": 0}


def test_proxies_are_priced_and_their_agreement_is_no_worth(finished: Path) -> None:
    best, trials = best_of(finished), trials_of(finished)
    assert [entry["name"] for entry in best["proxies"]] == ["merges", "surrogates", "null", "ensemble"]
    assert {(entry["trained"], entry["spearman"], entry["rmse"], entry["regret"]) for entry in best["proxies"]} == {
        (0, None, None, None)
    }
    positions = trials[0]["tokens"]
    assert [entry["price_tokens"] for entry in best["proxies"]] == [8 * positions] * 2 + [2 * positions] * 2

    mixed = [trial for trial in trials if 1e-6 < trial["weights"]["b"] < 1 - 1e-6]
    alone = {name: next(trial for trial in trials if trial["origin"] == f"vertex {name}") for name in "bc"}
    scores = np.array([[trial["scores"][task] for task in CAPABILITIES] for trial in trials])
    units = scores.std(axis=0)
    null = [
        sum(
            trial["weights"][name] * alone[name]["scores"][task] / unit
            for name in "bc"
            for task, unit in zip(CAPABILITIES, units, strict=True)
        )
        for trial in mixed
    ]
    merges = [
        sum(trial["scores"][task] / unit for task, unit in zip(CAPABILITIES, units, strict=True)) for trial in mixed
    ]
    found = best["agreement"]
    assert (found["mixtures"], found["experts"]) == (len(mixed), "search")
    expected = spearmanr(np.round(merges, 9), np.round(null, 9)).statistic
    assert found["spearman"]["merges"]["null"] == pytest.approx(expected)
    assert found["spearman"]["null"]["merges"] == found["spearman"]["merges"]["null"]
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "No mixture was trained, so that nothing is known of what any proxy is worth" in page


def test_predictions_are_of_mixtures_and_their_mean_score(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = trials_of(finished)[0]
    weights = ",".join(f"{name}={weight!r}" for name, weight in trial["weights"].items())
    assert run_cli("predict", finished, "--weights", weights, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["tasks"]) == set(CAPABILITIES)
    assert told["inside"] is True
    assert told["objective"]["low"] <= trial["objective"] <= told["objective"]["high"]

    # Shares of no whole are no mixture of this run.
    assert run_cli("predict", finished, "--weights", "b=0.5,c=0.7", "--json") == 0
    assert json.loads(capsys.readouterr().out)["inside"] is False

    # The instruction vector has one weight in all merges, whether it is named or not.
    held = trial["weights"]["a"]
    assert run_cli("predict", finished, "--weights", "b=0.5,c=0.5", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["weights"], told["inside"]) == ({"a": held, "b": 0.5, "c": 0.5}, True)
    assert run_cli("predict", finished, "--weights", "a=0.25,b=0.5,c=0.5") == 2
    error = capsys.readouterr().err
    assert f"expected {held:g}, at which every merge of the run has 'a', found 0.25. Leave it out; of a vector" in error


def test_the_recipe_beside_the_model_makes_it_again_and_excludes_nothing(finished: Path, tmp_path: Path) -> None:
    assert run_cli("merge", str(finished / "model" / "aftermix.yaml"), "-o", str(tmp_path / "again")) == 0
    first, second = (folder / "model.safetensors" for folder in (finished / "model", tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()
    assert best_of(finished)["winner"]["exclude"] == []


def test_the_page_shows_the_mixture_and_its_own_commands(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    best = best_of(finished)
    assert page.rstrip().endswith("</html>")
    assert '<section id="mixture">' in page
    assert f"The winner is the {best['winner']['point']}." in page
    assert page.count(", winner") == 2  # one in the table of the mixture, one among the candidates
    assert f"aftermix mixture --resume {shlex.quote(finished.as_posix())}" in html.unescape(page)
    assert "aftermix search" not in page


def test_the_ratios_are_what_a_training_takes(finished: Path) -> None:
    from aftermix.config import TrainConfig
    from aftermix.jobs.train.expert_data import collect_sources

    datasets = {"mixed": {"mixture": str(finished / "best.json"), "tokens": 1000}, "b": "b.jsonl", "c": "c.jsonl"}
    found = collect_sources("mixed", TrainConfig.model_validate({"datasets": datasets}))
    ratios = best_of(finished)["ratios"]
    assert found.ratios == pytest.approx({name: ratio for name, ratio in ratios.items() if ratio > 0})


def test_doctor_tells_the_same_faults(tmp_path: Path, family: Family, tasks: Path) -> None:
    from aftermix.jobs.doctor.command import doctor

    bad = doctor(load_config(write_file(tmp_path, family, tasks, bounds={"b": [0.2, 0.6]})))
    assert [problem.where for problem in bad.problems] == ["mixture, prior 'ours'"]
    good = doctor(load_config(write_file(tmp_path, family, tasks, bounds={"b": [0.2, 0.8]}, rounds=[4])))
    assert good.problems == []
    assert "mixture: 8 points, then 4; shares b 0.2 to 0.8, c 0 to 1" in good.facts


def test_a_run_killed_among_points_and_in_verification_ends_the_same(
    finished: Path, tmp_path: Path, family: Family, tasks: Path
) -> None:
    file, run = write_file(tmp_path, family, tasks), tmp_path / "run"
    # Six files of the folder, a batch and three points of three each; the other points and a few measurements of two.
    for fatal_sync in (16, 22):
        killed = run_forked(KILLED, file, run, fatal_sync)
        assert killed.returncode == -9, killed.stderr
        assert not (run / "best.json").exists()
    measured = list((run / "items" / "select" / "baselines").glob("*.json"))
    assert len(trials_of(run)) == 8
    assert measured
    mixture(load_config(file), run, resume=True)
    assert trials_of(run) == trials_of(finished)
    assert best_of(run) == best_of(finished)
    assert (run / "model" / "model.safetensors").read_bytes() == (finished / "model" / "model.safetensors").read_bytes()


def test_another_utility_on_stored_scores_measures_no_point(
    finished: Path,
    tmp_path: Path,
    family: Family,
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    splits, real = [], MergeEvaluator.evaluate

    def measure(self: MergeEvaluator, point: Any, split: Any) -> Any:
        splits.append(split)
        return real(self, point, split)

    monkeypatch.setattr(MergeEvaluator, "evaluate", measure)
    file = write_file(tmp_path, family, tasks, utility="numbers - 0.5*colours", bounds={"b": [0.2, 0.6]}, priors={})
    run = tmp_path / "run"
    assert run_cli("mixture", str(file), "-o", str(run), "--from", str(finished)) == 0
    assert set(splits) == {"select", "test"}
    assert [trial["origin"] for trial in trials_of(run)] == [f"run#{number}" for number in range(8)]
    best = best_of(run)
    assert 0.2 <= best["ratios"]["b"] <= 0.6
    tasks_of = best["test"]["tasks"]
    expected = tasks_of["numbers"]["score"] - 0.5 * tasks_of["colours"]["score"]
    assert best["test"]["utility"]["value"] == pytest.approx(expected)
    printed = capsys.readouterr().out
    for text in ("Surrogates", "Verified by merging", "in proportion to tokens", "Data ratios in tokens", str(run)):
        assert text in printed


def test_a_round_follows_the_design_and_groups_are_means(tmp_path: Path, family: Family, tasks: Path) -> None:
    asked = {"points": 6, "rounds": [2], "repeats": 0, "verify": 0, "capabilities": {"both": list(CAPABILITIES)}}
    run = mixture(load_config(write_file(tmp_path, family, tasks, **asked)), tmp_path / "run")
    trials, best = trials_of(run), best_of(run)
    assert [trial["origin"] for trial in trials[6:]] == ["round 1", "round 1"]
    assert list(best["surrogates"]) == ["both"]
    assert list(best["surrogates"]["both"]["tasks"]) == list(CAPABILITIES)
    assert json.loads((run / "design.json").read_text())["fitted"] == "tasks"
    both = best["test"]["capabilities"]["both"]["score"]
    assert both == pytest.approx(np.mean([best["test"]["tasks"][task]["score"] for task in CAPABILITIES]))
    assert best["noise"] == {"points": [], "sd": {}}


def test_a_mixture_and_a_search_do_not_resume_each_other(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("search", "--resume", str(finished)) == 2
    assert "expected the run of a search, found that of a mixture" in capsys.readouterr().err
    other = shutil.copytree(finished, tmp_path / "other")
    (other / "design.json").unlink()
    assert run_cli("mixture", "--resume", str(other)) == 2
    assert "expected the run of a mixture, found that of a search" in capsys.readouterr().err


def test_a_resume_under_another_utility_is_refused(finished: Path, tmp_path: Path, family: Family, tasks: Path) -> None:
    config = load_config(write_file(tmp_path, family, tasks, utility={"weights": {"colours": 1}}))
    with pytest.raises(AftermixError, match=r"the file says otherwise in 'mixture\.utility\.weights'"):
        mixture(config, finished, resume=True)


def test_a_resume_with_names_in_another_order_is_refused(
    finished: Path, tmp_path: Path, family: Family, tasks: Path
) -> None:
    """Their order is that of the design's points, so the points that are left would be others."""
    file = write_file(tmp_path, family, tasks)
    values = json.loads(file.read_text())
    values["vectors"] = dict(reversed(values["vectors"].items()))
    file.write_text(json.dumps(values))
    with pytest.raises(AftermixError, match="the file has another order in 'vectors'. Restore it, or start a new"):
        mixture(load_config(file), finished, resume=True)


def test_stored_scores_under_another_instruction_weight_are_refused(
    finished: Path, tmp_path: Path, family: Family, tasks: Path
) -> None:
    file = write_file(tmp_path, family, tasks)
    values = json.loads(file.read_text())
    values["vectors"]["a"]["weight"] = 0.75
    file.write_text(json.dumps(values))
    with pytest.raises(AftermixError, match="scores were measured with 'a' at 0.5, the file says 0.75"):
        mixture(load_config(file), tmp_path / "run", source=finished)
    assert not (tmp_path / "run").exists()


def test_all_faults_are_told_and_nothing_is_written(tmp_path: Path, family: Family, tasks: Path) -> None:
    asked = {
        "bounds": {"b": [0.8, 0.9], "c": [0.4, 0.5]},
        "utility": {"weights": {"poems": 1}},
        "priors": {"ours": {"b": 0.9, "c": 0.5}},
    }
    with pytest.raises(AftermixError) as caught:
        mixture(load_config(write_file(tmp_path, family, tasks, **asked)), tmp_path / "run")
    told = str(caught.value)
    assert "mixture.bounds: the lowest shares sum to 1.2, above 1" in told
    assert "mixture.utility.weights: expected names among colours, numbers, found 'poems'" in told
    assert "mixture, prior 'ours': expected shares of at least 0 that sum to 1, found a sum of 1.4" in told
    assert not (tmp_path / "run").exists()
