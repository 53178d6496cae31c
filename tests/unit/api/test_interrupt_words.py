"""The call that an interrupt names: what goes on with a run that there is, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aftermix.api.work import _tell_how_to_go_on


def interrupt(run: Path, options: Mapping[str, Any], **given: object) -> list[str]:
    """Notes of an interrupt while a mixture works in `run`."""
    with pytest.raises(KeyboardInterrupt) as caught, _tell_how_to_go_on("mixture", run, options, **given):
        raise KeyboardInterrupt
    return list(getattr(caught.value, "__notes__", []))


def test_it_names_what_the_file_does_not_say(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    told = interrupt(tmp_path, {"points": 8}, verify=4, verify_tokens=None, doremi=None, verify_seeds=2)
    call = f"aftermix.mixture('{tmp_path}/config.yaml', output='{tmp_path}', resume=True, verify=4, verify_seeds=2)"
    assert told == [f"Interrupted: every finished trial is kept; go on with\n  {call}"]


def test_a_function_of_ones_own_has_to_be_handed_over_again(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    (told,) = interrupt(tmp_path, {"function": len, "items": {"pairs": [1, 2]}})
    assert told.endswith("go on with the same call and `resume=True`")


def test_before_there_is_a_run_it_names_nothing(tmp_path: Path) -> None:
    assert interrupt(tmp_path / "none", {}) == []
