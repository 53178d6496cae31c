"""Adapters: what is trained, that folding them is applying them, and that the expert is a whole model."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from aftermix.config import Config, LoraConfig, MergeConfig, VectorConfig
from aftermix.errors import AftermixError, TrainingError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge
from aftermix.jobs.plan.command import plan
from aftermix.jobs.train.command import train
from aftermix.training.distributed.processes import gather_state
from aftermix.training.lora import add_adapters, fold_adapters

peft = pytest.importorskip("peft")


def gpt2() -> GPT2LMHeadModel:
    """Layers that store their weight transposed, one of them square."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def stirred(model: torch.nn.Module) -> None:
    """Adapters that change something: they start at no change."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_folded_is_the_adapter_applied(model: LlamaForCausalLM, kind: str) -> None:
    """In two ways: the folded weights give the adapted model's outputs, and equal what peft folds."""
    adapted: Any = (model if kind == "llama" else gpt2()).eval()
    names = set(adapted.state_dict())
    add_adapters(adapted, LoraConfig(rank=4, alpha=6.0), seed=0)
    stirred(adapted)
    ids = torch.arange(1, 13).view(2, 6)
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
    state = fold_adapters(adapted, gather_state(adapted))
    assert set(state) == names
    plain: Any = LlamaForCausalLM(model.config) if kind == "llama" else gpt2()
    plain.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(input_ids=ids).logits, expected, atol=2e-6, rtol=0)
    for name, module in adapted.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.merge()
            torch.testing.assert_close(state[f"{name}.weight"], module.get_base_layer().weight, atol=1e-7, rtol=0)


