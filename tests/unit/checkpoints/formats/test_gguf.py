"""GGUF files as inputs: a tiny real one converted once, cached, merged, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aftermix.checkpoints.formats.gguf import GGUFCheckpoint, find_gguf_file, locate_cache_folder
from aftermix.checkpoints.model import describe_storage
from aftermix.checkpoints.open_model import open_model
from aftermix.config import Config, EvaluateConfig, ItemsConfig, MergeConfig, VectorConfig
from aftermix.errors import CheckpointError
from aftermix.files import fingerprint
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge

Family = Mapping[str, Path]
LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
HEADS = {"q_proj": 4, "k_proj": 2}
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("AFTERMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture(scope="session")
def gguf_base(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base of `family` as llama.cpp would store it, its up projections in 8 bits."""
    gguf = pytest.importorskip("gguf")
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    describe(writer, gguf)
    add_tokenizer(writer, gguf, family["base"])
    for name, tensor in load_file(family["base"] / "model.safetensors").items():
        values = as_llama_cpp(name, tensor.float().numpy())
        if "up_proj" in name:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(gguf_name(name), packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def describe(writer: Any, gguf: Any) -> None:
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(320)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def add_tokenizer(writer: Any, gguf: Any, folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    tokens += [f"<pad{number}>" for number in range(len(tokens), 320)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    control = {"<s>", "</s>"}
    writer.add_token_types([gguf.TokenType.CONTROL if t in control else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges(
        [" ".join(merge) if isinstance(merge, list) else merge for merge in content["model"]["merges"]]
    )
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def gguf_name(name: str) -> str:
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{LAYER[rest.removesuffix('.weight')]}.weight"


def as_llama_cpp(name: str, values: np.ndarray) -> np.ndarray:
    """llama.cpp turns neighbouring pairs, transformers halves: the rows of queries and keys are reordered."""
    heads = next((count for part, count in HEADS.items() if part in name), None)
    if heads is None:
        return values
    return values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def test_a_gguf_file_is_converted_once(gguf_base: Path, family: Family, cache: Path) -> None:
    model = open_model(str(gguf_base))
    assert isinstance(model, GGUFCheckpoint)
    (folder,) = cache.iterdir()
    assert fingerprint(gguf_base).partition(":")[2] in folder.name
    stored = load_file(family["base"] / "model.safetensors")
    assert sorted(model.tensors) == sorted(stored)
    for name, tensor in stored.items():
        # Bfloat16 values pass through float32 unchanged; 8 bits a number cost at most half a step of 1/127 of a row's.
        tolerance = float(tensor.float().abs().max()) / 250 if name.endswith("up_proj.weight") else 0
        torch.testing.assert_close(model.read(name).float(), tensor.float(), rtol=0, atol=tolerance)
    assert (model.config["model_type"], model.config["num_key_value_heads"]) == ("llama", 2)
    assert "quantization_config" not in model.config
    assert describe_storage(model) == (
        "is a GGUF file, converted to float32; its tokenizer is what transformers makes of it",
    )
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert open_model(str(gguf_base.parent)).files() == [gguf_base]
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_the_tokenizer_cuts_digits_as_smollm_does(gguf_base: Path, family: Family) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(open_model(str(gguf_base)).folder)
    assert tokenizer.model_max_length == 64
    assert tokenizer.eos_token_id == 1
    assert len(tokenizer("1234", add_special_tokens=False)["input_ids"]) == 4
    ours = tokenizer("the sum of numbers", add_special_tokens=False)["input_ids"]
    theirs = AutoTokenizer.from_pretrained(family["base"])
    assert ours == theirs("the sum of numbers", add_special_tokens=False)["input_ids"]


def test_a_gguf_base_and_its_lock(gguf_base: Path, family: Family, tmp_path: Path) -> None:
    # The file has a name for every row, the expert's tokenizer leaves the last ones without: which counts is a choice.
    vectors = {"b": VectorConfig(model=str(family["b"]), weight=1.0)}
    config = Config(base=str(gguf_base), vectors=vectors, merge=MergeConfig(vocabulary="base"))
    out = merge(config, tmp_path / "out")
    expert = load_file(family["b"] / "model.safetensors")[UP].float()
    torch.testing.assert_close(load_file(out / "model.safetensors")[UP].float(), expert, rtol=0, atol=1e-6)
    assert json.loads((out / "config.json").read_text())["model_type"] == "llama"
    assert (out / "tokenizer.json").is_file()
    inputs = json.loads((out / "lock.json").read_text())["inputs"]
    assert inputs["base"]["files"] == {"tiny.gguf": fingerprint(gguf_base)}


def test_a_gguf_vector_at_weight_0_gives_the_base_to_the_bit(gguf_base: Path, family: Family, tmp_path: Path) -> None:
    vectors = {"g": VectorConfig(model=str(gguf_base), weight=0.0)}
    config = Config(base=str(family["base"]), vectors=vectors, merge=MergeConfig(vocabulary="base"))
    found = load_file(merge(config, tmp_path / "out") / "model.safetensors")
    assert all(found[name].equal(tensor) for name, tensor in load_file(family["base"] / "model.safetensors").items())


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be read as GGUF"), (b"GGUF" + bytes(60), "cannot be read as GGUF|holds no tensors")],
)
def test_a_damaged_file_is_refused(content: bytes, message: str, tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_model(str(tmp_path / "bad.gguf"))
    assert not cache.exists() or not list(cache.iterdir())


def test_an_unknown_architecture_is_refused(tmp_path: Path, cache: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "no-such-architecture")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"cannot be read by transformers \(.*\)\. Name the safetensors model"):
        open_model(str(tmp_path / "odd.gguf"))
    assert not cache.exists() or not list(cache.iterdir())


def test_without_the_package_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"needs the package gguf\. Install it: pip install 'aftermix\[gguf\]'"):
        open_model(str(tmp_path / "m.gguf"))


def test_one_of_several_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m-00001-of-00003.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"is one of 3 parts\. Join the parts with llama\.cpp: `llama-gguf-split"):
        open_model(str(tmp_path / "m-00001-of-00003.gguf"))


def test_a_folder_counts_only_with_one_file_and_no_safetensors(family: Family, copied: Any, tmp_path: Path) -> None:
    (tmp_path / "one.gguf").write_bytes(b"GGUF")
    assert find_gguf_file(tmp_path) == tmp_path / "one.gguf"
    (tmp_path / "two.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"holds 2 GGUF files\. Name one of them with its path"):
        open_model(str(tmp_path))
    plain = copied("b")
    (plain / "one.gguf").write_bytes(b"GGUF")
    assert find_gguf_file(plain) is None


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate_cache_folder().name == "cache"
    monkeypatch.delenv("AFTERMIX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert locate_cache_folder() == Path("/somewhere/aftermix")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    assert locate_cache_folder() == Path.home() / ".cache" / "aftermix"


def test_prompts_for_a_gguf_base_are_built_by_doctor(gguf_base: Path, family: Family, tasks: Path) -> None:
    items = ItemsConfig(search=20, select=10)
    evaluate = EvaluateConfig(tasks=["colours"], include_path=str(tasks), items=items, max_length=20)
    vectors = {"b": VectorConfig(model=str(family["b"]))}
    found = doctor(Config(base=str(gguf_base), vectors=vectors, evaluate=evaluate))
    assert [note for note in found.notes if "prompts that lose their beginning" in str(note)]
