"""Targets: what is stored as a difference from a base (LoRA adapters, vector files), and recipes of mergekit."""

from __future__ import annotations

import json
import shutil
from functools import cache
from typing import Any

import torch
from safetensors.torch import save

from aftermix.checkpoints.model import StoredDifference
from aftermix.checkpoints.open_model import open_model
from aftermix.jobs.diff import diff
from aftermix.mergekit.reading import load_recipe
from aftermix.mergekit.writing import translate_to_mergekit
from fuzz.draw import Draw, as_json
from fuzz.models import DTYPES, refuse_changes, touch
from fuzz.oracle import check
from fuzz.place import place

LAYER = "model.layers.0.self_attn.q_proj"
SETTINGS: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "trainable_token_indices": None,
    "base_model_name_or_path": "../../../../outside",
}
PATTERNS = ("q_proj", "(a|a)*$", "(", ".*", "a{99999999999}", "[", "\\1", "re:x", "^layers.0")
PARTS = (
    *("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"),
    *(
        "lora_B.bias",
        "token_adapter.trainable_tokens_delta",
        "modules_to_save.weight",
        "weight",
        "lora_A.default.weight",
    ),
)
MODULES = (LAYER, "model.embed_tokens", "lm_head", "model.norm", "q_proj", "", "x", "model.layers.0.self_attn.v_proj")
RECIPES = (
    "merge_method: ties\nbase_model: b\nmodels:\n- {model: a, parameters: {weight: 0.5, density: 0.3}}\n",
    "merge_method: linear\nmodels:\n- {model: a+b, parameters: {weight: 1}}\n- {model: {model: {path: c}}}\n",
    "merge_method: dare_ties\nbase_model: b\nparameters: {normalize: false, int8_mask: true, lambda: 0.5}\n"
    "models:\n- {model: a, parameters: {weight: [{filter: mlp, value: 0}, {value: 1}]}}\ntokenizer_source: base\n",
    "merge_method: arcee_fusion\nslices:\n- sources:\n  - {model: a, layer_range: [0, 1]}\n",
)
WORDS: tuple[Any, ...] = (
    "ties",
    "linear",
    "a",
    "b@c",
    "a+b+c",
    "",
    "re:(",
    [0, 1],
    {"filter": "mlp", "value": 0},
    [1, 0.5],
)
RECIPE_KEYS = ("merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "tokenizer_source")
ENTRY_KEYS = ("model", "parameters", "layer_range", "weight", "density", "filter", "value", "normalize", "sources")


def adapter(data: bytes) -> None:
    """`data` decides settings and tensors of a LoRA adapter."""
    draw = Draw(data)
    settings = dict(SETTINGS)
    for _ in range(draw.below(4)):
        key = draw.pick(tuple(SETTINGS))
        settings[key] = {draw.pick(PATTERNS): draw.number_or(2)} if key.endswith("pattern") else draw.value()
    tensors = {f"base_model.model.{LAYER}.lora_A.weight": (2, 4), f"base_model.model.{LAYER}.lora_B.weight": (4, 2)}
    for _ in range(draw.below(4)):
        shape = tuple(draw.pick((0, 1, 2, 4, 6)) for _ in range(draw.below(4)))
        tensors[f"base_model.model.{draw.pick(MODULES)}.{draw.pick(PARTS)}"] = shape
    stored = save({name: torch.ones(shape).bfloat16() for name, shape in tensors.items()})
    content = draw.damaged(as_json(settings))
    _open_both_ways({"adapter_config.json": content, "adapter_model.safetensors": _edited(draw, stored)})


def vector_file(data: bytes) -> None:
    """`data` decides what differs in a vector's description, its header and the bytes of both."""
    draw = Draw(data)
    files = dict(_vector(draw.pick(("int8", "bfloat16"))))
    facts: Any = json.loads(files["vector.json"])
    for _ in range(draw.below(4)):
        _edit_somewhere(draw, facts)
    files["vector.json"] = draw.damaged(as_json(facts))
    files["difference/model.safetensors"] = _edited(draw, files["difference/model.safetensors"])
    if draw.rarely():
        del files[draw.pick(sorted(files))]
    _open_both_ways(files)


def mergekit_text(data: bytes) -> None:
    """`data` is a recipe."""
    file = place().fill({"recipe.yaml": data}) / "recipe.yaml"
    check(lambda: translate_to_mergekit(load_recipe(file)), readable=place().readable)


def mergekit_values(data: bytes) -> None:
    """`data` decides keys and values of a recipe."""
    draw = Draw(data)
    recipe: dict[str, Any] = {
        "merge_method": draw.pick(("ties", "linear", "dare_ties", "task_arithmetic")),
        "base_model": "b",
    }
    recipe["models"] = [{"model": name, "parameters": {"weight": draw.number_or(0.5)}} for name in ("a", "c")]
    for _ in range(draw.below(4)):
        recipe[draw.pick(RECIPE_KEYS)] = _entry(draw)
    mergekit_text(draw.damaged(as_json(recipe, deepest=80)))  # deeper costs time and is refused alike


def _entry(draw: Draw, depth: int = 0) -> Any:
    kind = draw.below(5 if depth < 3 else 2)
    if kind == 0:
        return draw.value()
    if kind == 1:
        return draw.pick(WORDS)
    if kind == 2:
        return [_entry(draw, depth + 1) for _ in range(draw.below(3))]
    return {draw.pick(ENTRY_KEYS): _entry(draw, depth + 1) for _ in range(draw.below(4))}


def _open_both_ways(files: dict[str, bytes]) -> None:
    """On its base, and without one."""
    folder = place().fill(files)
    before = place().names()
    base = open_model(str(place().base))
    check(lambda: open_model(str(folder)), readable=place().readable)
    check(lambda: _touch_difference(open_model(str(folder), base=base)), readable=place().readable)
    refuse_changes(before)


def _touch_difference(model: Any) -> None:
    touch(model)
    if isinstance(model, StoredDifference):
        for name, info in model.tensors.items():
            if info.mergeable:
                model.difference(name, (0, info.elements))
                model.difference(name, (1, min(3, info.elements)))


@cache
def _vector(dtype: Any) -> dict[str, bytes]:
    """The files of a sound vector."""
    output = place().root / "vector"
    try:
        diff(str(place().outside), base=str(place().base), output=output, dtype=dtype)
        return {str(file.relative_to(output)): file.read_bytes() for file in output.rglob("*") if file.is_file()}
    finally:
        shutil.rmtree(output, ignore_errors=True)


def _edit_somewhere(draw: Draw, value: Any) -> None:
    """Replace one value in a tree of mappings and lists."""
    while isinstance(value, dict | list) and value:
        key = draw.pick(sorted(value)) if isinstance(value, dict) else draw.below(len(value))
        if not isinstance(value[key], dict | list) or draw.rarely():
            value[key] = draw.value() if draw.rarely() else draw.number_or(value[key])
            return
        value = value[key]


def _edited(draw: Draw, stored: bytes) -> bytes:
    """A safetensors file with a type, shape or name changed in its header, rarely damaged."""
    length = int.from_bytes(stored[:8], "little")
    header = json.loads(stored[8 : 8 + length])
    for name in [name for name in header if name != "__metadata__"]:
        if draw.rarely():
            header[name]["dtype"] = draw.pick(DTYPES)
        if draw.rarely():
            header[name]["shape"] = [*header[name]["shape"], draw.number_or(1)][:: draw.pick((1, -1))]
        if draw.rarely():
            header[draw.pick((name + "x", "", "values.", "scales.", "values.steps"))] = header.pop(name)
    text = as_json(header)
    return draw.damaged(len(text).to_bytes(8, "little") + text + stored[8 + length :])
