"""A search with a weight for each place of the model, from its file to the merge of its recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from aftermix.config import load_config
from aftermix.errors import AftermixError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge
from aftermix.jobs.merge.from_run import configure_run_merge
from aftermix.jobs.search.command import search
from aftermix.jobs.search.predict import predict
from support.own_world import describe_search, make_encoders, write_scorers

RULES = [{"match": "attention", "value": [0, 1]}, {"match": "LayerNorm", "value": 0.5}, {"value": [0.1, 0.9]}]
WEIGHTS = {"a/attention", "a/LayerNorm", "a/else", "b"}
TRIALS = 10
pytestmark = pytest.mark.usefixtures("shown")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("placed")
    family, scorer = make_encoders(folder), write_scorers(folder)
    vectors = {"a": {"model": str(family["a"]), "range": RULES}, "b": {"model": str(family["b"])}}
    options = {"trials": TRIALS, "startup": 8, "batch": 2, "top": 2, "baselines": False}
    (folder / "file.yaml").write_text(json.dumps(describe_search(family, scorer, vectors=vectors, search=options)))
    return folder / "file.yaml"


@pytest.fixture(scope="module")
def run(file: Path) -> Path:
    return search(load_config(file), file.parent / "run")


def read_trials(run: Path) -> list[Mapping[str, object]]:
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in trials]


def read_weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_winners_recipe_gives_the_winner(run: Path) -> None:
    best = json.loads((run / "best.json").read_text())
    assert best["weights"].keys() == WEIGHTS
    assert best["weights"]["a/LayerNorm"] == 0.5
    assert (best["ratios"], best["ratios_note"][:31]) == (None, "The weight of a depends on the ")
    assert [rule["weight"] for rule in best["vectors"]["a"]["rules"]] == ["a/attention", "a/LayerNorm", "a/else"]
    assert "rules" not in best["vectors"]["b"]

    recipe = next((run / "model").glob("*.yaml"))
    rules = yaml.safe_load(recipe.read_text())["vectors"]["a"]["weight"]
    assert [rule["value"] for rule in rules] == [
        best["weights"][rule["weight"]] for rule in best["vectors"]["a"]["rules"]
    ]
    merge(load_config(recipe), run.parent / "again")
    assert read_weights(run.parent / "again") == read_weights(run / "model")
    merge(configure_run_merge(run, best["weights"]), run.parent / "third")
    assert read_weights(run.parent / "third") == read_weights(run / "model")


def test_the_response_predicts_by_rule_and_the_report_shows_them(run: Path) -> None:
    told = predict(run, {"a": 0.5, "b": 0.25})
    assert told.weights == {"a/attention": 0.5, "a/LayerNorm": 0.5, "a/else": 0.5, "b": 0.25}
    assert told.inside
    page = (run / "report.html").read_text()
    assert all(name in page for name in WEIGHTS)
    strategies = {trial["strategy"] for trial in read_trials(run)}
    assert strategies <= {"response", "tpe"}


def test_a_search_that_stopped_goes_on_as_the_whole_one(file: Path, run: Path) -> None:
    config = load_config(file)
    short = config.model_copy(update={"search": config.search.model_copy(update={"trials": 9})})
    part = search(short, file.parent / "part")
    search(config, part, resume=True)
    assert read_trials(part) == read_trials(run)
    assert read_weights(part / "model") == read_weights(run / "model")


@pytest.mark.whole
@pytest.mark.parametrize("strategy", ["tpe", "random"])
def test_other_strategies_take_rules(file: Path, strategy: str) -> None:
    config = load_config(file)
    update = {"strategy": strategy, "trials": 5, "startup": 3}
    config = config.model_copy(update={"search": config.search.model_copy(update=update)})
    done = search(config, file.parent / strategy)
    assert all(trial["weights"].keys() == WEIGHTS for trial in read_trials(done))


def test_rules_that_do_not_fit_are_refused_before_the_run(file: Path, run: Path, tmp_path: Path) -> None:
    values = json.loads(file.read_text())
    values["vectors"]["a"]["range"] = [{"match": "self_attn", "value": [0, 1]}, {"value": 0.5}]
    (tmp_path / "file.yaml").write_text(json.dumps(values))
    config = load_config(tmp_path / "file.yaml")
    text = "vectors.a.range: no tensor that the merge moves is left for 'self_attn'"
    with pytest.raises(AftermixError, match=text):
        search(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert [text in str(problem) for problem in doctor(config).problems] == [True]

    # Rules in another order are other weights, even under the same names.
    values["vectors"]["a"]["range"] = [RULES[1], RULES[0], RULES[2]]
    (tmp_path / "file.yaml").write_text(json.dumps(values))
    with pytest.raises(
        AftermixError, match=r"its weights are of other rules by the place than those of vectors\.a\.range"
    ):
        search(load_config(tmp_path / "file.yaml"), tmp_path / "run", source=run)
