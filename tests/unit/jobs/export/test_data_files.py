"""`export --data` given for each of several training files: whose data it is, and what they must have in common."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftermix.errors import AftermixError
from aftermix.jobs.export.data_files import NamedDataFiles
from aftermix.jobs.export.mixture import ExportOptions, export_mixture
from conftest import run_cli
from support.export_world import ExportWorld, make_export_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ExportWorld:
    return make_export_world(tmp_path_factory.mktemp("export"))


def write_file(folder: Path, name: str, *, base: str | None = "base", **train: Any) -> Path:
    """A training file in `folder`; without keywords one that has no `train:`."""
    values = ({"base": base} if base else {}) | ({"train": train} if train else {})
    (folder / name).write_text(yaml.safe_dump(values))
    return folder / name


def export(world: ExportWorld, output: Path, *files: Path) -> None:
    options = ExportOptions(data=files, tokens=100_000)
    export_mixture(world.run, output, to="csv", options=options, log=lambda _: None)


def test_domains_of_two_files_are_one_mixture(world: ExportWorld, tmp_path: Path) -> None:
    """The bytes are those of one file with the data of both, whichever comes first."""
    full = write_file(world.folder, "full.yaml", datasets={"ja": "ja.jsonl"}, sources={"web": "ja.jsonl"})
    low = {"math": {"data": "math.jsonl", "lora": {"rank": 4}}, "web": "code.jsonl"}  # no domain: nobody asks
    adapters = write_file(world.folder, "adapters.yaml", datasets=low, sources={"code": "code.jsonl"})
    export(world, tmp_path / "one.csv", world.file)
    export(world, tmp_path / "two.csv", full, adapters)
    assert (
        run_cli(
            *("export", world.run, "--to", "csv", "-o", tmp_path / "cli.csv", "--tokens", "1e5"),
            *("--data", adapters, "--data", full),
        )
        == 0
    )
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert (tmp_path / "cli.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    with (tmp_path / "two.csv").open(newline="") as file:
        assert [row["domain"] for row in csv.DictReader(file)] == ["code", "ja", "math"]


def test_files_without_a_base_take_the_other_files_or_the_runs(world: ExportWorld, tmp_path: Path) -> None:
    bare = write_file(world.folder, "bare.yaml", base=None, sources={"ja": "ja.jsonl", "math": "math.jsonl"})
    code = write_file(world.folder, "code.yaml", sources={"code": "code.jsonl"})
    no_base = write_file(world.folder, "none.yaml", base=None, sources={"code": "code.jsonl"})
    export(world, tmp_path / "one.csv", world.file)
    for number, other in enumerate((code, no_base)):
        export(world, tmp_path / f"{number}.csv", bare, other)
        assert (tmp_path / f"{number}.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


def refuse(world: ExportWorld, output: Path, *files: Path) -> str:
    with pytest.raises(AftermixError) as error:
        export(world, output, *files)
    assert error.value.exit_code == 2
    assert not output.exists()
    return str(error.value)


def test_what_files_say_against_each_other_is_refused_with_both(world: ExportWorld, tmp_path: Path) -> None:
    folder, out = world.folder, tmp_path / "out.csv"
    other = write_file(
        folder, "other.yaml", sources={"ja": "code.jsonl", "math": {"data": "math.jsonl", "split": "all"}}
    )
    message = refuse(world, out, world.file, other)
    assert f"--data: 'ja' is {folder}/ja.jsonl in train.yaml, and is {folder}/code.jsonl in other.yaml." in message
    assert f"'math' is {folder}/math.jsonl in train.yaml, and are read otherwise in other.yaml" in message

    elsewhere = write_file(folder, "elsewhere.yaml", base="./other-base", sources={"code": "code.jsonl"})
    message = refuse(world, out, world.file, elsewhere)
    assert f"--data: expected one base, found {folder}/base in train.yaml, {folder}/other-base in elsewhere" in message

    without = write_file(folder, "without.yaml")
    assert refuse(world, out, world.file, without).startswith("without.yaml: has no `train:`. Add it, or leave")


def test_a_domain_in_none_of_the_files_is_told_with_all_that_are_known(world: ExportWorld, tmp_path: Path) -> None:
    ja = write_file(world.folder, "ja.yaml", sources={"ja": "ja.jsonl"})
    math = write_file(world.folder, "math.yaml", datasets={"math": "math.jsonl"})
    message = refuse(world, tmp_path / "out.csv", ja, math)
    assert "there is no dataset 'code'; known are: ja, math" in message


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write_file(tmp_path / place, "train.yaml", base=f"./{place}", sources={"ja": "ja.jsonl"})
    with pytest.raises(AftermixError) as error:
        NamedDataFiles.read([tmp_path / "a/train.yaml", tmp_path / "b/train.yaml"])
    assert f"{tmp_path}/a/a in {tmp_path}/a/train.yaml, {tmp_path}/b/b in {tmp_path}/b/train.yaml" in str(error.value)
