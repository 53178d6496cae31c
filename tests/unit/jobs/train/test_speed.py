"""Time of a training before it runs: by expert, from a few steps over made-up tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aftermix.api.commands.texts import describe_estimate
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.plan.command import plan
from aftermix.jobs.train import speed


def test_plan_tells_the_time_of_every_expert_and_what_it_assumes(
    make_config: Any, corpus: Path, tmp_path: Path
) -> None:
    datasets = {"cats": {"data": str(corpus), "tokens": 640}, "dogs": str(corpus)}
    before = sorted(tmp_path.iterdir())
    found = plan(make_config(datasets=datasets, warmup_steps=15, optimizer={"name": "sam"}))
    assert sorted(tmp_path.iterdir()) == before
    assert set(found.training_speeds) == {"cats", "dogs"}
    assert found.training_speeds["cats"] == found.training_speeds["dogs"] > 0

    # The speed of a machine is no matter of a test.
    lines = list(describe_estimate(replace(found, training_speeds={"cats": 2.0, "dogs": 1000.0}, busy_cores=0.0)))
    assert "Time            cats: about 5 min at 2 tokens/s" in lines
    assert "Time            dogs: about 17 min a million tokens at 1,000 tokens/s" in lines
    told = "measured now on 3 steps of 4 x 32 tokens; without reading data, checkpoints and held-out text"
    assert f"Speed           {told}" in lines
    assert not [line for line in lines if line.startswith("Total")]

    lines = list(describe_estimate(replace(found, training={"cats": 640}, training_speeds={"cats": 2.0})))
    assert "Total           about 5 min" in lines


def test_experts_that_are_trained_alike_are_timed_once(
    make_config: Any, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []

    def note(_: object, __: object, name: str) -> float:
        timed.append(name)
        return 100.0

    monkeypatch.setattr(speed, "_measure_speed", note)
    data = {"data": str(corpus), "tokens": 640}
    low = {**data, "lora": {"rank": 2}}
    found = plan(make_config(datasets={"a": data, "b": low, "c": data, "d": low}))
    assert timed == ["a", "b"]
    assert set(found.training_speeds) == {"a", "b", "c", "d"}


@pytest.mark.parametrize(("context", "batch", "expected"), [(32, 4, 4), (1024, 8, 2), (4096, 8, 1), (512, 64, 4)])
def test_a_timed_step_is_no_longer_than_a_real_one_nor_than_the_sample(
    make_config: Any, context: int, batch: int, expected: int
) -> None:
    settings = make_config(context=context, batch_size=batch).train
    assert speed.count_step_sequences(settings) == expected


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"context": 100}, "a context of 100 is beyond the model's 64 positions"),
        ({"freeze": ["nothing"]}, "'nothing' matches no parameter"),
        ({"optimizer": {"name": "merge_aware", "offset": "own_vector"}}, "`own_vector` trains worse experts"),
    ],
)
def test_what_the_training_will_refuse_stands_in_the_place_of_its_time(
    make_config: Any, options: Any, told: str
) -> None:
    found = plan(make_config(**options))
    assert found.training_speeds == {}
    assert [told in str(remark) for remark in found.remarks] == [True]
    assert not [line for line in describe_estimate(found) if line.startswith("Time")]
    assert [told in str(problem) for problem in doctor(make_config(**options)).problems] == [True]
