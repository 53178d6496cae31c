"""Heads that config.json ties and the files do not: what transformers loads is merged, and it is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

from aftermix.checkpoints.open_model import open_model
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, EvaluateConfig, MergeConfig, VectorConfig
from aftermix.errors import AftermixError
from aftermix.jobs.diff import diff
from aftermix.jobs.merge.command import merge

Copy = Callable[[str], Path]
Family = dict[str, Path]
Tensors = dict[str, torch.Tensor]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TOLD = f"stores {HEAD} with other values than {EMBEDDING}, to which config.json ties it: two tensors"


def weights(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def change(folder: Path, **tensors: torch.Tensor) -> Path:
    changed = {name.replace("__", "."): tensor.contiguous() for name, tensor in tensors.items()}
    save_file(weights(folder) | changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def with_own_head(folder: Path, seed: int) -> Path:
    """The folder with a head that its configuration denies."""
    noise = torch.randn(320, 32, generator=torch.Generator().manual_seed(seed)) * 0.1
    return change(folder, lm_head__weight=(weights(folder)[EMBEDDING].float() + noise).bfloat16())


def with_copied_head(folder: Path) -> Path:
    return change(folder, lm_head__weight=weights(folder)[EMBEDDING].clone())


def config(base: Path, *, weight: float = 0.5, **vectors: Path) -> Config:
    entries = {name: VectorConfig(model=str(model), weight=weight) for name, model in vectors.items()}
    return Config(base=str(base), vectors=entries)


def merged(configuration: Config, output: Path) -> tuple[Path, list[str]]:
    lines: list[str] = []
    folder = merge(configuration, output, log=lambda line: lines.append(str(line)))
    return folder, [line for line in lines if not line.startswith("rounding to bfloat16 took")]


def expected(base: Path, *vectors: Path, name: str, weight: float = 0.5) -> torch.Tensor:
    """The merge by the definition, where a model without the tensor has its embedding."""

    def read(folder: Path) -> torch.Tensor:
        return weights(folder).get(name, weights(folder)[EMBEDDING]).float()

    return (read(base) + sum(weight * (read(folder) - read(base)) for folder in vectors)).bfloat16()


def logits(folder: Path, kind: str = "AutoModelForCausalLM", **inputs: Any) -> torch.Tensor:
    import transformers

    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32)
    found: torch.Tensor = model(input_ids=torch.arange(2, 10)[None], **inputs).logits
    return found


def test_weights_of_zero_give_a_base_with_its_own_head(copied: Copy, family: Family, tmp_path: Path) -> None:
    base = with_own_head(copied("base"), 1)
    folder, lines = merged(config(base, weight=0.0, b=family["b"]), tmp_path / "out")
    assert lines == [f"base {TOLD}"]
    found, stored = weights(folder), weights(base)
    assert found.keys() == stored.keys()
    assert all(found[name].equal(stored[name]) for name in stored)
    assert logits(folder).equal(logits(base))
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert open_model(str(folder)).alias == {}


def test_heads_that_experts_have_for_themselves_are_merged(copied: Copy, tmp_path: Path) -> None:
    base, b, c = (with_own_head(copied(name), seed) for seed, name in enumerate(("base", "b", "c")))
    folder, lines = merged(config(base, b=b, c=c), tmp_path / "out")
    assert lines == [f"base {TOLD}", f"vector 'b' {TOLD}", f"vector 'c' {TOLD}"]
    for name in (EMBEDDING, HEAD):
        assert weights(folder)[name].equal(expected(base, b, c, name=name))

    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(folder).lm_head.weight.equal(weights(folder)[HEAD])


def test_a_copy_in_the_base_is_untied_for_an_experts_own_head(copied: Copy, family: Family, tmp_path: Path) -> None:
    base, b = with_copied_head(copied("base")), with_own_head(copied("b"), 1)
    folder, lines = merged(config(base, b=b, c=family["c"]), tmp_path / "out")
    untied = f"base ties {HEAD} to {EMBEDDING}; they are merged apart, for vector 'b' has a head of its own"
    assert lines == [untied, f"vector 'b' {TOLD}"]
    for name in (EMBEDDING, HEAD):
        assert weights(folder)[name].equal(expected(base, b, family["c"], name=name))
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_an_expert_that_says_that_it_is_untied_is_merged_likewise(copied: Copy, tmp_path: Path) -> None:
    base, b = with_copied_head(copied("base")), with_own_head(copied("b"), 1)
    settings = json.loads((b / "config.json").read_text())
    (b / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": False}))
    folder, _ = merged(config(base, b=b), tmp_path / "out")
    assert weights(folder)[HEAD].equal(expected(base, b, name=HEAD))


def test_copies_everywhere_stay_one_tensor(copied: Copy, tmp_path: Path) -> None:
    base, b = with_copied_head(copied("base")), with_copied_head(copied("b"))
    change(b, lm_head__weight=weights(b)[EMBEDDING].float())  # as a trainer in mixed precision leaves it
    folder, lines = merged(config(base, b=b), tmp_path / "out")
    assert lines == []
    assert weights(folder)[HEAD].equal(weights(folder)[EMBEDDING])
    assert (folder / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_a_base_that_stores_no_head_is_refused_with_a_remedy_that_works(copied: Copy, tmp_path: Path) -> None:
    base, b = copied("base"), with_own_head(copied("b"), 1)
    told = (
        rf"{HEAD}: vector 'b' has a head of its own, the base ties it to '{EMBEDDING}'\. "
        rf"Save the base with a copy of '{EMBEDDING}' as '{HEAD}'\."
    )
    with pytest.raises(AftermixError, match=told):
        open_pool(config(base, b=b))
    folder, _ = merged(config(with_copied_head(base), b=b), tmp_path / "out")
    assert weights(folder)[HEAD].equal(expected(base, b, name=HEAD))


def test_models_are_averaged_with_their_own_heads(copied: Copy, tmp_path: Path) -> None:
    b, c = with_copied_head(copied("b")), with_own_head(copied("c"), 1)
    entries = {name: VectorConfig(model=str(folder), weight=0.5) for name, folder in (("b", b), ("c", c))}
    folder, _ = merged(Config(vectors=entries, merge={"method": "linear"}), tmp_path / "out")  # type: ignore[arg-type]
    mean = (weights(b)[HEAD].float() * 0.5 + weights(c)[HEAD].float() * 0.5).bfloat16()
    assert weights(folder)[HEAD].equal(mean)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_stored_vector_keeps_its_own_head(dtype: Any, copied: Copy, tmp_path: Path) -> None:
    base, b = with_copied_head(copied("base")), with_own_head(copied("b"), 1)
    diff(str(b), base=str(base), output=tmp_path / "vector", dtype=dtype)
    direct, _ = merged(config(base, weight=1.0, b=b), tmp_path / "direct")
    stored, _ = merged(config(base, weight=1.0, b=tmp_path / "vector"), tmp_path / "stored")
    for name in (EMBEDDING, HEAD):
        torch.testing.assert_close(weights(stored)[name], weights(direct)[name], atol=2e-3, rtol=2e-2)
    assert not weights(stored)[HEAD].equal(weights(stored)[EMBEDDING])


@pytest.mark.parametrize("own", [with_copied_head, lambda folder: with_own_head(folder, 2)])
def test_a_live_model_takes_both(own: Callable[[Path], Path], copied: Copy) -> None:
    from aftermix.evaluation.engines.hf import HuggingFaceEngine

    base, b = own(copied("base")), with_own_head(copied("b"), 1)
    pool = open_pool(config(base, b=b))
    engine = HuggingFaceEngine.open(pool.frame, tokenizer_folder=base, config=EvaluateConfig(tasks=["x"], threads=1))
    engine.load(weights(b).items())
    live = engine.lm.model.state_dict()
    assert all(live[name].equal(tensor.float()) for name, tensor in weights(b).items())


def test_the_halves_of_an_encoder_decoder_and_its_scale(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    settings = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    torch.manual_seed(0)
    T5ForConditionalGeneration(settings).save_pretrained(tmp_path / "base")
    shared = weights(tmp_path / "base")["shared.weight"]
    change(tmp_path / "base", lm_head__weight=shared + 1, encoder__embed_tokens__weight=shared * 2)
    b = T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
    b.save_pretrained(tmp_path / "b")
    change(tmp_path / "b", lm_head__weight=shared + 3, encoder__embed_tokens__weight=shared * 4)

    still, lines = merged(config(tmp_path / "base", weight=0.0, b=tmp_path / "b"), tmp_path / "zero")
    assert sum("to which config.json ties it: two tensors" in line for line in lines) == 4
    assert weights(still).keys() == weights(tmp_path / "base").keys()
    kind, inputs = "T5ForConditionalGeneration", {"decoder_input_ids": torch.arange(4)[None]}
    assert logits(still, kind, **inputs).equal(logits(tmp_path / "base", kind, **inputs))

    half, _ = merged(config(tmp_path / "base", b=tmp_path / "b"), tmp_path / "half")
    torch.testing.assert_close(weights(half)[HEAD], shared + 2)
    torch.testing.assert_close(weights(half)["encoder.embed_tokens.weight"], shared * 3)


def test_a_wrapper_whose_tie_stands_in_its_text_model(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, Gemma3Config, Gemma3ForConditionalGeneration

    text = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
    text |= {"num_key_value_heads": 1, "intermediate_size": 16}
    vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    vision |= {"image_size": 8, "patch_size": 4}
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, image_token_index=31))
    model.save_pretrained(tmp_path / "base")
    settings = json.loads((tmp_path / "base" / "config.json").read_text())
    settings.pop("tie_word_embeddings", None)
    settings["text_config"]["tie_word_embeddings"] = True
    (tmp_path / "base" / "config.json").write_text(json.dumps(settings))
    [embedding] = [name for name in weights(tmp_path / "base") if name.endswith("embed_tokens.weight")]
    change(tmp_path / "base", lm_head__weight=weights(tmp_path / "base")[embedding] + 1)

    opened = open_model(str(tmp_path / "base"))
    assert opened.alias == {}
    assert opened.config["text_config"]["tie_word_embeddings"] is False
    still, _ = merged(config(tmp_path / "base", weight=0.0, b=tmp_path / "base"), tmp_path / "out")
    ours, theirs = (AutoModelForImageTextToText.from_pretrained(folder) for folder in (still, tmp_path / "base"))
    assert ours.lm_head.weight.equal(theirs.lm_head.weight)
    assert ours.lm_head.weight.equal(weights(tmp_path / "base")[HEAD])


def with_head_alone(folder: Path) -> Path:
    """The folder with its tied matrix stored as the head."""
    tensors = weights(folder)
    tensors[HEAD] = tensors.pop(EMBEDDING)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("moved", [("base",), ("b",), ("base", "b")])
def test_a_tied_matrix_may_be_stored_as_the_head(
    moved: tuple[str, ...], copied: Copy, family: Family, tmp_path: Path
) -> None:
    folders = {name: copied(name) for name in ("base", "b")}
    for name in moved:
        with_head_alone(folders[name])
    plain, _ = merged(config(family["base"], b=family["b"]), tmp_path / "plain")
    out, lines = merged(config(folders["base"], b=folders["b"]), tmp_path / "out")
    assert lines == []

    # Under the name that the base has, and with the values of the usual form.
    stored = HEAD if "base" in moved else EMBEDDING
    found, usual = weights(out), weights(plain)
    assert found.keys() == (usual.keys() - {EMBEDDING}) | {stored}
    assert found[stored].equal(usual[EMBEDDING])
    assert all(found[name].equal(tensor) for name, tensor in usual.items() if name != EMBEDDING)


@pytest.mark.parametrize(("pattern", "keeps"), [("embed_tokens", True), ("kind:embeddings", True), ("layers", False)])
def test_excluding_the_embedding_excludes_it_under_its_other_name(
    pattern: str, keeps: bool, copied: Copy, family: Family, tmp_path: Path
) -> None:
    base = with_head_alone(copied("base"))
    recipe = config(base, b=family["b"])
    out, _ = merged(recipe.model_copy(update={"merge": MergeConfig(exclude=(pattern,))}), tmp_path / "out")
    assert weights(out)[HEAD].equal(weights(base)[HEAD]) is keeps


def test_a_head_without_an_embedding_that_is_not_tied_is_no_embedding(copied: Copy, family: Family) -> None:
    base = with_head_alone(copied("base"))
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": False}))
    with pytest.raises(AftermixError, match=f"{EMBEDDING}: vector 'b' has this tensor, the base does not"):
        open_pool(config(base, b=family["b"]))


def build_shared(family: str) -> Any:
    """A tiny model whose embedding has several names in memory."""
    import transformers

    sizes = {"vocab_size": 320, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    if family == "t5":
        t5 = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}
        return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, **t5))
    if family == "bart":
        halves = {f"{half}_{key}": n for half in ("encoder", "decoder") for key, n in (("layers", 1), ("ffn_dim", 24))}
        heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_start_token_id": 1}
        return transformers.BartForConditionalGeneration(
            transformers.BartConfig(**sizes, **halves, **heads, d_model=16, forced_eos_token_id=1)
        )
    roberta = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24}
    return transformers.RobertaForMaskedLM(transformers.RobertaConfig(**sizes, **roberta))


@pytest.mark.parametrize(
    ("family_name", "kept"), [("t5", "decoder.embed_tokens"), ("bart", "lm_head"), ("roberta", HEAD)]
)
@pytest.mark.parametrize("other", ["base", "x", "both"])
def test_whichever_name_of_a_shared_tensor_a_writer_kept(
    family_name: str, kept: str, other: str, family: Family, tmp_path: Path
) -> None:
    """The library's own writer of shared tensors keeps the name that comes first, transformers the embedding."""
    torch.manual_seed(0)
    model = build_shared(family_name)
    for name in ("base", "x"):
        shutil.copytree(family["base"], tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
        if name == "x":
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.02)
        model.save_pretrained(tmp_path / f"plain-{name}")
        shutil.copytree(tmp_path / f"plain-{name}", tmp_path / name, dirs_exist_ok=True)
        if other in (name, "both"):
            save_model(model, str(tmp_path / name / "model.safetensors"))
            assert any(kept.removesuffix(".weight") in tensor for tensor in weights(tmp_path / name))

    recipe = config(tmp_path / "base", x=tmp_path / "x")
    out, _ = merged(recipe, tmp_path / "out")
    loaded, report = type(model).from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    parts = [type(model).from_pretrained(tmp_path / f"plain-{name}").state_dict() for name in ("base", "x")]
    for name, tensor in loaded.state_dict().items():
        assert tensor.equal(parts[0][name] + 0.5 * (parts[1][name] - parts[0][name])), name
