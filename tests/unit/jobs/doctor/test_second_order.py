"""What `doctor` says of a mixture's second order: a figure where the file asks for it, else what it takes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aftermix.config import Config, parse_config
from aftermix.jobs.doctor import second_order
from aftermix.jobs.doctor.second_order import describe_second_order

RATIOS = {"b": 0.5, "c": 0.5}


def read_file(folder: Path, family: Mapping[str, Path], *, texts: str, **asked: Any) -> Config:
    values: dict[str, Any] = {
        "base": str(family["base"]),
        "vectors": {name: {"model": str(family[name])} for name in RATIOS},
        "calibrate": {"samples": 1, "context": 16, "long_texts": "cut"},
        "mixture": asked,
    }
    for name in texts:
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": f"the sum of {name} is even " * 20}) + "\n")
        values["vectors"][name]["calibration"] = f"{name}.jsonl"
    return parse_config(values, where="file", folder=folder)


def test_it_is_measured_where_the_file_asks_for_it_with_its_cost(
    tmp_path: Path, family: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Config] = []
    open_texts = second_order.open_second_order_texts
    monkeypatch.setattr(
        second_order, "open_second_order_texts", lambda config: (opened.append(config), open_texts(config))[1]
    )
    told = describe_second_order(read_file(tmp_path, family, texts="bc", second_order=True), RATIOS)
    start = (
        r"second order at b 0\.5, c 0\.5 \(30 tokens of text, [0-9.]+ s\): To second order a training at these ratios"
    )
    assert re.match(start, told)
    assert len(opened) == 1  # what counts the memory and what measures read the same texts


@pytest.mark.parametrize(("texts", "missing"), [("bc", ""), ("b", " (none of c)")])
def test_else_it_is_said_what_it_takes(tmp_path: Path, family: Mapping[str, Path], texts: str, missing: str) -> None:
    assert describe_second_order(read_file(tmp_path, family, texts=texts), RATIOS) == (
        f"second order: not known; `mixture.second_order` measures it on `calibration` text of every expert{missing}: "
        "a gradient and two Hessian-vector products over the text of each expert"
    )


def test_without_room_in_memory_that_is_said(
    tmp_path: Path, family: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_order, "count_needed_bytes", lambda _: 10**18)
    told = describe_second_order(read_file(tmp_path, family, texts="bc", second_order=True), RATIOS)
    assert told.startswith("second order: not measured here; its gradients take about 1000000000.0 GB of memory, and ")
