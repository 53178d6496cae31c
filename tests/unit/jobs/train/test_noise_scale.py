"""`scale: {damage: NATS}` in a training file: found once, recorded, and an expert as the number itself would train."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from aftermix.errors import AftermixError
from aftermix.files import sha256
from aftermix.jobs.diff import diff
from aftermix.jobs.train.command import train

AWARE = {"name": "merge_aware"}


def read_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "train.json").read_text())
    return record


def write_text(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"text": f"the old bird sees the cat {n % 3}"}) + "\n" for n in range(count)))
    return path


def test_an_expert_by_damage_is_that_of_the_number_found(make_config: Any, tmp_path: Path) -> None:
    asked = {**AWARE, "scale": {"damage": 0.02}}
    said: list[str] = []
    folder = train(make_config(optimizer=asked), tmp_path / "asked", log=said.append)["cats"]
    record = read_record(folder)
    noise = record["noise"]
    assert noise["damage"] == 0.02
    assert noise["rise"] == pytest.approx(0.02, rel=0.05)
    assert (noise["tokens"], noise["data"]) == (640, "cats")
    assert noise["loss"] == pytest.approx(record["loss"]["first"], abs=0.2)
    assert record["recipe"]["optimizer"]["scale"] == {"damage": 0.02}
    (line,) = [line for line in said if "noise" in line]
    assert re.fullmatch(
        r"cats: noise of scale \S+ costs 0.02\d* nats a token \(640 tokens of cats, loss 4\.\d+\)", line
    )

    plain = train(make_config(optimizer={**AWARE, "scale": noise["scale"]}), tmp_path / "number")["cats"]
    assert (folder / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert "noise" not in read_record(plain)

    said.clear()
    train(make_config(optimizer=asked), tmp_path / "asked", log=said.append)
    assert said == [f"cats: reused {folder}, trained before by the same recipe"]
    with pytest.raises(AftermixError, match="holds an expert of another recipe"):
        train(make_config(optimizer={**AWARE, "scale": {"damage": 0.03}}), tmp_path / "asked")


def test_the_text_of_the_damage(make_config: Any, tmp_path: Path) -> None:
    """A source by name, which is on record by its content; else documents held out; else what is trained on."""
    text = write_text(tmp_path / "general.jsonl", 90)
    named = {**AWARE, "scale": {"damage": 0.02, "data": "general"}}
    options: dict[str, Any] = {"optimizer": named, "sources": {"general": "general.jsonl"}}
    folder = train(make_config(**options), tmp_path / "named")["cats"]
    record = read_record(folder)
    assert record["noise"]["data"] == "general"
    scale = record["recipe"]["optimizer"]["scale"]
    assert (scale["damage"], scale["data"]["data_sha256"]) == (0.02, sha256(text))
    moved = shutil.copy(text, tmp_path / "moved.jsonl")
    train(make_config(**{**options, "sources": {"general": str(moved)}}), tmp_path / "named")
    write_text(text, 91)
    with pytest.raises(AftermixError, match="holds an expert of another recipe"):
        train(make_config(**options), tmp_path / "named")

    own = {**AWARE, "scale": {"damage": 0.02}}
    held = read_record(train(make_config(optimizer=own, held_out=0.2), tmp_path / "held")["cats"])
    assert held["noise"]["tokens"] == held["held_out"]["tokens"]["cats"]
    assert held["noise"]["loss"] == pytest.approx(held["held_out"]["points"][0]["loss"], rel=1e-5)
    with pytest.raises(AftermixError, match=r"train: 'optimizer.scale.data' names one of .*, found 'generel'"):
        make_config(optimizer={**AWARE, "scale": {"damage": 0.02, "data": "generel"}})


def test_noise_with_the_norms_of_siblings(make_config: Any, base_folder: Path, tmp_path: Path) -> None:
    """Pilots are experts or vector folders; each tensor's noise has the root mean square of their norms there."""
    plain = {"vector": "none", "dtype": "float32", "freeze": ["norm"]}
    tokens = {"one": 256, "two": 640}
    datasets = {name: {"data": "corpus.jsonl", "tokens": count} for name, count in tokens.items()}
    pilots = train(make_config(datasets=datasets, **plain), tmp_path / "pilots")
    base, *experts = (load_file(folder / "model.safetensors") for folder in (base_folder, *pilots.values()))
    squares = {
        name: sum(float((expert[name] - tensor.float()).square().sum()) for expert in experts) / 2
        for name, tensor in base.items()
    }
    moved = {name: square for name, square in squares.items() if square}
    assert 0 < len(moved) < len(base)

    vector = tmp_path / "vector"
    diff(str(pilots["one"]), base=str(base_folder), output=vector)
    scale = {"pilot": [str(vector), str(pilots["two"])]}
    said: list[str] = []
    folder = train(make_config(optimizer={**AWARE, "scale": scale}), tmp_path / "out", log=said.append)["cats"]
    noise = read_record(folder)["noise"]
    assert noise["norm"] == pytest.approx(sum(moved.values()) ** 0.5, rel=5e-3)
    assert (noise["tensors"], noise["pilot"]) == (len(moved), scale["pilot"])
    entries = sum(base[name].numel() for name in moved)
    mean = sum((square * base[name].numel() / 2) ** 0.5 for name, square in moved.items()) / entries
    assert noise["scale"] == pytest.approx(mean, rel=5e-3)
    of = re.escape(f"noise has the norms of {', '.join(scale['pilot'])} in {len(moved)} tensors")
    assert any(re.match(rf"cats: {of}, \S+ in all \(scale \S+ in the mean\)", line) for line in said)
    shutil.move(vector, tmp_path / "moved")
    moved_there = {"pilot": [str(tmp_path / "moved"), str(pilots["two"])]}
    train(make_config(optimizer={**AWARE, "scale": moved_there}), tmp_path / "out")
    with pytest.raises(AftermixError, match="holds an expert of another recipe"):
        train(make_config(optimizer={**AWARE, "scale": {"pilot": [str(pilots["two"])]}}), tmp_path / "out")
    with pytest.raises(AftermixError, match="no pilot moved any of the tensors that are trained"):
        train(make_config(optimizer={**AWARE, "scale": {"pilot": [str(base_folder)]}}), tmp_path / "none")


def test_a_pattern_that_excludes_nothing_is_refused_before_training(make_config: Any, tmp_path: Path) -> None:
    with pytest.raises(AftermixError, match=r"train.optimizer.exclude: 'nrom' matches no tensor that is trained"):
        train(make_config(optimizer={**AWARE, "exclude": ["nrom"]}), tmp_path / "out")
    folder = train(make_config(optimizer={**AWARE, "exclude": ["norm"]}), tmp_path / "out")["cats"]
    assert read_record(folder)["recipe"]["optimizer"]["exclude"] == ["norm"]
