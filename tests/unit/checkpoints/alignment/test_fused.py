"""Mixture-of-experts weights read in the base's layout, against fusing whole tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.alignment.fused import FusedView, build_fused_view
from aftermix.checkpoints.model import read_tensor
from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.reader import Checkpoint, open_checkpoint
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import AftermixError, ManyProblemsError
from aftermix.jobs.merge.command import merge

E, W, H = 3, 4, 5  # experts, inner and hidden width
Tensors = dict[str, torch.Tensor]
ROOT = "model.layers.0.mlp.experts"
LAYOUTS = ("single", "mixtral", "fused", "transposed")


def bank(seed: int = 0, *, experts: int = E) -> Tensors:
    """Matrices by `EXPERT.PART`."""
    torch.manual_seed(seed)
    shapes = {"gate": (W, H), "up": (W, H), "down": (H, W)}
    return {f"{e}.{part}": torch.randn(shape) for e in range(experts) for part, shape in shapes.items()}


def stored(matrices: Tensors, layout: str) -> Tensors:
    """The twin: whole tensors put together in the simplest way."""
    experts = len(matrices) // 3
    if layout == "single":
        return {f"{ROOT}.{name}_proj.weight": matrix for name, matrix in matrices.items()}
    if layout == "mixtral":
        part = {"gate": "w1", "up": "w3", "down": "w2"}
        root = ROOT.replace(".mlp.", ".block_sparse_moe.")
        return {f"{root}.{n.split('.')[0]}.{part[n.split('.')[1]]}.weight": matrix for n, matrix in matrices.items()}
    up = torch.stack([torch.cat([matrices[f"{e}.gate"], matrices[f"{e}.up"]]) for e in range(experts)])
    down = torch.stack([matrices[f"{e}.down"] for e in range(experts)])
    if layout == "transposed":
        up, down = up.mT.contiguous(), down.mT.contiguous()
    return {f"{ROOT}.gate_up_proj": up, f"{ROOT}.down_proj": down}


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Checkpoint]:
    """A folder with these tensors, opened."""

    def make(name: str, tensors: Tensors) -> Checkpoint:
        folder = tmp_path / name
        folder.mkdir()
        save_file({"model.norm.weight": torch.ones(H), **tensors}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "moe", "tie_word_embeddings": False}))
        return open_checkpoint(folder)

    return make


@pytest.mark.parametrize(("ours", "theirs"), product(LAYOUTS, LAYOUTS))
def test_every_layout_is_read_as_every_other(ours: str, theirs: str, model: Callable[..., Checkpoint]) -> None:
    base, expert = model("base", stored(bank(), ours)), model("expert", stored(bank(1), theirs))
    view = build_fused_view(base, expert, vector="x")
    if ours == theirs:
        assert view is expert
    else:
        assert isinstance(view, FusedView)
    wanted = {"model.norm.weight": torch.ones(H), **stored(bank(1), ours)}
    assert list(view.tensors) == sorted(wanted)
    for name, whole in wanted.items():
        assert view.info(name).shape == tuple(whole.shape)
        assert read_tensor(view, name).equal(whole), name
        for low in range(0, whole.numel(), 7):
            for high in (low, low + 1, min(low + 23, whole.numel()), whole.numel()):
                assert view.read_block(name, (low, high)).equal(whole.flatten()[low:high]), (name, low, high)


@settings(max_examples=60)
@given(data=st.data())
def test_any_bounds_of_any_layout(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    ours, theirs = data.draw(st.sampled_from(LAYOUTS)), data.draw(st.sampled_from(LAYOUTS))
    folder = tmp_path_factory.mktemp("bounds")
    models = []
    for number, layout in enumerate((ours, theirs)):
        (folder / str(number)).mkdir()
        save_file(stored(bank(number), layout), folder / str(number) / "model.safetensors")
        (folder / str(number) / "config.json").write_text("{}")
        models.append(open_checkpoint(folder / str(number)))
    view = build_fused_view(models[0], models[1], vector="x")
    wanted = stored(bank(1), ours)
    name = data.draw(st.sampled_from(sorted(wanted)))
    flat = wanted[name].flatten()
    low = data.draw(st.integers(0, flat.numel()))
    high = data.draw(st.integers(low, flat.numel()))
    assert view.read_block(name, (low, high)).equal(flat[low:high])


def refusal(base: Checkpoint, expert: Checkpoint) -> str:
    with pytest.raises(ManyProblemsError) as raised:
        build_fused_view(base, expert, vector="x")
    return str(raised.value)


def test_what_is_not_understood_is_refused(model: Callable[..., Checkpoint]) -> None:
    base = model("base", stored(bank(), "fused"))
    more = refusal(base, model("more", stored(bank(experts=4), "single")))
    assert f"{ROOT}: vector 'x' has 4 experts of 4 x 5, base has 3 experts of 4 x 5. Was it trained from this" in more
    gap = stored(bank(), "single")
    del gap[f"{ROOT}.1.up_proj.weight"]
    assert "experts of vector 'x' are stored in no known layout" in refusal(base, model("gap", gap))
    odd = {f"{ROOT}.gate_up_proj": torch.zeros(E, 2 * W, H), f"{ROOT}.down_proj": torch.zeros(E, W + 1, H)}
    text = refusal(base, model("odd", odd))
    assert "stored in no known layout (down_proj (3, 5, 5); gate_up_proj (3, 8, 5); 2 tensors)" in text
    biased = model("biased", stored(bank(), "transposed") | {f"{ROOT}.gate_up_proj_bias": torch.zeros(E, 2 * W)})
    text = refusal(base, biased)
    assert f"vector 'x' stores '{ROOT}.gate_up_proj_bias' beside its experts" in text
    assert "Save both models in one layout" in text


def save_mixtral(folder: Path, seed: int, *, original: bool) -> Path:
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_local_experts": 3}
    config = MixtralConfig(vocab_size=64, num_attention_heads=2, num_key_value_heads=1, **sizes)
    torch.manual_seed(seed)
    MixtralForCausalLM(config).save_pretrained(folder, save_original_format=original)
    return folder


def test_a_mixtral_held_fused_takes_experts_one_by_one_and_the_reverse(tmp_path: Path) -> None:
    from transformers import MixtralForCausalLM

    base, expert = (save_mixtral(tmp_path / f"single{seed}", seed, original=True) for seed in (0, 1))
    fused = [save_mixtral(tmp_path / f"fused{seed}", seed, original=False) for seed in (0, 1)]
    assert "model.layers.0.mlp.experts.gate_up_proj" in load_file(fused[0] / "model.safetensors")
    made = {}
    for name, pair in {"plain": (base, expert), "to_fused": (fused[0], expert), "to_single": (base, fused[1])}.items():
        config = Config(base=str(pair[0]), vectors={"x": VectorConfig(model=str(pair[1]), weight=0.5)})
        said: list[str] = []
        made[name] = merge(config, tmp_path / name, log=said.append)
        layout = "single -> fused" if name == "to_fused" else "fused -> single"
        told = f"vector 'x' stores the experts of 2 layers otherwise, read in the base's layout ({layout})"
        assert said == ([] if name == "plain" else [told])
        assert json.loads((made[name] / "lock.json").read_text()).get("alignment", []) == said
    tokens = torch.arange(12)[None]
    wanted = MixtralForCausalLM.from_pretrained(made["plain"])(tokens).logits
    for name in ("to_fused", "to_single"):
        assert MixtralForCausalLM.from_pretrained(made[name])(tokens).logits.equal(wanted), name


def test_experts_take_part_in_methods_that_select(tmp_path: Path) -> None:
    base, expert = (save_mixtral(tmp_path / f"single{seed}", seed, original=True) for seed in (0, 1))
    fused = save_mixtral(tmp_path / "fused", 1, original=False)
    pools = [open_pool(Config(base=str(base), vectors={"x": VectorConfig(model=str(m))})) for m in (expert, fused)]
    assert [pool.parameters for pool in pools] == [pools[0].parameters] * 2
    merge_config = MergeConfig.model_validate({"method": "ties", "density": 0.3})
    configs = [
        Config(base=str(base), vectors={"x": VectorConfig(model=str(m))}, merge=merge_config) for m in (expert, fused)
    ]
    plain, viewed = (merge(config, tmp_path / str(n)) for n, config in enumerate(configs))
    assert (plain / "model.safetensors").read_bytes() == (viewed / "model.safetensors").read_bytes()


def test_other_prefixes_and_another_layout_at_once(model: Callable[..., Checkpoint]) -> None:
    body = {"model.embed_tokens.weight": torch.randn(6, H)}
    base = model(
        "base", {f"{name}".replace("model.", "lm.model.", 1): t for name, t in stored(bank(), "fused").items()}
    )
    tensors = {name.replace("model.", "lm.model.", 1): tensor for name, tensor in body.items()}
    tensors |= load_file(base.folder / "model.safetensors")
    tensors["lm.model.norm.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, base.folder / "model.safetensors")
    expert = model("expert", {**body, **stored(bank(1), "single")})
    vectors = {"x": VectorConfig(model=str(expert.folder))}
    with pytest.raises(AftermixError, match=r'Add to `vectors\.x`: `prefix: \{"model\.": "lm\.model\."\}`'):
        open_pool(Config(base=str(base.folder), vectors=vectors))
    vectors = {"x": VectorConfig(model=str(expert.folder), prefix={"model.": "lm.model."})}
    view = open_pool(Config(base=str(base.folder), vectors=vectors)).experts["x"]
    for name, whole in stored(bank(1), "fused").items():
        assert read_tensor(view, name.replace("model.", "lm.model.", 1)).equal(whole)
