"""The main job on real parts: tiny Llama checkpoints, lm-eval tasks, Optuna; runs, resumes, re-optimises."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from aftermix.config import load_config
from aftermix.errors import AftermixError
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.plan.command import plan
from aftermix.jobs.run_folder.opening import read_run_config
from aftermix.jobs.search.beginning.kept_scores import take_kept_scores
from aftermix.jobs.search.beginning.rescoring import asks_for_rescoring
from aftermix.jobs.search.command import search
from aftermix.jobs.search.space_from_config import build_space
from aftermix.yaml_file import read_yaml
from conftest import run_cli

Family = Mapping[str, Path]


def write_file(
    folder: Path, family: Family, tasks: Path, *, name: str = "aftermix.yaml", **search_options: Any
) -> Path:
    values = {
        "base": str(family["base"]),
        "vectors": {
            "a": {"model": str(family["a"]), "role": "instruction"},
            "b": {"model": str(family["b"]), "range": [-0.5, 1.0], "tokens": 1000},
            "c": {"model": str(family["c"])},
        },
        "merge": {"method": "dare_linear", "density": 0.8},
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(tasks),
            "items": {"search": 20, "select": 20},
            "threads": 1,
        },
        "search": {"strategy": "tpe", "trials": 6, "startup": 4, "top": 2, **search_options},
    }
    path = folder / name
    path.write_text(json.dumps(values))  # YAML is a superset of JSON
    return path


def trials_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, family: Family, tasks: Path) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    return search(load_config(write_file(folder, family, tasks)), folder / "run")


def test_a_run_leaves_what_the_contract_names(finished: Path) -> None:
    trials = trials_of(finished)
    assert [trial["number"] for trial in trials] == list(range(6))
    assert {trial["state"] for trial in trials} == {"complete"}
    for trial in trials:
        assert set(trial["weights"]) == {"a", "b", "c"}
        assert set(trial["scores"]) == {"colours", "numbers"}
        assert trial["objective"] == pytest.approx(sum(trial["scores"].values()) / 2)
        assert {"combine", "evaluate", "overhead"} <= set(trial["seconds"])
        items = json.loads((finished / "items" / "search" / f"{trial['number']:05}.json").read_text())
        assert {task: sum(values) / 20 for task, values in items.items()} == pytest.approx(trial["scores"])
    split = json.loads((finished / "items" / "split.json").read_text())
    for parts in split.values():
        assert len({*parts["search"], *parts["select"], *parts["test"]}) == 60
    for name in (
        "config.yaml",
        "lock.json",
        "best.json",
        "report.html",
        "model/config.json",
        "model/chat_template.jinja",
    ):
        assert (finished / name).is_file(), name


def test_best_tells_the_winner_beside_every_baseline(finished: Path) -> None:
    best = json.loads((finished / "best.json").read_text())
    winner = trials_of(finished)[best["winner"]["trial"]]
    assert best["weights"] == winner["weights"]
    positive = {name: max(winner["weights"][name], 0.0) for name in ("b", "c")}
    assert best["ratios"] == pytest.approx({n: w / sum(positive.values()) for n, w in positive.items()})
    for split in ("search", "select", "test"):
        low, high = best[split]["interval"][0]
        assert low <= best[split]["objective"][0] <= high
        assert {entry["items"] for entry in best[split]["tasks"].values()} == {20}
    names = [entry["name"] for entry in best["baselines"]]
    assert names[:11] == [
        "base", "a alone", "b alone", "c alone", "b + 0.6 a", "c + 0.6 a",
        "uniform Task Arithmetic", "uniform TIES", "uniform DARE-Linear", "uniform DARE-TIES", names[10],
    ]  # fmt: skip
    assert names[10].startswith("a at its best weight")
    assert names[11].startswith(("b + a at its best weight", "c + a at its best weight"))
    # Where the best single vector is the instruction vector, it stands there already.
    assert len(names) == 13 or names[12].startswith(("b at its best weight (b ", "c at its best weight (c "))
    assert names[-1].startswith("uniform Task Arithmetic at its best scale (each ")
    for entry in best["baselines"]:
        expected = best["test"]["objective"][0] - entry["test"]["objective"][0]
        assert entry["difference"]["objective"][0] == pytest.approx(expected)


def test_the_model_serves_and_says_what_the_live_merge_said(finished: Path, family: Family) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aftermix.checkpoints.pool import open_pool
    from aftermix.merging.merge import Merger
    from aftermix.merging.prepared import prepare_vectors
    from aftermix.merging.recipe import MergeRecipe

    model, report = AutoModelForCausalLM.from_pretrained(
        finished / "model", dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    config = read_run_config(finished)
    best = json.loads((finished / "best.json").read_text())
    live = AutoModelForCausalLM.from_pretrained(family["base"], dtype=torch.float32)
    prepared = prepare_vectors(Merger.build(open_pool(config), MergeRecipe.from_config(config.merge, for_search=True)))
    with torch.no_grad():
        for name, tensor in prepared.stream_merged(best["weights"]):
            live.get_parameter(name).copy_(tensor)
        tokens = torch.arange(40).view(2, 20)
        assert model(tokens).logits.equal(live(tokens).logits)
    assert AutoTokenizer.from_pretrained(finished / "model").chat_template == "{{ messages }}"
    base = load_file(family["base"] / "model.safetensors")
    merged = load_file(finished / "model" / "model.safetensors")
    assert merged["model.embed_tokens.weight"].equal(base["model.embed_tokens.weight"])  # excluded by default
    assert not merged["model.norm.weight"].equal(base["model.norm.weight"])


def test_the_recipe_beside_the_model_makes_it_again(finished: Path, tmp_path: Path) -> None:
    assert run_cli("merge", str(finished / "model" / "aftermix.yaml"), "-o", str(tmp_path / "again")) == 0
    first, second = ((folder / "model.safetensors").read_bytes() for folder in (finished / "model", tmp_path / "again"))
    assert first == second


def test_the_run_at_the_winners_weights_is_the_winner_again(finished: Path, tmp_path: Path) -> None:
    weights = json.loads((finished / "best.json").read_text())["weights"]
    text = ",".join(f"{name}={weight!r}" for name, weight in weights.items())

    assert run_cli("merge", finished, "--weights", text, "-o", tmp_path / "again") == 0

    ours, theirs = tmp_path / "again", finished / "model"
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    assert load_config(ours / "aftermix.yaml") == load_config(theirs / "aftermix.yaml")


def test_the_run_at_other_weights_leaves_out_what_is_not_named(finished: Path, tmp_path: Path) -> None:
    assert run_cli("merge", finished, "--weights", "b=2.5", "-o", tmp_path / "other") == 0

    recipe = yaml.safe_load((tmp_path / "other" / "aftermix.yaml").read_text())
    assert {name: vector["weight"] for name, vector in recipe["vectors"].items()} == {"a": 0.0, "b": 2.5, "c": 0.0}
    assert (recipe["merge"]["method"], recipe["merge"]["density"]) == ("dare_linear", 0.8)
    assert recipe["merge"]["exclude"] == ["kind:embeddings", "kind:head", "kind:positions"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], "expected a file, found a folder. Name a file. The folder of a search is merged by"),
        (["--weights", "d=1"], "--weights: expected a vector of the run (a, b, c), found 'd'. Correct the name."),
        (["--weights", "a"], "--weights: expected NAME=NUMBER, found 'a'."),
    ],
)
def test_a_run_at_no_weights_or_wrong_ones_is_refused(
    finished: Path, tmp_path: Path, options: list[str], found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("merge", finished, *options, "-o", tmp_path / "none") == 2
    assert found in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_card_names_the_models_and_the_scores(finished: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(finished / "model" / "README.md")
    assert card.data.base_model == []  # local folders are no models of the hub
    assert all(f"| {name} | `{name}` |" in card.content for name in "abc")
    assert {"merge", "aftermix"} <= set(card.data.tags)
    best = json.loads((finished / "best.json").read_text())
    found = {result.dataset_name: result.metric_value for result in card.data.eval_results}
    assert found == {task: round(entry["score"], 4) for task, entry in best["test"]["tasks"].items()}


def test_a_run_in_two_parts_is_the_run_in_one(finished: Path, tmp_path: Path, family: Family, tasks: Path) -> None:
    short = write_file(tmp_path, family, tasks, name="short.yaml", trials=3)
    search(load_config(short), tmp_path / "run")
    whole = write_file(tmp_path, family, tasks)
    assert run_cli("search", str(whole), "--resume", str(tmp_path / "run")) == 0
    for found, expected in zip(trials_of(tmp_path / "run"), trials_of(finished), strict=True):
        assert {k: v for k, v in found.items() if k != "seconds"} == {
            k: v for k, v in expected.items() if k != "seconds"
        }
    for name in ("weights", "test", "baselines", "select"):
        ours, theirs = (json.loads((run / "best.json").read_text())[name] for run in (tmp_path / "run", finished))
        assert ours == theirs
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == (
        finished / "model/model.safetensors"
    ).read_bytes()


def test_resuming_a_finished_run_keeps_what_it_cost(finished: Path) -> None:
    before = json.loads((finished / "best.json").read_text())
    assert run_cli("search", "--resume", str(finished)) == 0
    after = json.loads((finished / "best.json").read_text())
    assert after["seconds"]["test"] == before["seconds"]["test"] > 0
    assert after["seconds"]["select"] == before["seconds"]["select"] > 0
    assert {**after, "seconds": None} == {**before, "seconds": None}


def test_resuming_another_search_is_refused(finished: Path, tmp_path: Path, family: Family, tasks: Path) -> None:
    other = write_file(tmp_path, family, tasks, seed=1)
    with pytest.raises(AftermixError, match=r"the file says otherwise in 'search\.seed'\. Restore it, or start a new"):
        search(load_config(other), finished, resume=True)
    with pytest.raises(AftermixError, match=r"is not a run: it has no config\.yaml"):
        search(load_config(other), tmp_path, resume=True)


def test_another_objective_starts_from_the_stored_scores(
    finished: Path, tmp_path: Path, family: Family, tasks: Path
) -> None:
    objective = {"tasks": {"numbers": 1.0}, "floors": {"colours": 0.1}}
    file = write_file(tmp_path, family, tasks, objective=objective, trials=2, baselines=False)
    assert run_cli("search", str(file), "-o", str(tmp_path / "run"), "--from", str(finished)) == 0
    trials, before = trials_of(tmp_path / "run"), trials_of(finished)
    assert len(trials) == 8
    for trial, old in zip(trials, before, strict=False):
        assert trial["weights"] == old["weights"]
        assert trial["objective"] == old["scores"]["numbers"]
        assert trial["origin"] == f"run#{old['number']}"
        assert not trial["seconds"]
    assert json.loads((tmp_path / "run" / "best.json").read_text())["objective"][0]["floors"] == {"colours": 0.1}


def test_a_copy_under_another_objective_runs_no_new_trial(
    finished: Path, tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of the earlier file, or none; a number on the command line, and another range, ask for new ones."""
    objective = {"tasks": {"numbers": 1.0}}
    copy = write_file(tmp_path, family, tasks, objective=objective, baselines=False)
    run = tmp_path / "copy"
    assert plan(load_config(copy), source=finished).measurements["search"] == 0
    assert run_cli("search", copy, "-o", run, "--from", finished) == 0
    told = f"--from {finished}: 6 trials are scored anew and no new merge is run; `--trials N` runs N more\n"
    assert told in capsys.readouterr().err
    assert [trial["origin"] for trial in trials_of(run)] == [f"run#{number}" for number in range(6)]
    assert read_yaml(run / "config.yaml")["search"]["trials"] == 0

    assert run_cli("search", copy, "--resume", run) == 0
    assert len(trials_of(run)) == 6
    assert run_cli("search", copy, "--resume", run, "--trials", 1) == 0
    assert len(trials_of(run)) == 7

    values = read_yaml(copy)
    del values["search"]["trials"]
    copy.write_text(json.dumps(values))
    unstated = load_config(copy)
    assert asks_for_rescoring(unstated, finished, space=build_space(unstated))
    values["vectors"]["c"]["range"] = [0.0, 0.9]
    copy.write_text(json.dumps(values))
    narrower = load_config(copy)
    assert not asks_for_rescoring(narrower, finished, space=build_space(narrower))


