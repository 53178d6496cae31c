"""`aftermix search` killed with SIGKILL inside evaluations, of trials and of the winner: no finished block is lost."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aftermix.config import load_config
from aftermix.jobs.search.command import search
from support.forked import ForkedProcess

DYING = """
import os, signal, sys
from aftermix.runs.answers import blocks
from aftermix.cli import main

write, left = blocks.write_atomically, int(sys.argv.pop(1))

def write_and_die(path, content):
    global left
    write(path, content)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

blocks.write_atomically, blocks.LEAST_SECONDS = write_and_die, 0.0
main()
"""
"""The command line, which writes every block and dies after so many."""


def write_file(folder: Path, family: Mapping[str, Path], tasks: Path) -> Path:
    values = {
        "base": str(family["base"]),
        "vectors": {"a": {"model": str(family["a"]), "role": "instruction"}, "b": {"model": str(family["b"])}},
        "merge": {"method": "task_arithmetic"},
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(tasks),
            "items": {"search": 20, "select": 20, "test": 20},
            "batch_size": 1,
            "threads": 1,
        },
        "search": {"trials": 2, "startup": 2, "top": 1, "baselines": False},
    }
    path = folder / "aftermix.yaml"
    path.write_text(json.dumps(values))
    return path


def run_until(blocks: int, *arguments: object) -> tuple[int, list[str]]:
    """Exit code and lines on the terminal of a process that dies once it has written so many blocks."""
    process = ForkedProcess(DYING, blocks, "search", *arguments)
    _, errors = process.communicate()
    return process.returncode or 0, errors.decode().splitlines()


def trials_of(run: Path) -> list[dict[str, Any]]:
    journal = run / "trials.jsonl"
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def files_of(run: Path) -> dict[str, bytes]:
    found = [path for path in sorted((run / "items").rglob("*")) if path.is_file()]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in found}


def partial_folders(run: Path) -> dict[str, int]:
    """Files of blocks by the folder below `items`."""
    found = sorted((run / "items").rglob("*.partial"))
    return {path.relative_to(run / "items").as_posix(): len(list(path.glob("0*.safetensors"))) for path in found}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, family: Mapping[str, Path], tasks: Path) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    return search(load_config(write_file(folder, family, tasks)), folder / "run")


def test_a_search_killed_inside_evaluations_ends_as_the_one_left_alone(
    alone: Path, tmp_path: Path, family: Mapping[str, Path], tasks: Path
) -> None:
    file, run = write_file(tmp_path, family, tasks), tmp_path / "run"
    assert run_until(7, file, "-o", run)[0] == -signal.SIGKILL
    assert (partial_folders(run), trials_of(run)) == ({"search/00000.partial": 7}, [])

    code, said = run_until(17, "--resume", run)
    assert code == -signal.SIGKILL
    [taken] = [line for line in said if "taken up" in line]
    assert taken == f"{run}/items/search/00000.partial: 7 blocks of an evaluation that was stopped are taken up"
    [(folder, count)] = partial_folders(run).items()
    assert folder == "search/00001.partial"
    assert trials_of(run) == trials_of(alone)[:1]

    # One of the blocks is damaged: it is computed again, like those that were not there.
    damaged = run / "items" / folder / "00001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-2])
    code, said = run_until(50, "--resume", run)
    assert code == -signal.SIGKILL
    assert next(line for line in said if "damaged" in line).endswith(": computed anew")
    assert next(line for line in said if "taken up" in line).split(": ")[1].startswith(f"{count - 1} blocks")
    assert list(partial_folders(run)) != [folder]

    code, said = run_until(10**9, "--resume", run)
    assert code == 0, said
    assert trials_of(run) == trials_of(alone)
    assert files_of(run) == files_of(alone)
    assert partial_folders(run) == {}
    ours, theirs = (json.loads((each / "best.json").read_text()) for each in (run, alone))
    assert {**ours, "seconds": None} == {**theirs, "seconds": None}


def test_blocks_of_a_trial_that_was_written_down_go_at_the_resume(alone: Path, tmp_path: Path) -> None:
    left = alone / "items" / "search" / "00001.partial"
    chosen = next((alone / "items" / "select").glob("*.json")).with_suffix(".partial")
    for folder in (left, chosen):
        folder.mkdir()
        (folder / "00000.safetensors").write_bytes(b"left")
    assert run_until(10**9, "--resume", alone)[0] == 0
    assert partial_folders(alone) == {}
