"""Settings of `config.json` that decide a model's function, in one spelling and with the family's defaults.

A key that a file leaves out has the default of its family; `family_defaults.json` keeps those of transformers, whose
classes a merge does without. Rotary positions have two spellings (`rope_theta` and `rope_scaling`; `rope_parameters`,
for each kind of layer where these differ) and are compared key by key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from aftermix.checkpoints.names import select_text_config

Settings = dict[str, Any]
TABLE = "family_defaults.json"
FUNCTION = re.compile(
    r"(^|_)(act|act_fn|activation|activation_function|hidden_act)$|eps(ilon)?$|softcap|scal(ar|e|es|ing)(_|$)"
    r"|scaling_factor$|multiplier$|window|bias$|(^|_)n?_?heads?$|num_experts_per_tok$|top_?k|n_group$|scoring_func"
    r"|rope|rotary|interleave|qk_(layer)?norm|parallel_residual|position_embedding|max_position_embeddings$"
    r"|n_positions$|relative_attention|pooling|bidirectional|alibi|clip_qkv|swiglu|norm_(type|topk_prob)"
    r"|first_k_dense|layer_types|feed_forward_proj|is_gated|attention_type|pre_norm|normalize_before|no_rope|causal$"
)
"""Keys that change what the same tensors compute."""
NO_FUNCTION = re.compile(
    r"^_|dropout|pdrop|initializer|layer_scale_init|scale_factor|downscale|upscale|image|loss|vision_feature"
)
STRONG = re.compile(r"softcap|multiplier$|logits?_scal(e|ing)$|rope|rotary")
"""Keys that are compared although the family is known and its class has no such key."""
ROPE_KEYS = ("rope_parameters", "rope_scaling", "rope_theta")
THETA_NAMES = ("rope_theta", "rotary_emb_base", "rotary_embedding_base", "rope_base", "global_rope_theta")
"""Spellings of the base of rotary frequencies."""
LOCAL_THETA_NAMES = ("rope_local_base_freq", "local_rope_theta")
"""The same for layers with a sliding window."""
PARTIAL_NAMES = ("partial_rotary_factor", "rotary_pct", "rope_pct")
"""Spellings of the share of a head that is turned."""
TYPE_NAMES = {"su": "longrope", "mrope": "default"}
"""Earlier names of ways to stretch rotary positions."""
FULL, SLIDING = "full_attention", "sliding_attention"
DERIVED = ("head_dim", "num_key_value_heads")
"""Keys that are computed from others where nothing gives them."""


@dataclass(frozen=True)
class SettingDifference:
    """A key that the two configurations settle otherwise."""

    key: str
    ours: Any
    theirs: Any


def is_function(key: str) -> bool:
    """Tell whether `key` of a configuration decides what the same tensors compute.

    >>> [is_function(key) for key in ("rms_norm_eps", "num_attention_heads", "attention_dropout", "torch_dtype")]
    [True, True, False, False]
    """
    return FUNCTION.search(key) is not None and NO_FUNCTION.search(key) is None


def compare_settings(base: Mapping[str, Any], expert: Mapping[str, Any]) -> list[SettingDifference]:
    """Differences between the configurations of two models of the same tensors, part by part, in order of key.

    None, False and a key that is left out are one value: off. So what one of the two leaves out, and its family has no
    default for, differs from any other value; but of a family that is known, keys that its class does not have are
    compared where both files give them, or where they scale what the model computes.
    """
    found = []
    for part, ours, theirs in pair_parts(base, expert):
        mine, other = settle_settings(ours), settle_settings(theirs)
        known = all(str(each.get("model_type")) in read_defaults() for each in (ours, theirs))
        for key in sorted(mine.keys() | other.keys()):
            values = mine.get(key), other.get(key)
            is_open = key in DERIVED and None in values
            is_foreign = known and not (key in mine and key in other) and not STRONG.search(key)
            if not (is_open or is_foreign or _are_equal(*values) or _is_computed_list(values)):
                found.append(SettingDifference(f"{part}.{key}" if part else key, *values))
    return found


def pair_parts(base: Mapping[str, Any], expert: Mapping[str, Any]) -> Iterator[tuple[str, Settings, Settings]]:
    """Name and the two configurations of each part that both models have.

    The name of the text part is empty. A vector of one part alone (the vision tower of a CLIP model) is held against
    that part of the base, and the other way round.
    """
    for one, other, swapped in ((base, expert, False), (expert, base, True)):
        if (part := find_part(one, other)) is not None:
            pair = (dict(one[part]), dict(other))
            yield (part if part != "text_config" else "", *(reversed(pair) if swapped else pair))
            return

    yield "", _select_text(base), _select_text(expert)
    for part in sorted(base.keys() & expert.keys()):
        if part.endswith("_config") and part != "text_config" and {type(base[part]), type(expert[part])} == {dict}:
            yield part, dict(base[part]), dict(expert[part])


def _select_text(config: Mapping[str, Any]) -> Settings:
    """The configuration of the language model; of a flat one with a part beside it, both."""
    text = select_text_config(dict(config))
    return {**config, **text} if config.get("hidden_size") is not None else text


def find_part(whole: Mapping[str, Any], part: Mapping[str, Any]) -> str | None:
    """Key of the part of the configuration `whole` that is of the type of `part`; None where the whole is."""
    kind = part.get("model_type")
    parts = [key for key, value in whole.items() if key.endswith("_config") and isinstance(value, dict)]
    if not isinstance(kind, str) or kind == whole.get("model_type") or any(key in part for key in parts):
        return None
    named = [key for key in parts if whole[key].get("model_type") == kind]
    guessed = [key for key in parts if f"_{key.removesuffix('_config')}" in kind and "model_type" not in whole[key]]
    return next(iter([*named, *guessed]), None)


def settle_settings(config: Mapping[str, Any]) -> Settings:
    """The settings of one part that decide its function, in one spelling, with the family's defaults."""
    defaults = read_defaults().get(str(config.get("model_type")), {})
    rope = _settle_rope(config, defaults)
    given = {key: value for key, value in config.items() if is_function(key) and not isinstance(value, dict)}
    settled = {key: value for key, value in (defaults | given).items() if not isinstance(value, dict)}
    apart = {*ROPE_KEYS, *THETA_NAMES, *LOCAL_THETA_NAMES, *PARTIAL_NAMES}
    settled = {key: value for key, value in settled.items() if key not in apart}
    if "hidden_activation" in defaults:  # which the class reads in place of the older key
        settled.pop("hidden_act", None)
        settled["hidden_activation"] = config.get("hidden_activation") or defaults["hidden_activation"]

    heads, size = settled.get("num_attention_heads"), config.get("hidden_size")
    if settled.get("num_key_value_heads") is None and heads is not None:
        settled["num_key_value_heads"] = heads
    if config.get("head_dim") is None and type(heads) is int and type(size) is int and heads > 0:
        settled.setdefault("head_dim", defaults.get("head_dim", size // heads))
    elif type(config.get("head_dim")) is int:
        settled["head_dim"] = config["head_dim"]

    # A window that is not used is none, however it is written.
    if settled.get("use_sliding_window") is False:
        settled = {key: value for key, value in settled.items() if key not in ("sliding_window", "max_window_layers")}
    return settled | rope


def _settle_rope(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Settings:
    """Rotary positions under the names `rope_theta`, `rope_scaling` and `partial_rotary_factor`.

    Where kinds of layers differ, the name of the kind stands behind: `rope_theta of sliding_attention`.
    """
    usual = _split_layers(defaults.get("rope_parameters"))
    stated = _split_layers(config.get("rope_parameters"))
    scaling = _split_layers(config.get("rope_scaling"))
    kinds = [kind for kind in (FULL, SLIDING, "") if kind in usual or kind in stated] or [""]
    if len(kinds) > 1:
        kinds = [kind for kind in kinds if kind]

    settled: Settings = {}
    for kind in kinds:
        own = {**scaling.get(kind if kind in scaling else "", {})} if kind != SLIDING or kind in scaling else {}
        own |= stated.get(kind, stated.get("", {}))
        theta = _find_first(config, LOCAL_THETA_NAMES if kind == SLIDING else THETA_NAMES)
        default = usual.get(kind, usual.get("", {}))
        theta = own.pop("rope_theta", None) or theta or default.get("rope_theta") or defaults.get("rope_theta")
        part = own.pop("partial_rotary_factor", None) or _find_first(config, PARTIAL_NAMES)
        part = part or default.get("partial_rotary_factor") or _find_first(defaults, PARTIAL_NAMES)

        behind = f" of {kind}" if kind not in ("", FULL) else ""
        settled[f"rope_theta{behind}"] = theta
        settled[f"partial_rotary_factor{behind}"] = None if part == 1 else part
        settled[f"rope_scaling{behind}"] = _settle_scaling(own)
    return settled


def _split_layers(entry: Any) -> dict[str, Settings]:
    """Rotary settings by kind of layer, under the empty name where all have the same."""
    if not isinstance(entry, dict) or not entry:
        return {}
    if all(isinstance(value, dict | None) for value in entry.values()):
        return {kind: dict(value or {}) for kind, value in entry.items()}
    return {"": dict(entry)}


def _settle_scaling(entry: Settings) -> Settings | None:
    """The way in which positions are stretched; None for none."""
    kind = entry.pop("rope_type", None) or entry.pop("type", None)
    entry.pop("type", None)
    kept = {key: value for key, value in sorted(entry.items()) if value is not None}
    kind = TYPE_NAMES.get(str(kind), kind)
    if kind not in (None, "default"):
        kept = {"rope_type": kind} | kept
    return kept or None


def _find_first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _are_equal(ours: Any, theirs: Any) -> bool:
    """Tell whether two values mean the same: 10000 is 10000.0, and what is left out is off."""
    off = (None, False)
    if any(ours is value for value in off) and any(theirs is value for value in off):
        return True
    return bool(ours == theirs)


def _is_computed_list(values: tuple[Any, Any]) -> bool:
    """Tell whether one of two values is a list that the other leaves to be computed (a kind for each layer)."""
    return sum(isinstance(value, list) for value in values) == 1


@cache
def read_defaults() -> dict[str, Settings]:
    """Defaults by family, of the keys that decide a function."""
    table: dict[str, Settings] = json.loads((Path(__file__).parent / TABLE).read_text(encoding="utf-8"))
    return table
