"""Data files are found beside the YAML file, from any working directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from aftermix.errors import EvaluationError
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
    assert files(folder, "a.jsonl") == str(folder / "a.jsonl")
    assert files(folder, {"test": ["a.jsonl", "data/*.jsonl"]}) == {
        "test": [str(folder / "a.jsonl"), str(folder / "data/*.jsonl")]
    }


def test_absolute_names_and_addresses_stay(folder: Path) -> None:
    assert files(folder, str(folder / "a.jsonl")) == str(folder / "a.jsonl")
    assert files(folder, "https://host/a.jsonl") == "https://host/a.jsonl"


def test_the_working_directory_comes_second(folder: Path) -> None:
    assert files(folder, "c.jsonl") == str(folder.parent / "elsewhere" / "c.jsonl")


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
        "Correct `dataset_kwargs.data_files`; paths are relative to the YAML file."
    )
