"""`accelerate launch` over two processes, sharded by FSDP2, trains the expert that one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from aftermix.config import as_yaml_values
from aftermix.errors import TrainingError
from aftermix.jobs.train.command import train
from aftermix.training.trainer import uses_cuda

LAUNCHER_FILE = Path(__file__).parents[4] / "examples/accelerate/fsdp2.yaml"

needs_gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="needs gloo"
)


def launch(*arguments: str, cwd: Path) -> str:
    """Standard output of two processes on a free port."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCHER_FILE)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launcher, "--main_process_port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture
def options() -> dict[str, Any]:
    """Merge-aware, accumulated and clipped, with a last step that leaves a process without a sequence."""
    return {
        "datasets": {"cats": {"data": "corpus.jsonl", "tokens": 548}},
        "optimizer": "merge_aware",
        "learning_rate": 1e-3,
        "max_grad_norm": 0.1,
        "accumulation": 2,
        "save_steps": 2,
        "checkpoint_tokens": 256,
        "dtype": "float32",
        "held_out": 0.02,
    }


@needs_gloo
def test_two_sharded_processes_train_what_one_trains(make_config: Any, tmp_path: Path, options: Any) -> None:
    config = make_config(**options)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(as_yaml_values(config)))
    said = launch("-m", "aftermix", "train", "train.yaml", "-o", "two", cwd=tmp_path)
    assert said.splitlines() == ["cats: two/cats"]
    train(config, tmp_path / "one")
    for folder in ("cats", "cats-checkpoints/tokens-000000000256", "cats-checkpoints/tokens-000000000512"):
        ours, theirs = (load_file(tmp_path / run / folder / "model.safetensors") for run in ("two", "one"))
        assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], atol=3e-6, rtol=0, msg=f"{folder}: {name}")
        moved = load_file(tmp_path / "two" / folder / "vector.safetensors")
        base = load_file(Path(str(config.base)) / "model.safetensors")
        for name, tensor in ours.items():
            kept = moved[f"values.{name}"].float()
            torch.testing.assert_close(kept, tensor - base[name].float(), atol=1e-6, rtol=1 / 256, msg=name)

    # What is held out is measured on the sharded model as on a whole one.
    two, one = (json.loads((tmp_path / run / "cats/train.json").read_text())["held_out"] for run in ("two", "one"))
    assert {key: two[key] for key in ("documents", "tokens")} == {key: one[key] for key in ("documents", "tokens")}
    losses = [[point["loss"] for point in held["points"]] for held in (two, one)]
    assert len(losses[0]) > 3
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["cats", "cats-checkpoints", "report.html"]


@pytest.mark.whole
@needs_gloo
def test_a_sharded_run_goes_on_to_the_bit(make_config: Any, tmp_path: Path, options: Any) -> None:
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(as_yaml_values(make_config(**options))))
    launch(str(Path(__file__).with_name("launched_process.py")), "train.yaml", str(tmp_path), cwd=tmp_path)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, r"accelerate: DeepSpeed steps inside the backward pass, where neither"),
        ({"ACCELERATE_USE_FSDP": "true"}, r"accelerate: FSDP version 1 flattens the parameters. Use `fsdp_version: 2`"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
            r"accelerate: only the first process would load the model. Use `fsdp_cpu_ram_efficient_loading: false`",
        ),
    ],
)
def test_launches_that_cannot_work_are_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in {"WORLD_SIZE": "2", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=message):
        uses_cuda("cpu")
