"""A project that was moved goes on: models, statistics and tasks are known by their content, not by their places."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, parse_config
from aftermix.errors import SearchError
from aftermix.files import find_moved_roots, follow_moved_paths, move_roots
from aftermix.jobs.merge.from_run import configure_run_merge
from aftermix.jobs.run_folder.comparison import refuse_different, refuse_other_vectors
from aftermix.jobs.run_folder.opening import begin_run, read_run_config, read_source
from aftermix.jobs.search.score_lock import refuse_other_function
from aftermix.runs.input_records import EvaluationLockRecord, FunctionLockRecord, SourceRecord, SplitRecord
from aftermix.runs.reader import read_run

SPLIT = SplitRecord.model_validate({})


def read_file(project: Path, **search: Any) -> Config:
    values = {
        "base": "models/base",
        "vectors": {name: {"model": f"models/{name}", "range": [0, 1]} for name in ("b", "c")},
        "evaluate": {"tasks": ["own"], "include_path": "tasks", "items": {"small": "even"}},
        "search": {"seed": 3, "strategy": "tpe", "batch": 1, "startup": 4, **search},
        "compare": {"rival": {"model": "models/c"}},
    }
    return parse_config(values, where="s.yaml", folder=project)


def begin(project: Path, *, files: dict[str, str] | None = None) -> Path:
    config = read_file(project)
    function = FunctionLockRecord(name="own.py:score", files=files) if files is not None else None
    evaluation = EvaluationLockRecord(tasks={}, tokenizer="sha256:0", chat_template=None, function=function)
    run = project / "runs" / "first"
    run.mkdir(parents=True)
    begin_run(
        run, config=config, pool=open_pool(config), split=SPLIT, evaluation=evaluation, requests=None, source=None
    )
    return run


@pytest.fixture
def project(family: dict[str, Path], tmp_path: Path) -> Path:
    place = tmp_path / "first place"
    for name in ("base", "b", "c"):
        shutil.copytree(family[name], place / "models" / name)
    (place / "tasks").mkdir()
    return place


def test_a_moved_project_goes_on_and_is_started_from(project: Path, tmp_path: Path) -> None:
    begin(project)
    moved = tmp_path / "deep" / "second place"
    moved.parent.mkdir()
    project.rename(moved)
    config, run = read_file(moved), moved / "runs" / "first"
    pool = open_pool(config)
    refuse_different(run, config=config, pool=pool, split=SPLIT)
    refuse_other_vectors(run, config=config, pool=pool, split=SPLIT)

    # Without the file, too: the run finds its models where the project stands.
    for read in (read_run_config(run), read_run(run).config, configure_run_merge(run, {"b": 0.5})):
        assert (read.base, read.vectors["b"].model) == (config.base, config.vectors["b"].model)
    with pytest.raises(SearchError, match="the file says otherwise in 'search.seed'"):
        refuse_different(run, config=read_file(moved, seed=4), pool=pool, split=SPLIT)


def test_a_model_may_lie_elsewhere_and_must_be_the_same(project: Path, tmp_path: Path) -> None:
    run, config = begin(project), read_file(project)
    shutil.move(project / "models" / "base", tmp_path / "another name")
    config = config.model_copy(update={"base": str(tmp_path / "another name")})
    refuse_different(run, config=config, pool=open_pool(config), split=SPLIT)

    shutil.rmtree(project / "models" / "b")
    shutil.copytree(project / "models" / "c", project / "models" / "b")
    with pytest.raises(SearchError, match=r"another content now lies in 'vectors\.b\.files"):
        refuse_different(run, config=config, pool=open_pool(config), split=SPLIT)


def test_a_merge_of_a_moved_run_is_of_the_same_models(project: Path, tmp_path: Path) -> None:
    begin(project)
    moved = tmp_path / "moved"
    project.rename(moved)
    configure_run_merge(moved / "runs" / "first", {"b": 0.5})
    shutil.rmtree(moved / "models" / "b")
    shutil.copytree(moved / "models" / "c", moved / "models" / "b")
    with pytest.raises(SearchError, match=r"another content now lies in 'vectors\.b\.files"):
        configure_run_merge(moved / "runs" / "first", {"b": 0.5})


def test_a_run_moved_alone_goes_on_with_the_models_where_they_were(project: Path, tmp_path: Path) -> None:
    run, config = begin(project), read_file(project)
    run.rename(tmp_path / "alone")
    refuse_different(tmp_path / "alone", config=config, pool=open_pool(config), split=SPLIT)
    assert read_run_config(tmp_path / "alone").base == config.base


def test_tasks_of_another_folder_are_told(project: Path) -> None:
    run, config = begin(project), read_file(project)
    assert config.evaluate is not None
    evaluate = config.evaluate.model_copy(update={"include_path": str(project / "other")})
    other = config.model_copy(update={"evaluate": evaluate})
    with pytest.raises(SearchError, match="the file says otherwise in 'evaluate.include_path'"):
        refuse_different(run, config=other, pool=open_pool(config), split=SPLIT)


def test_a_scorer_is_known_by_its_files_and_not_by_their_folder(project: Path, tmp_path: Path) -> None:
    files = {str(project / "own.py"): "sha256:1", str(project / "lib" / "parts.py"): "sha256:2"}
    run = begin(project, files=files)
    moved = {path.replace(str(project), "/elsewhere"): digest for path, digest in files.items()}
    refuse_other_function(run, FunctionLockRecord(name="own.py:score", files=moved))
    changed = {**moved, "/elsewhere/lib/parts.py": "sha256:3"}
    with pytest.raises(SearchError, match="/elsewhere/lib/parts.py: expected the content that scores of"):
        refuse_other_function(run, FunctionLockRecord(name="own.py:score", files=changed))


def test_paths_follow_the_longest_end_that_is_there(tmp_path: Path) -> None:
    run = tmp_path / "project" / "runs" / "first"
    for place in (run, tmp_path / "project" / "models" / "base", tmp_path / "base"):
        place.mkdir(parents=True)
    values = {"base": "/old/project/models/base", "other": ["/old/nowhere", "/no_think", "org/name", 3]}
    assert follow_moved_paths(values, run) == {**values, "base": str(tmp_path / "project" / "models" / "base")}
    (tmp_path / "project" / "own.py").touch()
    assert follow_moved_paths("/old/own.py:score", run) == f"{tmp_path}/project/own.py:score"
    SourceRecord(run="/old/runs/zero").write(run / "from.json")
    (run.parent / "zero").mkdir()
    assert read_source(run) == run.parent / "zero"


def test_a_move_is_what_leads_from_models_to_models() -> None:
    pairs = [("/a/p/models/base", "/b/q/models/base"), ("org/x", "org/y"), ("/same/x", "/same/x"), ("/a/x", "/b/y")]
    assert find_moved_roots(pairs) == [("/a/p", "/b/q")]
    values = {"path": "/a/p/tasks", "near": "/a/pq", "list": ["/a/p/x"], "number": 1}
    assert move_roots(values, [("/a/p", "/b/q")]) == {
        "path": "/b/q/tasks",
        "near": "/a/pq",
        "list": ["/b/q/x"],
        "number": 1,
    }
    assert json.dumps(move_roots({}, [])) == "{}"
