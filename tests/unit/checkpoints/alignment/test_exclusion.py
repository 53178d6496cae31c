"""Excluded tensors keep the base's values, whatever a vector has there; the message that offers to exclude them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.pool import examine_pool
from aftermix.config import Config, EvaluateConfig, MergeConfig, SearchConfig, VectorConfig
from aftermix.errors import AftermixError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge

Copy = Callable[[str], Path]
Family = dict[str, Path]
Tensors = dict[str, torch.Tensor]
OFFER = "If the rest was trained from this base, leave that out: set in `merge`: `exclude: "

PARTS: dict[str, tuple[Tensors, list[str]]] = {
    "layer for further tokens": (
        {
            "model.draft.eh_proj.weight": torch.ones(32, 64),
            "model.draft.embed_tokens.weight": torch.ones(320, 32),
            "model.draft.shared_head.head.weight": torch.ones(320, 32),
        },
        ["model.draft.*"],
    ),
    "pooler": (
        {"model.pooler.dense.weight": torch.ones(32, 32), "model.pooler.dense.bias": torch.ones(32)},
        ["model.pooler.*"],
    ),
    "bias of old": (
        {"model.layers.0.self_attn.relative_attention_bias.weight": torch.ones(8, 4)},
        ["model.layers.0.self_attn.relative_attention_bias.*"],
    ),
    "two parts": (
        {"model.visual.proj.weight": torch.ones(4, 4), "model.aux.fc.weight": torch.ones(4)},
        ["model.aux.*", "model.visual.*"],
    ),
}


ROUNDING = "rounding to bfloat16 took"


def keep_lines(lines: list[str]) -> Callable[[object], None]:
    """Keep the lines of a merge but for that on its rounding."""
    return lambda line: None if str(line).startswith(ROUNDING) else lines.append(str(line))


def add(folder: Path, tensors: Tensors) -> Path:
    stored = load_file(folder / "model.safetensors")
    save_file(stored | tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def config_of(base: Path, expert: Path, exclude: list[str] | None = None) -> Config:
    vectors = {"b": VectorConfig(model=str(expert), weight=0.5)}
    return Config(base=str(base), vectors=vectors, merge=MergeConfig(exclude=exclude))


def list_faults(config: Config) -> list[str]:
    return [str(problem) for problem in examine_pool(config).problems]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("owner", ["base", "b"])
def test_a_part_that_one_lacks_is_offered_and_then_left_to_the_base(
    part: str, owner: str, copied: Copy, tmp_path: Path
) -> None:
    folders = {"base": copied("base"), "b": copied("b")}
    tensors, patterns = PARTS[part]
    before = {name: load_file(folder / "model.safetensors") for name, folder in folders.items()}
    add(folders[owner], tensors)

    text = "lacks a part of the base" if owner == "base" else "has a part that the base lacks"
    (told,) = list_faults(config_of(folders["base"], folders["b"]))
    assert told.startswith(f"{folders['b']}: vector 'b' {text}: {len(tensors)} tensor")
    assert told.endswith(f"{OFFER}{json.dumps(patterns)}`.")

    # Followed as written.
    lines: list[str] = []
    config = config_of(folders["base"], folders["b"], patterns)
    assert list_faults(config) == []
    out = load_file(merge(config, tmp_path / "out", log=keep_lines(lines)) / "model.safetensors")
    kept = tensors if owner == "base" else {}
    assert out.keys() == before["base"].keys() | kept.keys()
    assert all(out[name].equal(tensor) for name, tensor in kept.items())
    for name, base in before["base"].items():
        expected = base.float() + 0.5 * (before["b"][name].float() - base.float())
        assert out[name].equal(expected.to(base.dtype)), name
    fate = (
        "lacks what is excluded, which keeps the base's values"
        if kept
        else "has more than the base in what is excluded, which is left out"
    )
    assert len(lines) == 1
    assert lines[0].startswith(f"vector 'b' {fate}: {len(tensors)} tensor")


def test_heads_of_other_classes_keep_the_base(copied: Copy, tmp_path: Path) -> None:
    base = add(copied("base"), {"score.weight": torch.ones(2, 32)})
    expert = add(copied("b"), {"score.weight": torch.zeros(3, 32)})
    (told,) = list_faults(config_of(base, expert))
    assert told == (
        f"{expert}: vector 'b' has a head of another shape: 1 tensor, first score.weight. {OFFER}[\"score.*\"]`."
    )

    out = merge(config_of(base, expert, ["score.*"]), tmp_path / "out")
    assert load_file(out / "model.safetensors")["score.weight"].equal(torch.ones(2, 32))


def test_other_heads_on_both_sides_are_offered_together(copied: Copy, tmp_path: Path) -> None:
    """A masked language model and a classifier that was trained from it."""
    base = add(copied("base"), {"cls.predictions.transform.dense.weight": torch.ones(32, 32)})
    parts = {"model.pooler.dense.weight": torch.ones(32, 32), "classifier.weight": torch.ones(2, 32)}
    (told,) = list_faults(config_of(base, add(copied("b"), parts)))
    assert "vector 'b' lacks a part of the base: 1 tensor, first cls.pred" in told
    assert "; has a part that the base lacks: 2 tensors, first classifier.weight, last model.pooler" in told
    patterns = ["cls.*", "classifier.*", "model.pooler.*"]
    assert told.endswith(f"{OFFER}{json.dumps(patterns)}`.")
    out = merge(config_of(base, tmp_path / "copy-of-b", patterns), tmp_path / "out")
    assert load_file(out / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()


def test_an_excluded_head_of_its_own_is_left_out_where_the_base_ties_it(copied: Copy, tmp_path: Path) -> None:
    base, expert = copied("base"), add(copied("b"), {"lm_head.weight": torch.ones(320, 32)})
    (told,) = list_faults(config_of(base, expert))
    assert told.startswith("lm_head.weight: vector 'b' has a head of its own, the base ties it")

    lines: list[str] = []
    config = config_of(base, expert, ["lm_head"])
    out = merge(config, tmp_path / "out", log=keep_lines(lines))
    assert lines[-1].startswith("vector 'b' has more than the base in what is excluded, which is left out: 1 tensor")
    assert "lm_head.weight" not in load_file(out / "model.safetensors")


def test_excluding_the_head_leaves_a_matrix_that_is_stored_as_one(copied: Copy, tmp_path: Path) -> None:
    """Excluding the head of a tied model does not exclude its embedding, under whichever name a vector stores it."""
    expert = copied("b")
    stored = load_file(expert / "model.safetensors")
    plain = merge(config_of(copied("base"), expert), tmp_path / "plain")
    stored["lm_head.weight"] = stored.pop("model.embed_tokens.weight")
    save_file(stored, expert / "model.safetensors", {"format": "pt"})
    out = merge(config_of(tmp_path / "copy-of-base", expert, ["lm_head"]), tmp_path / "out")
    found, usual = (load_file(folder / "model.safetensors") for folder in (out, plain))
    assert found.keys() == usual.keys()
    assert all(found[name].equal(tensor) for name, tensor in usual.items())


def test_without_a_base_nothing_is_offered(copied: Copy) -> None:
    """`exclude` keeps the base's values; `linear` may have none."""
    folders = {name: add(copied(name), {"score.weight": torch.ones(n, 32)}) for name, n in (("b", 2), ("c", 3))}
    vectors = {name: VectorConfig(model=str(folder)) for name, folder in folders.items()}
    (told,) = list_faults(Config(vectors=vectors, merge=MergeConfig(method="linear")))
    assert told == "score.weight: vector 'c' is (3, 32), base is (2, 32). Was it trained from this base?"


