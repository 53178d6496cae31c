"""Ratios to first order: experts alike, unlike in rate, schedule, length and kind, and experts nothing is known of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aftermix.config import parse_config
from aftermix.jobs.mixture.first_order import ExpertPace, build_first_order, note_unlike_trainings, read_paces
from aftermix.report.sections.mixture import compose_first_order
from aftermix.runs.mixture_records import SecondOrderRecord

RECIPE: dict[str, Any] = {
    "learning_rate": 1.0e-3,
    "schedule": "constant",
    "warmup_steps": 0,
    "min_lr_rate": 0.01,
    "decay_share": 0.1,
    "decay_shape": "1-sqrt",
    "optimizer": {"name": "adamw"},
    "lora": None,
}


def write_expert(folder: Path, *, steps: int = 100, tokens: int = 3200, **recipe: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"recipe": RECIPE | recipe, "steps": steps, "tokens": tokens}
    (folder / "train.json").write_text(json.dumps(record))
    return folder


def read_pace(folder: Path, **changed: Any) -> ExpertPace:
    pace = ExpertPace.read(write_expert(folder, **changed) / "train.json")
    assert pace is not None
    return pace


def test_alike_experts_need_none_whatever_their_last_batch_holds(tmp_path: Path) -> None:
    paces = {"ja": read_pace(tmp_path / "ja"), "math": read_pace(tmp_path / "math", steps=101)}
    assert build_first_order(paces, {"ja": 0.5, "math": 0.5}) is None


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"learning_rate": 2.0e-3}, {"ja": 0.25 / (0.25 + 0.75 * 2), "math": 0.75 * 2 / (0.25 + 0.75 * 2)}),
        ({"steps": 300}, {"ja": 0.1, "math": 0.9}),
        # Cosine down to nothing has about half of the mean rate: exactly (S + 1) / (2 S) over S steps from 0.
        ({"schedule": "cosine", "min_lr_rate": 0.0}, {"ja": 0.25 / (0.25 + 0.75 * 0.505), "math": 0.60237}),
    ],
)
def test_ratios_follow_weight_times_rate_times_steps(
    tmp_path: Path, changed: dict[str, Any], expected: dict[str, float]
) -> None:
    paces = {"ja": read_pace(tmp_path / "ja"), "math": read_pace(tmp_path / "math", **changed)}
    found = build_first_order(paces, {"ja": 0.25, "math": 0.75})
    assert found is not None
    assert found.ratios == pytest.approx(expected, abs=1e-4)
    assert sum((found.ratios or {}).values()) == pytest.approx(1)
    assert "experts were not trained alike (ja: 0.001, constant, 100 steps, 3,200 tokens; math: " in found.note


def test_ratios_to_first_order_say_what_measures_the_second(tmp_path: Path) -> None:
    paces = {"ja": read_pace(tmp_path / "ja"), "math": read_pace(tmp_path / "math", learning_rate=2e-3)}
    text = compose_first_order(build_first_order(paces, {"ja": 0.5, "math": 0.5}))
    assert "at weight x mean rate x steps: experts were not trained alike (ja: 0.001" in text
    assert text.endswith("`mixture.second_order` measures it where vectors have `calibration`, a text of their domain.")
    assert compose_first_order(None) == ""

    second = SecondOrderRecord(error=0.12, cross=0.05, own=0.14, reach=0.2, tokens={"ja": 9, "math": 9})
    told = "To second order a training at these ratios and the merge part by 12.0"
    assert compose_first_order(None, second).startswith(told)
    far = second.model_copy(update={"error": 1.61})
    assert compose_first_order(None, far).endswith("says that experts went farther than first order reaches.")
    still = compose_first_order(None, second.model_copy(update={"reach": 0.0}))
    assert still == "To second order nothing is known: no vector runs down the gradient of its domain's loss."
    assert "The size of the second order" not in compose_first_order(build_first_order(paces, {"ja": 1.0}), second)


@pytest.mark.parametrize(
    ("changed", "told"), [({"lora": {"rank": 8}}, "an adapter"), ({"optimizer": {"name": "sam"}}, "sam, all weights")]
)
def test_unlike_kinds_have_no_correction(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    paces = {"ja": read_pace(tmp_path / "ja"), "math": read_pace(tmp_path / "math", **changed)}
    found = build_first_order(paces, {"ja": 0.5, "math": 0.5})
    assert found is not None
    assert found.ratios is None
    assert told in found.note


def test_doctors_note_names_what_differs_and_what_is_not_known(tmp_path: Path) -> None:
    for name, rate in (("ja", 1e-3), ("math", 2e-3), ("again", 1e-3)):
        write_expert(tmp_path / name, learning_rate=rate)
    (tmp_path / "foreign").mkdir()

    def note(*experts: str) -> str:
        vectors = {name: {"model": str(tmp_path / name)} for name in experts}
        config = parse_config({"base": "b", "vectors": vectors}, where="file", folder=tmp_path)
        found = note_unlike_trainings(config)
        return "" if found is None else f"{found.found} | {found.remedy}"

    assert note("ja", "again") == ""
    assert "math: 0.002, constant" in note("ja", "math")
    assert "take the ratios of first order that stand beside the plain ones" in note("ja", "math")
    assert note("ja", "foreign").startswith("nothing is known of how foreign was trained, and shares of a merge")


def test_a_record_of_another_trainer_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "ja").mkdir()
    (tmp_path / "ja" / "train.json").write_text('{"steps": "many"}')
    config = parse_config({"base": "b", "vectors": {"ja": {"model": str(tmp_path / "ja")}}}, where="f", folder=tmp_path)
    assert read_paces(config, ["ja"]) == {"ja": None}
    assert ExpertPace.read(write_expert(tmp_path / "zh", schedule="polynomial") / "train.json") is None
