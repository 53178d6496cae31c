"""The response is a regressor of new runs, and of those that ended with it: others keep to what they chose from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aftermix.jobs.mixture.points import _offer_response

PLAIN: dict[str, Any] = {"choice": "ridge", "candidates": {"ridge": {}, "lightgbm": {}}}
WITH: dict[str, Any] = {"choice": "ridge", "candidates": {"ridge": {}, "response": {}}}
CONSTANT: dict[str, Any] = {"choice": "constant", "candidates": {}}


@pytest.mark.parametrize(
    ("surrogates", "offered"),
    [
        ({"ja": PLAIN, "math": PLAIN}, False),
        ({"ja": PLAIN, "math": WITH}, True),
        ({"ja": {**PLAIN, "choice": "mean of tasks", "tasks": {"a": WITH, "b": PLAIN}}}, True),
        ({"ja": CONSTANT}, True),
        ({"ja": CONSTANT, "math": PLAIN}, False),
        (None, True),  # a group that was not searched to the end chose from nothing
    ],
)
def test_a_run_that_ended_without_it_is_fitted_again_as_it_was(
    tmp_path: Path, surrogates: dict[str, Any] | None, offered: bool
) -> None:
    assert _offer_response([tmp_path])  # it has not ended
    (tmp_path / "best.json").write_text(json.dumps({} if surrogates is None else {"surrogates": surrogates}))
    assert _offer_response([tmp_path]) is offered

    # One group of a tree that had it is enough: others may have too few points.
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "best.json").write_text(json.dumps({"surrogates": {"ja": WITH}}))
    assert _offer_response([tmp_path, tmp_path / "group"])
