"""The live model takes every layout of weights that transformers loads, and refuses what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from aftermix.errors import EvaluationError
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.harness import TaskSuite

INPUTS = torch.tensor([[5, 9, 200, 31, 7]])


@pytest.fixture
def opened(tasks: Path, tokenizer_folder: Path, config_of: Any) -> Any:
    def open_engine(model: Path, tokenizer: Path = tokenizer_folder, **options: Any) -> HuggingFaceEngine:
        return HuggingFaceEngine.open(model, tokenizer_folder=tokenizer, config=config_of(tasks, "colours", **options))

    return open_engine


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def logits(engine: HuggingFaceEngine) -> torch.Tensor:
    with torch.no_grad():
        return engine.lm.model(INPUTS).logits.clone()


def fresh_logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(INPUTS).logits


def assert_swaps(opened: Any, first: Path, second: Path) -> None:
    """first -> second -> first, each to the bit what transformers loads."""
    engine = opened(first)
    for folder in (first, second, first):
        engine.load(weights(folder).items())
        assert torch.equal(logits(engine), fresh_logits(folder))
    assert not torch.equal(fresh_logits(first), fresh_logits(second))


def test_an_untied_model(opened: Any, model_a: Path, model_b: Path) -> None:
    assert_swaps(opened, model_a, model_b)


def test_bfloat16_weights_are_computed_in_float32_on_a_cpu(opened: Any, make_llama: Any, tmp_path: Path) -> None:
    first = make_llama(tmp_path / "a", seed=3, dtype=torch.bfloat16)
    second = make_llama(tmp_path / "b", seed=4, dtype=torch.bfloat16)
    assert weights(first)["model.norm.weight"].dtype == torch.bfloat16
    assert_swaps(opened, first, second)
    assert opened(first).lm.model.dtype == torch.float32
    assert opened(first, dtype="bfloat16").lm.model.dtype == torch.bfloat16


def test_a_tied_model_stored_without_its_head(opened: Any, make_llama: Any, tmp_path: Path) -> None:
    first, second = make_llama(tmp_path / "a", seed=3, tied=True), make_llama(tmp_path / "b", seed=4, tied=True)
    assert "lm_head.weight" not in weights(first)
    assert_swaps(opened, first, second)


def test_a_tied_head_may_be_given_too_if_it_is_the_same(opened: Any, make_llama: Any, tmp_path: Path) -> None:
    first, second = make_llama(tmp_path / "a", seed=3, tied=True), make_llama(tmp_path / "b", seed=4, tied=True)
    engine, given = opened(first), weights(second)
    engine.load({**given, "lm_head.weight": given["model.embed_tokens.weight"].clone()}.items())
    assert torch.equal(logits(engine), fresh_logits(second))
    with pytest.raises(
        EvaluationError, match=r"lm_head\.weight: differs from model\.embed_tokens\.weight, which the model ties it to"
    ):
        engine.load({**given, "lm_head.weight": given["model.embed_tokens.weight"] + 1}.items())


def test_names_that_transformers_changes_on_loading(opened: Any, make_llama: Any, tmp_path: Path) -> None:
    """A checkpoint of the bare model names its tensors without `model.`."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        make_llama(folder, seed=seed + 3, tied=True)
        architecture = (folder / "config.json").read_text()
        LlamaModel.from_pretrained(folder).save_pretrained(folder)
        (folder / "config.json").write_text(architecture)
    assert "embed_tokens.weight" in weights(folders[0])
    assert_swaps(opened, *folders)


def tiny_moe(folder: Path, *, seed: int) -> Path:
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_experts=3,
        num_experts_per_tok=2,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=1,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    return folder


def test_experts_stored_one_by_one_and_held_fused(opened: Any, tmp_path: Path) -> None:
    first, second = tiny_moe(tmp_path / "a", seed=1), tiny_moe(tmp_path / "b", seed=2)
    assert "model.layers.0.mlp.experts.2.gate_proj.weight" in weights(first)
    assert_swaps(opened, first, second)


def test_an_excluded_expert_keeps_the_bases_values(opened: Any, tmp_path: Path) -> None:
    first, second = tiny_moe(tmp_path / "a", seed=1), tiny_moe(tmp_path / "b", seed=2)
    excluded = frozenset(name for name in weights(second) if ".experts.1." in name)
    mixed = tmp_path / "mixed"
    shutil.copytree(second, mixed)
    save_file(
        {name: weights(first if name in excluded else second)[name] for name in weights(second)},
        mixed / "model.safetensors",
        metadata={"format": "pt"},
    )
    engine = opened(first)
    for _ in range(2):
        engine.load(((name, t) for name, t in weights(second).items() if name not in excluded), unchanged=excluded)
        assert torch.equal(logits(engine), fresh_logits(mixed))
        engine.load(weights(second).items())
        assert torch.equal(logits(engine), fresh_logits(second))


