"""A misspelt name or path is answered with the one that was probably meant, wherever it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.names import build_matcher
from aftermix.config import MergeConfig, Objective, parse_config
from aftermix.errors import AftermixError, ask_meant, ask_meant_path, find_meant
from aftermix.jobs.search.named_weights import complete_weights
from aftermix.merging.methods import bind
from aftermix.mixture.simplex import refuse_unknown_names
from aftermix.runs.reader import read_run
from aftermix.search.objective import ObjectiveSet
from aftermix.training.data.files import list_data_parts
from aftermix.training.data.mixture import check_ratios
from aftermix.yaml_file import read_yaml


def refuse(action: Callable[[], object]) -> str:
    with pytest.raises(AftermixError) as error:
        action()
    assert error.value.exit_code == 2
    return str(error.value)


def read(**values: Any) -> str:
    return refuse(lambda: parse_config(values, where="job.yaml", folder=Path("/")))


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("mathh", ["ja", "math"], "math"),
        ("JA", ["ja", "math"], "ja"),
        ("learning-rate", ["learning_rate", "min_lr_rate"], "learning_rate"),
        ("gsm8", ["gsm8k", "mgsm"], "gsm8k"),
        ("日本", ["日本語", "math"], "日本語"),
        (3, ["1", "2"], None),
        ("anything", [], None),
        ("zzz", ["ja"], None),
    ],
)
def test_the_nearest_name_whatever_its_case_and_hyphens(name: object, known: list[str], expected: str | None) -> None:
    assert find_meant(name, known) == expected
    asked = ask_meant("Correct it.", name, known)
    assert asked == (f"Correct it. Did you mean '{expected}'?" if expected else "Correct it.")


@pytest.mark.parametrize(
    ("values", "place", "meant"),
    [
        ({"serach": {}}, "serach", "search"),
        ({"evaluate": {"tasks": ["x"], "itmes": {}}}, "evaluate.itmes", "items"),
        ({"evaluate": {"tasks": ["x"], "items": {"serch": 3}}}, "evaluate.items.serch", "search"),
        ({"evaluate": {"tasks": [{"task": "x", "metrics": "acc"}]}}, "evaluate.tasks.0.metrics", "metric"),
        ({"search": {"objective": [{"task": {}}]}}, "search.objective.0.task", "tasks"),
        ({"search": {"over": {"density": {"lo": 0.1}}}}, "search.over.density.lo", "low"),
        ({"train": {"datasets": {"lora": {"dta": "x"}}}}, "train.datasets.lora.dta", "data"),
        ({"train": {"datasets": {"a": {"data": "x", "lora": {"ranks": 3}}}}}, "train.datasets.a.lora.ranks", "rank"),
        ({"vectors": {"items": {"model": "x", "wieght": 1}}}, "vectors.items.wieght", "weight"),
        ({"mixture": {"levels": {"g": {"utility": {"weight": {}}}}}}, "mixture.levels.g.utility.weight", "weights"),
        ({"mixture": {"bound": {}}}, "mixture.bound", "bounds"),
    ],
)
def test_unknown_keys_however_deep_ask_for_the_key_of_their_own_section(values: Any, place: str, meant: str) -> None:
    told = read(**values)
    assert f"job.yaml: {place}: is not a known key. This section takes: " in told
    assert f"Did you mean `{meant}`?" in told


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ({"search": {"strategy": "respnse"}}, "response"),
        ({"vectors": {"it": {"model": "x", "role": "Instruct"}}}, "instruction"),
        ({"train": {"datasets": {"a": "x"}, "optimizer": "merge-aware"}}, "merge_aware"),
        ({"train": {"datasets": {"a": "x"}, "schedule": "cosin"}}, "cosine"),
        ({"evaluate": {"tasks": ["x"], "dtype": "bf16"}}, "bfloat16"),
        ({"evaluate": {"tasks": ["x"], "dtype": "quick"}}, None),
    ],
)
def test_choices_of_a_key(values: Any, meant: str | None) -> None:
    told = read(**values)
    assert told.endswith(f"Did you mean '{meant}'?" if meant else "See docs/configuration.md for this field.")


def test_methods_options_and_kinds_of_tensors() -> None:
    assert "Did you mean 'ties'? " in refuse(lambda: bind(MergeConfig(method="tie")))
    assert "Did you mean 'dare_linear'? " in refuse(lambda: bind(MergeConfig(method="DARE-linear")))
    options = MergeConfig.model_validate({"method": "ties", "densty": 0.5})
    assert refuse(lambda: bind(options)).endswith("election, divisor. Did you mean 'density'?")
    assert refuse(lambda: bind(MergeConfig.model_validate({"metod": "ties"}))).endswith("Did you mean 'method'?")
    assert refuse(lambda: build_matcher(["kind:heads"], where="x")).endswith("Did you mean 'head'?")


def test_vectors_tasks_and_domains() -> None:
    told = refuse(lambda: complete_weights({"mat": 0.5}, ["ja", "math"]))
    assert (
        told
        == "--weights: expected a vector of the run (ja, math), found 'mat'. Correct the name. Did you mean 'math'?"
    )
    told = refuse(lambda: ObjectiveSet.build((Objective(tasks={"gsm8": 1}),), tasks=["gsm8k"]))
    assert told.endswith("Correct it, or add it to `evaluate.tasks`. Did you mean 'gsm8k'?")
    assert refuse(lambda: refuse_unknown_names(["codee"], ["code", "ja"], where="x")).endswith("Did you mean 'code'?")
    told = refuse(lambda: check_ratios({"jaa": 1.0}, ["ja", "math"], where="mixture"))
    assert told.endswith("or correct the name. Did you mean 'ja'?")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "experts" / "math-v2").mkdir(parents=True)
    (tmp_path / "data.jsonl").write_text("{}\n")
    (tmp_path / "aftermix.yaml").write_text("base: x\n")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("experts/math_v2", "experts/math-v2"),
        ("exprts/math-v2", "experts/math-v2"),
        ("exprts/code", "experts"),
        ("Data.jsonl", "data.jsonl"),
        ("nothing-like-it", None),
        ("data.jsonl", None),
        ("data.jsonl/x", None),
        ("n" * 300, None),
    ],
)
def test_paths_ask_for_what_lies_in_the_same_folder(folder: Path, path: str, meant: str | None) -> None:
    asked = f"Correct it. Did you mean '{folder / meant}'?" if meant else "Correct it."
    assert ask_meant_path("Correct it.", folder / path) == asked


def test_models_data_files_and_runs_ask_so(folder: Path) -> None:
    near = f"Did you mean '{folder}/"
    assert refuse(lambda: locate(f"{folder}/expert/math-v2")).endswith(f"{near}experts/math-v2'?")
    assert refuse(lambda: list_data_parts(folder / "date.jsonl", split=None)).endswith(f"{near}data.jsonl'?")
    assert refuse(lambda: read_yaml(folder / "aftermx.yaml")).endswith(f"{near}aftermix.yaml'?")
    assert refuse(lambda: read_run(folder / "expert")).endswith(f"{near}experts'?")
