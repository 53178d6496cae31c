"""How mergekit names models, and what vectors made from such names are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.config import parse_config
from aftermix.errors import ConfigError
from aftermix.mergekit.references import name_vectors, parse_reference, write_reference

FOLDER = Path.cwd()


def test_an_adapter_of_the_base_is_a_vector_of_its_own() -> None:
    assert parse_reference("org/base+org/lora", where="here", base="org/base") == "org/lora"
    assert parse_reference({"model": "org/base", "lora": {"path": "x"}}, where="here", base="org/base") == "x"


@pytest.mark.parametrize(
    "value", [None, 3, [], {}, {"path": "a"}, "", {"model": {"path": None}}, "a+b+c", {"model": 1}]
)
def test_a_reference_that_names_no_model_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError):
        parse_reference(value, where="here")


@given(st.text(min_size=1, max_size=40).filter(lambda text: "\0" not in text))
def test_a_written_reference_reads_back(model: str) -> None:
    assert parse_reference(write_reference(model), where="here") == model


@given(st.lists(st.text(max_size=80), max_size=6))
def test_names_are_distinct_and_legal(models: list[str]) -> None:
    names = name_vectors(models)
    assert len(set(names)) == len(models)
    parse_config({"vectors": {name: {"model": "m"} for name in names}}, where="r", folder=FOLDER)