def test_baselines_and_a_winner_that_stays_are_not_measured_again(
    finished: Path, tmp_path: Path, family: Family, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same objective by another name: nothing is left to measure. A plan knows of baselines without a choice."""
    file = write_file(tmp_path, family, tasks, objective={"name": "again", "tasks": {"colours": 1, "numbers": 1}})
    scans, fixed = 6 + 6 + 5 + 2 - 2, 10  # a alone at 0.4 and 1 is of two scans
    planned = plan(load_config(file), source=finished).measurements
    assert planned == {"search": 0, "select": 2 + 12 + 11 + 6 - scans, "test": 1 + 10 + 4 - fixed}
    for name in ("evaluate", "evaluate_baseline"):
        monkeypatch.setattr(MergeEvaluator, name, lambda *_: pytest.fail("was measured again"))
    run = search(load_config(file), tmp_path / "run", source=finished)
    ours, theirs = (json.loads((folder / "best.json").read_text()) for folder in (run, finished))
    assert ours["weights"] == theirs["weights"]
    assert ours["test"]["objective"] == theirs["test"]["objective"]
    assert [each["name"] for each in ours["baselines"]] == [each["name"] for each in theirs["baselines"]]
    for split in ("select", "test"):
        kept = sorted((finished / "items" / split / "baselines").iterdir())
        assert [path.name for path in kept] == sorted(
            path.name for path in (run / "items" / split / "baselines").iterdir()
        )
        for path in kept:
            assert (run / "items" / split / "baselines" / path.name).read_bytes() == path.read_bytes()


def test_baselines_of_a_task_that_changed_are_measured(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for split in ("select", "test"):
        shutil.rmtree(run / "items" / split / "baselines")
    record = json.loads((run / "items" / "requests.json").read_text())
    record["colours"]["metric"] = "another"
    (run / "items" / "requests.json").write_text(json.dumps(record))
    take_kept_scores(finished, run, ())
    assert not (run / "items" / "test" / "baselines").exists()


def test_scores_of_other_vectors_are_not_taken_over(
    finished: Path, tmp_path: Path, family: Family, tasks: Path
) -> None:
    file = write_file(tmp_path, family, tasks)
    values = read_yaml(file)
    values["merge"]["density"] = 0.5
    file.write_text(json.dumps(values))
    with pytest.raises(AftermixError, match=r"scores were measured with another merge in 'density'"):
        search(load_config(file), tmp_path / "run", source=finished)
    assert not (tmp_path / "run").exists()


def test_bad_input_writes_nothing_and_exits_with_two(
    tmp_path: Path, family: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes: list[tuple[Any, str]] = [
        (lambda v: v["evaluate"].update(tasks=["colors"]), "colors"),
        (lambda v: v["evaluate"].update(items={"search": 50, "select": 50}), "60"),
        (lambda v: v["search"].update(objective={"tasks": {"gsm8k": 1}}), "gsm8k"),
        (lambda v: v["merge"].update(densty=1), "dare_linear has no option 'densty'. It takes: density, rescale."),
        (lambda v: v["vectors"]["b"].update(range=[1, 0]), "range must be [low, high] with low <= high"),
        (lambda v: v["vectors"].update(x={"model": "./missing"}), "there is no such folder"),
    ]
    for change, message in changes:
        file = write_file(tmp_path, family, tasks)
        values = read_yaml(file)
        change(values)
        file.write_text(json.dumps(values))
        assert run_cli("search", str(file), "-o", str(tmp_path / "run")) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_scores_of_another_measurement_are_not_taken_over(
    finished: Path, tmp_path: Path, family: Family, tasks: Path
) -> None:
    for change, place in (({"max_length": 16}, "max_length"), ({"dtype": "bfloat16"}, "dtype")):
        file = write_file(tmp_path, family, tasks)
        values = read_yaml(file)
        values["evaluate"].update(change)
        file.write_text(json.dumps(values))
        with pytest.raises(AftermixError, match=f"scores were measured with another evaluation in '{place}'"):
            search(load_config(file), tmp_path / "run", source=finished)


def test_the_runs_own_file_leaves_nothing_to_defaults(finished: Path) -> None:
    merge = read_yaml(finished / "config.yaml")["merge"]
    assert merge["exclude"] == ["kind:embeddings", "kind:head", "kind:positions"]
    assert (merge["method"], merge["density"], merge["rescale"]) == ("dare_linear", 0.8, "density")


def test_a_project_moved_with_its_run_goes_on(family: Family, tasks: Path, tmp_path: Path) -> None:
    project, moved = tmp_path / "project", tmp_path / "elsewhere" / "project"
    models = {name: Path(shutil.copytree(family[name], project / "models" / name)) for name in family}
    shutil.copytree(tasks, project / "tasks")
    file = write_file(project, models, project / "tasks", trials=3, startup=3, baselines=False, top=1)
    file.write_text(file.read_text().replace(f"{project}/", ""))
    search(load_config(file), project / "run")

    moved.parent.mkdir()
    project.rename(moved)
    config = load_config(moved / file.name)
    longer = config.model_copy(update={"search": config.search.model_copy(update={"trials": 4})})
    search(longer, moved / "run", resume=True)
    assert [trial["number"] for trial in trials_of(moved / "run")] == [0, 1, 2, 3]
    assert read_run_config(moved / "run").base == str(moved / "models" / "base")