def test_only_adapters_are_trained_and_their_start_is_seeded(model: LlamaForCausalLM) -> None:
    before = torch.random.get_rng_state()
    frozen = add_adapters(model, LoraConfig(rank=2, targets=("q_proj", "layers.1.mlp")), seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    trained = sorted(name for name, p in model.named_parameters() if p.requires_grad)
    layers = ["layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"]
    layers += [f"layers.1.mlp.{part}_proj" for part in ("gate", "up", "down")]
    assert trained == sorted(f"model.{name}.lora_{side}.default.weight" for name in layers for side in "AB")
    assert "model.layers.0.mlp.up_proj.weight" in frozen
    assert "model.layers.0.self_attn.q_proj.weight" not in frozen
    starts = []
    for seed in (5, 6):
        again = LlamaForCausalLM(model.config)
        add_adapters(again, LoraConfig(rank=2, targets=("q_proj",)), seed=seed)
        starts.append(again.model.layers[0].self_attn.q_proj.lora_A["default"].weight)
    mine = model.model.layers[0].self_attn.q_proj.lora_A["default"].weight
    assert torch.equal(mine, starts[0])
    assert not torch.equal(mine, starts[1])


def test_an_expert_from_adapters_is_a_whole_model(make_config: Any, base_folder: Path, tmp_path: Path) -> None:
    """With checkpoints, resume points and merge-aware moves; untouched tensors keep the base's bytes."""
    options = {"lora": {"rank": 4, "targets": ["self_attn"]}, "optimizer": "merge_aware", "dtype": "float32"}
    config = make_config(checkpoint_tokens=256, save_steps=2, **options)
    folder = train(config, tmp_path / "out")["cats"]
    base, expert = (load_file(place / "model.safetensors") for place in (base_folder, folder))
    assert set(expert) == set(base)
    changed = {name for name in base if not torch.equal(expert[name], base[name].float())}
    assert changed == {name for name in base if "self_attn" in name and name.endswith(".weight")}
    record = json.loads((folder / "train.json").read_text())
    assert record["recipe"]["lora"] == {"rank": 4, "alpha": 16.0, "targets": ["self_attn"]}
    assert set(record["frozen"]) == (set(base) | {"lm_head.weight"}) - changed
    assert record["trained_parameters"] == sum(4 * sum(base[name].shape) for name in changed)
    assert record["loss"]["final"] < record["loss"]["first"]
    _, loaded = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loaded["missing_keys"]
    early = load_file(tmp_path / "out/cats-checkpoints/tokens-000000000256/model.safetensors")
    name = min(changed)
    assert not torch.equal(early[name], base[name].float())
    assert not torch.equal(early[name], expert[name])
    again = train(make_config(**options), tmp_path / "again")["cats"]
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_the_adapter_lies_beside_the_expert_as_peft_stores_it(
    make_config: Any, base_folder: Path, tmp_path: Path
) -> None:
    """peft applies it to the base and has the expert's outputs; merged at weight 1 it is the expert before rounding."""
    lora = {"rank": 4, "alpha": 6.0, "targets": ["self_attn", "up_proj"]}
    config = make_config(lora=lora, dtype="float32", vector="none", checkpoint_tokens=256)
    told: list[str] = []
    expert = train(config, tmp_path / "out", log=told.append)["cats"]
    assert not [line for line in told if "rounding lost" in line]  # float32 rounds nothing of note
    assert (tmp_path / "out/cats-checkpoints/tokens-000000000256/adapter/adapter_model.safetensors").is_file()

    ids = torch.arange(1, 13).view(2, 6)
    base, whole = (AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32) for place in (base_folder, expert))
    with torch.no_grad():
        before, expected = (each(input_ids=ids).logits for each in (base, whole))
        adapted = peft.PeftModel.from_pretrained(base, expert / "adapter").eval()(input_ids=ids).logits
    assert float((expected - before).abs().max()) > 1e-3
    torch.testing.assert_close(adapted, expected, atol=2e-6, rtol=0)

    settings = json.loads((expert / "adapter/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base_folder)
    vectors = {"v": VectorConfig(model=str(expert / "adapter"), weight=1.0)}
    merge(Config(base=str(base_folder), vectors=vectors, merge=MergeConfig(dtype="float32")), tmp_path / "merged")
    merged, trained = (load_file(place / "model.safetensors") for place in (tmp_path / "merged", expert))
    for name, tensor in trained.items():
        torch.testing.assert_close(merged[name], tensor, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (
            {"targets": ["nothing"]},
            r"train.lora.targets: 'nothing' means no linear layer; the model has, for example, m",
        ),
        ({"rank": 17}, r"train.lora.rank: 17 is beyond model.layers.0.self_attn.k_proj, whose weight is \(16, 32\)"),
        (
            {"targets": ["lm_head"]},
            r"train.lora.targets: lm_head is tied to the embeddings, which an adapter would not",
        ),
        ({"ranks": 4}, r"train.lora.ranks: is not a known key. This section takes: rank, alpha, targets"),
    ],
)
def test_adapters_that_cannot_be_are_refused(make_config: Any, tmp_path: Path, lora: Any, message: str) -> None:
    with pytest.raises(AftermixError, match=message):
        train(make_config(lora=lora), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_peft_and_with_frozen_patterns(
    make_config: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    with pytest.raises(
        AftermixError, match=r"'freeze' and 'lora' exclude each other: name the layers to train in `lora"
    ):
        make_config(lora={}, freeze=["norm"])
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        TrainingError, match=r"train.lora: peft is not installed. Run `pip install 'aftermix\[lora\]'`."
    ):
        train(make_config(lora={}), tmp_path / "out")


def test_adapters_by_dataset_give_what_files_of_their_own_would(make_config: Any, corpus: Path, tmp_path: Path) -> None:
    """A dataset's `lora` goes before the section's, null means the weights themselves, and nothing is trained anew."""
    data = {"data": str(corpus), "tokens": 128}
    low = {"rank": 2, "targets": ["q_proj"]}
    datasets = {"full": {**data, "lora": None}, "low": {**data, "lora": low}, "common": data}
    together = train(make_config(datasets=datasets, lora={"rank": 4}), tmp_path / "out")

    alone = {"full": {}, "low": {"lora": low}, "common": {"lora": {"rank": 4}}}
    for name, section in alone.items():
        own = train(make_config(datasets={name: data}, **section), tmp_path / "own")[name]
        assert (own / "model.safetensors").read_bytes() == (together[name] / "model.safetensors").read_bytes(), name
    records = {name: json.loads((folder / "train.json").read_text()) for name, folder in together.items()}
    assert [record["recipe"]["lora"] and record["recipe"]["lora"]["rank"] for record in records.values()] == [
        None,
        2,
        4,
    ]
    assert records["full"]["trained_parameters"] > records["common"]["trained_parameters"]

    told: list[str] = []
    train(make_config(datasets=datasets, lora={"rank": 4}), tmp_path / "own", log=told.append)
    assert told == [f"{name}: reused {tmp_path / 'own' / name}, trained before by the same recipe" for name in datasets]


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"targets": ["nothing"]}, r"^train.datasets.low.lora.targets: 'nothing' means no linear layer"),
        ({"rank": 17}, r"^train.datasets.low.lora.rank: 17 is beyond model.layers.0.self_attn.k_proj"),
        ({"targets": ["lm_head"]}, r"^train.datasets.low.lora.targets: lm_head is tied to the embeddings"),
    ],
)
def test_faults_of_a_datasets_own_adapters_have_its_place(
    make_config: Any, corpus: Path, tmp_path: Path, lora: Any, message: str
) -> None:
    datasets = {"full": str(corpus), "low": {"data": str(corpus), "lora": lora}}
    with pytest.raises(TrainingError, match=message):
        train(make_config(datasets=datasets), tmp_path / "out")
    diagnosis = doctor(make_config(datasets=datasets))
    assert [str(problem) for problem in diagnosis.problems if re.match(message, str(problem))]
    assert not (tmp_path / "out").exists()


def test_a_rounded_expert_without_vector_is_told_where_its_change_lies(make_config: Any, tmp_path: Path) -> None:
    told: list[str] = []
    train(make_config(lora={"rank": 2}, vector="none"), tmp_path / "out", log=told.append)
    (line,) = [line for line in told if "rounding lost" in line]
    assert line.endswith("of its entries from the weights that serve; adapter/ has them")


def test_a_plan_counts_what_lies_beside_the_experts(make_config: Any, corpus: Path, tmp_path: Path) -> None:
    """Of every expert the bytes of its vector and of its adapter, but for the headers of the files."""
    data = {"data": str(corpus), "tokens": 128}
    config = make_config(datasets={"full": {**data, "lora": None}, "low": {**data, "lora": {"rank": 2}}})
    written = train(config, tmp_path / "out")
    files = [
        *written["low"].glob("adapter/*.safetensors"),
        *(folder / "vector.safetensors" for folder in written.values()),
    ]
    tensors = [tensor for file in files for tensor in load_file(file).values()]
    assert len(files) == 3
    assert plan(config).vector_bytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