def test_baselines_measure_models_whole(copied: Copy) -> None:
    base = add(copied("base"), {"score.weight": torch.ones(2, 32), "pooler.weight": torch.ones(4)})
    expert = add(copied("b"), {"score.weight": torch.zeros(3, 32), "pooler.weight": torch.ones(4)})
    config = config_of(base, expert, ["score.*"]).model_copy(update={"evaluate": EvaluateConfig(tasks=["none"])})
    (told,) = list_faults(config)
    assert told == "score.weight: vector 'b' is (3, 32), base is (2, 32). Was it trained from this base?"

    without = config.model_copy(update={"search": SearchConfig(baselines=False)})
    assert list_faults(without) == []


def test_a_search_is_offered_its_own_exclusions_too(copied: Copy) -> None:
    base, expert = add(copied("base"), {"model.pooler.weight": torch.ones(4)}), copied("b")
    config = config_of(base, expert).model_copy(update={"evaluate": EvaluateConfig(tasks=["none"])})
    (told,) = list_faults(config)
    assert told.endswith(f'{OFFER}["kind:embeddings", "kind:head", "kind:positions", "model.pooler.*"]`.')


@pytest.mark.parametrize(
    ("removed", "told"),
    [
        ("model.embed_tokens", "model.embed_tokens.weight: vector 'b' has no such tensor, the base does"),
        ("model.", "model.embed_tokens.weight: vector 'b' has no such tensor, the base does"),
        ("post_attention_layernorm", "...: vector 'b' has no such tensor"),
    ],
)
def test_what_is_no_part_is_not_offered(removed: str, told: str, copied: Copy) -> None:
    """Neither what speaks, nor most of a model, nor names from everywhere."""
    base, expert = copied("base"), copied("b")
    spread = {f"model.layers.{n % 2}.{removed}.extra{n}": torch.ones(1) for n in range(6)}
    if removed.startswith("post"):
        add(base, spread)
    stored = load_file(expert / "model.safetensors")
    left = {name: tensor for name, tensor in stored.items() if not name.startswith(removed)} or {"x": torch.ones(1)}
    save_file(left, expert / "model.safetensors", {"format": "pt"})
    faults = list_faults(config_of(base, expert))
    assert any(fault.startswith(told) for fault in faults), faults
    assert not any("exclude" in fault for fault in faults)


