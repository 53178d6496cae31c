"""What an exclusive merge by saliency refuses, from the command line: by text, with nothing written, all at once."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from aftermix.cli import cli
from aftermix.command_end import run_guarded
from conftest import save_tokenizer, write_statistics

Family = dict[str, Path]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def written(folder: Path, family: Family, vectors: Mapping[str, Mapping[str, Any]], **merge: Any) -> Path:
    named = {name: {"model": str(family[name]), **options} for name, options in vectors.items()}
    values = {"base": str(family["base"]), "vectors": named, "merge": {"method": "obim", **merge}}
    (folder / "file.yaml").write_text(yaml.safe_dump(values))
    return folder / "file.yaml"


@dataclass(frozen=True)
class Found:
    """What a command said, on both streams, and its exit code."""

    exit_code: int
    output: str


def run(command: str, file: Path) -> Found:
    """`aftermix COMMAND FILE -o out`."""
    output = ["-o", str(file.parent / "out")] if command != "doctor" else []
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = run_guarded(lambda: cli.main([command, str(file), *output], standalone_mode=False))
    return Found(code, said.getvalue())


@pytest.fixture
def smaller(tmp_path: Path) -> Family:
    """A base of another size, and an expert."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=320, hidden_size=16, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    family = {}
    for seed, name in enumerate(("base", "a")):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / f"small-{name}")
        save_tokenizer(tmp_path / f"small-{name}")
        family[name] = tmp_path / f"small-{name}"
    return family


def test_ratios_above_one(family: Family, statistics: dict[str, Path], tmp_path: Path) -> None:
    folder = str(statistics[str(family["base"])])
    file = written(tmp_path, family, {"a": {"ratio": 0.6}, "b": {"ratio": 0.5}}, statistics=folder)
    found = run("merge", file)
    assert found.exit_code == 2
    assert found.output.endswith(
        "aftermix: vectors: ratios sum to 1.1 (a 0.6, b 0.5). Lower `ratio` of the vectors, or `density`, so that they "
        "sum to at most 1.\n"
    )
    assert not (tmp_path / "out").exists()
    assert "1. vectors: ratios sum to 1.1" in run("doctor", file).output


def test_statistics_of_another_model_or_shape(
    family: Family, untied_family: Family, smaller: Family, statistics: dict[str, Path], tmp_path: Path
) -> None:
    small = write_statistics(tmp_path / "small", smaller, ("a",))
    down_proj = "model.layers.0.mlp.down_proj.weight"
    for folder, message in (
        (
            statistics[str(untied_family["base"])],
            f"statistics of vector 'a' ({untied_family['a']}) are of another model",
        ),
        (
            small,
            f"{down_proj}: statistics of vector 'a' ({smaller['a']}) are of a model with (16, 48), {family['a']} has",
        ),
    ):
        file = written(tmp_path, family, {"a": {}}, statistics=str(folder))
        for command in ("merge", "doctor"):
            found = run(command, file)
            assert found.exit_code == 2
            assert message in found.output
            assert "Make the statistics again with `aftermix calibrate`." in found.output
        assert not (tmp_path / "out").exists()


def test_damaged_statistics(family: Family, tmp_path: Path) -> None:
    folder = write_statistics(tmp_path / "statistics", family, ("a", "b"))
    (folder / "b.safetensors").unlink()
    # A file that is half there is a fault, whatever becomes of vectors that have none.
    file = written(tmp_path, family, {"a": {}, "b": {}}, statistics="statistics", uncalibrated="magnitude")
    for command in ("merge", "doctor"):
        found = run(command, file)
        assert found.exit_code == 2
        assert f"{folder / 'b.safetensors'}: cannot be read (" in found.output
    assert not (tmp_path / "out").exists()


def test_vectors_without_statistics(family: Family, tmp_path: Path) -> None:
    folder = write_statistics(tmp_path / "statistics", family, ("a",))
    file = written(tmp_path, family, {"a": {}, "c": {}}, statistics="statistics")
    found = run("merge", file)
    assert found.exit_code == 2
    assert found.output.endswith(
        f"aftermix: {folder}: holds no statistics of vector 'c', but of: a. Set `vectors.c.calibration`, and run "
        "`aftermix calibrate` again; or set `merge: {uncalibrated: magnitude}`.\n"
    )
    assert not (tmp_path / "out").exists()
    written(tmp_path, family, {"a": {}, "c": {}}, statistics="statistics", uncalibrated="magnitude")
    assert run("doctor", file).output.endswith("No problems.\n")
    assert run("merge", file).exit_code == 0


EMPTY = [
    ("empty.jsonl", "", "holds no text. Name "),
    ("empty.txt", "", "holds no text. Name "),
    ("blank.txt", " \n\n", "expected text, found nothing but white space. Name a file or a task with text."),
    ("blank.jsonl", '{"text": " "}\n{"text": "\\n"}\n', "expected text, found nothing but white space."),
]


@pytest.mark.parametrize(("name", "content", "message"), EMPTY, ids=[name for name, _, _ in EMPTY])
def test_empty_calibration_text(name: str, content: str, message: str, family: Family, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    file = written(tmp_path, family, {"a": {"calibration": name}}, uncalibrated="magnitude")
    for command in ("calibrate", "doctor"):
        found = run(command, file)
        assert found.exit_code == 2
        assert message in found.output
    assert not (tmp_path / "out").exists()


def test_text_that_is_longer_than_the_context(family: Family, tmp_path: Path) -> None:
    rows = [{"text": "the sum of the numbers is even " * length} for length in (1, 40)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = written(tmp_path, family, {"a": {"calibration": "long.jsonl"}}, uncalibrated="magnitude")
    for command in ("calibrate", "doctor"):
        found = run(command, file)
        assert found.exit_code == 2
        assert "long.jsonl, text 2: expected at most 64 tokens, found 28" in found.output
        assert "set `calibrate: {long_texts: cut}`" in found.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({"statistics": "nowhere"}, "there is no such folder of statistics. Make them with `aftermix calibrate FILE"),
        (
            {},
            "merge.statistics: obim needs statistics, there are none of a, b, c. Run `aftermix calibrate FILE -o DIR`",
        ),
    ],
)
def test_doctor_tells_all_faults_at_once(options: dict[str, str], last: str, family: Family, tmp_path: Path) -> None:
    vectors: dict[str, dict[str, Any]] = {"a": {"ratio": 0.6}, "b": {"ratio": 0.5}, "c": {"calibration": "none.jsonl"}}
    found = run("doctor", written(tmp_path, family, vectors, order=["a", "x", "c"], **options))
    assert found.exit_code == 2
    problems = found.output.partition("4 problems:\n")[2].splitlines()
    assert problems[0].startswith("  1. vectors.c.calibration: ")
    assert problems[1].startswith("  2. vectors: ratios sum to 1.43333 (a 0.6, b 0.5, c 0.333333)")
    assert problems[2].startswith("  3. merge.order: there is no vector 'x' (a, b, c). Name each vector once, or")
    assert last in problems[3]


def test_doctor_looks_for_statistics_when_a_model_cannot_be_opened(family: Family, tmp_path: Path) -> None:
    file = written(
        tmp_path, {**family, "a": tmp_path / "none"}, {"a": {"ratio": 0.7}, "b": {"ratio": 0.7}}, statistics="x"
    )
    output = run("doctor", file).output
    assert "3 problems:" in output
    assert "ratios sum to 1.4" in output
    assert "there is no such folder of statistics" in output
