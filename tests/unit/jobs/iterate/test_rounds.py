"""Rounds on a tiny world: experts trained, searched and trained on from; stopped, resumed, priced and refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from aftermix.api.commands.texts import describe_estimate
from aftermix.config import Config, parse_config
from aftermix.errors import AftermixError, RunFailedError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.iterate import command
from aftermix.jobs.iterate.gain import RoundGain, measure_gain
from aftermix.jobs.iterate.plan import plan_rounds
from aftermix.jobs.tracking.tensorboard_writer import TensorBoardWriter
from aftermix.search.intervals import bootstrap_mean
from conftest import run_cli
from support.training_world import SENTENCES

MakeFile = Callable[..., dict[str, Any]]


@pytest.fixture
def make_file(base_folder: Path, corpus: Path, tmp_path: Path) -> MakeFile:
    """A file whose texts are the corpus: training on them lowers their bits per byte."""
    (tmp_path / "held-out.jsonl").write_text(
        "".join(json.dumps({"text": f"{text} {number}"}) + "\n" for number in range(4) for text in SENTENCES)
    )

    def make(**changes: Any) -> dict[str, Any]:
        datasets = {"cats": {"data": str(corpus), "tokens": 1280}, "birds": {"data": str(corpus), "tokens": 640}}
        values = {
            "base": str(base_folder),
            "train": {
                "datasets": datasets,
                "context": 32,
                "batch_size": 4,
                "learning_rate": 0.01,
                "threads": 1,
                "device": "cpu",
                "vector": "none",
            },
            "evaluate": {
                "tasks": [{"name": "notes", "text": str(tmp_path / "held-out.jsonl")}],
                "items": {"search": 8, "select": 8},
                "threads": 1,
            },
            "merge": {"exclude": []},
            "search": {"strategy": "random", "trials": 2, "top": 1},
            "iterate": {"rounds": 2, "ranges": {"cats": [0.5, 1.0]}},
        }
        return {**values, **changes}

    return make


def parse(values: dict[str, Any]) -> Config:
    return parse_config(values, where="aftermix.yaml", folder=Path("/"))


class ToldNumbers(dict[str, list[int]]):
    """A tracker in the place of TensorBoard's: steps by folder and name of a number."""

    def open(self, folder: Path) -> Any:
        def write(values: dict[str, float], step: int) -> None:
            for name in values:
                self.setdefault(f"{folder.parent.parent.name}/{folder.name}/{name}", []).append(step)

        return SimpleNamespace(write=write, close=lambda: None)


