"""The same tensors under other prefixes: multimodal wrappers, their text models, old and new exports."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.alignment.prefix import build_prefix_view, propose_prefixes
from aftermix.checkpoints.model import read_tensor
from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.reader import Checkpoint, open_checkpoint
from aftermix.config import Config, VectorConfig, load_config
from aftermix.errors import AftermixError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge

TEXT = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
OLD = {"model.": "language_model.model."}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Multimodal Gemma 3 (`wrapper` and `wrapper2`, another), text-only (`text`), and `wrapper2` under newer names."""
    from transformers import Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration, Gemma3TextConfig

    folder = tmp_path_factory.mktemp("gemma")
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    found = {name: folder / name for name in ("wrapper", "wrapper2", "text", "new")}
    for seed, name in enumerate(("wrapper", "wrapper2")):
        torch.manual_seed(seed)
        config = Gemma3Config(text_config=TEXT, vision_config=vision, mm_tokens_per_image=4)
        Gemma3ForConditionalGeneration(config).save_pretrained(found[name])
    torch.manual_seed(2)
    Gemma3ForCausalLM(Gemma3TextConfig(**TEXT)).save_pretrained(found["text"])
    shutil.copytree(found["wrapper2"], found["new"])
    file = found["new"] / "model.safetensors"
    tensors = {
        re.sub(r"^language_model\.model", "language_model", name): tensor for name, tensor in load_file(file).items()
    }
    save_file({f"model.{name}": tensor for name, tensor in tensors.items()}, file)
    return found


def config(base: Path, expert: Path, **options: Any) -> Config:
    return Config(base=str(base), vectors={"ja": VectorConfig(model=str(expert), weight=0.5, **options)})


def refusal(base: Path, expert: Path, **options: Any) -> str:
    with pytest.raises(AftermixError) as raised:
        open_pool(config(base, expert, **options))
    return str(raised.value)


@pytest.mark.parametrize(
    ("base", "expert", "line"),
    [
        ("wrapper", "text", '{"model.": "language_model.model."}'),
        ("text", "wrapper", '{"language_model.model.": "model."}'),
        ("new", "text", '{"model.": "model.language_model."}'),
        ("text", "new", '{"model.language_model.": "model."}'),
    ],
)
def test_the_map_that_would_align_is_proposed(gemma: dict[str, Path], base: str, expert: str, line: str) -> None:
    found = refusal(gemma[base], gemma[expert])
    assert "vector 'ja' has other names than the base: " in found
    assert f"Add to `vectors.ja`: `prefix: {line}`." in found
    assert "problems" not in found
    open_pool(config(gemma[base], gemma[expert], prefix=json.loads(line)))
    problems = doctor(config(gemma[base], gemma[expert])).problems
    assert [problem.remedy for problem in problems] == [f"Add to `vectors.ja`: `prefix: {line}`."]


def test_all_parts_of_a_wrapper_are_proposed(gemma: dict[str, Path]) -> None:
    base, expert = open_checkpoint(gemma["wrapper"]), open_checkpoint(gemma["new"])
    proposal = propose_prefixes(base, expert)
    assert proposal is not None
    assert proposal["model.language_model."] == "language_model.model."
    view = build_prefix_view(base, expert, proposal, vector="ja")
    assert view.tensors.keys() == base.tensors.keys()
    plain = open_checkpoint(gemma["wrapper2"])
    assert all(read_tensor(view, name).equal(read_tensor(plain, name)) for name in base.tensors)
    assert not any("pass through" in line for line in view.notes)


