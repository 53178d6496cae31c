"""An input that is not what it was is a fault of the input, whatever was in work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aftermix.checkpoints.model_files import list_input_files
from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.safe_files import InputStamps
from aftermix.config import Config
from aftermix.errors import InputFaultError

REMEDY = "Restore its content if that has changed, and leave it alone while the command runs."


def touch(file: Path) -> None:
    os.utime(file)


def overwrite(file: Path) -> None:
    """As `cat OTHER > FILE` does: the same file, of the same size."""
    file.write_bytes(bytes(reversed(file.read_bytes())))


def replace(file: Path) -> None:
    """By an equal file of an equal time, as a copy that is renamed."""
    copy = file.with_name("copy")
    shutil.copy2(file, copy)
    copy.replace(file)


def remove(file: Path) -> None:
    file.unlink()


def move_folder(file: Path) -> None:
    file.parent.rename(file.parent.with_name("moved"))


CHANGES = [touch, overwrite, replace, remove, move_folder]


@pytest.fixture
def expert(family: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(family["b"], tmp_path / "expert"))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_changed_file_is_named_before_and_after_a_block(
    change: Callable[[Path], None], name: str, expert: Path, family: dict[str, Path]
) -> None:
    config = Config.model_validate({"base": str(family["base"]), "vectors": {"b": {"model": str(expert)}}})
    stamps = InputStamps.take(list_input_files(open_pool(config)))
    with stamps.watch():
        pass

    def work() -> None:
        with stamps.watch():
            change(expert / name)
            raise ValueError("what came of it")

    with pytest.raises(InputFaultError) as caught:
        work()
    assert isinstance(caught.value.__context__, (ValueError, OSError))
    with pytest.raises(InputFaultError) as again, stamps.watch():
        pytest.fail("worked on a changed input")
    assert str(again.value) == str(caught.value)

    gone = change in (remove, move_folder)
    found = "cannot be read any more (No such file or directory)" if gone else "has changed since it was opened"
    # All files of a folder that moved are gone: the first by name is told.
    named = (
        next(iter(sorted(p for p in stamps.stamps if p.parent == expert))) if change is move_folder else expert / name
    )
    assert str(caught.value) == f"{named}: {found}. {REMEDY}"


def test_files_that_decide_nothing_may_change(expert: Path, family: dict[str, Path]) -> None:
    (expert / "README.md").write_text("a")
    config = Config.model_validate({"base": str(family["base"]), "vectors": {"b": {"model": str(expert)}}})
    stamps = InputStamps.take(list_input_files(open_pool(config)))
    with stamps.watch():
        (expert / "README.md").write_text("b")
        (expert / "training.log").write_text("c")


def test_without_a_change_what_was_raised_goes_through(expert: Path) -> None:
    stamps = InputStamps.take([expert / "model.safetensors"])
    with pytest.raises(ZeroDivisionError), stamps.watch():
        _ = 1 // 0
