"""Methods that look at a whole tensor of all vectors, through the commands: merged, planned and searched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors.torch import load_file

from conftest import run_cli

Family = Mapping[str, Path]
METHODS = {"slerp": {}, "karcher": {}, "model_stock": {"filter_wise": True}, "pcb": {"density": 0.5}}


def write_file(folder: Path, family: Family, tasks: Path, method: str, *, names: str = "") -> Path:
    names = names or ("ab" if method == "slerp" else "abc")
    values = {
        "base": str(family["base"]),
        "vectors": {name: {"model": str(family[name]), "range": [0.1, 1.0]} for name in names},
        "merge": {"method": method, **METHODS[method]},
        "evaluate": {
            "tasks": ["colours"],
            "include_path": str(tasks),
            "items": {"search": 10, "select": 10},
            "threads": 1,
        },
        "search": {"strategy": "tpe", "trials": 3, "startup": 2, "top": 1, "baselines": False},
    }
    path = folder / "aftermix.yaml"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("method", METHODS)
def test_a_search_finds_weights_and_its_model_is_what_a_merge_at_them_gives(
    method: str, family: Family, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_file(tmp_path, family, tasks, method)
    assert run_cli("plan", str(file)) == 0
    assert run_cli("search", str(file), "-o", str(tmp_path / "run")) == 0
    trials = [json.loads(line) for line in (tmp_path / "run" / "trials.jsonl").read_text().splitlines()]
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    model = tmp_path / "run" / "model"
    assert run_cli("merge", str(model / "aftermix.yaml"), "-o", str(tmp_path / "again")) == 0
    found, again = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "again"))
    base = load_file(family["base"] / "model.safetensors")
    assert found.keys() == again.keys()
    for name, tensor in found.items():
        assert tensor.equal(again[name]), name
    assert any(not tensor.equal(base[name]) for name, tensor in found.items())
    assert method in (model / "README.md").read_text(encoding="utf-8")


def test_doctor_plan_and_search_tell_that_slerp_has_two_models(
    family: Family, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_file(tmp_path, family, tasks, "slerp", names="abc")
    for command in (["doctor", str(file)], ["plan", str(file)], ["search", str(file), "-o", str(tmp_path / "run")]):
        assert run_cli(*command) != 0
        captured = capsys.readouterr()
        assert "vectors: slerp is between two models, there are 3 (a, b, c)" in captured.out + captured.err
    assert not (tmp_path / "run").exists()
