"""What an expert starts from: loading, document boundaries, fit of tokenizer and model, frozen parameters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForCausalLM

from aftermix.checkpoints.reader import open_checkpoint
from aftermix.errors import ConfigError, TrainingError
from aftermix.training.base_model import (
    build_document_encoder,
    freeze,
    load_base,
    load_tokenizer,
    open_base,
    refuse_unfit,
)
from aftermix.training.data.examples import TextDocuments
from aftermix.training.data.packing import PackedTokens, pack_documents


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def edit_json(path: Path, **changes: object) -> None:
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def test_documents_end_with_the_end_token_once(base_folder: Path) -> None:
    tokenizer = load_tokenizer(base_folder)
    encode = build_document_encoder(tokenizer, where="base")
    plain, ended = encode(["the cat", "the cat<end>"])
    assert plain[-1] == tokenizer.eos_token_id == 0
    assert plain == ended
    assert tokenizer.decode(plain[:-1]) == "the cat"


def test_start_token_where_the_tokenizer_sets_one(base_folder: Path, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    folder = copied(base_folder, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = tokenizer.convert_tokens_to_ids("t")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="t $A", special_tokens=[("t", start)])
    (ids,) = build_document_encoder(tokenizer, where="base")(["the"])
    assert (ids[0], ids[-1]) == (start, 0)
    assert tokenizer.decode(ids[1:-1]) == "the"


def test_a_tokenizer_without_an_end_is_refused(base_folder: Path, tmp_path: Path) -> None:
    folder = copied(base_folder, tmp_path)
    edit_json(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(TrainingError, match=r"base: the tokenizer has no end-of-text token. Name its `eos_token`"):
        build_document_encoder(load_tokenizer(folder), where="base")


def test_a_folder_without_a_tokenizer_is_refused(base_folder: Path, tmp_path: Path) -> None:
    folder = copied(base_folder, tmp_path)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(TrainingError, match=r"has no tokenizer that loads.*Copy the base's tokenizer files"):
        load_tokenizer(folder)


def test_the_base_loads_in_float32_exactly(base_folder: Path) -> None:
    base = open_checkpoint(base_folder)
    model = load_base(base)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, base.read(name).float()), name


def test_weights_that_would_be_random_are_refused(base_folder: Path, tmp_path: Path) -> None:
    folder = copied(base_folder, tmp_path)
    edit_json(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(
        TrainingError, match=r"9 weights are not in the files and would be random, first model.layers.2"
    ):
        load_base(open_checkpoint(folder))


def test_an_unknown_architecture_is_refused(base_folder: Path, tmp_path: Path) -> None:
    folder = copied(base_folder, tmp_path)
    edit_json(folder / "config.json", model_type="no-such-model", architectures=["NoSuchModel"])
    with pytest.raises(TrainingError, match=r"cannot be loaded for training \(.*no-such-model.*an architecture that"):
        load_base(open_checkpoint(folder))


def test_tokens_without_a_row_and_a_context_beyond_the_positions(base_folder: Path, model: LlamaForCausalLM) -> None:
    tokenizer = load_tokenizer(base_folder)

    def packed(highest: int, context: int) -> PackedTokens:
        return pack_documents(
            TextDocuments(Path("corpus"), ["-"], 0),
            lambda _: [[1] * (context - 1) + [highest]],
            context=context,
            tokens=None,
            seed=0,
        )

    refuse_unfit(packed(127, 64), model, tokenizer, where="base")
    message = r"base: the tokenizer gives token 128 \(.*\), but the model has 128 rows, 0 to 127. Use the tokenizer"
    with pytest.raises(TrainingError, match=message):
        refuse_unfit(packed(128, 64), model, tokenizer, where="base")
    with pytest.raises(TrainingError, match=r"train.context: a context of 65 is beyond the model's 64 positions. Use"):
        refuse_unfit(packed(5, 65), model, tokenizer, where="base")


def test_freezing_by_pattern_knows_tied_names(model: LlamaForCausalLM) -> None:
    frozen = freeze(model, ("lm_head", "*.layers.0.*", r"re:norm\.weight$"))
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} < set(frozen)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith(("model.layers.1.self_attn", "model.layers.1.mlp")) for name in trained), trained


def test_freezing_refuses_what_matches_nothing_or_everything(model: LlamaForCausalLM) -> None:
    with pytest.raises(TrainingError, match=r"train.freeze: 'embed_tokenz' matches no parameter; the model has, for"):
        freeze(model, ("lm_head", "embed_tokenz"))
    with pytest.raises(TrainingError, match=r"train.freeze: every parameter is frozen. Leave something to train."):
        freeze(model, ("*",))
    with pytest.raises(ConfigError, match=r"train.freeze: 're:\(' is no regular expression"):
        freeze(model, ("re:(",))


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [9, 9]}}, "quantization_config` (fp8"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config` (gptq"),
        ({"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}}, "` (bitsandbytes"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantization` (4"),
    ],
)
def test_an_entry_on_quantisation_over_plain_weights_is_left_out(
    entry: dict[str, object], named: str, base_folder: Path, tmp_path: Path
) -> None:
    folder = copied(base_folder, tmp_path)
    edit_json(folder / "config.json", **entry)
    base = open_base(folder, label="b")
    (note,) = base.notes
    assert named in note
    assert note.endswith("in config.json and no quantised weights: read as stored, the entry is left out")
    model, plain = load_base(base), load_base(open_base(base_folder, label="b"))
    assert not any(hasattr(model.config, key) for key in entry)
    own = {"_name_or_path": str(folder)}
    assert model.config.to_dict() == plain.config.to_dict() | own
    assert all(found.equal(plain.state_dict()[name]) for name, found in model.state_dict().items())


def test_quantised_weights_are_refused(base_folder: Path, tmp_path: Path) -> None:
    folder = copied(base_folder, tmp_path)
    stored = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    remedy = "Name the model that it was made from, or one that was dequantised and saved in bfloat16."
    scales = {f"{name}_scale_inv": torch.ones(1, 1)}
    save_file(stored | scales | {name: stored[name].to(torch.float8_e4m3fn)}, folder / "model.safetensors")
    with pytest.raises(TrainingError) as caught:
        open_base(folder, label="b")
    types = "and an expert is written in the types of its base"
    assert str(caught.value) == f"b: is quantised (weights in float8_e4m3fn), {types}. {remedy}"

    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    save_file(stored | {f"{name}.qweight": torch.zeros(4, 4, dtype=torch.int32)}, folder / "model.safetensors")
    with pytest.raises(TrainingError, match=r"b: is quantised \(`quantization_config` \(gptq\) in config.json\), and"):
        open_base(folder, label="b")
