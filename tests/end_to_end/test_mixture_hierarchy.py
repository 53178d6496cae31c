"""`aftermix mixture` over a tree of domains: both directions, resumed, refused, exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aftermix.config import Config, Split, load_config
from aftermix.errors import AftermixError
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.mixture import tree as mixture_tree
from aftermix.jobs.mixture.command import mixture
from aftermix.jobs.mixture.tree_problem import TreeProblem, build_level_problem
from aftermix.runs.answers.reading import read_loglikelihoods, read_requests
from aftermix.runs.journal import read_items, read_trials
from aftermix.runs.trials import ItemMeasurement, Point
from conftest import make_family, run_cli
from support.forked import run_forked
from support.killed_mixture import KILLED

Family = Mapping[str, Path]
TASKS = ("colours", "numbers")
DEEP = {"left": {"b": None, "deep": ["c", "d"]}, "e": None}
FLAT = {"left": ["b", "c"], "right": ["d", "e"]}
TOKENS = {"b": 1000, "c": 3000, "d": 2000, "e": 2000}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A base, an instruction model a and experts b to e."""
    return make_family(tmp_path_factory.mktemp("wide"), experts=tuple("abcde"))


def write_file(folder: Path, wide: Family, tasks: Path, **asked: Any) -> Path:
    experts = {name: {"model": str(wide[name]), "tokens": count} for name, count in TOKENS.items()}
    items = {"search": 20, "select": 20}
    values = {
        "base": str(wide["base"]),
        "vectors": {"a": {"model": str(wide["a"]), "role": "instruction", "weight": 0.5}, **experts},
        "evaluate": {"tasks": list(TASKS), "include_path": str(tasks), "items": items, "threads": 1},
        "mixture": {"points": 7, "repeats": 1, "verify": 1, **asked},
    }
    path = folder / "aftermix.yaml"
    path.write_text(json.dumps(values))
    return path


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def best_of(run: Path) -> dict[str, Any]:
    return {key: value for key, value in read(run / "best.json").items() if key != "seconds"}


def weights_of(run: Path, level: str) -> list[dict[str, float]]:
    lines = (run / "levels" / level / "trials.jsonl").read_text().splitlines()
    return [json.loads(line)["weights"] for line in lines]


@pytest.fixture(scope="module")
def bottom_up(tmp_path_factory: pytest.TempPathFactory, wide: Family, tasks: Path) -> Path:
    folder = tmp_path_factory.mktemp("bottom_up")
    asked = {"direction": "bottom_up", "tree": DEEP, "experts": True, "levels": {"deep": {"utility": "numbers"}}}
    return mixture(load_config(write_file(folder, wide, tasks, **asked)), folder / "run")


@pytest.fixture(scope="module")
def top_down(tmp_path_factory: pytest.TempPathFactory, wide: Family, tasks: Path) -> Path:
    folder = tmp_path_factory.mktemp("top_down")
    return mixture(load_config(write_file(folder, wide, tasks, **TOP_DOWN)), folder / "run")


TOP_DOWN = {"tree": FLAT, "priors": {"ours": {"b": 0.1, "c": 0.3, "d": 0.4, "e": 0.2}}, "bounds": {"left": (0.2, 0.8)}}


