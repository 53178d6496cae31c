"""Mixture-of-experts weights stored one by one, fused, or fused and transposed: an expert in the base's layout.

    # E experts, I inner width, H hidden width
    single      experts.{e}.gate_proj (I, H), up_proj (I, H), down_proj (H, I); Mixtral calls them w1, w3, w2
    fused       experts.gate_up_proj (E, 2I, H), gate rows first; experts.down_proj (E, H, I)
    transposed  experts.gate_up_proj (E, H, 2I), gate columns first; experts.down_proj (E, I, H)

Source: the layouts of transformers 5 (Mixtral and Qwen MoE as saved, as held in memory, and Llama 4).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from aftermix.checkpoints.alignment.view import BlockReader, ModelView
from aftermix.checkpoints.model import Model, Span, TensorInfo
from aftermix.errors import Problem, refuse_if_any

SINGLE = re.compile(r"^(?P<root>.+\.experts)\.(?P<expert>\d+)\.(?P<part>gate_proj|up_proj|down_proj|w1|w2|w3)\.weight$")
FUSED = re.compile(r"^(?P<root>.+\.experts)\.(?P<part>gate_up_proj|down_proj)$")
PART = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down"}
BLOCK_NAMES = (".block_sparse_moe.", ".mlp.")
"""The same block of a layer, as Mixtral stores it and as transformers 5 holds it."""

Storage = Literal["single", "fused", "transposed"]


@dataclass(frozen=True)
class ExpertBank:
    """The experts of one layer as one model stores them."""

    storage: Storage
    experts: int
    inner: int
    hidden: int
    names: Mapping[tuple[int, str], str]
    """Tensor by expert and part; every expert has the same tensors where they are fused."""

    @property
    def size(self) -> tuple[int, int, int]:
        """Experts, inner width, hidden width."""
        return self.experts, self.inner, self.hidden

    def shape(self, part: str) -> tuple[int, int]:
        """Rows and columns of one expert's matrix, as a linear layer holds it."""
        return (self.hidden, self.inner) if part == "down" else (self.inner, self.hidden)

    def read_rows(self, read: BlockReader, expert: int, part: str, first: int, last: int) -> torch.Tensor:
        """Rows `first` to `last` of one expert's matrix, (last - first, columns)."""
        rows, columns = self.shape(part)
        name = self.names[expert, part]
        stacked = 1 if part == "down" else 2
        start = rows if part == "up" else 0
        if self.storage == "single":
            return read(name, (first * columns, last * columns)).reshape(-1, columns)

        offset = expert * stacked * rows * columns
        if self.storage == "fused":
            begin = offset + start * columns
            return read(name, (begin + first * columns, begin + last * columns)).reshape(-1, columns)

        # Transposed, the rows of one expert are columns of its matrix: all of it has to be read.
        whole = read(name, (offset, offset + stacked * rows * columns)).reshape(columns, stacked * rows)
        return whole[:, start + first : start + last].T


