"""Tensors that are called otherwise in a file of an earlier version, or within what a trainer wrapped a model in.

| in the one file | in the other |
|---|---|
| `LayerNorm.gamma`, `LayerNorm.beta` | `LayerNorm.weight`, `LayerNorm.bias` |
| `weight_g`, `weight_v` (weight norm) | `parametrizations.weight.original0`, `original1` |
| `embed_out` (GPT-NeoX) | `lm_head` |
| `X` (of a base) | `module.X`, `_orig_mod.X`, `_fsdp_wrapped_module.X` (of a wrapped expert that was saved so) |
| `encoder.layer.N.attention.attention.query` and the like (vision transformers) | `layers.N.attention.q_proj` ... |

Whichever of the two writes which, the result has the base's names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from aftermix.checkpoints.alignment.view import BlockReader, ModelView
from aftermix.checkpoints.model import Model, Span

WRAPPERS = re.compile(r"^module\.|(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of a name that DDP, `torch.compile`, FSDP and checkpointing add. A base keeps them: its result would, too."""
RENAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(old), new)
    for old, new in (
        (r"([Ll]ayer_?[Nn]orm\w*)\.gamma$", r"\1.weight"),
        (r"([Ll]ayer_?[Nn]orm\w*)\.beta$", r"\1.bias"),
        (r"\.weight_g$", r".parametrizations.weight.original0"),
        (r"\.weight_v$", r".parametrizations.weight.original1"),
        (r"(^|\.)embed_out\.", r"\1lm_head."),
        (r"(^|\.)encoder\.layer\.(\d+)\.", r"\1layers.\2."),
        (r"\.attention\.(?:attention|self)\.query\.", r".attention.q_proj."),
        (r"\.attention\.(?:attention|self)\.key\.", r".attention.k_proj."),
        (r"\.attention\.(?:attention|self)\.value\.", r".attention.v_proj."),
        (r"\.attention\.output\.dense\.", r".attention.o_proj."),
        (r"\.intermediate\.dense\.", r".mlp.fc1."),
        (r"(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    )
)
"""Expression and what it becomes, in the order in which they are applied; both models are brought to the later form."""


@dataclass(frozen=True)
class RenamedView(ModelView):
    """An expert whose tensors have the names that the base's file has for them."""

    source: Mapping[str, str]
    """The expert's own name by the base's, of the tensors that are called otherwise."""

    def gather(self, name: str, span: Span, *, read: BlockReader, absent: BlockReader) -> torch.Tensor:  # noqa: ARG002
        """Elements `span` under the expert's own name."""
        return read(self.source.get(name, name), span)


def modernise_name(name: str) -> str:
    """`name` as the latest version of transformers has it, as far as :data:`RENAMES` goes.

    >>> modernise_name("bert.embeddings.LayerNorm.gamma"), modernise_name("conv.weight_g")
    ('bert.embeddings.LayerNorm.weight', 'conv.parametrizations.weight.original0')
    """
    for pattern, new in RENAMES:
        name = pattern.sub(new, name)
    return name


def build_renamed_view(base: Model, expert: Model) -> Model:
    """`expert` under the base's spelling of what loaders rename; itself where nothing is called otherwise."""
    lacking = _index_names({name: name for name in base.tensors if not expert.has(name)})
    surplus = _index_names({name: WRAPPERS.sub("", name) for name in expert.tensors if not base.has(name)})
    source = {lacking[modern]: surplus[modern] for modern in lacking.keys() & surplus.keys()}
    if not source:
        return expert

    target = {own: name for name, own in source.items()}
    tensors = {target.get(own, own): replace(info, name=target.get(own, own)) for own, info in expert.tensors.items()}
    alias = {target.get(own, own): target.get(stored, stored) for own, stored in expert.alias.items()}
    first = min(source)
    who = "a trainer's wrapper gives them" if WRAPPERS.search(source[first]) else "transformers renames"
    note = f"has {len(source)} tensors under names that {who}, first {source[first]} for {first}"
    return RenamedView(expert, base, dict(sorted(tensors.items())), alias, (note,), dict(sorted(source.items())))


def _index_names(names: Mapping[str, str]) -> dict[str, str]:
    """Name by its modern form, of the names (and what each is taken for) that alone have it."""
    found: dict[str, list[str]] = {}
    for name, plain in names.items():
        found.setdefault(modernise_name(plain), []).append(name)
    return {modern: several[0] for modern, several in found.items() if len(several) == 1}