def test_excluded_tensors_go_back_to_the_base_after_a_full_load(opened: Any, model_a: Path, model_b: Path) -> None:
    engine = opened(model_a)
    engine.load(weights(model_b).items())
    engine.load((), unchanged=frozenset(weights(model_a)))
    assert torch.equal(logits(engine), fresh_logits(model_a))


def test_every_tensor_that_does_not_fit_is_named(opened: Any, model_a: Path) -> None:
    engine, given = opened(model_a), weights(model_a)
    given["model.norm.weight"] = torch.ones(31)
    given["vision.patch.weight"] = torch.ones(2)
    del given["lm_head.weight"], given["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(EvaluationError) as error:
        engine.load(given.items())
    assert str(error.value) == (
        "live model: 4 tensors do not match it: model.norm.weight: is (31,), the model holds (32,); "
        "vision.patch.weight: has no place in the live model; lm_head.weight: was never given; "
        "model.layers.1.mlp.up_proj.weight: was never given. "
        "Merge models of the base's architecture; `aftermix doctor` compares them tensor by tensor."
    )
    engine.load(weights(model_a).items())
    assert torch.equal(logits(engine), fresh_logits(model_a))


def test_a_base_that_transformers_would_complete_at_random_is_refused(
    opened: Any, model_a: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "partial"
    shutil.copytree(model_a, folder)
    kept = {name: tensor for name, tensor in weights(model_a).items() if name != "model.layers.0.mlp.up_proj.weight"}
    save_file({**kept, "vision.patch.weight": torch.ones(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvaluationError) as error:
        opened(folder)
    assert "2 tensors do not match its architecture" in str(error.value)
    assert "model.layers.0.mlp.up_proj.weight: is not in the checkpoint" in str(error.value)
    assert "vision.patch.weight: has no place in the model" in str(error.value)


def test_a_broken_model_is_an_error_and_not_a_score(opened: Any, model_a: Path, tasks: Path, config_of: Any) -> None:
    engine = opened(model_a)
    engine.load((name, torch.full_like(tensor, float("nan"))) for name, tensor in weights(model_a).items())
    with pytest.raises(EvaluationError, match="gives log-likelihoods that are NaN or Inf"):
        TaskSuite.build(config_of(tasks, "colours")).evaluate(engine.lm, "search")


def test_a_tokenizer_of_another_model_is_refused(
    opened: Any, make_llama: Any, tmp_path: Path, tasks: Path, config_of: Any
) -> None:
    folder = make_llama(tmp_path / "small", seed=1)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(200)
    model.save_pretrained(folder)
    with pytest.raises(EvaluationError, match=r"tokenizer: gives token \d+, but the model embeds 200"):
        TaskSuite.build(config_of(tasks, "colours")).evaluate(opened(folder).lm, "search")


def test_folders_and_devices_that_cannot_be_used(opened: Any, model_a: Path, tokenizer_folder: Path) -> None:
    with pytest.raises(EvaluationError, match="has no usable tokenizer"):
        opened(model_a, tokenizer=model_a)
    with pytest.raises(EvaluationError, match=r"evaluate\.device: 'gpu9' cannot be used .* Use `auto` or `cpu`\."):
        opened(model_a, device="gpu9")


def test_a_chat_template_must_be_there(opened: Any, model_a: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(tokenizer_folder, folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(EvaluationError, match="has no chat template"):
        opened(model_a, tokenizer=folder, apply_chat_template=True)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"hidden_size": 33}, "is not a multiple of the number of attention heads"),
        ({"num_hidden_layers": "two"}, "'two'"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(
    opened: Any, model_a: Path, tokenizer_folder: Path, tmp_path: Path, values: dict[str, Any], reason: str
) -> None:
    broken = Path(shutil.copytree(model_a, tmp_path / "broken"))
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | values))
    with pytest.raises(EvaluationError, match=f"broken: its architecture cannot be evaluated .*{reason}"):
        opened(broken)


def test_a_closed_engine_says_so(opened: Any, model_a: Path) -> None:
    engine = opened(model_a)
    engine.close()
    with pytest.raises(EvaluationError, match="engine: is closed"):
        engine.load(())


def test_sampled_answers_are_the_same_every_time(
    tasks: Path, model_a: Path, model_b: Path, tokenizer_folder: Path, config_of: Any, task_texts: Any, add_task_to: Any
) -> None:
    sampled = task_texts["write_colour"].replace("do_sample: false", "do_sample: true, temperature: 1.0")
    add_task_to(tasks, "sampled", sampled)
    config = config_of(tasks, {"task": "sampled", "filter": "last_letter"}, items={"search": 20, "select": 4})
    suite = TaskSuite.build(config)
    engine = HuggingFaceEngine.open(model_a, tokenizer_folder=tokenizer_folder, config=config)
    asked = suite.list_requests("search", engine.lm)["sampled"]
    state = torch.random.get_rng_state()
    first = engine.lm.generate_until(asked)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(3)
    engine.load(weights(model_b).items())
    assert engine.lm.generate_until(asked) != first
    engine.load(weights(model_a).items())
    assert engine.lm.generate_until(asked) == first
