"""Names of the user in the places that messages and tables name: never to be taken for a file, or for two names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aftermix.config import parse_config
from aftermix.errors import AftermixError, join_place
from aftermix.jobs.run_folder.comparison import refuse_difference
from aftermix.jobs.train.expert_data import DatasetSources
from aftermix.report.tables.points import format_point
from aftermix.runs.trials import quote_setting
from aftermix.search.space import NumberRange, SearchSpace
from aftermix.training.data.mixture import check_ratios


@pytest.mark.parametrize(
    ("place", "names", "expected"),
    [
        ("mixture", ["ja"], "mixture.ja"),
        ("mixture", ["py"], 'mixture."py"'),
        ("mixture", ["JSON"], 'mixture."JSON"'),
        ("mixture", ["python"], "mixture.python"),
        ("vectors", ["py", "weight"], "vectors.py.weight"),
        ("vectors", ["v1.0", "weight"], 'vectors."v1.0".weight'),
        ("vectors", ["gemma-3_it"], "vectors.gemma-3_it"),
        ("train.datasets", ["my data"], 'train.datasets."my data"'),
        ("train.datasets", ["日本語"], "train.datasets.日本語"),
        ("", ["search", "objective", 0, "tasks"], "search.objective.0.tasks"),
        ("", [], ""),
    ],
)
def test_a_name_is_quoted_where_it_could_be_taken_for_something_else(place: str, names: Any, expected: str) -> None:
    assert join_place(place, *names) == expected


def refused(action: Any) -> str:
    with pytest.raises(AftermixError) as error:
        action()
    return str(error.value)


def read(**values: Any) -> str:
    return refused(lambda: parse_config(values, where="job.yaml", folder=Path("/")))


def test_faults_of_the_file_name_their_places_so() -> None:
    assert read(vectors={"py": 3}).startswith('job.yaml: vectors."py": ')
    assert read(vectors={"v1.0": {"model": "x", "weight": "much"}}).startswith('job.yaml: vectors."v1.0".weight: ')
    assert read(train={"datasets": {"md": {"data": "x", "tokens": -1}}}).startswith(
        "job.yaml: train.datasets.md.tokens"
    )
    assert read(**{"my.key": 1}).startswith('job.yaml: "my.key": is not a known key.')


def test_a_domain_called_py_is_no_file() -> None:
    assert refused(lambda: check_ratios({"py": -1.0}, ["py"], where="mixture")).startswith('mixture."py": expected a')
    error = DatasetSources({}, {"py": 0.5, "ja": 0.5}).locate_error("py", AftermixError("a.jsonl", "is gone", "-"))
    assert str(error) == 'mixture."py": a.jsonl: is gone. -'


def test_a_difference_between_run_and_file_is_placed_so() -> None:
    theirs, ours = {"vectors": {"a.b": {"weight": 1}}}, {"vectors": {"a.b": {"weight": 2}}}
    told = refused(lambda: refuse_difference(Path("run"), theirs, ours, complaint="the file says otherwise in"))
    assert told.startswith("""run: the file says otherwise in 'vectors."a.b".weight'.""")


def test_settings_of_a_vector_stand_in_tables_so() -> None:
    assert [quote_setting(name) for name in ("density", "density.ja", "ratio.my.py")] == [
        "density",
        "density.ja",
        'ratio."my.py"',
    ]
    assert format_point({"py": 0.5}, {"density.py": 0.3}) == 'py 0.50; density."py" 0.3'
    space = SearchSpace({"py": (0.0, 1.0)}, frozenset(), {"density.py": NumberRange(0.1, 0.9, None)})
    assert str(space) == 'py [0, 1], density."py" [0.1, 0.9]'
