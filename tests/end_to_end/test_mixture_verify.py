"""`aftermix mixture --verify N` on real parts: mixtures trained, measured, ranked; resumed, refused."""

from __future__ import annotations

import html
import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from aftermix.config import load_config
from aftermix.errors import AftermixError
from aftermix.jobs.verify.command import refuse_unverifiable, run_and_verify, verify
from aftermix.jobs.verify.doremi import doremi_ratios
from aftermix.report.console.mixture import print_mixture
from aftermix.runs.workers.lost_attempts import read_lost_attempts
from aftermix.workers import processes
from aftermix.workers.processes import ProcessExecutor
from conftest import run_cli
from support.forked import ForkedWorker, run_forked

Family = Mapping[str, Path]
TRAIN = {
    "context": 32,
    "batch_size": 4,
    "learning_rate": 1.0e-3,
    "schedule": "constant",
    "device": "cpu",
    "threads": 1,
    "save_steps": 2,
    "datasets": {name: {"data": f"{name}.jsonl", "tokens": 640, "learning_rate": 2.0e-3} for name in ("b", "c")},
}


def write_file(folder: Path, family: Family, tasks: Path, *, name: str = "aftermix.yaml", **changed: Any) -> Path:
    """Two domains, six points; `changed` keys of `train`, where None leaves the section out."""
    for domain, text in (("b", "the sum of the numbers is even "), ("c", "one of these is the answer and the sum ")):
        rows = [json.dumps({"text": text * (2 + number % 3)}) + "\n" for number in range(40)]
        (folder / f"{domain}.jsonl").write_text("".join(rows))
    values = {
        "base": str(family["base"]),
        "vectors": {
            "a": {"model": str(family["a"]), "role": "instruction", "weight": 0.5},
            "b": {"model": str(family["b"]), "tokens": 1000},
            "c": {"model": str(family["c"]), "tokens": 3000},
        },
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(tasks),
            "items": {"search": 20, "select": 20},
            "threads": 1,
        },
        "mixture": {"points": 6, "repeats": 1, "verify": 0},
        "train": TRAIN | changed,
    }
    if changed.get("train", ...) is None:
        del values["train"]
    path = folder / name
    path.write_text(json.dumps(values))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, family: Family, tasks: Path) -> Path:
    """A run with three verified mixtures and DoReMi's ratios."""
    folder = tmp_path_factory.mktemp("verify")
    file = write_file(folder, family, tasks)
    assert run_cli("mixture", file, "-o", folder / "run", "--verify", 3, "--doremi") == 0
    return folder / "run"


def verification_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "verification.json").read_text())
    return found


def unverified(finished: Path, to: Path) -> Path:
    """A copy of the run as it was before anything was trained."""
    run = Path(shutil.copytree(finished, to))
    for name in ("trained", "doremi"):
        shutil.rmtree(run / name)
    for file in [run / "verification.json", *run.glob("items/*/baselines/trained-*")]:
        file.unlink()
    return run


def test_mixtures_are_trained_in_the_shares_of_measured_points(finished: Path) -> None:
    found = verification_of(finished)
    trials = [json.loads(line) for line in (finished / "trials.jsonl").read_text().splitlines()]
    assert [one["point"] for one in found["mixtures"]][:2] == ["uniform", "winner"]
    assert max(found["mixtures"][2]["shares"].values()) < 1
    assert found["mixtures"][1]["shares"] == pytest.approx(json.loads((finished / "best.json").read_text())["ratios"])
    assert (found["tokens"], found["schedule"], found["split"]) == (640, "constant", "test")
    assert found["learning_rate"] == 2e-3, "the rate that the experts share, not the section's"
    for one in found["mixtures"]:
        record = json.loads((finished / one["folder"] / "train.json").read_text())
        given = {name: part["share"] for name, part in record["data"]["mixture"].items()}
        assert record["tokens"] == one["tokens"] == 640
        assert given == pytest.approx({name: share for name, share in one["shares"].items() if share > 0}, abs=0.05)
        assert one["loss"] == record["loss"]["final"]
        if one["trial"] is not None:
            assert one["shares"]["b"] == pytest.approx(trials[one["trial"]]["weights"]["b"])
    assert not (finished / "trained" / ".tokens").exists()