def test_an_adapter_with_a_head_of_its_own(copied: Copy, tmp_path: Path) -> None:
    base, adapter = copied("base"), tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"modules_to_save": ["classifier", "score"]}))
    module, a, b = "model.layers.0.self_attn.q_proj", torch.ones(2, 32) / 64, torch.ones(32, 2) / 64
    factors = {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
    save_file(factors | {"base_model.model.score.weight": torch.ones(1, 32)}, adapter / "adapter_model.safetensors")

    (told,) = list_faults(config_of(base, adapter))
    assert told == (
        "score.weight: the adapter changes this tensor, the base lacks it. "
        'Name a base that has this head, or leave the head out: set in `merge`: `exclude: ["score.*"]`.'
    )

    lines: list[str] = []
    out = merge(config_of(base, adapter, ["score.*"]), tmp_path / "out", log=keep_lines(lines))
    assert lines == [
        "vector 'b' is a LoRA adapter: rank 2, 1 tensors moved",
        "vector 'b' has more than the base in what is excluded, which is left out: score.weight",
    ]
    found, stored = (load_file(folder / "model.safetensors") for folder in (out, base))
    assert found.keys() == stored.keys()
    expected = stored[f"{module}.weight"].float() + 0.5 * (b @ a)
    assert found[f"{module}.weight"].equal(expected.to(torch.bfloat16))
    assert all(found[name].equal(tensor) for name, tensor in stored.items() if name != f"{module}.weight")


def test_a_pattern_that_cannot_be_read_is_one_fault_among_others(copied: Copy) -> None:
    config = config_of(copied("base"), Path("nowhere"), ["kind:nothing", "re:("])
    where = [problem.where for problem in doctor(config).problems]
    assert where == ["merge.exclude", "merge.exclude", "nowhere"]
    with pytest.raises(AftermixError) as refused:
        merge(config, Path("never"))
    assert [problem.where for problem in refused.value.problems][-1] == "nowhere"
