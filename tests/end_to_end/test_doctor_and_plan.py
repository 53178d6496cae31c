"""`aftermix doctor` and `aftermix plan` as a user calls them, and the cheapness of the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.config import load_config
from aftermix.jobs.plan.command import plan
from conftest import run_cli

Family = Mapping[str, Path]


def write(folder: Path, values: dict[str, Any]) -> str:
    path = folder / "file.yaml"
    path.write_text(json.dumps(values))
    return str(path)


def values_of(family: Family, tasks: Path) -> dict[str, Any]:
    return {
        "base": str(family["base"]),
        "vectors": {
            "a": {"model": str(family["a"]), "role": "instruction"},
            "b": {"model": str(family["b"])},
            "c": {"model": str(family["c"])},
        },
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(tasks),
            "items": {"search": 20, "select": 10},
            "threads": 1,
        },
        "search": {"strategy": "tpe", "trials": 40, "top": 3},
    }


def test_doctor_passes_a_sound_file(
    family: Family, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("doctor", write(tmp_path, values_of(family, tasks))) == 0
    out = capsys.readouterr().out
    assert "No problems." in out
    assert "tied: lm_head.weight is model.embed_tokens.weight" in out
    assert "exclude 'kind:embeddings': 1 tensors keep the base's values" in out
    assert "task 'colours': search 20, select 10, test 30" in out


def test_doctor_tells_every_fault_at_once(
    family: Family, tasks: Path, tmp_path: Path, copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = copied("b")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(2, 2)
    save_file(tensors, broken / "model.safetensors")
    values = values_of(family, tasks)
    values["vectors"]["b"]["model"] = str(broken)
    values["vectors"]["d"] = {"model": "./nowhere"}
    values["merge"] = {"method": "ties", "densty": 0.5}
    values["evaluate"]["tasks"] = ["colors"]
    values["train"] = {"datasets": {"x": "nowhere.jsonl"}}
    assert run_cli("doctor", write(tmp_path, values)) == 2
    out = capsys.readouterr().out
    for message in (
        "ties has no option 'densty'. It takes: density, scope, normalize, election, divisor.",
        "model.layers.0.mlp.up_proj.weight: vector 'b' is (2, 2), base is (48, 32). Was it trained from this base?",
        "there is no such folder",
        "holds 1 NaN or Inf values",
        "'colors'",
        "nowhere.jsonl: there is no such file",
    ):
        assert message in out, message
    assert out.count("\n  6. ") == 1


def test_plan_counts_what_the_search_will_do(
    family: Family, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, values_of(family, tasks))
    found = plan(load_config(Path(file)))
    size = sum(tensor.nbytes for tensor in load_file(family["base"] / "model.safetensors").values())
    assert found.disk_bytes == size
    assert found.parameters == size // 2
    # 10 baselines without choice, and two with a tuned instruction weight: two scans of 5, 2 single experts.
    assert found.measurements == {"search": 40, "select": 3 + 12 + 11 + 6, "test": 1 + 10 + 4}
    assert found.items == {name: {"search": 20, "select": 10, "test": 30} for name in ("colours", "numbers")}
    assert found.tokens_per_s is not None
    assert found.seconds["search"] == pytest.approx(found.tokens["search"] / found.tokens_per_s + 40 * found.combine_s)
    assert run_cli("plan", file) == 0
    out = capsys.readouterr().out
    assert "search          40 evaluations" in out
    told = (
        "test items tell differences of 11.3 points and more (colours 16.0, numbers 16.0): half a paired 95 % interval"
    )
    assert f"Test            {told}, if two merges answer 20% of the items unlike" in out
    assert "Space           3 dimensions: a [0.3, 1], b [0, 1], c [0, 1]; vectors are prepared once" in out
    assert re.search(r"\nRequests        beginnings run once: [\d,]+ positions a search evaluation, [\d,]+ with", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.yaml"]


def test_a_search_over_settings_is_told_and_planned(
    family: Family, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = values_of(family, tasks)
    values["merge"] = {"method": "ties"}
    values["search"] |= {"baselines": False, "over": {"density": {"low": 0.1, "high": 0.9}, "weights": False}}
    file = write(tmp_path, values)
    told = "1 dimension: a 1, b 1, c 1, density [0.1, 0.9]; every trial reads the models anew"
    assert run_cli("doctor", file) == 0
    assert f"search over {told}" in capsys.readouterr().out
    anew = plan(load_config(Path(file)))
    assert anew.space == told
    assert anew.combine_s > 0
    del values["search"]["over"]
    once = plan(load_config(Path(write(tmp_path, values))))
    assert once.memory_bytes - anew.memory_bytes > 2 * 4 * anew.parameters * 0.5
    values["search"]["over"] = {"densty": {"low": 0.1, "high": 0.9}, "ratio": {"low": 0.1, "high": 0.9}}
    assert run_cli("doctor", write(tmp_path, values)) == 2
    out = capsys.readouterr().out
    assert "search.over.densty: ties has no option 'densty'" in out
    assert "search.over.ratio: ties has no use for it" in out


def test_help_imports_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys; from aftermix.cli import cli, run_guarded; "
        "run_guarded(lambda: cli.main(['--help'], standalone_mode=False)); "
        "print([m for m in ('torch', 'transformers', 'lm_eval', 'optuna', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("doctor", "plan", "train", "merge", "search", "evaluate", "report"):
        assert f"  {command} " in done.stdout


def test_a_merge_imports_no_transformers(family: Family, tmp_path: Path) -> None:
    file = write(tmp_path, {"base": str(family["base"]), "vectors": {"b": {"model": str(family["b"])}}})
    arguments = ["merge", file, "-o", str(tmp_path / "out")]
    code = (
        "import sys; from aftermix.cli import cli, run_guarded; "
        f"print(run_guarded(lambda: cli.main({arguments!r}, standalone_mode=False))); "
        "print([m for m in ('transformers', 'lm_eval', 'optuna', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0", "[]"]


def test_wrong_usage_is_told_by_the_command_line(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("search", "x.yaml") == 2
    assert "Name one of -o/--output (a new run) and --resume (an earlier one)." in capsys.readouterr().err
    assert run_cli("merge", "missing.yaml", "-o", "out") == 2
    assert "missing.yaml: cannot be read" in capsys.readouterr().err
    assert run_cli("report", "nowhere") != 0