def test_a_text_model_merged_into_its_wrapper(gemma: dict[str, Path], tmp_path: Path) -> None:
    from transformers import Gemma3ForConditionalGeneration

    said: list[str] = []
    made = merge(config(gemma["wrapper"], gemma["text"], prefix=OLD), tmp_path / "made", log=said.append)
    base, text = (load_file(gemma[name] / "model.safetensors") for name in ("wrapper", "text"))
    vision = sorted(name for name in base if not name.startswith("language_model."))
    assert said == [
        f"vector 'ja' maps prefix model. -> language_model.model. ({len(text)} tensors)",
        f"vector 'ja' has nothing for, so that they pass through from the base: {len(vision)} tensors, "
        f"first {vision[0]}, last {vision[-1]}",
    ]
    assert json.loads((made / "lock.json").read_text())["alignment"] == said
    wanted = dict(base)
    for name, tensor in text.items():
        target = name.replace("model.", "language_model.model.", 1)
        wanted[target] = base[target] + 0.5 * (tensor - base[target])
    reference = tmp_path / "reference"
    shutil.copytree(gemma["wrapper"], reference)
    save_file(wanted, reference / "model.safetensors", metadata={"format": "pt"})
    models = [Gemma3ForConditionalGeneration.from_pretrained(folder) for folder in (made, reference)]
    tokens = torch.arange(5, 20)[None]
    ours, theirs = (model(tokens).logits for model in models)
    assert ours.equal(theirs)
    assert not ours.equal(Gemma3ForConditionalGeneration.from_pretrained(gemma["wrapper"])(tokens).logits)


