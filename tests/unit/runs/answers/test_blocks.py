"""Blocks of an evaluation under way: kept now and then, taken up once, and computed anew where they do not serve."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aftermix.runs.answers import blocks
from aftermix.runs.answers.blocks import BlockJournal, discard_blocks, find_journal, journal_blocks

pytestmark = pytest.mark.usefixtures("shown")

ENGINE = "cpu, torch.float32, 2 threads"


def plan() -> str:
    return "0123abcd"


def make(number: int) -> dict[str, np.ndarray]:
    return {"values": np.arange(number + 1, dtype=np.float32)}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block is written as it ends."""
    monkeypatch.setattr(blocks, "LEAST_SECONDS", 0.0)


@pytest.fixture
def folder(tmp_path: Path, at_once: None) -> Path:
    """Two blocks of the candidate `a 0.5`, a file each."""
    journal = BlockJournal(tmp_path / "00003.json", "a 0.5")
    for number in range(2):
        journal.keep(plan, number, partial(make, number), engine=ENGINE)
    return journal.folder


def take_up(folder: Path, *, candidate: str = "a 0.5", engine: str = ENGINE) -> list[int]:
    """Numbers of the first three blocks that are there, with what they hold."""
    journal = BlockJournal(folder.with_suffix(".json"), candidate)
    found = {number: journal.find(plan, number, engine=engine) for number in range(3)}
    assert all(np.array_equal(each["values"], make(number)["values"]) for number, each in found.items() if each)
    return [number for number, each in found.items() if each is not None]


def test_blocks_that_ended_are_taken_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert take_up(folder) == [0, 1]
    assert capsys.readouterr().err == f"{folder}: 2 blocks of an evaluation that was stopped are taken up\n"


def test_a_short_evaluation_writes_nothing(tmp_path: Path) -> None:
    journal = BlockJournal(tmp_path / "00003.json", "a 0.5")
    for number in range(9):
        journal.keep(plan, number, partial(make, number), engine=ENGINE)
    assert not journal.folder.exists()


def test_an_evaluation_whose_scores_wait_writes_its_last_blocks(tmp_path: Path) -> None:
    items = tmp_path / "00003.json"
    with blocks.journal_blocks(items, "a 0.5", until_end=True):
        journal = blocks.find_journal()
        assert journal is not None
        journal.keep(plan, 0, partial(make, 0), engine=ENGINE)
        journal.keep(plan, 1, partial(make, 1), engine=ENGINE)
    assert take_up(items.with_suffix(".partial")) == [0, 1]


def test_a_file_holds_all_blocks_since_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = BlockJournal(tmp_path / "00003.json", "a 0.5")
    journal.keep(plan, 0, partial(make, 0), engine=ENGINE)
    monkeypatch.setattr(blocks, "LEAST_SECONDS", 0.0)
    journal.keep(plan, 1, partial(make, 1), engine=ENGINE)
    monkeypatch.setattr(blocks, "LEAST_SECONDS", 1e9)
    journal.keep(plan, 2, partial(make, 2), engine=ENGINE)
    assert sorted(load_file(journal.folder / "00000.safetensors")) == ["0123abcd/0/values", "0123abcd/1/values"]
    assert take_up(journal.folder) == [0, 1]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "a damaged file of blocks (Error while deseria"),
    "empty": (lambda path: path.write_bytes(b""), "a damaged file of blocks (Error while deserializing"),
    "a flipped bit": (flip, "a damaged file of blocks (its content is not what its hash says): computed anew"),
    "without a word on it": (
        lambda path: save_file(load_file(path), path),
        "a damaged file of blocks (its content is not what its hash says): computed anew",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_blocks_are_computed_anew_and_told(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    damage, expected = DAMAGES[name]
    damage(folder / "00001.safetensors")
    assert take_up(folder) == [0]
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"{folder / '00001.safetensors'}: {expected}")
    assert said[0].endswith(": computed anew")
    assert len(said) == 2
    assert not (folder / "00001.safetensors").exists()


def test_blocks_of_another_candidate_or_engine_are_computed_anew_and_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert take_up(folder, engine="cpu, torch.float32, 1 threads") == []
    assert capsys.readouterr().err.splitlines() == [
        f"{folder / f'0000{number}.safetensors'}: blocks of another engine (expected cpu, torch.float32, 1 threads, "
        f"found {ENGINE}): computed anew"
        for number in range(2)
    ]
    assert not list(folder.iterdir())


def test_blocks_of_another_candidate_are_told_by_its_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert take_up(folder, candidate="a 0.7") == []
    assert "blocks of another candidate (expected a 0.7, found a 0.5): computed anew" in capsys.readouterr().err


def test_blocks_of_other_requests_are_told_at_the_end(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with journal_blocks(tmp_path / "00003.json", "a 0.5"):
        journal = find_journal()
        assert journal is not None
        assert journal.find(lambda: "another", 0, engine=ENGINE) is None
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"{folder}: 2 blocks are of other requests than these: computed anew"
    ]
    assert find_journal() is None


def test_a_half_written_file_of_a_killed_process_is_no_block(folder: Path, tmp_path: Path) -> None:
    (folder / ".00002.safetensors.77.incomplete").write_bytes(b"half")
    assert take_up(folder) == [0, 1]
    discard_blocks(tmp_path / "00003.json")
    assert not folder.exists()
    discard_blocks(tmp_path / "00003.json")
