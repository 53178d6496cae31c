"""A search by a scorer of one's own, between encoders that no lm-eval task could score."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import aftermix
from aftermix.config import load_config
from aftermix.errors import AftermixError, EvaluationError, RunFailedError
from aftermix.jobs.search.command import search
from conftest import run_cli
from support.forked import ForkedProcess
from support.own_world import describe_search, make_encoders, write_scorers

Family = Mapping[str, Path]
pytestmark = pytest.mark.usefixtures("shown")
KILLED = """
import os, signal, sys
from pathlib import Path
from aftermix.config import load_config
from aftermix.jobs.search import command
from aftermix.runs import journal

real = journal.append_trial

def append(folder, trial, *args, **kwargs):
    if trial.number == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(folder, trial, *args, **kwargs)

journal.append_trial = append
command.search(load_config(Path(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return make_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scorers(tmp_path_factory.mktemp("scorers"))


def write_file(folder: Path, values: Mapping[str, Any], *, name: str = "file.yaml", **evaluate: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps({**values, "evaluate": {**values["evaluate"], **evaluate}}))
    return path


def read_trials(run: Path) -> list[dict[str, Any]]:
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in trials]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, encoders: Family, scorer: Path) -> Path:
    folder = tmp_path_factory.mktemp("own")
    return search(load_config(write_file(folder, describe_search(encoders, scorer))), folder / "run")


def test_splits_are_of_the_ids_and_disjoint(finished: Path) -> None:
    split = json.loads((finished / "items" / "split.json").read_text())
    assert set(split) == {"near", "far"}
    near = [split["near"][part] for part in ("search", "select", "test")]
    assert [len(part) for part in near] == [12, 9, 8]
    every = [each for part in near for each in part]
    assert len(set(every)) == 29
    assert set(every) <= {f"n{number}" for number in range(40)}
    assert set(split["far"]["search"]) <= {str(number) for number in range(30)}


def test_the_lock_names_the_function_and_hashes_its_file(finished: Path, scorer: Path) -> None:
    lock = json.loads((finished / "lock.json").read_text())["evaluation"]
    digest = hashlib.sha256(scorer.read_bytes()).hexdigest()
    assert lock["function"] == {"name": "scorer.py:score", "files": {str(scorer): f"sha256:{digest}"}}
    assert lock["tasks"]["near"]["metric"] == "scorer.py:score"
    assert lock["tasks"]["near"]["items"] == 29


def test_the_search_asks_the_response_and_every_score_has_an_interval(finished: Path) -> None:
    trials = read_trials(finished)
    assert [trial["state"] for trial in trials] == ["complete"] * 7
    assert {trial["strategy"] for trial in trials[:6]} == {"response"}
    assert {"base", "prior"} <= {trial["origin"] for trial in trials}
    assert all(trial["tokens"] > 0 for trial in trials)
    best = json.loads((finished / "best.json").read_text())
    assert best["test"]["tasks"]["near"]["items"] == 8
    low, high = best["test"]["interval"][0]
    assert low <= best["test"]["objective"][0] <= high
    assert low < high
    assert best["metrics"] == {"near": "scorer.py:score", "far": "scorer.py:score"}
    assert {task["used"] for task in best["response"]["tasks"].values()} <= {"loglikelihood", "score"}


def test_scores_and_log_likelihoods_are_those_of_the_scorer(finished: Path, encoders: Family, scorer: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    from aftermix.evaluation.own.function import open_function

    model = AutoModel.from_pretrained(finished / "model")
    tokenizer = AutoTokenizer.from_pretrained(encoders["base"])
    split = json.loads((finished / "items" / "split.json").read_text())
    best = json.loads((finished / "best.json").read_text())
    number = best["winner"]["trial"]
    function = open_function(f"{scorer}:score")
    direct = function.score(model, tokenizer, {"near": split["near"]["search"]})["near"]
    stored = finished / "items" / "search" / f"{number:05d}"
    assert json.loads(stored.with_suffix(".json").read_text())["near"] == direct["scores"]
    likelihood = load_file(stored.with_suffix(".safetensors"))["near/loglikelihood"]
    assert likelihood == pytest.approx(np.array(direct["loglikelihoods"]).ravel(), abs=1e-5)
    requests = load_file(finished / "items" / "requests.safetensors")
    assert requests["search/near/gold"].tolist() == direct["gold"]
    assert json.loads((finished / "items" / "requests.json").read_text())["near"]["kind"] == "choice"


def test_a_merge_that_was_not_run_is_predicted(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("predict", finished, "--weights", "a=0.3,b=0.2", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["tasks"]) == {"near", "far"}
    assert shown["inside"] is True


def test_the_report_tells_of_the_function(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "scorer.py:score" in page
    assert "AutoModel" in page


def test_killed_and_resumed_gives_the_same_trials(finished: Path, tmp_path: Path) -> None:
    file, run = finished.parent / "file.yaml", tmp_path / "run"
    with ForkedProcess(KILLED, file, run, 4) as killed:
        assert killed.wait() == -signal.SIGKILL
    assert len(read_trials(run)) == 4
    search(load_config(file), run, resume=True)
    assert read_trials(run) == read_trials(finished)
    for path in ("items/search/00006.json", "items/search/00006.safetensors", "items/requests.safetensors"):
        assert (run / path).read_bytes() == (finished / path).read_bytes()
    ours, theirs = (json.loads((folder / "best.json").read_text()) for folder in (run, finished))
    assert [each["weights"] for each in (ours, theirs)] == [theirs["weights"]] * 2
    assert ours["test"] == theirs["test"]


def test_a_changed_file_is_refused_by_name_before_it_is_run(
    encoders: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scorer = write_scorers(tmp_path / "mine")
    values = describe_search(encoders, scorer, search={"trials": 2, "startup": 2, "baselines": False, "top": 1})
    file = write_file(tmp_path, values)
    assert run_cli("search", file, "-o", tmp_path / "run") == 0
    before = (tmp_path / "run" / "trials.jsonl").read_bytes()
    scorer.write_text("raise RuntimeError('was run')\n" + scorer.read_text())
    capsys.readouterr()
    assert run_cli("search", file, "--resume", tmp_path / "run", "--trials", "3") == 2
    told = capsys.readouterr().err
    assert f"{scorer}: expected the content that scores of {tmp_path / 'run'} were measured with (sha256:" in told
    assert "was run" not in told
    assert (tmp_path / "run" / "trials.jsonl").read_bytes() == before


def test_scores_alone_are_searched_by_tpe(
    encoders: Family, scorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = describe_search(encoders, f"{scorer.parent / 'plain.py'}:score")
    assert run_cli("search", write_file(tmp_path, values), "-o", tmp_path / "run") == 0
    assert "strategy: tpe in place of response" in capsys.readouterr().err
    lock = json.loads((tmp_path / "run" / "lock.json").read_text())["evaluation"]["function"]
    assert {Path(file).name for file in lock["files"]} == {"plain.py", "scorer.py"}
    assert json.loads((tmp_path / "run" / "items" / "requests.json").read_text())["near"]["kind"] == "none"


@pytest.mark.parametrize("function", ["whole.py:score", "plain.py:whole"])
def test_tasks_that_are_scored_whole_have_no_intervals(
    encoders: Family, scorer: Path, tmp_path: Path, function: str
) -> None:
    values = describe_search(encoders, f"{scorer.parent}/{function}")
    values["search"] = {"trials": 2, "startup": 2, "top": 1}
    run = search(load_config(write_file(tmp_path, values)), tmp_path / "run")
    best = json.loads((run / "best.json").read_text())
    assert best["test"]["interval"] == [None]
    assert best["test"]["tasks"]["near"]["interval"] is None
    assert {tuple(baseline["difference"]["interval"]) for baseline in best["baselines"]} == {(None,)}
    assert (
        read_trials(run)[0]["scores"]["near"]
        == json.loads((run / "items/search/00000.json").read_text())["near"]["whole"]
    )
    page = (run / "report.html").read_text()
    assert "scored whole" in page
    assert "no paired interval" in page
    assert aftermix.open_run(run).items()["item"].unique().tolist() == ["search"]

    more = search(
        load_config(write_file(tmp_path, {**values, "search": {**values["search"], "trials": 3}})), run, resume=True
    )
    assert len(read_trials(more)) == 3


def test_a_mixture_by_a_scorer_of_ones_own(encoders: Family, scorer: Path, tmp_path: Path) -> None:
    values = describe_search(encoders, scorer)
    values["mixture"] = {"points": 6, "verify": 2, "utility": {"normalisation": "raw"}}
    del values["search"]
    file = write_file(tmp_path, values)
    assert run_cli("mixture", file, "-o", tmp_path / "run") == 0
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    assert sum(best["ratios"].values()) == pytest.approx(1)
    assert best["test"]["utility"]["interval"] is not None


def test_evaluate_plan_and_doctor_tell_of_the_function(
    encoders: Family, scorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_file(tmp_path, describe_search(encoders, scorer))
    assert run_cli("doctor", file) == 0
    told = capsys.readouterr().out
    assert f"evaluation by scorer.py:score: {scorer} sha256:" in told
    assert "task 'near': search 12, select 9, test 8" in told
    assert run_cli("plan", file) == 0
    assert "tokens/s" in capsys.readouterr().out
    values = json.loads(file.read_text())
    for vector in values["vectors"].values():
        del vector["range"]
        vector["weight"] = 0.5
    file.write_text(json.dumps(values))
    assert run_cli("evaluate", file) == 0
    assert "near: " in capsys.readouterr().out
    assert run_cli("evaluate", file, "--show", "1") == 2
    assert "expected lm-eval's tasks, found one's own `function`" in capsys.readouterr().err


def test_from_python_with_a_callable(encoders: Family, tmp_path: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "given"}
    exec((Path(__file__).parents[1] / "support" / "own_world.py").read_text().split('"""')[3], namespace)  # noqa: S102
    pool = aftermix.Pool(encoders["base"], {"a": encoders["a"]}, merge={"exclude": []})
    options: dict[str, Any] = {
        "function": namespace["score"],
        "items": {"near": [f"n{number}" for number in range(30)]},
        "model_class": "AutoModel",
        "ranges": {"a": (0, 1)},
        "threads": 1,
        "trials": 3,
        "startup": 3,
        "top": 1,
        "baselines": False,
    }
    run = aftermix.search(pool, output=tmp_path / "run", **options)
    assert len(run.trials) == 3
    assert run.config.evaluate.function == "callable given:score"
    assert [task.task for task in run.config.evaluate.tasks] == ["near"]
    with pytest.raises(AftermixError, match=r"handed over in Python \(given:score\), found none"):
        aftermix.search(run.path / "config.yaml", output=run.path, resume=True)
    options |= {"trials": 4}
    assert len(aftermix.search(pool, output=run.path, resume=True, **options).trials) == 4
    with pytest.raises(AftermixError, match=r"items: expected numbers of items.*found items of one's own"):
        aftermix.search(pool, output=tmp_path / "other", tasks=["near"], items=dict)


BAD = {
    "raises": ("raise ValueError('no such pair')", r"mine\.py:score: raised ValueError: no such pair \(mine\.py, line"),
    "NaN": ("return {'near': {'scores': [float('nan')] * len(items['near'])}}", "expected a finite number, found nan"),
    "another number": ("return {'near': {'scores': [1.0]}}", r"scores: expected 12, found 1"),
    "other tasks": ("return {'far': {'scores': [1.0]}}", r"found no 'near' and 'far'"),
    "other ids": ("return {'near': {'scores': dict.fromkeys(range(12), 1.0)}}", r"scores: expected the 12 ids asked"),
    "half": ("model.half()\n    return {'near': 1.0}", r"has exchanged parameters of the model, first"),
    "training": ("next(model.parameters()).mul_(2)\n    return {'near': 1.0}", r"has written into 1 parameters"),
    "noise": (
        "import os\n    return {'near': {'scores': [os.urandom(1)[0] / 255 for _ in items['near']]}}",
        "expected the same scores twice",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_scorer_is_refused_before_anything_is_written(encoders: Family, tmp_path: Path, case: str) -> None:
    body, message = BAD[case]
    scorer = tmp_path / "mine.py"
    scorer.write_text(
        f"def items():\n    return {{'near': list(range(40))}}\n\n\ndef score(model, tokenizer, items):\n    {body}\n"
    )
    values = describe_search(encoders, scorer)
    with pytest.raises(EvaluationError, match=message):
        search(load_config(write_file(tmp_path, values)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


LATER = """
from scorer import items, score as score_well

LIMIT = {limit}
CALLS = []


def score(model, tokenizer, items):
    CALLS.append(1)
    if len(CALLS) == LIMIT:
        {body}
    return score_well(model, tokenizer, items)
"""
SPOILED = {
    "raises": ("raise ValueError('too hot')", r"later\.py:score: raised ValueError: too hot \(later\.py, line"),
    "other gold": (
        "return {t: {**e, 'gold': [(g + 1) % 3 for g in e['gold']]} "
        "for t, e in score_well(model, tokenizer, items).items()}",
        r"expected the right choice \d, as before, found \d",
    ),
    "fewer choices": (
        "return {t: {**e, 'loglikelihoods': [row[:2] for row in e['loglikelihoods']], 'gold': [0] * len(e['gold'])} "
        "for t, e in score_well(model, tokenizer, items).items()}",
        r"expected 3 log-likelihoods, as before, found 2",
    ),
    "no log-likelihoods": (
        "return {t: {'scores': e['scores']} for t, e in score_well(model, tokenizer, items).items()}",
        "expected scores of items with log-likelihoods, as before, found scores of items",
    ),
    "training": ("next(model.parameters()).mul_(2)", r"has written into 1 parameters of the model"),
}
FIRST_TRIAL = 7
"""The call of the first trial: two tasks alone, both together, three splits of the base before it."""


@pytest.mark.parametrize("case", SPOILED)
def test_a_scorer_that_fails_once_costs_one_trial(
    encoders: Family, scorer: Path, finished: Path, tmp_path: Path, case: str
) -> None:
    body, message = SPOILED[case]
    shutil.copy(scorer, tmp_path / "scorer.py")
    (tmp_path / "later.py").write_text(LATER.format(limit=FIRST_TRIAL + 1, body=body))
    values = describe_search(encoders, tmp_path / "later.py")
    values["search"] |= {"trials": 3, "startup": 3}
    run = search(load_config(write_file(tmp_path, values)), tmp_path / "run")
    trials = read_trials(run)
    assert [trial["state"] for trial in trials] == ["complete", "failed", "complete"]
    assert re.search(message, trials[1]["error"])
    assert trials[0]["scores"] == read_trials(finished)[0]["scores"]
    assert trials[2]["scores"] == read_trials(finished)[2]["scores"]


def test_a_file_that_the_scorer_misses_ends_the_search_and_is_no_fault_of_a_merge(
    encoders: Family, scorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(scorer, tmp_path / "scorer.py")
    missing = tmp_path / "pairs.csv"
    body = f"open({str(missing)!r})"
    (tmp_path / "later.py").write_text(LATER.format(limit=FIRST_TRIAL + 1, body=body))
    values = describe_search(encoders, tmp_path / "later.py")
    values["search"] |= {"trials": 3, "startup": 3}
    file = write_file(tmp_path, values)
    assert run_cli("search", file, "-o", tmp_path / "run") == 1
    told = capsys.readouterr().err
    assert "later.py:score: raised FileNotFoundError" in told
    assert "kept: 1 trial" in told
    assert "go on with: aftermix search" in told
    missing.write_text("")
    assert run_cli("search", file, "--resume", tmp_path / "run") == 0
    assert [trial["state"] for trial in read_trials(tmp_path / "run")] == ["complete"] * 3


def test_a_scorer_that_always_fails_stops_the_search(encoders: Family, scorer: Path, tmp_path: Path) -> None:
    shutil.copy(scorer, tmp_path / "scorer.py")
    text = LATER.format(limit=FIRST_TRIAL, body="raise ValueError('always')").replace("== LIMIT", ">= LIMIT")
    (tmp_path / "later.py").write_text(text)
    values = describe_search(encoders, tmp_path / "later.py")
    values["search"] |= {"max_consecutive_failures": 2}
    with pytest.raises(RunFailedError, match=r"2 trials in a row failed, the last with: later\.py:score: raised Value"):
        search(load_config(write_file(tmp_path, values)), tmp_path / "run")


def test_another_function_takes_no_score_of_an_earlier_run(
    finished: Path, encoders: Family, scorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = describe_search(encoders, scorer, search={"trials": 0, "top": 1, "baselines": False})
    assert run_cli("search", write_file(tmp_path, values), "-o", tmp_path / "same", "--from", finished) == 0
    assert len(read_trials(tmp_path / "same")) == 7
    other = write_scorers(tmp_path / "mine")
    other.write_text(other.read_text().replace("4 * similar", "5 * similar"))
    values = describe_search(encoders, other, search={"trials": 2, "startup": 2, "top": 1, "baselines": False})
    capsys.readouterr()
    run_cli("search", write_file(tmp_path, values), "-o", tmp_path / "other", "--from", finished)
    told = capsys.readouterr().err
    assert "expected requests or scoring code sha256:" in told or "evaluate" in told
    assert not any("#" in (trial["origin"] or "") for trial in read_trials(tmp_path / "other"))
