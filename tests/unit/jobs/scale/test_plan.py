"""`plan --hardware`: sums by hand of bytes and seconds, and refusals of machines that do not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftermix.config import Config, HardwareConfig, load_hardware, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.scale.command import ScalePlan, plan_scale
from aftermix.merging.prepared import MEMORY_SHARE
from conftest import run_cli

SHAPE = {
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
}
FILE = {
    "base": "base",
    "vectors": {"it": {"model": "it", "role": "instruction"}, "a": {"model": "a", "tokens": 1_000_000}},
    "merge": {"method": "task_arithmetic", "exclude": []},
    "evaluate": {"tasks": ["x", "y"], "items": {"search": 10, "select": 20, "test": 30}},
    "search": {"strategy": "tpe", "trials": 10, "batch": 4},
}
MACHINES = {
    "gpus": 4,
    "gpu": {"memory_gb": 0.15, "hbm_gb_s": 100, "link_gb_s": 2, "tflops": 10},
    "host": {"gpus": 4, "memory_gb": 4, "memory_gb_s": 20},
    "disk": {"free_gb": 10, "gb_s": 1},
    "engine": {"gpus": 2, "batch_tokens": 100, "vectors_per": "host"},
    "speed": {"score": 1000, "generate": 100, "train": 500, "bandwidth_share": 0.5},
    "work": {"prompt_tokens": 90, "generated_tokens": 10},
}
P = 2 * 1000 * 512 + 4 * (2 * 512 * 512 + 2 * 512 * 128 + 3 * 512 * 1408 + 2 * 512) + 512


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(SHAPE))
    return tmp_path


def read(folder: Path, **changes: Any) -> Config:
    return parse_config(FILE | changes, where="aftermix.yaml", folder=folder)


def machines(**changes: Any) -> HardwareConfig:
    values = {key: MACHINES[key] | value if isinstance(value, dict) else value for key, value in changes.items()}
    return HardwareConfig.model_validate(MACHINES | values)


def size_of(plan: ScalePlan, phase: str, place: str, what: str) -> int:
    (found,) = (h.nbytes for h in plan.holdings if (h.phase, h.place) == (phase, place) and h.what.startswith(what))
    return found


def test_bytes_and_seconds_are_sums_by_hand(base: Path) -> None:
    plan = plan_scale(read(base), machines())
    assert plan.shape.parameters == plan.shape.moved == P
    assert size_of(plan, "search", "gpu", "engine weights") == 2 * (4608 + (P - 4608) // 2)
    assert size_of(plan, "search", "gpu", "KV cache of 20") == 20 * (4 * 2 * 1 * 2 * 64 * 100)
    assert size_of(plan, "search", "host", "prepared vectors") == 2 * 4 * P
    assert size_of(plan, "search", "disk", "models of the vectors") == 2 * 2 * P
    assert size_of(plan, "train", "gpu", "weights, gradients") == 16 * P // 4
    assert size_of(plan, "train", "disk", "vectors beside") == 2 * P

    # Whole tensors into each of four GPUs: (2 x 4 + 2) P over the link, or all of them through host memory.
    assert plan.point is not None
    read_bytes = (2 * 4 + 2) * P
    assert plan.point.read_s == pytest.approx(max(read_bytes / 2e9, 4 * read_bytes / 20e9) / 0.5)
    assert plan.point.combine_s == pytest.approx((2 * 12 + 12) * P / (0.5 * 100e9))
    assert plan.point.score_s == pytest.approx(20 * 90 / (2 * 1000))
    assert plan.point.generate_s == pytest.approx(20 * 10 / (2 * 100))

    # Ten points in batches of four on two engines: two rounds, two rounds, one.
    times = {time.phase: time for time in plan.times}
    assert times["search"].seconds == pytest.approx(5 * plan.point.seconds)
    assert times["search"].gpu_hours == pytest.approx(4 * 5 * plan.point.seconds / 3600)
    assert times["train"].seconds == pytest.approx(1e6 / (4 * 500))
    assert times["prepare"].seconds == pytest.approx(3 * 2 * P / 0.5e9)
    assert times["merge"].seconds == pytest.approx(4 * 2 * P / 0.5e9)
    slow = plan_scale(read(base), machines(host={"merge_gb_s": 0.01}))
    seconds = {time.phase: time.seconds for time in slow.times}
    assert seconds["merge"] == pytest.approx(3 * 2 * P / 0.01e9)
    assert seconds["prepare"] == pytest.approx((3 * 2 * P + 2 * 4 * P) / 0.01e9)
    (rival,) = plan.rivals
    assert rival.mixing == pytest.approx(4 * (2e6 / (4 * 500) + plan.point.score_s + plan.point.generate_s) / 3600)
    assert rival.search == pytest.approx(times["prepare"].gpu_hours + times["search"].gpu_hours)


def test_slices_read_a_share_and_copies_take_their_number(base: Path) -> None:
    small = {"memory_gb": 0.08}
    whole = plan_scale(read(base), machines(gpu=small))
    sliced = plan_scale(read(base), machines(gpu=small, engine={"swap": "sliced", "vectors_per": "engine"}))
    assert whole.placement is not None
    assert sliced.placement is not None
    assert sliced.placement.read_bytes == whole.placement.read_bytes // 2
    assert (whole.placement.copies, sliced.placement.copies) == (1, 2)


def test_vectors_beyond_half_of_a_host_go_to_disk_and_the_plan_says_so(base: Path) -> None:
    memory = 8 * P / MEMORY_SHARE / 1e9
    assert plan_scale(read(base), machines(host={"memory_gb": memory * 1.001})).placement.place == "host"  # type: ignore[union-attr]
    plan = plan_scale(read(base), machines(host={"memory_gb": memory * 0.999}))
    assert plan.placement is not None
    assert plan.placement.place == "disk"
    assert plan.placement.disk_bytes == size_of(plan, "search", "disk", "prepared vectors") == 8 * P
    assert any("they lie in a scratch file" in limit for limit in plan.limits)


def test_vectors_that_a_gpu_has_room_for_are_resident(base: Path) -> None:
    plan = plan_scale(read(base), machines(gpu={"memory_gb": 80}))
    assert plan.placement is not None
    assert (plan.placement.place, plan.placement.read_bytes, plan.placement.resident_bytes) == ("gpu", 0, 10 * P)


def test_a_density_that_is_searched_reads_the_checkpoints_for_every_merge(base: Path) -> None:
    merge = {"method": "ties", "exclude": []}
    config = read(base, merge=merge, search=FILE["search"] | {"over": {"density": {"low": 0.2, "high": 0.9}}})
    plan = plan_scale(config, machines())
    assert plan.placement is not None
    assert (plan.placement.place, plan.placement.read_bytes) == ("input", 3 * 2 * P)


def test_what_does_not_fit_stands_first(base: Path) -> None:
    plan = plan_scale(read(base), machines(disk={"free_gb": 0.05}))
    assert plan.limits[0].startswith("Disk in the phase train does NOT fit")


def test_engines_without_a_point_are_told(base: Path) -> None:
    plan = plan_scale(read(base, search=FILE["search"] | {"batch": 1}), machines())
    assert any(limit.startswith("`search.batch: 1` leaves 1 of 2 engines without work") for limit in plan.limits)


def test_a_training_and_a_merge_need_no_engine(base: Path) -> None:
    tiny = machines(gpu={"memory_gb": 0.001})
    merge = plan_scale(read(base, evaluate=None), tiny)
    assert (merge.layout, [time.phase for time in merge.times]) == (None, ["train", "merge"])
    data = {"train": {"datasets": {"a": {"data": "a.jsonl", "tokens": 100}}, "vector": "none"}}
    alone = plan_scale(parse_config({"base": "base"} | data, where="x", folder=base), tiny)
    assert [time.phase for time in alone.times] == ["train"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"gpus": 6}, "6 GPUs do not fill hosts of 4"),
        ({"engine": {"gpus": 8}}, "there are 4 on a host, and an engine does not span hosts"),
        ({"gpus": 3, "host": {"gpus": 3}, "engine": {"gpus": 3}}, "do not divide the model's 8 attention heads"),
        ({"engine": {"gpus": 3}}, "they do not divide the 4 GPUs of a host"),
        ({"gpu": {"memory_gb": 0.01}}, "are usable"),
        ({"gpu": {"memory_gb": 0.001}, "engine": {"gpus": "auto"}}, "on each of 4 GPUs of an engine"),
    ],
)
def test_machines_on_which_no_engine_fits_are_refused(base: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(AftermixError, match=text):
        plan_scale(read(base), machines(**changes))


def test_key_value_heads_limit_the_gpus_of_an_engine(base: Path) -> None:
    (base / "base" / "config.json").write_text(
        json.dumps(SHAPE | {"num_attention_heads": 12, "num_key_value_heads": 4, "hidden_size": 384})
    )
    twelve = machines(gpus=6, host={"gpus": 6}, engine={"gpus": 6})
    with pytest.raises(AftermixError, match=r"neither divide the model's 4 key-value heads.*Take one of 1, 2, or"):
        plan_scale(read(base), twelve)


def write(folder: Path, values: dict[str, Any]) -> Path:
    (folder / "machines.yaml").write_text(yaml.safe_dump(values))
    return folder / "machines.yaml"


def test_a_hardware_file_names_its_faults(tmp_path: Path) -> None:
    with pytest.raises(AftermixError, match=r"gpu\.hbm_gbs: is not a known key.*memory_gb, hbm_gb_s.*mean `hbm_gb_s`"):
        load_hardware(write(tmp_path, MACHINES | {"gpu": {"memory_gb": 1, "hbm_gbs": 2}}))
    with pytest.raises(AftermixError, match=r"machines\.yaml: gpu: "):
        load_hardware(write(tmp_path, {"gpus": 8}))
    with pytest.raises(AftermixError, match=r"gpus: .*greater than 0.*found 0"):
        load_hardware(write(tmp_path, MACHINES | {"gpus": 0}))


def test_what_is_assumed_is_listed_and_what_is_stated_is_not(tmp_path: Path) -> None:
    assumed = load_hardware(write(tmp_path, {"gpus": 8, "gpu": {"memory_gb": 80}})).list_assumptions()
    assert "gpu.hbm_gb_s 4800" in assumed
    assert not any(entry.startswith(("gpus ", "gpu.memory_gb")) for entry in assumed)


def test_the_command_tells_the_figures_of_its_document(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (base / "aftermix.yaml").write_text(yaml.safe_dump(FILE))
    arguments = ("plan", base / "aftermix.yaml", "--hardware", write(base, MACHINES))
    assert run_cli(*arguments, "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert run_cli(*arguments) == 0
    text = capfd.readouterr().out

    assert (
        f"Parameters      {document['shape']['parameters']:,}; {document['shape']['moved']:,} move in a merge" in text
    )
    for time in document["times"]:
        assert f"Time {time['phase']}" in text
        assert time["words"] in text
    assert all(f"First to fail   {limit}" in text for limit in document["limits"])
    for total in document["totals"]:
        assert ("does NOT fit" in text) >= (total["share"] > 1)
    assert run_cli("plan", base / "aftermix.yaml", "--hardware", base / "none.yaml") == 2
