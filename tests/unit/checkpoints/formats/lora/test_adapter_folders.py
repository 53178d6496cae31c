"""Adapters in subfolders, adapters with rows of their own, and rows that lie beside an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import AftermixError
from aftermix.jobs.merge.command import merge

Family = Mapping[str, Path]
ROOT = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ADDED = ("<|im_start|>", "<|im_end|>")


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    save_file({f"{ROOT}{name}": tensor for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    return folder


def make_factors() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {f"{Q}.lora_A.weight": torch.randn(4, 32), f"{Q}.lora_B.weight": torch.randn(32, 4)}


def write_vocabulary(folder: Path, base: Path, *, added: tuple[str, ...] = (), rows: int | None = None) -> None:
    """The base's tokenizer with further tokens, or the first `rows` of its tokens."""
    content = json.loads((base / "tokenizer.json").read_text())
    vocabulary = dict(sorted(content["model"]["vocab"].items(), key=lambda entry: entry[1])[:rows])
    start = 320 if rows is None else rows
    for number, token in enumerate(added):
        entry = {"id": start + number, "content": token, "special": True}
        content["added_tokens"].append({**content["added_tokens"][0], **entry})
    content["model"] = {**content["model"], "vocab": vocabulary, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def make_config(base: Path, adapter: Path, vocabulary: str | None = None, **others: Path) -> Config:
    vectors = {"ad": VectorConfig(model=str(adapter), weight=1.0)}
    vectors |= {name: VectorConfig(model=str(path), weight=0.5) for name, path in others.items()}
    return Config(base=str(base), vectors=vectors, merge=MergeConfig(vocabulary=vocabulary))


def grow(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    moved = tensor + 0.01 * torch.randn_like(tensor)
    return torch.cat([moved, torch.randn(max(rows - len(tensor), 0), tensor.shape[1])])[:rows]


@pytest.fixture
def grown(untied_family: Family, tmp_path: Path) -> Path:
    """An adapter of two tokens more than its base, embedding and head stored whole."""
    base = load_file(untied_family["base"] / "model.safetensors")
    tensors = make_factors() | {name: grow(base[name], len(base[name]) + 2) for name in (EMBEDDING, HEAD)}
    adapter = write_adapter(tmp_path / "grown", tensors)
    write_vocabulary(adapter, untied_family["base"], added=ADDED)
    return adapter


def test_an_adapter_with_added_tokens_is_aligned_by_its_tokenizer(
    untied_family: Family, grown: Path, tmp_path: Path
) -> None:
    base = load_file(untied_family["base"] / "model.safetensors")
    other, own = (
        load_file(path) for path in (untied_family["b"] / "model.safetensors", grown / "adapter_model.safetensors")
    )
    with pytest.raises(
        AftermixError, match=r"290 tokens in 322 rows, base has 288.*`vocabulary: ad` \(that vector's\)"
    ):
        merge(make_config(untied_family["base"], grown), tmp_path / "refused")

    lines: list[str] = []
    out = merge(make_config(untied_family["base"], grown, "ad"), tmp_path / "out", log=lines.append)
    result = load_file(out / "model.safetensors")
    for name in (EMBEDDING, HEAD):
        assert torch.allclose(result[name], own[f"{ROOT}{name}"], atol=1e-6)
    change = 2 * own[f"{ROOT}{Q}.lora_B.weight"] @ own[f"{ROOT}{Q}.lora_A.weight"]
    assert torch.allclose(result[f"{Q}.weight"], base[f"{Q}.weight"] + change, atol=1e-4)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 322
    assert (out / "tokenizer.json").read_bytes() == (grown / "tokenizer.json").read_bytes()
    assert any(
        "stores its embedding whole: 322 rows for the 320 of the base, 2 tokens of its own" in line for line in lines
    )

    # With another vector, and with the base's rows.
    both = merge(make_config(untied_family["base"], grown, "ad", b=untied_family["b"]), tmp_path / "both")
    row = load_file(both / "model.safetensors")[HEAD]
    wanted = own[f"{ROOT}{HEAD}"][:320] + 0.5 * (other[HEAD] - base[HEAD])
    assert torch.allclose(row[:320], wanted, atol=1e-6)
    assert torch.allclose(row[320:], own[f"{ROOT}{HEAD}"][320:], atol=1e-6)
    kept = load_file(merge(make_config(untied_family["base"], grown, "base"), tmp_path / "kept") / "model.safetensors")
    assert torch.allclose(kept[HEAD], own[f"{ROOT}{HEAD}"][:320], atol=1e-6)


def test_an_adapter_of_a_base_cut_to_its_tokens_is_aligned_too(untied_family: Family, tmp_path: Path) -> None:
    base = load_file(untied_family["base"] / "model.safetensors")
    adapter = write_adapter(tmp_path / "cut", {name: grow(base[name], 301) for name in (EMBEDDING, HEAD)})
    write_vocabulary(adapter, untied_family["base"], rows=301)
    result = load_file(
        merge(make_config(untied_family["base"], adapter, "base"), tmp_path / "out") / "model.safetensors"
    )
    own = load_file(adapter / "adapter_model.safetensors")[f"{ROOT}{HEAD}"]
    assert torch.allclose(result[HEAD], torch.cat([own, base[HEAD][301:]]), atol=1e-6)


def test_rows_that_nothing_names_are_refused_with_what_to_do(
    untied_family: Family, grown: Path, tmp_path: Path
) -> None:
    (grown / "tokenizer.json").rename(grown / "tokenizer.txt")
    with pytest.raises(AftermixError, match=r"with 322 rows for 320.*no tokenizer.*Copy its tokenizer.json into"):
        merge(make_config(untied_family["base"], grown, "ad"), tmp_path / "out")

    base = load_file(untied_family["base"] / "model.safetensors")
    half = write_adapter(tmp_path / "half", {EMBEDDING: grow(base[EMBEDDING], 322)})
    write_vocabulary(half, untied_family["base"], added=ADDED)
    with pytest.raises(AftermixError, match=r"leaves 'lm_head.weight' at 320.*resize_token_embeddings"):
        merge(make_config(untied_family["base"], half, "ad"), tmp_path / "out")

    plain = write_adapter(tmp_path / "plain", make_factors())
    save_file({"input_embeddings": torch.zeros(2, 32)}, plain / "new_embeddings.safetensors")
    with pytest.raises(AftermixError, match=r"has new_embeddings.safetensors beside its weights, rows of added tokens"):
        merge(make_config(untied_family["base"], plain), tmp_path / "out")

    (plain / "new_embeddings.safetensors").unlink()
    torch.save({}, plain / "non_lora_trainables.bin")
    with pytest.raises(
        AftermixError, match=r"has non_lora_trainables.bin beside its weights, pickled, with parts that"
    ):
        merge(make_config(untied_family["base"], plain), tmp_path / "out")


def test_an_adapter_in_a_subfolder_is_found_and_said(untied_family: Family, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    write_adapter(parent / "default", make_factors())
    (parent / "README.md").write_text("an adapter")
    alone = write_adapter(tmp_path / "alone", make_factors())
    lines: list[str] = []
    out = merge(make_config(untied_family["base"], parent), tmp_path / "out", log=lines.append)
    twin = merge(make_config(untied_family["base"], alone), tmp_path / "twin")
    assert (out / "model.safetensors").read_bytes() == (twin / "model.safetensors").read_bytes()
    assert "vector 'ad' is read from its subfolder default" in lines

    write_adapter(parent / "math", make_factors())
    with pytest.raises(AftermixError, match=r"holds 2 adapters: default, math\. Name one: .*parent/default"):
        merge(make_config(untied_family["base"], parent), tmp_path / "again")
