"""Merges of adapters written as one adapter, loaded by the real `peft`: its logits against those of the dense merge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aftermix.config import Config
from aftermix.errors import AftermixError
from aftermix.jobs.merge.adapter import merge_as_adapter
from aftermix.jobs.merge.command import merge
from aftermix.jobs.push import find_model_folder
from conftest import run_cli

peft = pytest.importorskip("peft")

Family = Mapping[str, Path]
TOKENS = torch.arange(2, 26).view(2, 12)


def save_adapter(base: Path, folder: Path, *, seed: int, **settings: Any) -> str:
    """An adapter with factors that are not 0, as PEFT saves it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 6} | settings))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    adapted.save_pretrained(folder)
    return str(folder)


def read_logits(base: Path, adapter: Path | None = None) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(TOKENS).logits
    return logits


def check(base: Path, folder: Path, settings: list[dict[str, Any]], recipe: Mapping[str, Any], **job: Any) -> Any:
    """The record of a merge as an adapter, whose logits are those of the dense merge and not those of the base."""
    vectors = {
        name: {"model": save_adapter(base, folder / name, seed=seed, **own), "weight": 0.4 + 0.3 * seed}
        for seed, (name, own) in enumerate(zip("xy", settings, strict=False))
    }
    config = Config.model_validate({"base": str(base), "vectors": vectors, "merge": {"dtype": "float32"} | recipe})
    dense = read_logits(merge(config, folder / "dense"))
    record = merge_as_adapter(config, folder / "adapter", **job)
    torch.testing.assert_close(read_logits(base, folder / "adapter"), dense, rtol=1e-4, atol=1e-5)
    assert (dense - read_logits(base)).abs().max() > 0.01
    assert json.loads((folder / "adapter" / "adapter.json").read_text())["relative_error"] == record.relative_error
    return record


PLAIN: list[dict[str, Any]] = [
    {
        "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"1.self_attn.q_proj": 2},
        "alpha_pattern": {"up_proj": 3},
    },
    {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "r": 3, "modules_to_save": ["lm_head"]},
]


@pytest.mark.parametrize("recipe", [{"lambda": 1.5}, {"method": "linear"}])
def test_sums_are_exact(recipe: dict[str, Any], untied_family: Family, tmp_path: Path) -> None:
    record = check(untied_family["base"], tmp_path, PLAIN, recipe)
    assert record.exact
    assert record.relative_error == 0
    assert record.whole == ("lm_head.weight",)
    ranks = {name.removeprefix("model.layers."): module.rank for name, module in record.modules.items()}
    assert ranks["0.self_attn.q_proj"] == 7
    assert ranks["1.self_attn.q_proj"] == 5
    assert ranks["0.mlp.down_proj"] == 3
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["down_proj", "q_proj", "up_proj"]
    assert settings["base_model_name_or_path"] == str(untied_family["base"])


