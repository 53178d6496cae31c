"""Searches over settings of the merge on real parts: densities, ratios, orders; resumed, killed, imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from aftermix.config import load_config
from aftermix.errors import AftermixError
from aftermix.jobs.calibrate.command import calibrate
from aftermix.jobs.search.command import search
from aftermix.yaml_file import read_yaml
from conftest import run_cli

Family = Mapping[str, Path]
ORDERS = [["b", "c", "a"], "rotation", "first"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]


def without_seconds(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines_of(run)]


def written(
    folder: Path, family: Family, tasks: Path, *, merge: dict[str, Any], over: dict[str, Any], **options: Any
) -> Path:
    (folder / "text.txt").write_text("the sum of the numbers is even and the answer is one of these " * 20)
    values = {
        "base": str(family["base"]),
        "vectors": {
            "a": {"model": str(family["a"]), "role": "instruction", "weight": 0.9, "calibration": "text.txt"},
            "b": {"model": str(family["b"]), "calibration": "text.txt"},
            "c": {"model": str(family["c"]), "calibration": "text.txt"},
        },
        "merge": {**merge, "exclude": ["kind:embeddings"]},
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(tasks),
            "items": {"search": 12, "select": 12},
            "threads": 1,
        },
        "search": {"strategy": "tpe", "trials": 9, "startup": 5, "top": 2, "baselines": False, "over": over, **options},
        "calibrate": {"samples": 4},
    }
    path = folder / "aftermix.yaml"
    path.write_text(json.dumps(values))
    return path


def changed(file: Path, name: str, change: Any) -> Path:
    values = read_yaml(file)
    change(values)
    other = file.with_name(name)
    other.write_text(json.dumps(values))
    return other


@pytest.fixture(scope="module")
def obim(tmp_path_factory: pytest.TempPathFactory, family: Family, tasks: Path) -> Path:
    """A finished search for ratios and the order alone, with statistics that `calibrate` measured."""
    folder = tmp_path_factory.mktemp("obim")
    merge = {"method": "obim", "statistics": "statistics"}
    over = {"weights": False, "ratio": {"low": 0.05, "high": 0.5, "step": 0.05}, "order": ORDERS}
    file = written(folder, family, tasks, merge=merge, over=over, baselines=True, trials=12)
    calibrate(load_config(file), folder / "statistics")
    return search(load_config(file), folder / "run")


def test_ratios_and_the_order_are_searched_and_the_record_says_what_held(obim: Path) -> None:
    trials = lines_of(obim)
    assert {trial["state"] for trial in trials} == {"complete"}
    assert trials[0]["origin"] == "prior"
    equal = {f"ratio.{name}": pytest.approx(1 / 3) for name in "abc"}
    assert trials[0]["settings"] == equal | {"order": "rotation"}
    scaled = 0
    for trial in trials:
        assert trial["weights"] == {"a": 0.9, "b": 1.0, "c": 1.0}
        ratios = [trial["settings"][f"ratio.{name}"] for name in "abc"]
        assert sum(ratios) <= 1 + 1e-12
        on_steps = all(abs(ratio / 0.05 - round(ratio / 0.05)) < 1e-9 for ratio in ratios)
        scaled += not on_steps
        assert on_steps or sum(ratios) == pytest.approx(1)
    assert scaled >= 1
    assert len({json.dumps(trial["settings"]) for trial in trials}) == len(trials)
    orders = {json.dumps(trial["settings"]["order"]) for trial in trials}
    assert orders <= {
        json.dumps(o) for o in ("rotation", ["b", "c", "a"], ["a", "b", "c"], ["b", "a", "c"], ["c", "a", "b"])
    }
    assert len(orders) > 2


def test_the_recipe_of_the_winner_makes_its_bytes_again(obim: Path, tmp_path: Path) -> None:
    best = json.loads((obim / "best.json").read_text())
    winner = lines_of(obim)[best["winner"]["trial"]]
    assert best["settings"] == winner["settings"]
    assert best["winner"]["options"]["order"] == winner["settings"]["order"]
    recipe = read_yaml(obim / "model" / "aftermix.yaml")
    for name in "abc":
        assert recipe["vectors"][name]["ratio"] == winner["settings"][f"ratio.{name}"]
    assert recipe["merge"]["order"] == winner["settings"]["order"]
    assert run_cli("merge", str(obim / "model" / "aftermix.yaml"), "-o", str(tmp_path / "again")) == 0
    ours, again = ((folder / "model.safetensors").read_bytes() for folder in (obim / "model", tmp_path / "again"))
    assert ours == again
    card = (obim / "model" / "README.md").read_text(encoding="utf-8")
    assert f"- a: ratio {winner['settings']['ratio.a']:g}\n" in card


def test_the_result_is_shown_with_its_settings(obim: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("search", "--resume", str(obim)) == 0
    printed = capsys.readouterr().out
    assert "ratio.a" in printed
    assert "The weights were not searched, so no data ratio follows from them." in printed
    page = (obim / "report.html").read_text(encoding="utf-8")
    best = json.loads((obim / "best.json").read_text())
    assert "ratio 0.05 to 0.5 by 0.05, order (b, c, a) / rotation / first" in page
    assert f"ratio.a {best['settings']['ratio.a']:.3g}; ratio.b" in page
    assert "not searched" in page
    own = next(entry for entry in best["baselines"] if entry["name"] == "the file's settings")
    assert own["weights"] == {"a": 0.9, "b": 1.0, "c": 1.0}
    assert own["method"] == "obim"


def test_a_point_scores_the_same_on_every_split_whenever_it_is_measured(obim: Path) -> None:
    """The streamed trial, the candidate on its select items and the written model are one merge."""
    from aftermix.checkpoints.pool import open_pool
    from aftermix.evaluation.suites.harness_suite import HarnessSuite
    from aftermix.jobs.evaluator import MergeEvaluator
    from aftermix.jobs.run_folder.opening import read_run_config
    from aftermix.jobs.search.space_from_config import build_space
    from aftermix.merging.recipe import MergeRecipe
    from aftermix.runs.journal import read_items, read_trials

    config = read_run_config(obim)
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)
    assert config.evaluate is not None
    suite = HarnessSuite.build(config.evaluate)
    bench = MergeEvaluator.open(config, open_pool(config), recipe, space=build_space(config), suite=suite)
    assert bench.prepared is None
    for trial in reversed(read_trials(obim)[-3:]):
        assert bench.evaluate(trial.point, "search").items == read_items(obim, "search", trial.number)


@pytest.mark.whole
def test_two_parts_of_a_search_over_settings_are_one(obim: Path, tmp_path: Path) -> None:
    file = obim.parent / "aftermix.yaml"
    short = changed(file, "short.yaml", lambda values: values["search"].update(trials=5))
    search(load_config(short), tmp_path / "run")
    assert run_cli("search", str(file), "--resume", str(tmp_path / "run")) == 0
    assert without_seconds(tmp_path / "run") == without_seconds(obim)
    ours, theirs = tmp_path / "run/model", obim / "model"
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    assert load_config(ours / "aftermix.yaml") == load_config(theirs / "aftermix.yaml")
    other = changed(file, "other.yaml", lambda values: values["search"]["over"]["ratio"].update(high=0.4))
    with pytest.raises(AftermixError, match=r"the file says otherwise in 'search\.over\.ratio\.high'"):
        search(load_config(other), tmp_path / "run", resume=True)


def test_other_statistics_are_another_search(obim: Path, tmp_path: Path) -> None:
    lock = json.loads((obim / "lock.json").read_text())
    file = obim.parent / "aftermix.yaml"
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "trials.jsonl", "items/split.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes((obim / name).read_bytes())
    lock["statistics"]["a.safetensors"] = "xxh3_128:0"
    (run / "lock.json").write_text(json.dumps(lock))
    with pytest.raises(AftermixError, match=r"other statistics now lie in 'a\.safetensors'"):
        search(load_config(file), run, resume=True)


def test_a_density_is_searched_beside_the_weights(tmp_path: Path, family: Family, tasks: Path) -> None:
    over = {"density": {"low": 0.1, "high": 0.9}}
    file = written(tmp_path, family, tasks, merge={"method": "ties", "density": 0.5}, over=over)
    run = search(load_config(file), tmp_path / "run")
    trials = lines_of(run)
    assert [trial["settings"] for trial in trials[:5]] == [{"density": 0.5}] * 5
    later = [trial["settings"]["density"] for trial in trials[5:]]
    assert all(0.1 <= density <= 0.9 for density in later)
    assert len(set(later)) == 4
    assert len({json.dumps(trial["weights"]) for trial in trials}) == 9

    # A file that fixes what the earlier run searched takes the trials at its value, and the other way about.
    def fix(values: dict[str, Any]) -> None:
        del values["search"]["over"]
        values["search"].update(trials=0)

    fixed = search(load_config(changed(file, "fixed.yaml", fix)), tmp_path / "fixed", source=run)
    taken = lines_of(fixed)
    assert [trial["origin"] for trial in taken] == [f"run#{number}" for number in range(5)]
    assert {json.dumps(trial["settings"]) for trial in taken} == {"{}"}
    wider = changed(file, "wider.yaml", lambda values: values["search"].update(trials=2))
    again = search(load_config(wider), tmp_path / "again", source=fixed)
    assert [trial["settings"] for trial in lines_of(again)[:5]] == [{"density": 0.5}] * 5
    assert [trial["scores"] for trial in lines_of(again)[:5]] == [trial["scores"] for trial in trials[:5]]


def test_scores_under_other_settings_are_not_taken_over(tmp_path: Path, family: Family, tasks: Path) -> None:
    over = {"density": {"low": 0.1, "high": 0.9}}
    file = written(tmp_path, family, tasks, merge={"method": "ties", "density": 0.5}, over=over, trials=3, startup=2)
    run = search(load_config(file), tmp_path / "run")

    def other(values: dict[str, Any]) -> None:
        values["merge"].update(density=0.25, normalize=False)
        del values["search"]["over"]

    with pytest.raises(AftermixError, match=r"scores were measured with another merge in 'normalize'"):
        search(load_config(changed(file, "other.yaml", other)), tmp_path / "other", source=run)

    def elsewhere(values: dict[str, Any]) -> None:
        values["merge"].update(density=0.25)
        del values["search"]["over"]

    with pytest.raises(AftermixError, match="expected a complete trial within the file's ranges, found none among 3"):
        search(load_config(changed(file, "elsewhere.yaml", elsewhere)), tmp_path / "elsewhere", source=run)
    assert not (tmp_path / "other").exists()


def test_settings_of_the_combination_leave_the_prepared_vectors_as_they_are(
    tmp_path: Path, family: Family, tasks: Path
) -> None:
    over = {"weights": False, "lambda": {"low": 0.2, "high": 1.5}, "normalize": [True, False]}
    file = written(tmp_path, family, tasks, merge={"method": "ties", "density": 0.5}, over=over, trials=6)
    run = search(load_config(file), tmp_path / "run")
    best = json.loads((run / "best.json").read_text())
    recipe = read_yaml(run / "model" / "aftermix.yaml")
    assert recipe["merge"]["lambda"] == best["settings"]["lambda"] == best["winner"]["options"]["lambda"]
    assert recipe["merge"]["normalize"] is best["settings"]["normalize"]
    assert run_cli("merge", str(run / "model" / "aftermix.yaml"), "-o", str(tmp_path / "again")) == 0
    ours, again = ((folder / "model.safetensors").read_bytes() for folder in (run / "model", tmp_path / "again"))
    assert ours == again

    from aftermix.checkpoints.pool import open_pool
    from aftermix.evaluation.suites.harness_suite import HarnessSuite
    from aftermix.jobs.evaluator import MergeEvaluator
    from aftermix.jobs.run_folder.opening import read_run_config
    from aftermix.jobs.search.space_from_config import build_space
    from aftermix.merging.recipe import MergeRecipe
    from aftermix.merging.stream import stream_merged_tensors
    from aftermix.runs.trials import Point

    config = read_run_config(run)
    assert config.evaluate is not None
    bench = MergeEvaluator.open(
        config,
        open_pool(config),
        MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True),
        space=build_space(config),
        suite=HarnessSuite.build(config.evaluate),
    )
    assert bench.prepared is not None
    point = Point({"a": 0.9, "b": 1.0, "c": 1.0}, {"lambda": 0.7, "normalize": False})
    prepared = bench.evaluate(point, "search").items
    streamed = bench.model_evaluator.evaluate(
        stream_merged_tensors(bench.build_merger(point.settings), point.weights), "search"
    ).items
    assert prepared == streamed


def test_an_unnamed_pair_and_densities_of_single_vectors_can_be_searched(
    tmp_path: Path, family: Family, tasks: Path
) -> None:
    merge = {"intra": {"rule": "magnitude_sampled", "epsilon": 0.05}, "inter": "sum"}
    over = {"density": {"low": 0.3, "high": 0.7, "each": True}, "epsilon": [0.0, 0.05, 0.1]}
    file = written(tmp_path, family, tasks, merge=merge, over=over, trials=7)
    run = search(load_config(file), tmp_path / "run")
    best = json.loads((run / "best.json").read_text())
    recipe = read_yaml(run / "model" / "aftermix.yaml")
    assert recipe["merge"]["intra"] == {"rule": "magnitude_sampled", "epsilon": best["settings"]["epsilon"]}
    assert [recipe["vectors"][name]["density"] for name in "abc"] == [
        best["settings"][f"density.{name}"] for name in "abc"
    ]
    assert run_cli("merge", str(run / "model" / "aftermix.yaml"), "-o", str(tmp_path / "again")) == 0
    ours, again = ((folder / "model.safetensors").read_bytes() for folder in (run / "model", tmp_path / "again"))
    assert ours == again


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path, family: Family, tasks: Path) -> None:
    """Its configuration has no `search.over`, its trials have no settings."""
    file = written(tmp_path, family, tasks, merge={"method": "ties"}, over={}, trials=4, startup=2)
    run = search(load_config(file), tmp_path / "run")
    now = without_seconds(run)
    earlier = [{key: value for key, value in line.items() if key != "settings"} for line in lines_of(run)]
    (run / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in earlier[:3]))
    values = read_yaml(run / "config.yaml")
    del values["search"]["over"]
    (run / "config.yaml").write_text(json.dumps(values))
    assert run_cli("search", str(file), "--resume", str(run)) == 0
    assert [line | {"settings": {}} for line in without_seconds(run)] == now
    assert run_cli("report", str(run)) == 0
