"""Merges against the real mergekit 0.1.5, where its command is at hand (it wants an environment of its own).

Name it by `MERGEKIT=PATH/bin/mergekit-yaml` if it is not on the PATH. Methods with random masks are not compared: the
two draw differently.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.jobs.merge import merge

MERGEKIT = os.environ.get("MERGEKIT") or shutil.which("mergekit-yaml")
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.8}

pytestmark = pytest.mark.skipif(MERGEKIT is None, reason="mergekit-yaml is not installed; set MERGEKIT to its path")


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(
    ("method", "options", "tolerance"),
    [
        ("linear", {}, 0.0),
        ("task_arithmetic", {}, 2e-7),
        ("ties", {"density": 0.5}, 0.0),
        ("ties", {"density": 0.2}, 0.0),
    ],
)
def test_the_peer_gives_the_same_tensors(
    method: str, options: dict[str, Any], tolerance: float, untied_family: Mapping[str, Path], tmp_path: Path
) -> None:
    vectors = {name: VectorConfig(model=str(untied_family[name]), weight=weight) for name, weight in WEIGHTS.items()}
    values = MergeConfig.model_validate({"method": method, **options})
    ours = stored(merge(Config(base=str(untied_family["base"]), vectors=vectors, merge=values), tmp_path / "ours"))
    recipe: dict[str, Any] = {
        "merge_method": method,
        "dtype": "float32",
        "models": [
            {"model": str(untied_family[name]), "parameters": {"weight": weight, **options}}
            for name, weight in WEIGHTS.items()
        ],
    }
    if method != "linear":
        recipe["base_model"] = str(untied_family["base"])
    (tmp_path / "peer.yaml").write_text(yaml.safe_dump(recipe))
    command = [str(MERGEKIT), str(tmp_path / "peer.yaml"), str(tmp_path / "theirs"), "--no-copy-tokenizer", "--quiet"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    theirs = stored(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=tolerance)
