"""Neither an environment variable nor the clock decides what is computed: the file does."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from aftermix.devices import open_device, set_environment_aside
from aftermix.errors import AftermixError
from aftermix.jobs.train.command import train
from aftermix.terminal import set_template_date
from conftest import save_tokenizer
from support.training_world import _one_thread, base_folder, corpus, make_config

pytestmark = pytest.mark.usefixtures("shown")

__all__ = ["_one_thread", "base_folder", "corpus", "make_config"]

ASKING = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_FP8_FORMAT": "E4M3",
    "NVIDIA_TF32_OVERRIDE": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
}


def describe(name: str) -> str:
    return f"{name}={ASKING[name]} in the environment is not heeded: the file decides the numbers"


def test_what_asks_for_other_arithmetic_is_set_aside_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for name, value in (ASKING | kept).items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    set_environment_aside(said.append)
    assert said == [describe(name) for name in sorted(ASKING)]
    assert not set(ASKING) & set(os.environ)
    assert {name: os.environ[name] for name in kept} == kept
    set_environment_aside(said.append)
    assert len(said) == len(ASKING)


def test_what_a_launcher_always_sets_is_not_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched = {
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
        "ACCELERATE_USE_CPU": "false",
    }
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert open_device("cpu", where="device", error=AftermixError) == torch.device("cpu")
    assert capsys.readouterr().err == ""
    assert not set(launched) & set(os.environ)


def test_multiplication_in_float32_stays_in_float32(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_float32_matmul_precision()
    monkeypatch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
    try:
        torch.set_float32_matmul_precision("high")  # as the variable has it when torch is loaded
        open_device("cpu", where="device", error=AftermixError)
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)
    assert "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 in the environment is not heeded" in capsys.readouterr().err


def test_a_training_has_the_precision_of_its_file(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(
        precision="float32", dtype="float32", datasets={"cats": {"data": "corpus.jsonl", "tokens": 128}}
    )
    plain = train(config, tmp_path / "plain", log=lambda _: None)["cats"]
    for name, value in ASKING.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    launched = train(config, tmp_path / "launched", log=said.append)["cats"]
    assert said[: len(ASKING)] == [describe(name) for name in sorted(ASKING)]
    expected, found = (load_file(folder / "model.safetensors") for folder in (plain, launched))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    save_tokenizer(tmp_path, chat_template="{{ strftime_now('%d.%m.%y') }}")
    return AutoTokenizer.from_pretrained(tmp_path)


def render(tokenizer: Any) -> str:
    text: str = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    return text


def test_the_day_holds_within_the_block(tokenizer: Any) -> None:
    with set_template_date("2024-07-26"):
        assert render(tokenizer) == "26.07.24"
        with set_template_date("2025-01-02"):
            assert render(tokenizer) == "02.01.25"
        assert render(tokenizer) == "26.07.24"


def test_the_clock_comes_back_whatever_is_raised(tokenizer: Any) -> None:
    with pytest.raises(KeyError), set_template_date(None, refuse=lambda: KeyError("asked")):
        render(tokenizer)
    before, told, after = datetime.now(), render(tokenizer), datetime.now()
    assert told in {f"{before:%d.%m.%y}", f"{after:%d.%m.%y}"}


def test_without_a_day_the_clock_answers(tokenizer: Any) -> None:
    with set_template_date(None):
        assert len(render(tokenizer)) == 8