def test_tied_embedding_and_full_rank_of_other_methods(family: Family, tmp_path: Path) -> None:
    """Of a tied base both names move; TIES at full rank is the dense merge, its error that of float32."""
    both = {"target_modules": ["v_proj", "embed_tokens", "lm_head"], "ensure_weight_tying": True}
    whole = {"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    record = check(family["base"], tmp_path / "factors", [both], {"method": "ties", "density": 0.5}, rank=400)
    assert record.modules["model.embed_tokens"].rank == 32
    assert not record.exact
    assert record.relative_error < 1e-6

    record = check(family["base"], tmp_path / "whole", [both, whole], {})
    assert record.whole == ("model.embed_tokens.weight",)


@pytest.mark.parametrize(
    "settings",
    [{"fan_in_fan_out": True, "target_modules": ["c_attn"]}, {"bias": "all", "target_modules": ["c_fc"]}],
)
def test_gpt2(settings: dict[str, Any], tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 50, "n_positions": 16}
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=1)).save_pretrained(tmp_path / "base")
    biased = {"lora_bias": True, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
    assert check(tmp_path / "base", tmp_path, [settings, biased], {}).exact


def test_lower_rank_tells_its_error(untied_family: Family, tmp_path: Path) -> None:
    """The error is that of the best matrix of this rank, from the singular values of the dense difference."""
    base = untied_family["base"]
    vectors = {
        name: {"model": save_adapter(base, tmp_path / name, seed=seed, target_modules=["o_proj"]), "weight": 1.0}
        for seed, name in enumerate("xy")
    }
    for method, number in (("task_arithmetic", 2), ("ties", 5)):
        recipe = {"method": method, "dtype": "float32"}
        config = Config.model_validate({"base": str(base), "vectors": vectors, "merge": recipe})
        lines: list[str] = []
        record = merge_as_adapter(config, tmp_path / method, rank=number, log=lines.append)
        name = "model.layers.1.self_attn.o_proj"
        dense = read_tensors(merge(config, tmp_path / f"{method}-dense"))[f"{name}.weight"]
        values = torch.linalg.svdvals((dense - read_tensors(base)[f"{name}.weight"]).double()).square()
        expected = float((values[number:].sum() / values.sum()).sqrt())
        assert record.modules[name].relative_error == pytest.approx(expected, rel=1e-4)
        assert record.modules[name].rank == number
        assert f"relative error {record.relative_error:.2%} in all, at most" in lines[-1]

    rounded = config.merge.model_copy(update={"dtype": "bfloat16", "method": "task_arithmetic"})
    record = merge_as_adapter(config.model_copy(update={"merge": rounded}), tmp_path / "rounded")
    assert not record.exact
    assert 1e-4 < record.relative_error < 1e-2


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_names_are_those_of_the_adapters(untied_family: Family, tmp_path: Path) -> None:
    """A base that stores its tensors under another prefix than the model that PEFT wraps."""
    from safetensors.torch import save_file

    base = untied_family["base"]
    vectors = {
        name: {"model": save_adapter(base, tmp_path / name, seed=seed, target_modules=["q_proj", "o_proj"])}
        for seed, name in enumerate("xy")
    }
    (tmp_path / "base").mkdir()
    moved = {f"language_model.{name}": tensor for name, tensor in read_tensors(base).items()}
    save_file(moved, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_bytes((base / "config.json").read_bytes())
    config = Config.model_validate({"base": str(tmp_path / "base"), "vectors": vectors})
    assert merge_as_adapter(config, tmp_path / "out").exact
    stored = [load_file(tmp_path / name / "adapter_model.safetensors").keys() for name in ("x", "out")]
    assert stored[0] == stored[1]

    # What is read again is the sum.
    again = {"sum": {"model": str(tmp_path / "out"), "weight": 1.0}}
    dense = [
        read_tensors(merge(config.model_copy(update={"vectors": each}), tmp_path / name))
        for name, each in (("of-two", config.vectors), ("of-sum", Config.model_validate({"vectors": again}).vectors))
    ]
    for name, tensor in dense[0].items():
        torch.testing.assert_close(tensor, dense[1][name], rtol=1e-5, atol=1e-6)


def test_refused_by_name(untied_family: Family, tmp_path: Path) -> None:
    base = untied_family["base"]
    dora = save_adapter(base, tmp_path / "dora", seed=1, target_modules=["q_proj"], use_dora=True)
    vectors = {"full": {"model": str(untied_family["a"]), "weight": 1.0}, "dora": {"model": dora, "weight": 1.0}}
    config = Config.model_validate({"base": str(base), "vectors": vectors, "merge": {"dtype": "float32"}})
    with pytest.raises(AftermixError) as caught:
        merge_as_adapter(config, tmp_path / "out")
    assert "vectors.full: expected a LoRA adapter with the rows of its base, found another kind" in str(caught.value)
    assert "vectors.dora: expected an adapter of low rank, found DoRA" in str(caught.value)
    assert not (tmp_path / "out").exists()

    alone = config.model_copy(update={"vectors": {"dora": config.vectors["dora"]}})
    record = merge_as_adapter(alone, tmp_path / "out", rank=32)
    assert record.relative_error < 1e-6
    dense = read_logits(merge(alone, tmp_path / "dense"))
    torch.testing.assert_close(read_logits(base, tmp_path / "out"), dense, rtol=1e-4, atol=1e-5)


def test_command(untied_family: Family, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import yaml

    adapter = save_adapter(untied_family["base"], tmp_path / "x", seed=1, target_modules=["q_proj"])
    values = {"base": str(untied_family["base"]), "vectors": {"x": {"model": adapter, "weight": 0.5}}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(values))
    capfd.readouterr()
    assert run_cli("merge", tmp_path / "a.yaml", "-o", tmp_path / "out", "--as-adapter", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert document["adapter"]["exact"]
    line = "adapter: 2 modules with factors, rank 4: exact, the factors of the vectors side by side"
    assert document["notes"] == ["vector 'x' is a LoRA adapter: rank 4, 2 tensors moved", line]
    assert find_model_folder(tmp_path / "out") == tmp_path / "out"
    assert "AutoPeftModelForCausalLM.from_pretrained" in (tmp_path / "out" / "README.md").read_text()
    assert run_cli("merge", tmp_path / "a.yaml", "-o", tmp_path / "other", "--rank", "3") == 2
    assert "Error: --rank is for --as-adapter." in capfd.readouterr().err