@dataclass(frozen=True)
class TensorDestination:
    """A tensor in the base's layout and the bank of the model that fills it."""

    layout: ExpertBank
    stored: ExpertBank
    expert: int
    part: str
    """`gate`, `up`, `down`, or `gate_up` for both stacked."""

    def gather(self, span: Span, read: BlockReader) -> torch.Tensor:
        """Elements `span` of the flattened tensor."""
        columns = self._columns
        first, last = span[0] // columns, -(-span[1] // columns)
        pieces = list(self._yield_rows(first, last, read))
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return whole.reshape(-1)[span[0] - first * columns : span[1] - first * columns]

    @property
    def _columns(self) -> int:
        rows, columns = self.layout.shape("down" if self.part == "down" else "gate")
        if self.layout.storage != "transposed":
            return columns
        return rows if self.part == "down" else 2 * rows

    def _yield_rows(self, first: int, last: int, read: BlockReader) -> Iterator[torch.Tensor]:
        """Rows `first` to `last` of the tensor as a matrix of `_columns` columns, expert by expert."""
        if self.layout.storage == "single":
            yield self.stored.read_rows(read, self.expert, self.part, first, last)
            return

        transposed = self.layout.storage == "transposed"
        parts = ("gate", "up") if self.part == "gate_up" else ("down",)
        rows, columns = self.layout.shape(parts[0])
        height = columns if transposed else rows * len(parts)

        for expert in range(first // height, -(-last // height)):
            low, high = max(first - expert * height, 0), min(last - expert * height, height)
            if transposed:
                whole = [self.stored.read_rows(read, expert, part, 0, rows)[:, low:high].T for part in parts]
                yield torch.cat(whole, dim=1)
                continue

            for number, part in enumerate(parts):
                begin, end = max(low - number * rows, 0), min(high - number * rows, rows)
                if begin < end:
                    yield self.stored.read_rows(read, expert, part, begin, end)


@dataclass(frozen=True)
class FusedView(ModelView):
    """A model whose experts are presented in the layout of the base."""

    destinations: Mapping[str, TensorDestination]
    renamed: Mapping[str, str]
    """Own name by the base's, for what stands beside the experts (the router)."""

    def gather(self, name: str, span: Span, *, read: BlockReader, absent: BlockReader) -> torch.Tensor:  # noqa: ARG002
        """Elements `span` of a tensor of the base's layout."""
        if name not in self.destinations:
            return read(self.renamed.get(name, name), span)
        return self.destinations[name].gather(span, read)


def is_expert_part(name: str) -> bool:
    """Tell whether `name` is a weight of the experts of a mixture-of-experts layer.

    >>> is_expert_part("model.layers.0.mlp.experts.3.up_proj.weight"), is_expert_part("model.layers.0.mlp.gate.weight")
    (True, False)
    """
    return bool(SINGLE.match(name) or FUSED.match(name))


def build_fused_view(base: Model, expert: Model, *, vector: str) -> Model:
    """`expert` itself when its experts are stored as the base's, else a view of it in the base's layout.

    Raises :class:`ManyProblemsError` where the layouts differ and one of them is not understood, or the sizes differ.
    """
    ours, theirs = _group_experts(base), _group_experts(expert)
    different = [root for root in ours if root in theirs and ours[root].keys() != theirs[root].keys()]
    different += [
        root
        for root in ours
        if root in theirs
        and root not in different
        and _is_fused(ours[root])
        and any(base.info(name).shape != expert.info(name).shape for name in ours[root])
    ]
    if not different:
        return expert

    problems: list[Problem] = []
    destinations: dict[str, TensorDestination] = {}
    dropped: set[str] = set()
    pairs: set[tuple[str, str]] = set()
    for root in sorted(different):
        layout = _build_bank(base, root, ours[root], "the base", problems)
        stored = _build_bank(expert, root, theirs[root], f"vector '{vector}'", problems)
        if layout is None or stored is None:
            continue
        if layout.size != stored.size:
            problems.append(_describe_size_problem(root, layout, stored, vector))
            continue

        pairs.add((stored.storage, layout.storage))
        dropped.update(theirs[root])
        destinations |= {name: _build_destination(name, layout, stored) for name in ours[root]}
    refuse_if_any(problems)

    # The router and the rest of the block go by the base's names too, where the block is called otherwise.
    renamed = _find_renamed(base, expert, different)
    tensors = {name: info for name, info in expert.tensors.items() if name not in dropped | set(renamed.values())}
    tensors |= {name: replace(expert.info(own), name=name) for name, own in renamed.items()}
    for name, to in destinations.items():
        source = expert.info(next(iter(to.stored.names.values())))
        tensors[name] = TensorInfo(name, base.info(name).shape, source.dtype, source.file)

    shown = ", ".join(f"{stored} -> {layout}" for stored, layout in sorted(pairs))
    note = f"stores the experts of {len(different)} layers otherwise, read in the base's layout ({shown})"
    return FusedView(expert, base, dict(sorted(tensors.items())), dict(expert.alias), (note,), destinations, renamed)


Group = dict[str, re.Match[str]]


def _group_experts(model: Model) -> dict[str, Group]:
    """Names of expert tensors by layer, under one name for the block."""
    groups: dict[str, Group] = {}
    for name in model.tensors:
        match = SINGLE.match(name) or FUSED.match(name)
        if match:
            groups.setdefault(match["root"].replace(*BLOCK_NAMES), {})[name] = match
    return groups


def _is_fused(group: Group) -> bool:
    return all("expert" not in match.re.groupindex for match in group.values())


def _build_bank(model: Model, root: str, group: Group, owner: str, problems: list[Problem]) -> ExpertBank | None:
    """The experts of one layer as `model` stores them; None, with a problem, when that is not clear."""
    begin = next(iter(group.values()))["root"] + "."
    others = [name for name in model.tensors if name.startswith(begin) and name not in group]
    remedy = "Save both models in one layout (transformers' `save_pretrained`)."
    if others:
        found = f"{owner} stores '{others[0]}' beside its experts, so that the order of their rows is not known"
        problems.append(Problem(root, found, remedy))
        return None

    bank = _build_fused_bank(model, group) if _is_fused(group) else _build_single_bank(model, group)
    if bank is None:
        shapes = sorted({f"{match['part']} {model.info(name).shape}" for name, match in group.items()})
        found = f"experts of {owner} are stored in no known layout ({'; '.join(shapes[:6])}; {len(group)} tensors)"
        problems.append(Problem(root, found, remedy))
    return bank


def _build_fused_bank(model: Model, group: Group) -> ExpertBank | None:
    names = {match["part"]: name for name, match in group.items()}
    if set(names) != {"gate_up_proj", "down_proj"}:
        return None
    up, down = model.info(names["gate_up_proj"]).shape, model.info(names["down_proj"]).shape
    if len(up) != 3 or len(down) != 3 or up[0] != down[0]:
        return None

    by_part = {"gate": names["gate_up_proj"], "up": names["gate_up_proj"], "down": names["down_proj"]}
    tensors = {(expert, part): name for expert in range(up[0]) for part, name in by_part.items()}

    # Both at once would need a width of 0, so two shapes always tell the layouts apart.
    if up[1] == 2 * down[2] and up[2] == down[1]:
        return ExpertBank("fused", up[0], down[2], up[2], tensors)
    if up[2] == 2 * down[1] and up[1] == down[2]:
        return ExpertBank("transposed", up[0], down[1], up[1], tensors)
    return None


def _build_single_bank(model: Model, group: Group) -> ExpertBank | None:
    if any("expert" not in match.re.groupindex for match in group.values()):
        return None
    tensors = {(int(match["expert"]), PART[match["part"]]): name for name, match in group.items()}
    experts = 1 + max(expert for expert, _ in tensors)
    if len(tensors) != len(group) or len(tensors) != 3 * experts:
        return None

    shape = model.info(tensors[0, "gate"]).shape
    if len(shape) != 2:
        return None
    bank = ExpertBank("single", experts, shape[0], shape[1], tensors)
    fits = all(model.info(name).shape == bank.shape(part) for (_, part), name in tensors.items())
    return bank if fits else None


def _build_destination(name: str, layout: ExpertBank, stored: ExpertBank) -> TensorDestination:
    match = SINGLE.match(name)
    if match:
        return TensorDestination(layout, stored, int(match["expert"]), PART[match["part"]])
    return TensorDestination(layout, stored, 0, "down" if name.endswith("down_proj") else "gate_up")


def _find_renamed(base: Model, expert: Model, roots: list[str]) -> dict[str, str]:
    """Own name by the base's of tensors beside the experts, where the block itself has another name."""
    old, new = BLOCK_NAMES
    own_names = {}
    for name in base.tensors:
        own = name.replace(old, new) if old in name else name.replace(new, old)
        block = name.replace(old, new)
        is_beside = any(block.startswith(root.removesuffix("experts")) for root in roots)
        if is_beside and not expert.has(name) and own in expert.tensors and not is_expert_part(own):
            own_names[name] = own
    return own_names


def _describe_size_problem(root: str, ours: ExpertBank, theirs: ExpertBank, vector: str) -> Problem:
    def describe_bank(bank: ExpertBank) -> str:
        return f"{bank.experts} experts of {bank.inner} x {bank.hidden}"

    found = f"vector '{vector}' has {describe_bank(theirs)}, base has {describe_bank(ours)}"
    return Problem(root, found, "Was it trained from this base?")
