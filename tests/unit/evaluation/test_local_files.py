"""Data files are found beside the YAML file, from any working directory."""

from __future__ import annotations

import glob
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from aftermix.errors import EvaluationError
from aftermix.evaluation.harness import TaskSuite
from aftermix.evaluation.local_files import resolve_data_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("beside/a.jsonl", "beside/data/b.jsonl", "elsewhere/c.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "beside"


def files(folder: Path, entry: object) -> object:
    task = {"task": "t", "dataset_path": "json", "dataset_kwargs": {"data_files": entry}}
    return resolve_data_files(task, folder=folder)["dataset_kwargs"]["data_files"]


def test_names_lists_splits_and_globs_become_absolute(folder: Path) -> None:
    place = glob.escape(str(folder))
    assert files(folder, "a.jsonl") == f"{place}/a.jsonl"
    assert files(folder, {"test": ["a.jsonl", "data/*.jsonl"]}) == {
        "test": [f"{place}/a.jsonl", f"{place}/data/*.jsonl"]
    }


def test_brackets_in_the_name_of_a_folder_are_no_pattern(folder: Path) -> None:
    odd = folder.rename(folder.with_name("odd [x] *"))
    place = glob.escape(str(folder.parent)) + "/odd [[]x] [*]"
    assert files(odd, ["a.jsonl", "data/*.jsonl"]) == [f"{place}/a.jsonl", f"{place}/data/*.jsonl"]


def test_absolute_names_and_addresses_stay(folder: Path) -> None:
    assert files(folder, str(folder / "a.jsonl")) == glob.escape(str(folder / "a.jsonl"))
    assert files(folder, "https://host/a.jsonl") == "https://host/a.jsonl"


def test_the_working_directory_comes_second(folder: Path) -> None:
    assert files(folder, "c.jsonl") == glob.escape(str(folder.parent / "elsewhere" / "c.jsonl"))


def test_a_folder_of_data_is_found(folder: Path) -> None:
    assert resolve_data_files({"task": "t", "dataset_path": "data"}, folder=folder)["dataset_path"] == str(
        folder / "data"
    )
    kept = {"task": "t", "dataset_path": "owner/name"}
    assert resolve_data_files(kept, folder=folder) == kept


def test_a_missing_file_is_refused(folder: Path) -> None:
    with pytest.raises(EvaluationError) as error:
        files(folder, "none.jsonl")
    assert str(error.value) == (
        f"task 't': data file 'none.jsonl' is neither beside the YAML file ({folder}) nor in the working directory. "
        "Correct `dataset_kwargs.data_files`; paths are relative to the YAML file. "
        f"Did you mean '{folder / 'a.jsonl'}'?"
    )


@pytest.mark.parametrize(
    "data",
    [
        "dataset_path: json\ndataset_kwargs: {data_files: {test: data/test.jsonl}}\n",
        "dataset_path: json\ndataset_kwargs: {data_files: 'data/te*.jsonl'}\n",
        "dataset_path: stored\n",
        "dataset_path: json\ndataset_kwargs: {data_dir: stored}\n",
    ],
)
def test_data_of_another_content_is_read_anew_whatever_its_size_and_time(
    tasks: Path, config_of: Any, task_texts: Any, data: str
) -> None:
    files = [tasks / "data" / "test.jsonl", tasks / "stored" / "test.jsonl"]
    files[1].parent.mkdir()
    shutil.copy(files[0], files[1])
    split = "train" if "te*" in data else "test"
    text = task_texts["test_only"].partition("test_split")[2].removeprefix(": test\n")
    (tasks / "mended.yaml").write_text(f"task: mended\n{data}test_split: {split}\n{text}")
    golds = []
    for old, new in (("", ""), ('"answer": 0', '"answer": 3')):
        for file in files:
            file.write_text(file.read_text().replace(old, new) if old else file.read_text())
            os.utime(file, (1_500_000_000, 1_500_000_000))
        suite = TaskSuite.build(config_of(tasks, "mended"))
        golds.append([document["answer"] for document in suite._leaves["mended"]["mended"].task_docs])
    assert golds == [[0, 1, 2, 3] * 10, [3, 1, 2, 3] * 10]
