"""Place of a tensor in a model, read off its name: the layer, and what the tensor does there.

The names are those of transformers' families. A name that says nothing known is of the kind `other`; nothing is
refused, since a kind only groups rows of a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from aftermix.checkpoints import names

ATTENTION = r"(attn|attention|SelfAttention|EncDecAttention)"
# Tried in order, after norms and the kinds that exclusions know, on the name without its layers' prefix.
_RULES = (
    ("router", r"router|(^|\.)gate\.(weight|wg)|shared_expert_gate|e_score_correction"),
    ("mixer", r"(^|\.)(mixer|mamba|ssm|time_mix|linear_attn|rwkv|conv1d)\b|A_log|dt_(bias|proj)|time_\w|receptance"),
    ("attention qkv", r"c_attn|qkv|query_key_value|Wqkv|W_pack"),
    ("attention o", rf"(^|\.)(o|out)_proj|{ATTENTION}\w*\.(dense|c_proj|output|wo|o|proj|out_lin|to_out)\b"),
    ("attention q", rf"(^|\.)(q|q_[ab])_proj|{ATTENTION}[\w.]*\.(q|query|q_lin|wq|to_q)\b"),
    ("attention k", rf"(^|\.)k_proj|{ATTENTION}[\w.]*\.(k|key|k_lin|wk|to_k)\b"),
    ("attention v", rf"(^|\.)v_proj|{ATTENTION}[\w.]*\.(v|value|v_lin|wv|to_v)\b"),
    ("attention kv", r"kv_[ab]_proj|kv_proj"),
    ("mlp gate up", r"gate_up_proj|gate_and_up|(^|\.)gate_up\b|input_linear"),
    ("mlp gate", r"gate_proj|(^|\.)(wi_0|w1|linear_1)\b"),
    ("mlp up", r"up_proj|(^|\.)(wi|wi_1|w3|fc1|fc_in|c_fc|lin1|linear_v|dense_h_to_4h)\b|intermediate\.dense"),
    ("mlp down", r"down_proj|(^|\.)(wo|w2|fc2|fc_out|lin2|dense_4h_to_h|output_linear)\b|mlp\.c_proj|output\.dense"),
)
NORM = r"(?i)norm|(^|\.)ln(_?\w*)?\.|_ln\."
RULES = tuple(
    (kind, re.compile(expression))
    for kind, expression in (("norm", NORM), *names.KINDS.items(), *_RULES, ("embeddings", "embed"))
)
KINDS = (
    *(
        "embeddings",
        "positions",
        "attention q",
        "attention k",
        "attention v",
        "attention qkv",
        "attention kv",
        "attention o",
    ),
    *("mlp gate", "mlp up", "mlp gate up", "mlp down", "router", "mixer", "norm", "head", "other"),
)
"""Every kind, in the order in which tables and pictures show them."""
LAYER = re.compile(r"^(.*?)\.(\d+)\.(.*)$")
OUTSIDE = "outside layers"


@dataclass(frozen=True)
class TensorKind:
    """Stack of layers (`model.layers`; empty outside of any), number in it, and kind."""

    stack: str
    number: int
    kind: str


def read_tensor_kind(name: str) -> TensorKind:
    """Place of the tensor `name`.

    >>> read_tensor_kind("model.layers.3.self_attn.q_proj.weight")
    TensorKind(stack='model.layers', number=3, kind='attention q')
    >>> read_tensor_kind("transformer.h.0.mlp.c_proj.bias").kind, read_tensor_kind("lm_head.weight")
    ('mlp down', TensorKind(stack='', number=-1, kind='head'))
    """
    match = LAYER.match(name)
    stack, number, rest = (match[1], int(match[2]), match[3]) if match else ("", -1, name)
    kind = next((kind for kind, expression in RULES if expression.search(rest)), "other")
    return TensorKind(stack, number, kind)


def label_layers(places: Iterable[TensorKind]) -> dict[tuple[str, int], str]:
    """Label of each layer by stack and number, in order; stacks are named only where there are several.

    >>> label_layers([TensorKind("model.layers", 10, "norm"), TensorKind("", -1, "head"), TensorKind("model.layers", 2, "norm")])
    {('', -1): 'outside layers', ('model.layers', 2): '2', ('model.layers', 10): '10'}
    >>> list(label_layers([TensorKind("encoder.block", 0, "norm"), TensorKind("decoder.block", 0, "norm")]).values())
    ['decoder 0', 'encoder 0']
    """
    keys = sorted({(place.stack, place.number) for place in places})
    stacks = sorted({stack for stack, _ in keys if stack})
    names = _shorten_stacks(stacks)
    return {
        (stack, number): OUTSIDE if not stack else f"{names[stack]} {number}" if len(stacks) > 1 else str(number)
        for stack, number in keys
    }


def _shorten_stacks(stacks: list[str]) -> dict[str, str]:
    """The first part of each stack's name in which it differs from the others; else the whole name."""
    parts = {stack: stack.split(".") for stack in stacks}
    for place in range(min((len(path) for path in parts.values()), default=0)):
        named = {stack: path[place] for stack, path in parts.items()}
        if len(set(named.values())) == len(stacks):
            return named
    return {stack: stack for stack in stacks}
