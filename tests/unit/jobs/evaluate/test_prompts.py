"""Prompts are shown as they are scored: the tokens of lm-eval's own pair, the right choice marked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from aftermix.config import Config, parse_config
from aftermix.jobs.evaluate.prompts import show_prompts
from conftest import run_cli

Family = Mapping[str, Path]


def write_task(folder: Path, name: str, rows: list[dict[str, object]], **keys: object) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        **keys,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(task))


@pytest.fixture
def config(tmp_path: Path, family: Family) -> Config:
    rows = [{"question": f"number {place}\n", "choices": ["red", "blue"], "answer": place % 2} for place in range(9)]
    choice = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "answer"}
    write_task(tmp_path, "pick", rows, **choice, metric_list=[{"metric": "acc"}])
    written = {"output_type": "generate_until", "doc_to_target": "answer", "metric_list": [{"metric": "exact_match"}]}
    write_task(tmp_path, "write", rows, **written, generation_kwargs={"until": ["\n"], "max_gen_toks": 4})
    values = {
        "base": str(family["base"]),
        "evaluate": {
            "tasks": ["pick", "write"],
            "include_path": str(tmp_path),
            "items": {"search": 3, "select": 3, "test": 3},
        },
    }
    return parse_config(values, where="file", folder=tmp_path)


def test_tokens_are_those_that_are_scored(config: Config) -> None:
    lines = show_prompts(config, split="search", count=2)
    items = [line for line in lines if line.startswith(("pick", "write"))]
    assert [item.split(": ")[0] for item in items] == ["pick", "pick", "write", "write"]

    number = int(lines[0].rpartition("/")[2])
    assert lines[1] == f"  context: 'number {number}\\n'"
    choices = ["' red'", "' blue'"]
    marks = ["  right", "      1"] if number % 2 == 0 else ["      0", "  right"]
    shown = lines[3:5]
    assert [line.split(": ")[0].strip() for line in shown] == [mark.strip() for mark in marks]
    assert [line.split(": ")[1] for line in shown] == choices
    # lm-eval moves white space at the end of a context behind the join: it is scored with the choice.
    tokens = [line.split(": ", 2)[2].split("' '") for line in shown]
    assert ["".join(part.strip("'") for part in line) for line in tokens] == ["\\n red", "\\n blue"]
    assert lines[2].startswith("  ")
    assert " tokens, the last " in lines[2]


def test_a_written_answer_says_where_it_stops(config: Config) -> None:
    lines = show_prompts(config, split="search", count=1)
    assert lines[-1] == "  written: until '\\n'"


def test_the_command_prints_them(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write(tmp_path / "file.yaml")
    assert run_cli("evaluate", tmp_path / "file.yaml", "--show", 1, "--split", "search") == 0
    assert capsys.readouterr().out.splitlines() == show_prompts(config, split="search", count=1)
