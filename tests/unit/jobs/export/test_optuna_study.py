"""Searches as studies of Optuna, read back by Optuna."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import CliRunner
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from aftermix.cli import cli
from aftermix.config import Objective
from aftermix.errors import AftermixError
from aftermix.jobs.export.optuna_study import BEGIN, _freeze_trials, _write_study, export_optuna
from aftermix.runs.trials import Trial
from aftermix.search.objective import ObjectiveSet
from aftermix.search.space import ChoiceSet, NumberRange, SearchSpace

RUNS = Path(__file__).resolve().parents[3] / "data/runs-0a1294b"


def load(file: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(file))))


def test_a_run_is_a_study_of_its_trials(tmp_path: Path) -> None:
    notes = export_optuna(RUNS / "search", tmp_path / "search.log")
    lines = [json.loads(line) for line in (RUNS / "search/trials.jsonl").read_text().splitlines()]
    study = load(tmp_path / "search.log", "search")
    assert notes == [f"Study 'search': {len(lines)} trials, {len(lines)} complete"]
    settings = [{f"settings.{name}": value for name, value in line["settings"].items()} for line in lines]
    assert [trial.params for trial in study.trials] == [
        line["weights"] | own for line, own in zip(lines, settings, strict=True)
    ]
    assert [trial.value for trial in study.trials] == [line["objective"] for line in lines]
    scores = [{f"scores.{task}": score for task, score in line["scores"].items()} for line in lines]
    assert [{k: v for k, v in trial.user_attrs.items() if k.startswith("scores.")} for trial in study.trials] == scores
    assert study.best_value == max(line["objective"] for line in lines)
    assert study.metric_names == ["mean"]
    took = [trial.duration.total_seconds() for trial in study.trials if trial.duration is not None]
    assert took == pytest.approx([sum(line["seconds"].values()) for line in lines], abs=1e-5)
    assert study.trials[0].datetime_start == BEGIN


def test_settings_floors_failures_and_points_outside(tmp_path: Path) -> None:
    space = SearchSpace(
        {"a": (0.0, 0.5)},
        settings={"density": NumberRange(0.1, 0.9, 0.1), "order": ChoiceSet((("a", "b"), "rotation"))},
    )
    goals = (Objective(name="mean", tasks={"t": 1}, floors={"u": 0.4}), Objective(name="other", tasks={"u": 1}))
    objectives = ObjectiveSet.build(goals, tasks=["t", "u"])
    common: dict[str, Any] = {"settings": {"density": 0.3, "order": ("a", "b")}, "seconds": {"evaluate": 2.0}}
    trials = [
        Trial(number=1, state="failed", weights={"a": 0.25}, error="out of memory", origin="sampler", **common),
        Trial(
            number=0, state="complete", weights={"a": 1.0}, scores={"t": 0.6, "u": 0.3}, objective=(0.6, 0.3), **common
        ),
    ]
    _write_study("run", objectives, _freeze_trials(trials, space, objectives), tmp_path / "run.log")

    first, second = load(tmp_path / "run.log", "run").trials
    assert first.params == {"a": 1.0, "settings.density": pytest.approx(0.3), "settings.order": "(a, b)"}
    assert first.distributions["a"] == FloatDistribution(0.0, 1.0)
    assert second.distributions["a"] == FloatDistribution(0.0, 0.5)
    assert first.distributions["settings.density"] == FloatDistribution(0.1, 0.9, step=0.1)
    assert first.distributions["settings.order"] == CategoricalDistribution(["(a, b)", "rotation"])
    assert first.values == [0.6, 0.3]
    assert first.constraints == {"u": pytest.approx(0.1)}
    assert (second.state, second.values, second.user_attrs["error"]) == (TrialState.FAIL, None, "out of memory")
    assert second.datetime_start == first.datetime_complete


def test_what_is_no_search_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    shutil.copy(RUNS / "search/config.yaml", fresh)
    taken = tmp_path / "taken.log"
    taken.write_text("mine")
    cases = [
        (
            RUNS / "mixture",
            tmp_path / "a.log",
            r"mixture: is the run of a mixture, whose points are a design on",
        ),
        (fresh, tmp_path / "a.log", r"fresh: has no ended trial. Let the search run first"),
        (tmp_path / "no", tmp_path / "a.log", r"no: expected a run folder, found no such folder"),
        (
            RUNS / "search",
            taken,
            r"taken.log: exists. Name a new file with -o, or remove this one yourself",
        ),
        (RUNS / "search", tmp_path / "no/a.log", r"no: is no folder. Make it, or name another place"),
    ]
    for run, output, message in cases:
        with pytest.raises(AftermixError, match=message):
            export_optuna(run, output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "taken.log"]
    assert taken.read_text() == "mine"


def test_on_the_command_line(tmp_path: Path) -> None:
    arguments = ["export", str(RUNS / "search"), "--to", "optuna"]
    done = CliRunner().invoke(cli, [*arguments, "-o", str(tmp_path / "a.log"), "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["study"] == str(tmp_path / "a.log")
    done = CliRunner().invoke(cli, [*arguments, "-o", str(tmp_path / "b.log")], catch_exceptions=False)
    assert done.stdout.splitlines()[-1] == f"Study: {tmp_path / 'b.log'}"
    refused = CliRunner().invoke(cli, [*arguments, "-o", str(tmp_path / "c.log"), "--tokens", "5"])
    assert "The options are for the mixtures of trainers; optuna takes none of them." in refused.output
