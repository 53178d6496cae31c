"""Paths as people read them: normalised, relative inside the working directory, and the same place as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from aftermix.config import Config, parse_config
from aftermix.files import normalise_path, relate_path, shorten_path
from aftermix.jobs.provenance import format_recipe
from aftermix.jobs.run_folder.opening import clear_model
from aftermix.merging.recipe import MergeRecipe
from conftest import run_cli


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a project with models, examples and a run."""
    place = tmp_path / "project"
    for folder in ("models/base", "experts/ja", "examples/demo", "runs/first/model"):
        (place / folder).mkdir(parents=True)
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("examples/demo/../../experts/ja", "experts/ja"),
        ("./models//base/.", "models/base"),
        ("experts/ja", "experts/ja"),
        ("examples/../nowhere/x", "nowhere/x"),
    ],
)
def test_a_path_has_no_parent_in_its_middle(project: Path, written: str, expected: str) -> None:
    assert normalise_path(project / written) == project / expected
    assert shorten_path(str(project / written)) == expected


def test_a_link_on_the_way_keeps_the_path_that_leads_there(project: Path) -> None:
    """`link/../x` is beside what the link leads to, and not beside the link."""
    (project / "elsewhere/deep").mkdir(parents=True)
    (project / "elsewhere/x").mkdir()
    (project / "x").mkdir()
    (project / "link").symlink_to(project / "elsewhere/deep")
    through = project / "link/../x"
    assert normalise_path(through) == through
    assert normalise_path(through).resolve() == project / "elsewhere/x"


def test_what_lies_elsewhere_is_absolute_and_a_run_is_named_by_its_folder(project: Path, tmp_path: Path) -> None:
    run = tmp_path / "other/runs/second"
    run.mkdir(parents=True)
    assert shorten_path(str(tmp_path / "other/../models")) == str(tmp_path / "models")
    assert shorten_path(str(run / "model"), run=run) == "second/model"
    assert shorten_path(str(run.parent / "third"), run=run) == str(run.parent / "third")
    for name in ("google/gemma-3-270m", "base", "sha256:0123"):
        assert shorten_path(name, run=run) == relate_path(name, project) == name


@pytest.mark.parametrize(
    ("model", "folder", "expected"),
    [
        ("experts/ja", "runs/first/model", "../../../experts/ja"),
        ("examples/demo/../../experts/ja", "out", "../experts/ja"),
        ("out/inner", "out", "./inner"),
        ("models/base", ".", "./models/base"),
    ],
)
def test_a_file_names_a_neighbour_by_the_way_there(project: Path, model: str, folder: str, expected: str) -> None:
    written = relate_path(str(project / model), project / folder)
    if folder == ".":
        expected = str(project / "models/base")  # the working directory itself does not lie in it
    assert written == expected


def test_a_file_elsewhere_names_what_lies_in_its_own_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the command runs; not by the home of a user, which nobody moves, nor by the root."""
    monkeypatch.chdir("/")
    assert relate_path(f"{tmp_path}/models/base", tmp_path / "out") == "../models/base"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert relate_path(f"{tmp_path}/models/base", tmp_path / "out") == f"{tmp_path}/models/base"
    assert relate_path(f"{tmp_path}/project/base", tmp_path / "project/runs/out") == "../../base"
    for folder in ("/data/out", "/elsewhere/out"):
        assert relate_path("/data/base", Path(folder)) == "/data/base"


def read(folder: Path, **paths: str) -> Config:
    models: dict[str, Any] = {"ja": {"model": paths.get("ja", "../../experts/ja"), "weight": 0.5}}
    values = {"base": paths.get("base", "../../models/base"), "vectors": models}
    return parse_config(values, where="file.yaml", folder=folder)


def recipe_of(config: Config, folder: Path) -> str:
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors)
    return format_recipe(config, recipe, {"ja": 0.5}, folder=folder)


def test_a_recipe_is_relative_and_reads_back_to_the_same_models(project: Path, tmp_path: Path) -> None:
    config, model = read(project / "examples/demo"), project / "runs/first/model"
    assert (config.base, config.vectors["ja"].model) == (str(project / "models/base"), str(project / "experts/ja"))
    values = yaml.safe_load(recipe_of(config, model))
    assert (values["base"], values["vectors"]["ja"]["model"]) == ("../../../models/base", "../../../experts/ja")
    again = parse_config(values, where="aftermix.yaml", folder=model)
    assert (again.base, again.vectors["ja"].model) == (config.base, config.vectors["ja"].model)

    beside = yaml.safe_load(recipe_of(config, tmp_path / "out"))
    assert beside["base"] == "../project/models/base"
    assert yaml.safe_load(recipe_of(config, Path("/elsewhere/out")))["base"] == config.base
    hub = yaml.safe_load(recipe_of(read(project, base="google/gemma-3-270m"), model))
    assert hub["base"] == "google/gemma-3-270m"


def test_a_model_of_the_same_recipe_is_kept_however_its_paths_are_written(project: Path) -> None:
    config, run = read(project / "examples/demo"), project / "runs/first"
    relative = recipe_of(config, run / "model")
    absolute = relative.replace("../../../", f"{project}/")
    (run / "model/aftermix.yaml").write_text(absolute)
    assert clear_model(run, relative)
    assert not clear_model(run, relative.replace("weight: 0.5", "weight: 0.25"))
    assert not (run / "model").exists()


def test_a_merge_in_the_project_has_no_path_of_the_machine(project: Path, family: dict[str, Path]) -> None:
    for name, model in (("models/b", family["base"]), ("experts/a", family["a"])):
        (project / name).symlink_to(model)
    values = {"base": "../../models/b", "vectors": {"a": {"model": "../../experts/a", "weight": 0.5}}}
    (project / "examples/demo/merge.yaml").write_text(yaml.safe_dump(values))
    assert run_cli("merge", "examples/demo/merge.yaml", "-o", "out") == 0
    texts = [(project / "out" / name).read_text() for name in ("aftermix.yaml", "README.md")]
    assert not [text for text in texts if str(project) in text or "demo/.." in text]
    assert yaml.safe_load(texts[0])["vectors"]["a"]["model"] == "../experts/a"
    assert run_cli("merge", "out/aftermix.yaml", "-o", "again") == 0
    first, second = ((project / name / "model.safetensors").read_bytes() for name in ("out", "again"))
    assert first == second