def test_rounds_that_gain_go_on_and_resume(
    make_file: MakeFile, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, run, told = tmp_path / "aftermix.yaml", tmp_path / "run", ToldNumbers()
    monkeypatch.setitem(sys.modules, "tensorboard", ModuleType("tensorboard"))
    monkeypatch.setattr(TensorBoardWriter, "open", told.open)
    alone = make_file()["train"]
    del alone["datasets"]["birds"]  # a second expert would make it twice as long
    more: dict[str, Any] = {"train": alone, "track": "tensorboard"}
    file.write_text(yaml.safe_dump(make_file(iterate={"rounds": 1}, **more)))
    assert run_cli("iterate", file, "-o", run, "--json") == 0
    first = json.loads(capfd.readouterr().out)
    assert first["stopped"] == "rounds"
    assert first["rounds"][0]["accepted"]
    assert first["model"] == "rounds/01/run/model"
    assert told["run/search/objective"] == told["run/search/weights/cats"] == [0, 1]
    assert told["experts/cats/loss"] == list(range(1, 11))

    # Another round from the merge of the first, whose files stay as they are.
    before = (run / "rounds/01/run/best.json").stat().st_mtime_ns
    file.write_text(yaml.safe_dump(make_file(iterate={"rounds": 2}, **more)))
    assert run_cli("iterate", file, "--resume", run, "--json") == 0
    second = json.loads(capfd.readouterr().out)
    assert [done["base"] for done in second["rounds"]] == [first["rounds"][0]["base"], first["model"]]
    assert second["rounds"][0] == first["rounds"][0]
    assert second == {"run": str(run), **json.loads((run / "iterate.json").read_text())}
    assert (run / "rounds/01/run/best.json").stat().st_mtime_ns == before
    assert second["rounds"][1]["base_score"] == pytest.approx(first["rounds"][0]["score"], abs=1e-6)
    record = json.loads((run / "rounds/02/experts/cats/train.json").read_text())
    assert record["base"] == str(run / first["model"])

    check_gain(run / "rounds/01/run", second["rounds"][0])
    other = parse(make_file(merge={"exclude": ["norm"]}, iterate=None, **more))
    with pytest.raises(AftermixError, match="was begun with another file: `merge` differs. Name a new folder by -o"):
        command.iterate(other, run, resume=True)


def check_gain(run: Path, done: dict[str, Any]) -> None:
    """The gain is that of the items: the winner's scores minus the base's, drawn again as pairs."""
    found = measure_gain(run)
    items = [
        json.loads(next((run / "items/test/baselines").glob(pattern)).read_text())["notes"]
        for pattern in ("base-*.json", "winner-trial-*.json")
    ]
    base, merge = (np.array(each["scores"]) for each in items)
    sizes = np.array(items[0]["weights"])
    gain = float(sizes @ (merge - base) / sizes.sum())
    assert found.gain == pytest.approx(gain)
    assert [done["gain"], done["interval"]] == [found.gain, list(found.interval)]

    draws = np.random.default_rng(0).integers(0, len(sizes), (4000, len(sizes)))
    means = (sizes * (merge - base))[draws].sum(axis=1) / sizes[draws].sum(axis=1)
    np.testing.assert_allclose(found.interval, np.quantile(means, [0.05, 0.95]), atol=0.15 * np.ptp(means))


def test_a_round_without_a_sure_gain_is_the_last(
    make_file: MakeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record alone: experts and search are those of a stand-in."""
    gains = iter([RoundGain(0.5, 0.6, 0.1, (0.02, 0.2)), RoundGain(0.6, 0.61, 0.01, (0.0, 0.02))])
    monkeypatch.setattr(command, "train", lambda _, folder, **__: {"cats": folder / "cats"})
    monkeypatch.setattr(command, "search", lambda _, folder, **__: folder)
    monkeypatch.setattr(command, "measure_gain", lambda _: next(gains))
    lines: list[str] = []
    record = command.iterate(parse(make_file(iterate={"rounds": 5})), tmp_path / "run", log=lines.append)
    assert record.stopped == "no sure gain"
    assert [done.accepted for done in record.rounds] == [True, False]
    assert record.model == "rounds/01/run/model"
    assert lines[1] == "round 1: 50.0 -> 60.0, gain 10.0 [2.0, 20.0] (90 %), accepted"
    assert lines[3] == "round 2: 60.0 -> 61.0, gain 1.0 [0.0, 2.0] (90 %), no sure gain: the last"
    assert command.iterate(parse(make_file(iterate={"rounds": 9})), tmp_path / "run", resume=True) == record


def test_a_stopped_round_goes_on(make_file: MakeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised in a round is a stop; the same command goes on with the search that was begun."""
    begun: list[bool] = []

    def search(_: Config, folder: Path, *, resume: bool, **__: Any) -> Path:
        begun.append(resume)
        if not resume:
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text("")
            raise AftermixError("search", "the disk is full", "Free space.")
        return folder

    monkeypatch.setattr(command, "train", lambda _, folder, **__: {"cats": folder / "cats"})
    monkeypatch.setattr(command, "search", search)
    monkeypatch.setattr(command, "measure_gain", lambda _: RoundGain(0.5, 0.6, 0.1, (0.02, 0.2)))
    config = parse(make_file(iterate={"rounds": 1}))
    with pytest.raises(RunFailedError, match="the disk is full"):
        command.iterate(config, tmp_path / "run")
    assert command.iterate(config, tmp_path / "run", resume=True).stopped == "rounds"
    assert begun == [False, True]


@pytest.mark.whole
def test_rounds_of_mixtures(make_file: MakeFile, tmp_path: Path) -> None:
    """A round of a mixture gains by the mean of raw scores."""
    texts = {"text": str(tmp_path / "held-out.jsonl")}
    evaluate = {"tasks": [{"name": name, **texts} for name in ("notes", "more")], "items": {"search": 8, "select": 8}}
    config = parse(make_file(evaluate=evaluate, mixture={"points": 6}, iterate={"rounds": 1}))
    record = command.iterate(config, tmp_path / "run")
    assert record.rounds[0].accepted
    best = json.loads((tmp_path / "run/rounds/01/run/best.json").read_text())
    assert record.rounds[0].score == pytest.approx(best["test"]["objective"][0], abs=1e-9)


def test_doctor_tells_what_a_round_refuses(make_file: MakeFile) -> None:
    found = doctor(parse(make_file(search={"baselines": False}, track="trackio")))
    assert "search.baselines: is false, and the base of each round is measured as a baseline" in str(found.problems[0])


def test_plan_prices_a_round(make_file: MakeFile, tmp_path: Path) -> None:
    needs = plan_rounds(parse(make_file(iterate={"rounds": 3})))
    assert needs.training == {"cats": 1280, "birds": 640}
    assert needs.measurements["search"] == 2
    lines = list(describe_estimate(needs))
    assert any(
        line.startswith("Rounds          at most 3, each with these trainings and evaluations: about") for line in lines
    )
    assert any("for experts and merges of 3 rounds" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"vectors": {"x": {"model": "/x"}}},
            "vectors: names x: the vectors of each round are the experts",
        ),
        (
            {"search": {"baselines": False}},
            "search.baselines: is false, and the base of each round is measured",
        ),
        ({"iterate": {"ranges": {"cat": [0, 1]}}}, r"iterate.ranges.cat: expected a dataset \(cats, birds\). .*'cats'"),
        ({"iterate": {"ranges": {"cats": [1, 0]}}}, r"expected low <= high in the range of 'cats', found \[1, 0\]"),
        ({"evaluate": None}, "evaluate: missing from the YAML file"),
    ],
)
def test_refused(changes: dict[str, Any], text: str, make_file: MakeFile, tmp_path: Path) -> None:
    with pytest.raises(AftermixError, match=text):
        command.iterate(parse(make_file(**changes)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_confidence_is_that_of_the_quantiles() -> None:
    scores = {"t": list(np.random.default_rng(1).normal(size=60))}
    narrow, wide = (bootstrap_mean(scores, weights={"t": 1.0}, seed=0, confidence=each) for each in (0.9, 0.95))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
