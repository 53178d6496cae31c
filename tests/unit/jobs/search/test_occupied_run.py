"""A new run in a folder that is taken: the command that goes on with it, or what the folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aftermix.checkpoints.writer import describe_occupant, refuse_occupied
from aftermix.config import Config, parse_config
from aftermix.errors import AftermixError, CheckpointError, OccupiedRunError
from aftermix.jobs.run_folder.opening import write_config
from aftermix.jobs.run_folder.settling import settle_for_run
from aftermix.jobs.search.beginning.occupied_run import refuse_occupied_run


def read(folder: Path, *, mixture: bool = False, **search: Any) -> Config:
    for name in ("base", "a", "b"):  # a model that is gone is looked for in the folders above, where others have theirs
        (folder / name).mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "base": "./base",
        "vectors": {"a": {"model": "./a"}, "b": {"model": "./b"}},
        "evaluate": {"tasks": ["x"]},
        "search": search,
        **({"mixture": {"points": 5}} if mixture else {}),
    }
    return parse_config(values, where="file.yaml", folder=folder)


def begin(run: Path, config: Config, *, trials: int = 0, finished: bool = False, mixture: bool = False) -> Path:
    """A folder with the files by which a run is known."""
    run.mkdir()
    settled = settle_for_run(config, resumed=None, source=None)
    write_config(run, settled)
    (run / "trials.jsonl").write_text("{}\n" * trials)
    if mixture:
        (run / "design.json").write_text("{}")
    if finished:
        (run / "best.json").write_text("{}")
    return run


def refuse(run: Path, config: Config, *, mixture: bool = False) -> AftermixError:
    with pytest.raises(AftermixError) as error:
        refuse_occupied_run(run, config=config, mixture=mixture)
    assert error.value.exit_code == 2
    return error.value


@pytest.mark.parametrize(("trials", "told"), [(0, "0 trials"), (1, "1 trial"), (7, "7 trials")])
def test_a_run_of_the_same_file_is_resumed(tmp_path: Path, trials: int, told: str) -> None:
    run = begin(tmp_path / "run", read(tmp_path), trials=trials)
    error = refuse(run, read(tmp_path))
    assert isinstance(error, OccupiedRunError)
    found = f"exists and is not empty: it holds the run of a search, unfinished, with {told}, of this file"
    assert str(error) == f"{run}: {found}. Resume it, or name a new folder."
    command = f"aftermix search file.yaml --resume {run}"
    assert str(error.name_command(command)).endswith(
        f"of this file. Go on with it by `{command}`, or name a new folder."
    )


def test_what_may_change_on_resuming_makes_no_other_file(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", read(tmp_path, trials=20), finished=True)
    for search in ({"trials": 40}, {"top": 1}, {"budget_tokens": 1000}, {"strategy": "tpe"}):
        error = refuse(run, read(tmp_path, **search))
        assert isinstance(error, OccupiedRunError)
        assert "the run of a search, finished, of this file" in str(error)


def test_a_run_of_another_file_is_told_with_the_key_and_its_own_command(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", read(tmp_path), trials=3)
    for config, key in ((read(tmp_path, seed=1), "search.seed"), (read(tmp_path / "elsewhere"), "base")):
        error = refuse(run, config)
        assert not isinstance(error, OccupiedRunError)
        assert f"unfinished, with 3 trials, of a file that differs in '{key}'. Name a new folder; " in str(error)
        assert str(error).endswith(f"`aftermix search --resume {run}` goes on with that run by its own file.")


def test_a_run_of_the_other_kind_is_told_so(tmp_path: Path) -> None:
    mixed = begin(tmp_path / "mixed", read(tmp_path, mixture=True), mixture=True, trials=2)
    told = str(refuse(mixed, read(tmp_path)))
    assert (
        "it holds the run of a mixture, unfinished, with 2 trials. Name a new folder; `aftermix mixture --res" in told
    )
    searched = begin(tmp_path / "searched", read(tmp_path))
    assert "it holds the run of a search, unfinished" in str(refuse(searched, read(tmp_path), mixture=True))
    assert isinstance(refuse(mixed, read(tmp_path, mixture=True), mixture=True), OccupiedRunError)


def test_a_folder_that_is_no_run_is_let_pass_here(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    refuse_occupied_run(tmp_path, config=read(tmp_path), mixture=False)
    refuse_occupied_run(tmp_path / "absent", config=read(tmp_path), mixture=True)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["config.json", "model.safetensors"], "a model (config.json, model.safetensors)"),
        (["config.json", "aftermix.yaml"], "a merged model (aftermix.yaml, config.json)"),
        (["config.json", "train.json"], "a trained expert (config.json, train.json)"),
        (["vector.json"], "a stored vector (vector.json)"),
        (["config.yaml", "trials.jsonl", "lock.json", "best.json"], "(best.json, config.yaml, lock.json and 1 more)"),
        (["mixture.csv", "mixture.yaml"], "an exported mixture (mixture.csv, mixture.yaml)"),
        (["a.txt"], "a.txt"),
        (["a", "b", "c", "d", "e"], "a, b, c and 2 more"),
    ],
)
def test_every_other_folder_is_told_by_what_it_holds(tmp_path: Path, files: list[str], told: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert describe_occupant(tmp_path).endswith(told)
    with pytest.raises(CheckpointError) as error:
        refuse_occupied(tmp_path)
    start = f"{tmp_path}: exists and is not empty. Name a new folder, or remove this one yourself: it holds "
    assert str(error.value) == f"{start}{describe_occupant(tmp_path)}."


def test_a_file_in_the_way_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(CheckpointError, match=r"or remove this one yourself: it is a file\."):
        refuse_occupied(tmp_path / "out")