@pytest.mark.whole
def test_workers_measure_and_train_the_same(
    finished: Path, tmp_path: Path, family: Family, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is killed in the middle of a point, another as it trains."""
    send, sent = ProcessExecutor.send, list[str]()

    def send_and_kill(executor: ProcessExecutor, number: int, task: Any) -> None:
        send(executor, number, task)
        sent.append(type(task).__name__)
        if len(sent) == 3 or sent.count("TrainingOrder") == 2:
            os.kill(executor.processes[number], signal.SIGKILL)

    monkeypatch.setattr(ProcessExecutor, "send", send_and_kill)
    monkeypatch.setattr(processes, "launch_process", ForkedWorker)
    file = write_file(tmp_path, family, tasks)
    values = json.loads(file.read_text())
    values["evaluate"]["workers"] = 2
    file.write_text(json.dumps(values))
    run = run_and_verify(load_config(file), tmp_path / "run", mixtures=3).parent

    of_the_clock = {"seconds", "worker", "attempt"}
    lines = [
        [
            {key: value for key, value in json.loads(line).items() if key not in of_the_clock}
            for line in (each / "trials.jsonl").read_text().splitlines()
        ]
        for each in (run, finished)
    ]
    assert lines[0] == lines[1]
    assert sorted(each.label.split()[0] for each in read_lost_attempts(run)) == ["search", "training"]
    ours, theirs = verification_of(run), verification_of(finished)
    assert {key for key in ours if ours[key] != theirs[key]} == {"doremi"}
    for weights in (finished / "trained").glob("*/model.safetensors"):
        assert (run / weights.relative_to(finished)).read_bytes() == weights.read_bytes()


def test_experts_of_unlike_rates_are_refused_before_anything_runs(
    tmp_path: Path, family: Family, tasks: Path, capsys: Any
) -> None:
    rates = {"b": 2.0e-3, "c": 1.0e-3}
    datasets = {name: {**TRAIN["datasets"][name], "learning_rate": rate} for name, rate in rates.items()}
    file = write_file(tmp_path, family, tasks, datasets=datasets)
    before = sorted(tmp_path.rglob("*"))
    assert run_cli("mixture", file, "-o", tmp_path / "run", "--verify", 3) == 2
    told = "found b: 0.002, constant (`train:` of the file); c: 0.001, constant (`train:` of the file)."
    assert told in " ".join(capsys.readouterr().err.split())
    assert sorted(tmp_path.rglob("*")) == before


def test_both_sides_are_scored_on_the_test_items(finished: Path, tmp_path: Path, capsys: Any) -> None:
    found, best = verification_of(finished), json.loads((finished / "best.json").read_text())
    uniform = found["mixtures"][0]
    baseline = next(entry for entry in best["baselines"] if entry["name"] == "uniform")
    assert uniform["merged"]["capabilities"] == baseline["test"]["capabilities"]
    assert uniform["merged"]["utility"] == baseline["test"]["utility"]
    assert found["mixtures"][1]["merged"]["utility"] == best["test"]["utility"]
    assert found["items"] == {task: entry["items"] for task, entry in best["test"]["tasks"].items()}

    values = json.loads((finished.parent / "aftermix.yaml").read_text())
    trained = {"model": str(finished / uniform["folder"]), "weight": 1.0}
    alone = {key: values[key] for key in ("base", "evaluate")} | {
        "vectors": {"a": values["vectors"]["a"], "t": trained}
    }
    (tmp_path / "alone.yaml").write_text(json.dumps(alone))
    for split, key in (("test", "trained"), ("search", "trained_on_search_items")):
        assert run_cli("evaluate", tmp_path / "alone.yaml", "--split", split, "--json") == 0
        tasks_of = json.loads(capsys.readouterr().out)["tasks"]
        expected = {name: entry["score"] for name, entry in uniform[key]["capabilities"].items()}
        assert {name: entry["score"] for name, entry in tasks_of.items()} == pytest.approx(expected)


def test_ranks_and_offset_are_those_of_the_scores(finished: Path) -> None:
    found = verification_of(finished)
    assert any(told["spearman"] is not None for told in found["consistency"]["capabilities"].values())
    for name, told in (("utility", found["consistency"]["utility"]), *found["consistency"]["capabilities"].items()):
        assert told["predicted_spearman"] is None or -1 <= told["predicted_spearman"] <= 1
        merged, trained = (
            [
                one[side]["utility"]["value"] if name == "utility" else one[side]["capabilities"][name]["score"]
                for one in found["mixtures"]
            ]
            for side in ("merged", "trained")
        )
        assert told["mixtures"] == 3
        assert told["offset"] == pytest.approx(np.mean(np.subtract(trained, merged)))
        assert told["offset_interval"][0] <= told["offset"] <= told["offset_interval"][1]
        if told["spearman"] is not None:
            assert told["spearman"] == pytest.approx(spearmanr(np.round(merged, 9), np.round(trained, 9)).statistic)


def test_each_proxy_is_held_against_the_trained_models(finished: Path) -> None:
    found, best = verification_of(finished), json.loads((finished / "best.json").read_text())
    proxies = {entry["name"]: entry for entry in found["proxies"]}
    assert best["proxies"] == found["proxies"]
    assert list(proxies) == ["merges", "surrogates", "response", "null", "ensemble"]
    assert {entry["trained"] for entry in found["proxies"]} == {3}

    trained = np.array([one["trained"]["utility"]["value"] for one in found["mixtures"]])
    alone = {entry["name"]: entry["test"]["utility"]["value"] for entry in best["baselines"]}
    values = {
        "merges": [one["merged"]["utility"]["value"] for one in found["mixtures"]],
        "null": [sum(one["shares"][name] * alone[f"{name} alone"] for name in "bc") for one in found["mixtures"]],
    }
    for name, told in values.items():
        assert proxies[name]["rmse"] == pytest.approx(np.sqrt(np.mean((np.array(told) - trained) ** 2)))
        assert proxies[name]["regret"] == pytest.approx(trained.max() - trained[int(np.round(told, 9).argmax())])
        ranks = spearmanr(np.round(told, 9), np.round(trained, 9)).statistic
        assert proxies[name]["spearman"] == (pytest.approx(ranks) if np.isfinite(ranks) else None)
    assert proxies["merges"]["price_tokens"] == 3 * proxies["null"]["price_tokens"] / 2
    assert proxies["surrogates"]["price_tokens"] == proxies["response"]["price_tokens"]


def test_models_are_trained_at_the_ratios_of_each_method(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = Path(shutil.copytree(finished, tmp_path / "run")), finished.parent / "aftermix.yaml"
    assert run_cli("mixture", file, "--resume", run, "--verify", 3, "--doremi", "--seeds", 2) == 0
    assert "Trained at the ratios of each method" in capsys.readouterr().out
    page = html.unescape((run / "report.html").read_text(encoding="utf-8"))
    assert "2 models trained at each method's ratios, on the same test items." in page

    found, best = verification_of(run), json.loads((run / "best.json").read_text())
    assert {key: value for key, value in found.items() if key != "retrained"} == verification_of(finished)
    entries = {entry["method"]: entry for entry in found["retrained"]}
    assert list(entries) == ["found", "uniform", "in proportion to tokens", "RegMix", "DoReMi"]
    assert entries["found"]["ratios"] == pytest.approx(best["ratios"])
    assert entries["RegMix"]["ratios"] == pytest.approx(found["regmix"]["ratios"])

    # The seed of the file has trained uniform and the winner already.
    uniform = entries["uniform"]["models"]
    assert [model["seed"] for model in uniform] == [0, 1]
    assert uniform[0]["folder"] == found["mixtures"][0]["folder"]
    assert uniform[0]["test"] == found["mixtures"][0]["trained"]
    for entry in found["retrained"]:
        values = [model["test"]["utility"]["value"] for model in entry["models"]]
        half = 12.7062047 * np.std(values, ddof=1) / np.sqrt(2)  # Student's quantile at one degree of freedom
        assert entry["utility"]["value"] == pytest.approx(np.mean(values))
        assert entry["utility"]["interval"] == pytest.approx([np.mean(values) - half, np.mean(values) + half])
        for model in entry["models"]:
            record = json.loads((run / model["folder"] / "train.json").read_text())
            given = {name: part["share"] for name, part in record["data"]["mixture"].items()}
            assert (record["seed"], record["tokens"]) == (model["seed"], 640)
            assert given == pytest.approx({n: share for n, share in entry["ratios"].items() if share > 0.05}, abs=0.05)
    ours, theirs = (
        [model["test"]["utility"]["value"] for model in entries[name]["models"]] for name in ("found", "DoReMi")
    )
    assert entries["DoReMi"]["difference"]["value"] == pytest.approx(np.mean(np.subtract(ours, theirs)))
    assert entries["found"]["difference"] is None

    # A run that goes on without it still says what the trained mixtures made of the proxies.
    assert run_cli("mixture", "--resume", run) == 0
    assert json.loads((run / "best.json").read_text())["proxies"] == found["proxies"]


def test_baselines_and_cost(finished: Path) -> None:
    found = verification_of(finished)
    assert found["plain"] == {
        "uniform": {"b": 0.5, "c": 0.5},
        "tokens": {"b": 0.25, "c": 0.75},
        "b alone": {"b": 1.0, "c": 0.0},
        "c alone": {"b": 0.0, "c": 1.0},
    }
    assert found["regmix"]["trained"] == 3
    assert found["regmix"]["prior"] == "tokens"
    assert sum(found["regmix"]["ratios"].values()) == pytest.approx(1)
    assert found["regmix"]["surrogate"] is None  # three points are too few for our surrogates
    doremi = json.loads((finished / "doremi" / "doremi.json").read_text())
    assert found["doremi"] == {"ratios": doremi["ratios"], "tokens": 640, "reference": "point-000"}
    weights = np.array(doremi["trajectory"]["weights"])
    assert weights.shape == (5, 2)
    assert doremi["ratios"] == pytest.approx(dict(zip(("b", "c"), weights.mean(axis=0), strict=True)), abs=1e-8)
    costs = {row["method"]: row for row in found["cost"]}
    assert {name: (row["tokens"], row["runs"], row["relative"]) for name, row in costs.items()} == {
        "mergemix": (640, 2, 1.0),
        "regmix": (640, 3, 1.5),
        "doremi": (640, 2, 1.0),
        "manual": (640, 10, 5.0),
    }
    assert 0 < costs["regmix"]["evaluated_tokens"] < costs["mergemix"]["evaluated_tokens"]
    assert costs["doremi"]["evaluated_tokens"] == 640, "the reference, on the proxy's tokens"


def test_page_and_terminal_show_it(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert '<section id="verification">' in page
    assert '<a href="#verification">Trained mixtures</a>' in page
    assert "3 mixtures were trained on 640 tokens each" in page
    assert page.rstrip().endswith("</html>")
    print_mixture(finished)
    printed = capsys.readouterr().out
    assert "Held against 3 trained mixtures on the same test items" in page
    for text in (
        "Merged against trained",
        "Proxies for trained mixtures",
        "RegMix",
        "DoReMi",
        "Cost: parameters",
        "by hand",
    ):
        assert text in printed


def test_more_mixtures_reuse_those_that_are_trained(
    finished: Path, tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    before = {
        one["name"]: (run / one["folder"] / "model.safetensors").stat() for one in verification_of(run)["mixtures"]
    }
    assert run_cli("mixture", "--resume", run, "--verify", 5) == 0
    told = capsys.readouterr().err
    found = verification_of(run)
    assert [one["name"] for one in found["mixtures"]][:3] == list(before)
    assert len(found["mixtures"]) == 5
    assert found["mixtures"][:3] == verification_of(finished)["mixtures"]
    assert found["doremi"] is None
    assert found["regmix"]["surrogate"] is not None
    for name, stat in before.items():
        assert f"{name}: reused" in told
        assert (run / "trained" / name / "model.safetensors").stat().st_mtime_ns == stat.st_mtime_ns


KILLED = """
import os, signal, sys
from pathlib import Path
from aftermix import files
from aftermix.config import load_config
from aftermix.jobs.verify.doremi import doremi_ratios
from aftermix.jobs.verify.command import verify
from aftermix.training.loop import StepRecorder

where, left = sys.argv[3], int(sys.argv[4])

def dying(real):
    def wrapped(*given, **named):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)
    return wrapped

