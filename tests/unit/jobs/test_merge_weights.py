"""A range says that a weight is still to be found: no merge is made at one that nobody gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aftermix.config import parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.merge.command import merge, refuse_missing_weights


def config_of(**vectors: dict[str, Any]) -> Any:
    values = {"base": "./base", "vectors": {name: {"model": f"./{name}", **held} for name, held in vectors.items()}}
    return parse_config(values, where="f.yaml", folder=Path())


def test_vectors_with_a_range_and_no_weight_are_all_named_and_nothing_is_written(tmp_path: Path) -> None:
    config = config_of(a={"range": [0.3, 1.0]}, b={"weight": 0.5}, c={"range": [-0.5, 0.25]})
    with pytest.raises(AftermixError) as error:
        merge(config, tmp_path / "out")
    assert [problem.where for problem in error.value.problems] == ["vectors.a", "vectors.c"]
    assert "vectors.c: has a range, [-0.5, 0.25], and no weight to be merged at" in str(error.value)
    assert "Give it a `weight`, or search for one: `aftermix search FILE -o RUN`" in str(error.value)
    assert error.value.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("held", [{}, {"weight": 0.5}, {"weight": 0.5, "range": [0.2, 0.8]}, {"role": "instruction"}])
def test_a_weight_or_no_range_is_taken(held: dict[str, Any]) -> None:
    refuse_missing_weights(config_of(a=held))