def test_the_written_recipe_makes_the_same_bytes(gemma: dict[str, Path], tmp_path: Path) -> None:
    made = merge(config(gemma["wrapper"], gemma["text"], prefix=OLD), tmp_path / "made")
    again = merge(load_config(made / "aftermix.yaml"), tmp_path / "again")
    assert (made / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


def test_a_wrapper_merged_into_its_text_model_leaves_its_eyes(gemma: dict[str, Path], tmp_path: Path) -> None:
    said: list[str] = []
    options = {"prefix": {"language_model.model.": "model."}}
    made = merge(config(gemma["text"], gemma["wrapper"], **options), tmp_path / "made", log=said.append)
    assert "vector 'ja' is not used where the base has no such tensor: " in said[1]
    assert "first multi_modal_projector.mm_input_projection_weight" in said[1]
    base, wrapper = (load_file(gemma[name] / "model.safetensors") for name in ("text", "wrapper"))
    for name, tensor in load_file(made / "model.safetensors").items():
        source = wrapper[name.replace("model.", "language_model.model.", 1)]
        assert tensor.equal(base[name] + 0.5 * (source - base[name])), name


def test_a_map_that_does_not_fit_is_refused(gemma: dict[str, Path]) -> None:
    found = refusal(gemma["wrapper"], gemma["text"], prefix={"modle.": "language_model.model."})
    assert "vectors.ja.prefix: no tensor of vector 'ja' begins with 'modle.'; its names begin with " in found
    assert "model.embed_tokens, model.layers, model.norm. Correct the left side." in found
    found = refusal(gemma["wrapper"], gemma["text"], prefix={"model.": "language.model."})
    assert "no tensor of the base begins with 'language.model.'; its names begin with language_model.model, " in found
    found = refusal(gemma["wrapper"], gemma["text"], prefix={"model.layers.0.": "language_model.model.layers.0."})
    assert "leaves 'model.embed_tokens.weight' of vector 'ja' without a place in the base" in found
    assert "Add a line for 'model.embed_tokens.'." in found
    both = {"model.layers.0.": "language_model.model.layers.0.", "model.layers.1.": "language_model.model.layers.0."}
    found = refusal(gemma["wrapper"], gemma["text"], prefix=OLD | both)
    assert "gives 'model.layers.0.input_layernorm.weight' and 'model.layers.1.input_layernorm.weight'" in found


def test_inside_the_mapped_subtree_everything_must_match(gemma: dict[str, Path], tmp_path: Path) -> None:
    expert = tmp_path / "short"
    shutil.copytree(gemma["text"], expert)
    tensors = load_file(expert / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file({**tensors, "model.extra.weight": torch.zeros(2)}, expert / "model.safetensors")
    found = refusal(gemma["wrapper"], expert, prefix=OLD)
    assert "language_model.model.norm.weight: vector 'ja' has no such tensor, the base does" in found
    assert "language_model.model.extra.weight: vector 'ja' has this tensor, the base does not" in found
    edited = json.loads((gemma["text"] / "config.json").read_text()) | {"num_attention_heads": 4}
    (expert / "config.json").write_text(json.dumps(edited))
    assert "vector 'ja' has num_attention_heads = 4, base has 2" in refusal(gemma["wrapper"], expert, prefix=OLD)


def test_without_a_base_there_is_nothing_to_map_to(gemma: dict[str, Path]) -> None:
    vectors = {name: VectorConfig(model=str(gemma["text"]), prefix={"model.": "x."}) for name in ("a", "b")}
    with pytest.raises(AftermixError, match=r"vectors\.a\.prefix: has no base to map to\. Add `base: PATH`\."):
        open_pool(Config(vectors=vectors))


@pytest.mark.parametrize(("base", "prefix"), [("wrapper", OLD), ("new", {"model.": "model.language_model."})])
def test_an_adapter_of_the_text_model_moves_its_wrapper(
    gemma: dict[str, Path], base: str, prefix: dict[str, str], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    from transformers import Gemma3ForCausalLM

    text = Gemma3ForCausalLM.from_pretrained(gemma["text"])
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    peft.get_peft_model(text, settings).save_pretrained(tmp_path / "adapter")
    said: list[str] = []
    made = merge(config(gemma[base], tmp_path / "adapter", prefix=prefix), tmp_path / "made", log=said.append)
    before, after = load_file(gemma[base] / "model.safetensors"), load_file(made / "model.safetensors")
    moved = {name for name, tensor in after.items() if not tensor.equal(before[name])}
    start = next(iter(prefix.values()))
    assert moved == {
        f"{start}layers.{layer}.{part}.weight" for layer in (0, 1) for part in ("self_attn.q_proj", "mlp.down_proj")
    }
    assert any("pass through from the base" in line for line in said)


def made(folder: Path, names: dict[str, tuple[int, ...]], *, tied: bool | None = None) -> Checkpoint:
    folder.mkdir()
    torch.manual_seed(len(names))
    save_file({name: torch.randn(shape) for name, shape in names.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({} if tied is None else {"tie_word_embeddings": tied}))
    return open_checkpoint(folder)


def test_heads_tied_on_one_side(tmp_path: Path) -> None:
    body = {"model.embed_tokens.weight": (6, 4), "model.norm.weight": (4,)}
    inner = {f"language_model.{name}": shape for name, shape in body.items()}
    untied = made(tmp_path / "untied", {**inner, "language_model.lm_head.weight": (6, 4)}, tied=False)
    tied = made(tmp_path / "tied", body, tied=True)
    view = build_prefix_view(untied, tied, OLD, vector="x")
    head = read_tensor(view, "language_model.lm_head.weight")
    assert head.equal(read_tensor(tied, "model.embed_tokens.weight"))
    base = made(tmp_path / "base", body, tied=True)
    with pytest.raises(AftermixError, match=r"leaves 'language_model\.lm_head\.weight' of vector 'x' without a place"):
        build_prefix_view(base, untied, {"language_model.model.": "model."}, vector="x")
    made(tmp_path / "copy", {**inner, "language_model.lm_head.weight": (6, 4)}, tied=True)
    tensors = load_file(tmp_path / "copy" / "model.safetensors")
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "copy" / "model.safetensors")
    copy = open_checkpoint(tmp_path / "copy")
    view = build_prefix_view(base, copy, {"language_model.model.": "model."}, vector="x")
    assert view.alias == {"lm_head.weight": "model.embed_tokens.weight"}
    own = made(tmp_path / "own", {**body, "lm_head.weight": (6, 4)}, tied=False)
    assert propose_prefixes(untied, own) == {"": "language_model."}
    view = build_prefix_view(untied, own, {"": "language_model."}, vector="x")
    assert read_tensor(view, "language_model.lm_head.weight").equal(read_tensor(own, "lm_head.weight"))


def test_a_part_of_its_own_beside_equal_names(tmp_path: Path) -> None:
    body = {"model.embed_tokens.weight": (6, 4), "model.norm.weight": (4,)}
    eyes = {"visual.patch.weight": (4, 4), "visual.norm.weight": (4,)}
    wide, narrow = made(tmp_path / "wide", body | eyes, tied=True), made(tmp_path / "narrow", body, tied=True)
    found = refusal(wide.folder, narrow.folder)
    assert "vector 'ja' lacks a part: 2 tensors, first visual.norm.weight, last visual.patch.weight. " in found
    assert 'Add to `vectors.ja`: `prefix: {"model.": "model."}`.' in found
    assert "vector 'ja' has other names than the base: 2 tensors, first visual.norm" in refusal(
        narrow.folder, wide.folder
    )
    for base, expert in ((wide, narrow), (narrow, wide)):
        open_pool(config(base.folder, expert.folder, prefix={"model.": "model."}))
    headed = made(tmp_path / "headed", body | {"lm_head.weight": (6, 4)}, tied=False)
    silent = made(tmp_path / "silent", body, tied=False)
    assert "lm_head.weight: vector 'ja' has no such tensor, the base does" in refusal(headed.folder, silent.folder)


def test_layers_keep_their_numbers(tmp_path: Path) -> None:
    """Blocks of one shape fit each other's; the vision tower and the text have other prefixes at once."""
    names = {"visual.merger.0.weight": (4, 4), "model.embed_tokens.weight": (9, 4), "lm_head.weight": (9, 4)}
    for number in range(3):
        names |= {f"visual.blocks.{number}.proj.weight": (4, 4), f"model.layers.{number}.proj.weight": (4, 4)}

    def rename(name: str) -> str:
        text = name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name
        return f"model.{text}" if text.startswith("visual.") else text

    base, expert = made(tmp_path / "base", names), made(tmp_path / "x", {rename(n): size for n, size in names.items()})
    assert propose_prefixes(base, expert) == {"model.language_model.": "model.", "model.visual.": "visual."}
    assert propose_prefixes(expert, base) == {"model.": "model.language_model.", "visual.": "model.visual."}


def test_what_a_model_computes_for_itself_needs_no_counterpart(tmp_path: Path) -> None:
    """GPT-2's masks: float in the first file of the hub, without them or with more in what others save."""
    plain = {"wte.weight": (9, 4), "ln_f.weight": (4,)}
    for number in range(2):
        plain |= {f"h.{number}.attn.c_attn.weight": (4, 12), f"h.{number}.attn.c_attn.bias": (12,)}
    masks = {f"h.{number}.attn.bias": (1, 1, 6, 6) for number in range(2)}
    wrapped = {f"transformer.{name}": size for name, size in plain.items()}
    other_masks = {f"transformer.h.{number}.attn.masked_bias": () for number in range(2)}

    base = made(tmp_path / "base", plain | masks)
    for name, names in (("bare", wrapped), ("masked", wrapped | other_masks)):
        expert = made(tmp_path / name, names)
        assert propose_prefixes(base, expert) == {"transformer.": ""}
        assert propose_prefixes(expert, base) == {"": "transformer."}


def test_nothing_is_proposed_where_two_maps_would_do(tmp_path: Path) -> None:
    names = {"embed_tokens.weight": (6, 4), "norm.weight": (4,)}
    base = made(tmp_path / "base", {f"{side}.{name}": shape for side in "ab" for name, shape in names.items()})
    expert = made(tmp_path / "expert", {f"model.{name}": shape for name, shape in names.items()})
    assert propose_prefixes(base, expert) is None


@settings(max_examples=60)
@given(data=st.data())
def test_any_bounds(data: st.DataObject, gemma: dict[str, Path]) -> None:
    base, expert = open_checkpoint(gemma["wrapper"]), open_checkpoint(gemma["text"])
    view = build_prefix_view(base, expert, OLD, vector="x")
    name = data.draw(st.sampled_from(sorted(view.tensors)))
    inside = name.startswith("language_model.")
    whole = read_tensor(expert, name.removeprefix("language_model.")) if inside else read_tensor(base, name)
    low = data.draw(st.integers(0, whole.numel()))
    high = data.draw(st.integers(low, whole.numel()))
    assert view.read_block(name, (low, high)).equal(whole.flatten()[low:high])
    difference = view.difference(name, (low, high))
    if not inside or low == high:
        assert difference is None
    else:
        assert difference is not None
        assert difference.equal((whole - read_tensor(base, name)).flatten()[low:high])