if where == "training":
    StepRecorder.on_step_end = dying(StepRecorder.on_step_end)
else:
    files.os.fsync = dying(os.fsync)
    import aftermix.jobs.verify.mixture_verification as job
    job.train_mixtures = lambda config, run, mixtures, **_: {name: run / "trained" / name for name in mixtures}
verify(load_config(Path(sys.argv[1])), Path(sys.argv[2]), mixtures=3, doremi=True)
"""


def test_a_verification_killed_in_training_and_in_measurement_ends_the_same(
    finished: Path, tmp_path: Path, family: Family, tasks: Path
) -> None:
    file, run = finished.parent / "aftermix.yaml", unverified(finished, tmp_path / "run")
    # The second of five steps in the second mixture's training; then, with all trained, the third measurement.
    for where, fatal in (("training", 7), ("measurement", 3)):
        if where == "measurement":
            assert not (run / "trained" / "point-002").exists()
            shutil.copytree(finished / "trained", run / "trained", dirs_exist_ok=True)
        killed = run_forked(KILLED, file, run, where, fatal)
        assert killed.returncode == -9, killed.stderr
        assert not (run / "verification.json").exists()
    assert (run / "trained" / "point-000" / "train.json").is_file()
    verify(load_config(file), run, mixtures=3, doremi=True)
    assert verification_of(run) == verification_of(finished)


def test_a_changed_training_is_refused_and_told(finished: Path, tmp_path: Path, family: Family, tasks: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    other = load_config(write_file(tmp_path, family, tasks, batch_size=2))
    with pytest.raises(AftermixError, match="holds an expert of another recipe"):
        verify(other, run, mixtures=3)
    assert verification_of(run) == verification_of(finished)


@pytest.mark.parametrize(
    ("changed", "asked", "message"),
    [
        ({"train": None}, {}, "train: missing from the YAML file"),
        ({"datasets": {"b": "b.jsonl"}}, {"tokens": 640}, "train: no data of domain 'c'; known are: b"),
        ({}, {"mixtures": 2}, "--verify: expected at least 3 mixtures, found 2"),
        ({}, {"mixtures": 7}, "--verify: expected at most the 6 mixtures of `mixture.points`, found 7"),
        (
            {"datasets": {"b": "b.jsonl", "c": {"data": "c.jsonl", "tokens": 640}}},
            {},
            "expected one number of `tokens` for the datasets of all domains, found b none, c 640",
        ),
        (
            {"datasets": {"b": {"data": "b.jsonl", "tokens": 640}}, "sources": {"c": "c.jsonl"}},
            {},
            "Say how many each mixture is trained on: --tokens T",
        ),
        (
            {"datasets": {"b": {"data": "b.jsonl", "tokens": 640}, "c": {"data": "none.jsonl", "tokens": 640}}},
            {},
            "none.jsonl: there is no such file",
        ),
        ({}, {"tokens": 63}, "--verify: expected at least 64 tokens, a sequence of `train.context` for each domain"),
    ],
)
def test_what_is_lacking_is_told_before_the_run(
    changed: dict[str, Any], asked: dict[str, Any], message: str, tmp_path: Path, family: Family, tasks: Path
) -> None:
    config = load_config(write_file(tmp_path, family, tasks, **changed))
    with pytest.raises(AftermixError) as caught:
        run_and_verify(config, tmp_path / "run", **{"mixtures": 3, **asked})
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_finished_and_options_without_verify(
    finished: Path, tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(write_file(tmp_path, family, tasks))
    assert refuse_unverifiable(config, mixtures=3, tokens=None) == 640
    assert refuse_unverifiable(config, mixtures=3, tokens=99) == 99
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "best.json").unlink()
    with pytest.raises(AftermixError, match=r"is not finished: it has no best\.json"):
        verify(config, run, mixtures=3)
    assert run_cli("mixture", "--resume", finished, "--doremi") == 2
    assert "are about the mixtures that --verify N trains" in capsys.readouterr().err


def test_doremi_of_a_file_is_reused_and_another_recipe_refused(finished: Path, tmp_path: Path) -> None:
    config, reference = load_config(finished.parent / "aftermix.yaml"), finished / "trained" / "point-000"
    asked = {"domains": ["b", "c"], "reference": reference, "tokens": 640}
    found = doremi_ratios(config, tmp_path / "doremi", **asked)
    first = json.loads((finished / "doremi" / "doremi.json").read_text())
    assert json.loads(found.trajectory.to_bytes()) == first["trajectory"]
    assert found.seconds == doremi_ratios(config, tmp_path / "doremi", **asked).seconds
    assert [file.name for file in (tmp_path / "doremi").iterdir()] == ["doremi.json"]
    for other in ({"step_size": 2.0}, {"tokens": 320}, {"reference": Path(str(config.base))}):
        with pytest.raises(AftermixError, match="holds ratios that were found with another recipe"):
            doremi_ratios(config, tmp_path / "doremi", **{**asked, **other})
    with pytest.raises(AftermixError, match="no data of domain 'd'; known are: b, c"):
        doremi_ratios(config, tmp_path / "other", **{**asked, "domains": ["b", "d"]})
    assert not (tmp_path / "other").exists()


def test_another_schedule_is_said(finished: Path, tmp_path: Path, family: Family, tasks: Path) -> None:
    run, said = unverified(finished, tmp_path / "run"), []
    config = load_config(write_file(tmp_path, family, tasks, schedule="cosine"))
    verify(config, run, mixtures=3, tokens=320, log=said.append)
    assert said[0] == "train.schedule is cosine: merges stand for trainings at a constant rate"
    assert "with the schedule “cosine”" in (run / "report.html").read_text(encoding="utf-8")
    assert verification_of(run)["tokens"] == 320
