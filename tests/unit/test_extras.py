"""A plain installation merges, diffs, inspects and averages; all else is refused with the line that installs it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftermix.errors import AftermixError
from aftermix.extras import MODULES, TAKES_IN, format_install, list_modules, refuse_missing_extra

Family = Mapping[str, Path]
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HIDDEN = sorted({name for extra in MODULES for name in list_modules(extra)})
APART = ("ray", "tensorboard", "trackio", "vllm")
"""Extras that are not among `all`: one machine has no use for them, a user for one of the trackers,
and vLLM for an environment of its own.
"""
PACKAGES = {"sklearn": "scikit-learn"}
RUN = """
import json, sys
for name in {hidden!r}:
    sys.modules[name] = None
from aftermix.cli import cli, run_guarded
for command in {commands!r}:
    sys.stderr.write(json.dumps(run_guarded(lambda: cli.main(command, standalone_mode=False))) + "\\n")
"""


def read_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[><=\[ ]", requirement)[0] for requirement in requirements if not requirement.startswith("aft")}


@pytest.mark.parametrize("extra", MODULES)
def test_the_table_is_that_of_the_package(extra: str) -> None:
    requirements = PROJECT["optional-dependencies"][extra]
    assert read_names(requirements) == {PACKAGES.get(name, name) for name in MODULES[extra]} - read_names(
        [name for each in TAKES_IN.get(extra, ()) for name in PROJECT["optional-dependencies"][each]]
    )
    taken = [name for requirement in requirements for name in re.findall(r"^aftermix\[(.*)\]$", requirement)]
    assert tuple(taken) == TAKES_IN.get(extra, ())
    assert not read_names(PROJECT["dependencies"]) & set(HIDDEN)


def test_all_is_all_and_developers_have_it() -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(extras["all"][0].removeprefix("aftermix[").removesuffix("]").split(",")) == set(MODULES) - set(APART)
    assert any(requirement.startswith("aftermix[all") for requirement in extras["dev"])


def test_what_is_missing_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(AftermixError) as refused:
        refuse_missing_extra("search", what="search")
    found = "needs the extra `search` of aftermix, of which optuna is not installed"
    assert str(refused.value) == f"search: {found}. Install it: pip install 'aftermix[search]'"
    refuse_missing_extra("train", what="train")
    assert format_install("report") == "pip install 'aftermix[report]'"


@pytest.fixture
def place(family: Family, tmp_path: Path) -> Path:
    """A folder with a file to merge, one to search and train by, and two checkpoints of one run."""
    vectors = {name: {"model": str(family[name]), "weight": 0.5} for name in ("a", "b")}
    values: dict[str, Any] = {"base": str(family["base"]), "vectors": vectors}
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(values | {"merge": {"method": "ties", "density": 0.5}}))
    (tmp_path / "full.yaml").write_text(
        yaml.safe_dump(values | {"evaluate": {"tasks": ["x"]}, "train": {"datasets": {"d": "d.txt"}}})
    )
    for number, name in enumerate(("a", "b"), 1):
        folder = Path(shutil.copytree(family[name], tmp_path / "checkpoints" / name))
        record = {"tokens": 100 * number, "recipe": {"schedule": "constant"}}
        (folder / "train.json").write_text(json.dumps(record))
    return tmp_path


def run_without(place: Path, *commands: list[str]) -> tuple[list[int], str, str]:
    """Exit codes, standard output and the lines of errors of `commands`, where nothing but the core is installed."""
    code = RUN.format(hidden=HIDDEN, commands=[list(map(str, command)) for command in commands])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=place)
    assert done.returncode == 0, done.stderr
    codes = [int(line) for line in done.stderr.splitlines() if re.fullmatch(r"\d+", line)]
    return codes, done.stdout, done.stderr


def test_the_core_needs_none_of_them(place: Path, family: Family) -> None:
    base = str(family["base"])
    commands = [
        ["doctor", "merge.yaml"],
        ["merge", "merge.yaml", "-o", "merged"],
        ["merge", "merge.yaml", "-o", "again", "--json"],
        ["diff", str(family["c"]), "--base", base, "-o", "vector"],
        ["inspect", "merge.yaml"],
        ["inspect", "vector", "--base", base, "--json"],
        ["average", "checkpoints", "-o", "mean"],
        ["average", "checkpoints", "-o", "decayed", "--decay", "linear"],
        ["init", base, str(family["a"]), "-o", "new.yaml"],
        ["export", "merge.yaml", "--to", "mergekit", "-o", "recipe.yaml"],
        ["--help"],
    ]
    codes, _, errors = run_without(place, *commands)
    assert codes == [0] * len(commands), errors
    assert (place / "merged" / "model.safetensors").stat().st_size > 10_000
    assert (place / "mean" / "average.json").is_file()


def test_all_else_is_refused_with_its_line(place: Path) -> None:
    refused = {
        "search": [
            ["search", "full.yaml", "-o", "run"],
            ["mixture", "full.yaml", "-o", "run"],
            ["evaluate", "merge.yaml"],
            ["evaluate", "full.yaml", "--show", "1"],
            ["predict", "run", "--weights", "a=1"],
            ["plan", "merge.yaml"],
            ["doctor", "full.yaml"],
            ["calibrate", "merge.yaml", "-o", "run"],
            ["analyze", "merge.yaml", "--curvature"],
            ["landscape", "run", "-o", "picture.svg"],
            ["average", "checkpoints", "--best", "2", "--by", "full.yaml", "-o", "run"],
        ],
        "train": [
            ["train", "full.yaml", "-o", "run"],
            ["export", "full.yaml", "--to", "csv", "-o", "run"],
        ],
        "report": [
            ["report", "run"],
            ["analyze", "merge.yaml"],
            ["inspect", "merge.yaml", "--picture", "picture.svg"],
        ],
    }
    before = sorted(place.rglob("*"))
    commands = [(extra, command) for extra, of_extra in refused.items() for command in of_extra]
    codes, out, errors = run_without(place, *(command for _, command in commands))
    assert codes == [2] * len(commands), errors
    assert out == ""
    told = [line for line in errors.splitlines() if line.startswith("aftermix: ")]
    for (extra, command), line in zip(commands, told, strict=True):
        assert f"needs the extra `{extra}` of aftermix" in line, (command, line)
        assert line.endswith(f"Install it: pip install 'aftermix[{extra}]'"), line
    assert sorted(place.rglob("*")) == before


CALLS = """
import aftermix
pool = aftermix.Pool.read("merge.yaml")
assert pool.problems() == []
assert sum(1 for _ in pool.merge({"a": 0.5}).tensors()) > 10
for call in (
    lambda: aftermix.search("full.yaml", output="run"),
    lambda: aftermix.Study(pool),
    lambda: pool.merge({"a": 1}).model(),
    lambda: aftermix.train("full.yaml", output="run"),
    lambda: aftermix.evaluate("full.yaml"),
    lambda: aftermix.mixture("full.yaml", output="run"),
):
    try:
        call()
    except aftermix.AftermixError as error:
        print(error.problem.where, error.problem.remedy)
"""


def test_from_python_the_same_is_raised(place: Path) -> None:
    code = RUN.format(hidden=HIDDEN, commands=[]) + CALLS
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=place)
    whats = ("search", "Study", "Merged.model()", "train", "evaluate", "mixture")
    lines = [f"{what} Install it: {format_install('train' if what == 'train' else 'search')}" for what in whats]
    assert done.stdout.splitlines() == lines, done.stderr
