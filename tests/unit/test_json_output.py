"""`--json`: standard output is one document and nothing else, and holds the figures that the text shows."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftermix.api.commands.documents import build_run
from aftermix.cli import cli
from aftermix.runs.reader import read_best
from conftest import run_cli

Family = Mapping[str, Path]
ROOT = Path(__file__).parents[2]
RUNS = ROOT / "tests" / "data" / "runs-0a1294b"


def ask(capfd: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    """The document of `aftermix ARGUMENTS --json`, which is all of standard output."""
    capfd.readouterr()
    assert run_cli(*arguments, "--json") == code
    document: dict[str, Any] = json.loads(capfd.readouterr().out)
    return document


def read_text(capfd: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    capfd.readouterr()
    assert run_cli(*arguments) == code
    return capfd.readouterr().out


def write(folder: Path, values: Mapping[str, Any]) -> Path:
    (folder / "aftermix.yaml").write_text(yaml.safe_dump(values))
    return folder / "aftermix.yaml"


@pytest.fixture
def file(family: Family, tmp_path: Path) -> Path:
    vectors = {name: {"model": str(family[name]), "weight": 0.5} for name in ("a", "b")}
    return write(tmp_path, {"base": str(family["base"]), "vectors": vectors, "merge": {"exclude": []}})


def test_every_command_has_it_and_its_shape_is_documented() -> None:
    page = (ROOT / "docs" / "json-output.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", page, re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(cli.commands)
    for name, command in cli.commands.items():
        assert any("--json" in parameter.opts for parameter in command.params), name


def test_init(family: Family, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new.yaml"
    assert ask(capfd, "init", family["base"], family["a"], "-o", new) == {"file": str(new)}
    assert yaml.safe_load(new.read_text())["vectors"].keys() == {"a"}


def test_doctor_of_a_good_file_and_of_a_bad_one(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = ask(capfd, "doctor", file)
    assert found["problems"] == []
    text = read_text(capfd, "doctor", file)
    assert all(fact in text for fact in found["facts"])

    values = yaml.safe_load(file.read_text())
    values["vectors"]["a"]["model"] = "/nowhere/a"
    write(file.parent, values)
    (problem,) = ask(capfd, "doctor", file, code=2)["problems"]
    assert problem["where"] == "/nowhere/a"
    assert f"{problem['where']}: {problem['found']}" in read_text(capfd, "doctor", file, code=2)


def test_plan(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    needs = ask(capfd, "plan", file)
    text = read_text(capfd, "plan", file)
    assert f"Parameters      {needs['parameters']:,}" in text
    assert f"Disk            {needs['disk_bytes'] / 1000:.3g} kB for the merged model" in text
    assert needs["seconds"] == {}


def test_merge_tells_its_notes_aside(file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = ask(capfd, "merge", file, "-o", tmp_path / "out")
    text = read_text(capfd, "merge", file, "-o", tmp_path / "again").splitlines()
    assert text == [*made["notes"], f"Model: {tmp_path / 'again'}"]
    assert (made["model"], made["hub"]) == (str(tmp_path / "out"), None)


def test_diff(family: Family, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stored = ask(capfd, "diff", family["a"], "--base", family["base"], "-o", tmp_path / "one", "--dtype", "int8")
    text = read_text(capfd, "diff", family["a"], "--base", family["base"], "-o", tmp_path / "two", "--dtype", "int8")
    assert f"Stored          {stored['stored']} tensors as int8" in text
    assert f"Error           {stored['relative_l2']:.3%} of the vector's norm; largest {stored['max_abs']:.3g}" in text
    assert f"Worst tensor    {stored['worst']['tensor']}: {stored['worst']['relative_l2']:.3%}" in text


@pytest.mark.parametrize("command", ["inspect", "analyze"])
def test_all_numbers_into_a_file_or_onto_standard_output(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    printed = ask(capfd, command, file)
    tables = read_text(capfd, command, file, "--json", tmp_path / "numbers.json")
    assert json.loads((tmp_path / "numbers.json").read_text()) == printed
    assert json.loads(read_text(capfd, command, file, "--json", "-")) == printed
    assert printed["vectors"].keys() == {"a", "b"}
    if command == "inspect":
        assert f"{printed['vectors']['a']['norm']:.4g}" in tables
        assert f"{printed['cosines']['whole'][0][1]:z.3f}" in tables


def test_export(file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written = ask(capfd, "export", file, "--to", "mergekit", "-o", tmp_path / "one.yaml")
    text = read_text(capfd, "export", file, "--to", "mergekit", "-o", tmp_path / "two.yaml").splitlines()
    assert text == [*written["notes"], f"Recipe: {tmp_path / 'two.yaml'}"]
    assert written["recipe"] == str(tmp_path / "one.yaml")


def test_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(RUNS / "search", tmp_path / "run"))
    assert ask(capfd, "report", run) == {"report": str(run / "report.html")}
    assert (run / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("kind", ["search", "mixture"])
def test_a_run_is_its_best_json_and_its_paths(kind: str) -> None:
    document = build_run(RUNS / kind)
    assert json.loads(json.dumps(document)) == document
    assert document["best"]["weights"] == read_best(RUNS / kind).weights
    assert [document[key] for key in ("run", "model")] == [str(RUNS / kind), str(RUNS / kind / "model")]


def test_a_refusal_leaves_standard_output_empty(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_cli("merge", tmp_path / "missing.yaml", "-o", tmp_path / "out", "--json") == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert "missing.yaml: cannot be read" in told.err


def test_prompts_are_read_and_not_parsed(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_cli("evaluate", file, "--show", 1, "--json") == 2
    assert "name one of them" in capfd.readouterr().err