@pytest.mark.parametrize("direction", [pytest.param("bottom_up", marks=pytest.mark.whole), "top_down"])
def test_answers_of_every_point_of_every_group_are_kept(direction: str, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(direction)
    table = read_requests(run)
    groups = [path.parent for path in sorted(run.glob("levels/*/trials.jsonl"))]
    assert len(groups) > 1
    for folder in groups:
        for trial in read_trials(folder):
            scores = read_items(folder, "search", trial.number)
            found = read_loglikelihoods(folder, "search", trial.number)
            for task, requests in table.items():
                likeliest = found[task].reshape(-1, 3).argmax(axis=1)
                assert (likeliest == requests.splits["search"].gold).astype(float).tolist() == scores[task]
    measured = [path for split in ("select", "test") for path in run.rglob(f"items/{split}/**/*.json")]
    assert len(measured) > 3
    assert all(path.with_suffix(".safetensors").is_file() for path in measured)


def test_bottom_up_a_group_by_itself_then_its_merge_as_one_vector(bottom_up: Path) -> None:
    deep, left = (read(bottom_up / "levels" / name / "best.json") for name in ("deep", "left"))
    for weights in weights_of(bottom_up, "deep"):
        assert (weights["a"], weights["b"], weights["e"]) == (0.5, 0, 0)
        assert weights["c"] + weights["d"] == pytest.approx(1)
    for weights in weights_of(bottom_up, "left"):
        both = weights["c"] + weights["d"]
        assert weights["c"] == pytest.approx(both * deep["shares"]["c"])
        assert weights["b"] + both == pytest.approx(1)
    for weights in weights_of(bottom_up, "all"):
        assert weights["b"] == pytest.approx((1 - weights["e"]) * left["shares"]["b"])
    assert deep["utility"]["expression"] == "numbers"
    assert left["utility"]["weights"] == {"colours": 0.5, "numbers": 0.5}


def test_bottom_up_the_winner_of_the_whole_is_that_of_the_top_group(bottom_up: Path) -> None:
    best, top = best_of(bottom_up), read(bottom_up / "levels" / "all" / "best.json")
    assert best["weights"] == top["weights"]
    assert best["ratios"] == top["ratios"]
    assert best["select"] == top["select"]
    assert best["direction"] == "bottom_up"


def check_tree(run: Path, node: dict[str, Any], expected: Any, share: float) -> dict[str, float]:
    """Ratios of the experts below `node`, checked against the group's own folder on the way."""
    stored = read(run / "levels" / node["name"] / "best.json")
    assert node["share"] == pytest.approx(share)
    assert node["shares"] == stored["shares"]
    assert sum(node["shares"].values()) == pytest.approx(1)
    assert node["share_intervals"] == stored["optimum"]["share_intervals"]
    assert node["measured"] == len(weights_of(run, node["name"]))
    found = {name: share * part for name, part in node["shares"].items()}
    for group in node["groups"]:
        found |= check_tree(run, group, None, found.pop(group["name"]))
    return found


def test_ratios_are_products_down_the_tree(bottom_up: Path, top_down: Path) -> None:
    for run in (bottom_up, top_down):
        best = best_of(run)
        found = check_tree(run, best["tree"], None, 1.0)
        assert best["ratios"] == pytest.approx(found, abs=1e-9)
        assert sum(best["ratios"].values()) == pytest.approx(1)
        assert best["points"] == {"measured": 21, "failed": 0}


def test_top_down_the_whole_first_then_each_group_within_it(top_down: Path) -> None:
    for weights in weights_of(top_down, "all"):
        # Groups that are not searched yet stand in proportion to tokens.
        assert weights["c"] == pytest.approx(3 * weights["b"])
        assert weights["d"] == pytest.approx(weights["e"])
        assert 0.2 - 1e-9 <= weights["b"] + weights["c"] <= 0.8 + 1e-9
    top, left = (read(top_down / "levels" / name / "best.json")["shares"] for name in ("all", "left"))
    for weights in weights_of(top_down, "left"):
        assert weights["b"] + weights["c"] == pytest.approx(top["left"])
        assert weights["d"] == pytest.approx(top["right"] / 2)
    for weights in weights_of(top_down, "right"):
        assert weights["b"] == pytest.approx(top["left"] * left["b"])
        assert weights["d"] + weights["e"] == pytest.approx(top["right"])
    design = read(top_down / "levels" / "left" / "design.json")
    assert design["domains"] == ["b", "c"]
    assert design["members"] == {"b": {"b": pytest.approx(top["left"])}, "c": {"c": pytest.approx(top["left"])}}
    assert design["rest"] == pytest.approx({"d": top["right"] / 2, "e": top["right"] / 2})
    prior = next(point for point in design["points"] if point["kind"] == "prior ours")
    assert prior["shares"] == pytest.approx({"b": 0.25, "c": 0.75})


def test_the_winner_stands_beside_mixtures_that_need_no_search(top_down: Path, bottom_up: Path) -> None:
    best = best_of(top_down)
    assert "groups as at first" not in [entry["name"] for entry in best_of(bottom_up)["baselines"]]
    names = [entry["name"] for entry in best["baselines"]]
    alone = [f"{name} alone" for name in "bcde"]
    assert names == ["uniform", "in proportion to tokens", "prior ours", "groups as at first", *alone, "base"]
    assert best["baselines"][1]["weights"] == {"a": 0.5, "b": 0.125, "c": 0.375, "d": 0.25, "e": 0.25}
    assert best["baselines"][2]["weights"] == {"a": 0.5, "b": 0.1, "c": 0.3, "d": 0.4, "e": 0.2}
    top = best["tree"]["shares"]
    first = {"b": top["left"] / 4, "c": 3 * top["left"] / 4, "d": top["right"] / 2, "e": top["right"] / 2}
    assert best["baselines"][3]["weights"] == pytest.approx({"a": 0.5, **first})
    lines = (top_down / "levels" / "all" / "trials.jsonl").read_text().splitlines()
    scores = np.array([[json.loads(line)["scores"][task] for task in TASKS] for line in lines])
    for entry in [best["select"], best["test"], *(baseline["test"] for baseline in best["baselines"])]:
        raw = np.array([entry["tasks"][task]["score"] for task in TASKS])
        assert entry["utility"]["value"] == pytest.approx(((raw - scores.mean(0)) / scores.std(0)).mean())


def test_consolidated_experts_are_models_made_again_by_their_recipes(bottom_up: Path, tmp_path: Path) -> None:
    assert sorted(folder.name for folder in (bottom_up / "experts").iterdir()) == ["deep", "left"]
    for name in ("deep", "left"):
        expert = bottom_up / "experts" / name
        assert run_cli("merge", str(expert / "aftermix.yaml"), "-o", str(tmp_path / name)) == 0
        again = (tmp_path / name / "model.safetensors").read_bytes()
        assert (expert / "model.safetensors").read_bytes() == again
    vectors = load_config(bottom_up / "experts" / "left" / "aftermix.yaml").vectors
    left, deep = (read(bottom_up / "levels" / name / "best.json")["shares"] for name in ("left", "deep"))
    found = {name: vector.weight for name, vector in vectors.items()}
    within = {"c": left["deep"] * deep["c"], "d": left["deep"] * deep["d"]}
    assert found == pytest.approx({"a": 0.0, "b": left["b"], "e": 0.0, **within})


def test_the_page_and_the_terminal_show_the_tree(
    bottom_up: Path, top_down: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from aftermix.report.console.mixture import print_mixture

    page = (bottom_up / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    for text in ("Bottom up: the lowest groups first, 3 groups", "Group all:", "Group left:", "Group deep:"):
        assert text in page
    assert page.count("Verified by merging") == 3
    assert "bottom up, 3 groups of at most 7 points" in page
    print_mixture(top_down)
    _, _, printed = capsys.readouterr().out.partition("shares in each group, and of the whole")
    assert printed.index("│ left") < printed.index("│   b") < printed.index("│ right") < printed.index("│   d")


def test_the_ratios_go_to_a_trainer_and_into_a_training(
    top_down: Path, bottom_up: Path, wide: Family, tmp_path: Path
) -> None:
    from aftermix.config import TrainConfig
    from aftermix.jobs.train.expert_data import collect_sources

    ratios = best_of(top_down)["ratios"]
    kept = pytest.approx({name: ratio for name, ratio in ratios.items() if ratio > 0}, abs=1e-9)
    data = {name: str(tmp_path / f"{name}.jsonl") for name in TOKENS}
    for name, path in data.items():
        Path(path).write_text("".join(json.dumps({"text": f"the sum of {name} is {i}"}) + "\n" for i in range(50)))
    sections = {**data, "mixed": {"mixture": str(top_down / "best.json"), "tokens": 1000}}
    assert collect_sources("mixed", TrainConfig.model_validate({"datasets": sections})).ratios == kept
    deep = bottom_up / "levels" / "deep" / "best.json"
    sections |= {"deep": {"mixture": str(deep), "tokens": 1000}}
    own = {name: share for name, share in read(deep)["shares"].items() if share > 0}
    assert collect_sources("deep", TrainConfig.model_validate({"datasets": sections})).ratios == pytest.approx(
        own, abs=1e-9
    )
    (tmp_path / "train.yaml").write_text(json.dumps({"base": str(wide["base"]), "train": {"datasets": data}}))
    exported = tmp_path / "mixture.csv"
    asked = ["--to", "csv", "-o", exported, "--data", tmp_path / "train.yaml", "--tokens", "400"]
    assert run_cli("export", top_down, *asked) == 0
    header, *rows = [line.split(",") for line in exported.read_text().splitlines()]
    told = {row[0]: float(row[header.index("ratio")]) for row in rows}
    assert told == pytest.approx(kept.expected, abs=1e-4)


def test_a_tree_killed_in_its_second_group_ends_the_same_and_makes_no_finished_group_again(
    top_down: Path, tmp_path: Path, wide: Family, tasks: Path
) -> None:
    file, run = write_file(tmp_path, wide, tasks, **TOP_DOWN), tmp_path / "run"
    # Six files of the folder; in the first group two, seven points of three each, at most five measurements of two.
    killed = run_forked(KILLED, file, run, 45)
    assert killed.returncode == -9, killed.stderr
    assert not (run / "best.json").exists()
    assert 0 < len(weights_of(run, "left")) < 7
    finished = run / "levels" / "all" / "best.json"
    content = read(finished) | {"note": "kept"}
    finished.write_text(json.dumps(content))
    assert not (run / "levels" / "right").exists()
    mixture(load_config(file), run, resume=True)
    assert read(finished) == content
    for name in ("all", "left", "right"):
        assert weights_of(run, name) == weights_of(top_down, name)
    ours, theirs = best_of(run), best_of(top_down)
    assert ours.pop("tree") == theirs.pop("tree") | {"note": "kept"}
    assert ours == theirs
    assert (run / "model" / "model.safetensors").read_bytes() == (top_down / "model" / "model.safetensors").read_bytes()


def test_what_is_finished_costs_nothing_on_resume_and_experts_may_be_asked_for_then(
    top_down: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wide: Family, tasks: Path
) -> None:
    def refuse(self: MergeEvaluator, *asked: Any) -> Any:
        raise AssertionError("nothing is left to measure")

    monkeypatch.setattr(MergeEvaluator, "evaluate", refuse)
    run = shutil.copytree(top_down, tmp_path / "run")
    mixture(load_config(write_file(tmp_path, wide, tasks, **TOP_DOWN, experts=True)), run, resume=True)
    assert best_of(run) == best_of(top_down)
    ours, theirs = (read(folder / "best.json")["seconds"] for folder in (run, top_down))
    assert ours | {"prepare": 0} == theirs | {"prepare": 0}
    assert sorted(folder.name for folder in (run / "experts").iterdir()) == ["left", "right"]


def test_a_group_with_next_to_no_share_keeps_the_shares_that_it_had_at_first(
    tmp_path: Path, wide: Family, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mixture_tree, "LEAST", 1.0)
    file = write_file(tmp_path, wide, tasks, **TOP_DOWN)
    assert run_cli("mixture", str(file), "-o", str(tmp_path / "run")) == 0
    best = best_of(tmp_path / "run")
    left = best["tree"]["groups"][0]
    assert left["shares"] == {"b": 0.25, "c": 0.75}
    assert (left["point"], left["measured"], left["share_intervals"]) == (None, 0, None)
    assert "'left' has less than 100.0% of the whole, so its shares are not searched." in capsys.readouterr().out
    assert "Its shares are those it had at first" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert best["points"]["measured"] == 7


def test_the_setting_of_a_group_is_had_again_from_the_run(top_down: Path) -> None:
    config = load_config(top_down / "config.yaml")
    top = read(top_down / "levels" / "all" / "best.json")["shares"]
    setting = build_level_problem(config, top_down, "left")
    assert setting.domains == ("b", "c")
    assert setting.compute_weights(np.array([1.0, 0.0]))["b"] == pytest.approx(top["left"])
    with pytest.raises(AftermixError, match=r"mixture\.tree: 'leaf': is no group; they are all, left, right"):
        build_level_problem(config, top_down, "leaf")


@pytest.mark.parametrize("direction", ["top_down", "bottom_up"])
def test_both_directions_find_a_known_optimum(
    direction: str, tmp_path: Path, wide: Family, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores whose largest is where shares are in proportion to `wanted`, in the whole and in each group."""
    wanted = {"b": 0.4, "c": 0.1, "d": 0.2, "e": 0.3}

    def measure(self: MergeEvaluator, point: Point, split: Split) -> ItemMeasurement:
        score = 1 + sum(part * np.log(point.weights[name] + 0.02) / 4 for name, part in wanted.items())
        return ItemMeasurement({task: [float(score)] * 20 for task in TASKS})

    monkeypatch.setattr(MergeEvaluator, "evaluate", measure)
    file = write_file(tmp_path, wide, tasks, tree=FLAT, direction=direction, points=12)
    best = best_of(mixture(load_config(file), tmp_path / "run"))
    assert best["ratios"] == pytest.approx(wanted, abs=0.05)


def test_a_group_that_tells_nothing_has_no_rounds_and_does_not_stop_the_run(
    tmp_path: Path, wide: Family, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(self: MergeEvaluator, point: Point, split: Split) -> ItemMeasurement:
        right = round(point.weights["d"] + point.weights["e"], 9)
        return ItemMeasurement({task: [float(1 - (right - 0.3) ** 2)] * 20 for task in TASKS})

    monkeypatch.setattr(MergeEvaluator, "evaluate", measure)
    asked = {"tree": FLAT, "direction": "bottom_up", "points": 6, "rounds": [2], "repeats": 0, "verify": 0}
    best = best_of(mixture(load_config(write_file(tmp_path, wide, tasks, **asked)), tmp_path / "run"))
    assert [len(weights_of(tmp_path / "run", name)) for name in ("all", "left", "right")] == [8, 6, 6]
    assert best["tree"]["note"] is None
    assert best["ratios"]["d"] + best["ratios"]["e"] == pytest.approx(0.3, abs=0.1)
    for group in best["tree"]["groups"]:
        assert group["note"] == "every mixture scored the same, so nothing tells its shares apart"


def test_doctor_tells_the_groups_and_their_faults(tmp_path: Path, wide: Family, tasks: Path) -> None:
    from aftermix.jobs.doctor.command import doctor

    good = doctor(load_config(write_file(tmp_path, wide, tasks, tree=FLAT)))
    assert good.problems == []
    assert "mixture group 'left': 7 points; at first b 0.25, c 0.75" in good.facts
    assert any(fact.startswith("second order: not known; `mixture.second_order` measures it") for fact in good.facts)
    bad = doctor(load_config(write_file(tmp_path, wide, tasks, tree=FLAT, bounds={"b": (0.6, 1), "c": (0.6, 1)})))
    assert [problem.where for problem in bad.problems] == ["group 'left': mixture.bounds"]


def test_bad_trees_and_other_runs_are_refused_and_nothing_is_written(
    top_down: Path, tmp_path: Path, wide: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def config(**asked: Any) -> Config:
        return load_config(write_file(tmp_path, wide, tasks, **asked))

    run = tmp_path / "run"
    with pytest.raises(AftermixError, match=r"mixture\.tree: 'e': is in no group"):
        mixture(config(tree={"left": ["b", "c"], "d": None}), run)
    assert not run.exists()
    with pytest.raises(AftermixError, match=r"the file says otherwise in 'mixture\.tree\.left'"):
        mixture(config(**TOP_DOWN | {"tree": {"left": ["b", "c", "d"], "e": None}}), top_down, resume=True)
    assert run_cli("mixture", "--resume", str(top_down / "levels" / "left")) == 2
    assert "config.yaml" in capsys.readouterr().err


def test_a_group_whose_mixtures_all_score_the_same_tells_nothing(wide: Family, tasks: Path, tmp_path: Path) -> None:
    from aftermix.runs.trials import Trial

    levels = TreeProblem.from_config(load_config(write_file(tmp_path, wide, tasks, tree=FLAT)))
    setting = build_level_problem(levels.config, tmp_path, "left")

    def trial(number: int, score: float) -> Trial:
        scores = {"colours": 0.5, "numbers": score}
        return Trial(number=number, state="complete", weights={}, scores=scores, objective=(score,))

    assert mixture_tree._all_alike(setting, [trial(0, 0.5), trial(1, 0.5)])
    assert not mixture_tree._all_alike(setting, [trial(0, 0.5), trial(1, 0.6)])


def test_verify_trains_mixtures_of_all_experts(
    top_down: Path, tmp_path: Path, wide: Family, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Points of all groups, one after another, are points of the mixture without groups."""
    run, domains = Path(shutil.copytree(top_down, tmp_path / "run")), tuple(TOKENS)
    for domain in domains:
        rows = [json.dumps({"text": f"the sum of {domain} is even " * (2 + number % 3)}) for number in range(30)]
        (tmp_path / f"{domain}.jsonl").write_text("\n".join(rows) + "\n")
    values = json.loads(write_file(tmp_path, wide, tasks, **TOP_DOWN).read_text())
    values["train"] = {"context": 16, "batch_size": 4, "learning_rate": 3e-2, "schedule": "constant", "threads": 1}
    values["train"]["datasets"] = {name: {"data": f"{name}.jsonl", "tokens": 192} for name in domains}
    values["compare"] = {"sibling": {"model": str(wide["b"])}, "even": {"weights": {"a": 0.5, "b": 0.5, "d": 0.5}}}
    # The second order hangs on nothing that was measured: a finished run has it with texts that are named now.
    values["calibrate"] = {"samples": 1, "context": 16, "long_texts": "cut"}
    values["mixture"]["second_order"] = True
    for domain in domains:
        values["vectors"][domain]["calibration"] = f"{domain}.jsonl"
    (tmp_path / "aftermix.yaml").write_text(json.dumps(values))
    file = tmp_path / "aftermix.yaml"
    assert run_cli("mixture", file, "--resume", run, "--verify", 30) == 2
    told = "expected at most the 21 mixtures of `mixture.points` and of the levels of its tree, found 30"
    assert told in " ".join(capsys.readouterr().err.split())

    assert run_cli("mixture", file, "--resume", run, "--verify", 3, "--seeds", 1) == 0
    found, best = read(run / "verification.json"), read(run / "best.json")
    assert "Trained at the ratios of each method" in capsys.readouterr().out
    first, winner, third = found["mixtures"]
    assert [first["point"], first["trial"], winner["point"]] == ["uniform", None, "winner"]
    assert first["shares"] == pytest.approx(dict.fromkeys(domains, 0.25)), "though no group has such a point"
    assert winner["shares"] == pytest.approx({name: best["ratios"][name] for name in domains})
    uniform = next(entry for entry in best["baselines"] if entry["name"] == "uniform")
    journal = [weights for level in ("all", "left", "right") for weights in weights_of(run, level)]
    assert any(all(abs(third["shares"][name] - each[name]) < 1e-8 for name in domains) for each in journal)
    assert third["point"].rsplit(" of ", 1)[1] in ("'all'", "'left'", "'right'")
    assert first["merged"]["capabilities"] == uniform["test"]["capabilities"]
    assert winner["merged"]["utility"] == best["test"]["utility"], "in units of the points of the whole"

    assert [entry["method"] for entry in found["retrained"]] == [
        "found", "uniform", "in proportion to tokens", "prior ours", "RegMix",
    ]  # fmt: skip
    assert 0.2 - 1e-9 <= found["regmix"]["ratios"]["b"] + found["regmix"]["ratios"]["c"] <= 0.8 + 1e-9
    assert [entry["name"] for entry in best["proxies"]] == ["merges", "surrogates", "response", "null", "ensemble"]
    assert {entry["trained"] for entry in best["proxies"]} == {3}
    levels = [read(folder / "best.json") for folder in run.glob("levels/*")]
    on_search = sum(level["points"]["measured"] for level in levels)
    costs = {row["method"]: row for row in found["cost"]}
    assert costs["mergemix"]["evaluated_tokens"] / costs["regmix"]["evaluated_tokens"] > on_search / 3
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Held against 3 trained mixtures" in page
    second = best["second_order"]
    assert second["tokens"].keys() == set(domains)
    assert abs(second["cross"] - second["own"]) - 1e-9 <= second["error"] <= second["cross"] + second["own"] + 1e-9
    assert best["first_order"]["note"] == "nothing is known of how b, c, d, e were trained"
    assert "b, c, d, e were trained. To second order a training at these ratios and the merge part by" in page

    # Rivals of the whole mixture stand on the same test items, in its utility.
    assert [row["name"] for row in best["compared"]] == ["sibling", "even"]
    for row in best["compared"]:
        apart = best["test"]["utility"]["value"] - row["test"]["utility"]["value"]
        assert row["difference"]["utility"]["value"] == pytest.approx(apart)
        assert row["test"]["capabilities"].keys() == set(TASKS)
