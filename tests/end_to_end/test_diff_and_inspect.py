"""`aftermix diff` and `aftermix inspect` as a user calls them, and a search over stored vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from conftest import run_cli

Family = Mapping[str, Path]
Captured = pytest.CaptureFixture[str]


def write(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "file.yaml"
    path.write_text(json.dumps(values))
    return path


def test_a_stored_vector_goes_through_every_command(
    family: Family, tasks: Path, tmp_path: Path, capsys: Captured
) -> None:
    for name, dtype in (("a", "int8"), ("b", "bfloat16")):
        assert run_cli("diff", family[name], "--base", family["base"], "-o", tmp_path / name, "--dtype", dtype) == 0
        out = capsys.readouterr().out
        assert f"Stored          20 tensors as {dtype}" in out
        assert "Left out        0 tensors that do not differ from the base" in out
        assert "% of the vector's norm; largest " in out
        assert f"Vector: {tmp_path / name}" in out
    values = {
        "base": str(family["base"]),
        "vectors": {"a": {"model": "./a", "role": "instruction"}, "b": {"model": "./b"}},
        "evaluate": {
            "tasks": ["colours"],
            "include_path": str(tasks),
            "items": {"search": 6, "select": 6, "test": 6},
            "threads": 1,
        },
        "search": {"strategy": "tpe", "trials": 2, "startup": 2, "top": 1, "baselines": False},
    }
    file = write(tmp_path, values)
    assert run_cli("doctor", file) == 0
    out = capsys.readouterr().out
    assert "No problems." in out
    assert "vector 'a' is a vector stored as int8: 20 tensors moved, 0 left out, error 0." in out
    assert run_cli("search", file, "-o", tmp_path / "run") == 0
    lock = json.loads((tmp_path / "run" / "model" / "lock.json").read_text())
    assert lock["inputs"]["vectors.a"]["model"] == str(tmp_path / "a")
    assert (
        load_file(tmp_path / "run" / "model" / "model.safetensors").keys()
        == load_file(family["base"] / "model.safetensors").keys()
    )
    assert (tmp_path / "run" / "report.html").is_file()


def test_inspect_shows_writes_and_draws(family: Family, tmp_path: Path, capsys: Captured) -> None:
    vectors = {name: {"model": str(family[name])} for name in "abc"}
    file = write(tmp_path, {"base": str(family["base"]), "vectors": vectors})
    numbers, drawing = tmp_path / "deep" / "numbers.json", tmp_path / "picture.svg"
    assert run_cli("inspect", file, "--json", numbers, "--picture", drawing) == 0
    out = capsys.readouterr().out
    assert f"Distribution vectors on {family['base']}: " in out
    for text in ("Cosine between vectors", "By kind", "By layer", "attention q", "outside layers"):
        assert text in out
    record = json.loads(numbers.read_text())
    assert record["base"] == str(family["base"])
    assert set(record["vectors"]) == set("abc")
    assert record["vectors"]["b"]["model"] == str(family["b"])
    assert record["cosines"]["whole"][0][0] == 1.0
    assert set(record["tensors"]) == set(load_file(family["base"] / "model.safetensors"))
    assert drawing.read_text().count("<svg") == 1


def test_inspect_takes_one_model(family: Family, tmp_path: Path, capsys: Captured) -> None:
    assert run_cli("inspect", family["b"], "--base", family["base"], "--picture", tmp_path / "p.png") == 0
    assert "│ b " in capsys.readouterr().out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_what_inspect_refuses(family: Family, tmp_path: Path, capsys: Captured) -> None:
    file = write(tmp_path, {"base": str(family["base"]), "vectors": {"b": {"model": str(family["b"])}}})
    for arguments, message in (
        ((file, "--picture", "x.jpg"), "--picture: expected a name that ends in .svg or .png, found 'x.jpg'"),
        ((file, "--base", family["base"]), f"--base: {file} names its own base. Leave --base out."),
        ((family["b"],), f"--base: {family['b']} is a model, whose vector needs a base. Name it, or name a YAML file."),
        ((write(tmp_path, {"vectors": {}}),), "2 problems:"),
        (("nowhere.yaml",), "nowhere.yaml: cannot be read"),
    ):
        assert run_cli("inspect", *arguments) == 2
        assert message in capsys.readouterr().err
    assert not Path("x.jpg").exists()
