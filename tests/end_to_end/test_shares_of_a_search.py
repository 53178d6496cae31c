"""A search over an exclusive merge leaves what each vector got beside the winner's model, and shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from aftermix.config import load_config
from aftermix.jobs.merge.command import merge
from aftermix.jobs.search.command import search


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_the_winner_has_its_shares(
    family: dict[str, Path], statistics: dict[str, Path], tasks: Path, tmp_path: Path
) -> None:
    values = {
        "base": str(family["base"]),
        "vectors": {"a": {"model": str(family["a"]), "ratio": 0.4}, "b": {"model": str(family["b"]), "ratio": 0.25}},
        "merge": {"method": "obim", "statistics": str(statistics[str(family["base"])])},
        "evaluate": {"tasks": ["numbers"], "include_path": str(tasks), "device": "cpu"},
        "search": {"strategy": "tpe", "trials": 3, "startup": 2, "top": 1, "baselines": False},
    }
    (tmp_path / "file.yaml").write_text(yaml.safe_dump(values))
    run = search(load_config(tmp_path / "file.yaml"), tmp_path / "run")
    record = json.loads((run / "model" / "shares.json").read_text())
    weights = json.loads((run / "best.json").read_text())["weights"]
    assert {name: vector["weight"] for name, vector in record["vectors"].items()} == weights
    assert {name: vector["ratio"] for name, vector in record["vectors"].items()} == {"a": 0.4, "b": 0.25}
    for entry in record["tensors"].values():
        assert entry["counts"] == {"a": int(0.4 * entry["elements"]), "b": entry["elements"] // 4}
    # A search leaves the embedding, and the head that is tied to it, at the base's values.
    assert record["unmoved"] == ["model.embed_tokens.weight"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert '<section id="shares">' in page
    assert "a: no token reached 1 weight, ranked by magnitude: model.layers.0.self_attn.q_proj.weight." in page
    again = merge(load_config(run / "model" / "aftermix.yaml"), tmp_path / "again", check=True)
    assert (again / "shares.json").read_bytes() == (run / "model" / "shares.json").read_bytes()
