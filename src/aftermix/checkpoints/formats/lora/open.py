"""Opening a LoRA adapter: its tensors are brought to the base's, and whatever does not fit is refused at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open

from aftermix.checkpoints.formats.lora.adapter import (
    WEIGHTS,
    LoraAdapter,
    LowRank,
    TensorChange,
    compute_matrix_shape,
    compute_width,
    split_rows,
)
from aftermix.checkpoints.formats.lora.config import CONFIG, FOLD, AdapterConfig, read_adapter_config
from aftermix.checkpoints.formats.lora.names import (
    BIAS,
    EMBEDDING_A,
    EMBEDDING_B,
    LISTED,
    MAGNITUDE,
    TOKENS,
    A,
    AdapterContents,
    B,
    PrefixSwap,
    find_swap,
)
from aftermix.checkpoints.formats.lora.resized import RESIZE, FoldedAdapter, ResizedBase, resize_base
from aftermix.checkpoints.formats.ungathered import describe_ungathered
from aftermix.checkpoints.formats.weight_files import INDEX, SINGLE
from aftermix.checkpoints.model import Model, TensorInfo
from aftermix.checkpoints.reader import read_headers
from aftermix.checkpoints.safe_files import holds_file
from aftermix.errors import CheckpointError, Problem, refuse_if_any

PICKLED = "adapter_model.bin"
NEW_ROWS = "new_embeddings.safetensors"
TRAINED_WHOLE = ("non_lora_trainables.bin", "mm_projector.bin")
CONV1D_MODELS = ("gpt2", "openai-gpt", "decision_transformer", "imagegpt")
CONV1D_LAYERS = ("c_attn", "q_attn", "c_proj", "c_fc")
PARTNERS = ((A, B), (B, A), (EMBEDDING_A, EMBEDDING_B), (EMBEDDING_B, EMBEDDING_A), (BIAS, B))
OTHER_BASE = "Name the base that the adapter was trained on."
UNTIE = "Untie the base: save it with a copy of the embedding as its head and `tie_word_embeddings: false`."


def is_adapter(folder: Path) -> bool:
    """Tell whether `folder` holds an adapter and no full model."""
    return holds_file(folder / CONFIG) and not any(holds_file(folder / name) for name in (SINGLE, INDEX))


def open_adapter(
    folder: Path, *, label: str, base: Model | None, excluded: Callable[[str], bool] = lambda _: False
) -> LoraAdapter | FoldedAdapter:
    """Open the adapter in `folder` against `base`; no weights are read but those of a tied embedding.

    What is `excluded` and has no place in the base (the head of a classifier) is left out, and said. An adapter that
    stores its embedding with other rows than the base stands as a full model.

    Raises :class:`CheckpointError` or :class:`ManyProblemsError` for an adapter without a base, of another kind than
    LoRA or stored by pickle, and for every tensor that has no place in the base, another shape or no partner.
    """
    settings = read_adapter_config(folder, label=label)
    if base is None:
        remedy = "Name its base as `base:` and the adapter under `vectors:`."
        raise CheckpointError(label, "is a LoRA adapter, which is nothing without its base", remedy)

    refuse_if_any([*_find_unused_rows(folder, label), *_find_pickled_parts(folder, label)])
    stored = _read_stored(folder, label)
    empty = [name for name, tensor in stored.items() if tensor.numel() == 0]
    refuse_if_any(describe_ungathered(empty, where=label, owner="the adapter"))
    contents = AdapterContents.from_names(stored)
    swap, _ = find_swap(contents.list_targets(stored), base)
    homeless = [name for name in contents.list_targets(stored) if not (base.has(name) or base.has(swap(name)))]
    left_out = [name for name in homeless if excluded(name)]
    contents = contents.leave_out(left_out)

    problems = [Problem(name, "is no tensor that PEFT writes for a LoRA adapter", FOLD) for name in contents.unknown]
    problems += list(_find_without_partner(contents, settings))

    swap, misplaced = find_swap(contents.list_targets(stored), base)
    refuse_if_any(_shorten_problems(problems) + misplaced)

    named = {target if base.has(target) else swap(target): name for target, name in contents.saved.items()}
    rows = {name: len(stored[own]) for name, own in named.items() if stored[own].dim() > 0}
    base = resize_base(base, rows, home=folder, label=label)
    builder = _AdapterBuilder(stored, settings, base, swap)
    for module, parts in contents.modules.items():
        builder.take_module(module, parts)
    for target, name in contents.saved.items():
        builder.take_saved(target, name)
    refuse_if_any(_shorten_problems(builder.problems))
    adapter = replace(builder.build(folder, label), left_out=tuple(left_out))
    return FoldedAdapter(adapter) if isinstance(base, ResizedBase) else adapter


def find_adapter_subfolder(folder: Path, *, label: str) -> Path | None:
    """The one adapter in a subfolder of `folder`, where that itself holds no model; None where there is none.

    PEFT saves an adapter with a name of its own so. Raises :class:`CheckpointError` for several.
    """
    held = (CONFIG, "config.json", SINGLE, INDEX)
    if not folder.is_dir() or any(holds_file(folder / name) for name in held):
        return None
    found = sorted(path.parent for path in folder.glob(f"*/{CONFIG}") if is_adapter(path.parent))
    if len(found) > 1:
        names = ", ".join(each.name for each in found[:LISTED]) + (" ..." if len(found) > LISTED else "")
        raise CheckpointError(
            label, f"holds {len(found)} adapters: {names}", f"Name one: {Path(label) / found[0].name}."
        )
    return found[0] if found else None


def _find_unused_rows(folder: Path, label: str) -> list[Problem]:
    """A file of rows for added tokens, as vLLM reads it beside an adapter, whose tokens nothing here names."""
    if not holds_file(folder / NEW_ROWS):
        return []
    found = f"has {NEW_ROWS} beside its weights, rows of added tokens that PEFT does not read and no base has"
    remedy = f"{RESIZE} Where the added tokens are not wanted, remove that file."
    return [Problem(label, found, remedy)]


def _find_pickled_parts(folder: Path, label: str) -> list[Problem]:
    """Weights that were trained whole beside the adapter, as LLaVA's scripts save a projector."""
    names = [name for name in TRAINED_WHOLE if holds_file(folder / name)]
    if not names:
        return []
    found = f"has {names[0]} beside its weights, pickled, with parts that were trained whole"
    remedy = "Fold both by the script that belongs to them, save that, and name the result."
    return [Problem(label, found, f"{remedy} Where these parts are not wanted, remove that file.")]


def _read_stored(folder: Path, label: str) -> dict[str, torch.Tensor]:
    """Every tensor of the file, memory-mapped."""
    file = folder / WEIGHTS
    if not holds_file(file):
        held = f"{PICKLED}, which can run code when it is opened" if holds_file(folder / PICKLED) else "none"
        raise CheckpointError(
            label,
            f"expected {WEIGHTS}, found {held}",
            "Save the adapter again with a recent PEFT, which writes safetensors.",
        )

    names = [info.name for info in read_headers(file)]
    if not names:
        raise CheckpointError(str(file), "holds no tensors", "Copy the adapter again.")

    with safe_open(str(file), framework="pt") as handle:
        return {name: handle.get_tensor(name) for name in names}


def _find_without_partner(contents: AdapterContents, settings: AdapterConfig) -> Iterator[Problem]:
    remedy = "Copy the adapter again; it is incomplete."
    for module, parts in contents.modules.items():
        for part, partner in PARTNERS:
            if part in parts and partner not in parts:
                yield Problem(module, f"the adapter has {part} without {partner}", remedy)

        factors = A in parts or EMBEDDING_A in parts
        if factors and settings.use_dora != (MAGNITUDE in parts):
            held = "a" if MAGNITUDE in parts else "no"
            yield Problem(module, f"`use_dora` is {settings.use_dora}, the adapter has {held} {MAGNITUDE}", remedy)
        elif MAGNITUDE in parts and not factors:
            yield Problem(module, f"the adapter has {MAGNITUDE} without {A}", remedy)


def _shorten_problems(problems: Sequence[Problem]) -> list[Problem]:
    """The first few, and how many there are."""
    if len(problems) <= LISTED:
        return list(problems)
    rest, last = len(problems) - LISTED, problems[-1]
    return [*problems[:LISTED], Problem("...", f"{rest} more faults like these, the last at {last.where}", last.remedy)]


@dataclass
class _AdapterBuilder:
    """Changes by the base's names, tied ones still apart, and what stands against them."""

    stored: Mapping[str, torch.Tensor]
    settings: AdapterConfig
    base: Model
    swap: PrefixSwap
    changes: dict[str, TensorChange] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def take_module(self, module: str, parts: Mapping[str, str]) -> None:
        """Factors, magnitude, single rows and bias of one module."""
        change, info = self._find_change(f"{module}.weight")
        stored = {part: self.stored[name] for part, name in parts.items()}

        for a, b in ((A, B), (EMBEDDING_A, EMBEDDING_B)):
            if a in stored:
                self._take_factors(module, change, info, stored[a], stored[b], embedding=a == EMBEDDING_A)
        if MAGNITUDE in stored:
            self._take_magnitude(change, info, stored[MAGNITUDE])
        if TOKENS in stored:
            self._take_tokens(module, change, info, stored[TOKENS])

        # The scale of the factors holds for the bias of B too.
        if BIAS in stored:
            bias, info = self._find_change(f"{module}.bias")
            if self._fits(stored[BIAS], info.shape, info.name):
                bias.added = stored[BIAS].float() * self.settings.compute_scale(module)

    def take_saved(self, target: str, name: str) -> None:
        """A tensor that is stored whole."""
        change, info = self._find_change(target)
        if self._fits(self.stored[name], info.shape, info.name):
            change.saved = self.stored[name]

    def build(self, folder: Path, label: str) -> LoraAdapter:
        """The adapter, with the names of a tied tensor brought together where that loses nothing."""
        apart = LoraAdapter(folder, label, self.base, self.settings, self.changes, self.swap)
        changes: dict[str, TensorChange] = {}
        for stored in sorted({self.base.alias.get(name, name) for name in self.changes}):
            names = [stored, *(name for name, other in self.base.alias.items() if other == stored)]
            if len(names) == 1:
                changes[stored] = self.changes[stored]
                continue

            # One tensor stands under all these names, so it can be moved only as all of them are.
            moved = [name for name in names if name in self.changes and not _alike(apart, name)]
            covered = len(moved) == len(names) or self.settings.ensure_weight_tying
            if moved and (covered or self.changes[moved[0]].tokens) and all(_alike(apart, moved[0], n) for n in moved):
                changes[stored] = self.changes[moved[0]]
            elif moved:
                others = ", ".join(f"'{name}'" for name in names if name != moved[0])
                found = f"the adapter changes it apart from {others}, to which the base ties it"
                self.problems.append(Problem(moved[0], found, UNTIE))

        refuse_if_any(self.problems)
        return LoraAdapter(folder, label, self.base, self.settings, changes, self.swap)

    def _find_change(self, target: str) -> tuple[TensorChange, TensorInfo]:
        """The change of the tensor that the adapter calls `target`, and the base's entry under the base's name."""
        name = target if self.base.has(target) else self.swap(target)
        info = replace(self.base.info(name), name=name)
        if not info.mergeable:
            self._refuse(name, f"the adapter changes it, the base holds {info.dtype}")
        return self.changes.setdefault(name, TensorChange()), info

    def _take_factors(
        self, module: str, change: TensorChange, info: TensorInfo, a: torch.Tensor, b: torch.Tensor, *, embedding: bool
    ) -> None:
        rank, rows, width = self.settings.find_rank(module), info.shape[0] if info.shape else 1, compute_width(info)
        shapes = {
            transposed: ((rank, rows), (width, rank)) if transposed else ((rank, width), (rows, rank))
            for transposed in self._list_orientations(module, info, embedding=embedding)
        }

        stored_shapes = (compute_matrix_shape(tuple(a.shape)), compute_matrix_shape(tuple(b.shape)))
        fitting = [transposed for transposed, expected in shapes.items() if expected == stored_shapes]
        if not fitting or not (a.is_floating_point() and b.is_floating_point()):
            expected = " or ".join(f"A {of_a} and B {of_b}" for of_a, of_b in dict.fromkeys(shapes.values()))
            held = f"A {tuple(a.shape)} and B {tuple(b.shape)} of {a.dtype}"
            found_text = f"expected {expected} for its {info.shape} at rank {rank}, the adapter has {held}"
            self._refuse(info.name, found_text)
            return

        if change.low_rank is not None:
            self._refuse(info.name, "two modules of the adapter change it", FOLD)

        factors = a.reshape(stored_shapes[0]), b.reshape(stored_shapes[1])
        change.low_rank = LowRank(*factors, self.settings.compute_scale(module), fitting[0], embedding)

    def _list_orientations(self, module: str, info: TensorInfo, *, embedding: bool) -> list[bool]:
        """Readings of W, True for (in, out): the shapes decide between the two, the first of them when both fit.

        PEFT's `fan_in_fan_out` is one flag for all modules, the last one's, so of a square W the kind of layer is asked
        before the flag.
        """
        if embedding or len(info.shape) != 2:
            return [embedding]
        conv1d = self.settings.fan_in_fan_out
        if self.base.config.get("model_type") in CONV1D_MODELS:
            conv1d = module.rpartition(".")[2] in CONV1D_LAYERS
        return [conv1d, not conv1d]

    def _take_magnitude(self, change: TensorChange, info: TensorInfo, magnitude: torch.Tensor) -> None:
        if change.low_rank is None:
            return  # its factors were refused
        outputs = change.low_rank.b_OR.shape[0]
        if magnitude.numel() != outputs or not magnitude.is_floating_point():
            held = f"{tuple(magnitude.shape)} of {magnitude.dtype}"
            self._refuse(info.name, f"expected a magnitude of {outputs} outputs, the adapter has {held}")
            return
        change.magnitude_O = magnitude

    def _take_tokens(self, module: str, change: TensorChange, info: TensorInfo, rows: torch.Tensor) -> None:
        indices = self.settings.list_tokens(module) or []
        count = info.shape[0] if info.shape else 0
        if change.low_rank is not None:
            self._refuse(info.name, "the adapter has both factors and single rows for it", FOLD)
        elif len(set(indices)) != len(indices) or not all(0 <= index < count for index in indices):
            self._refuse(info.name, f"`trainable_token_indices` are not different rows of its {info.shape}")
        elif self._fits(rows, (len(indices), compute_width(info)), info.name):
            change.tokens = dict(zip(indices, rows, strict=True))

    def _fits(self, stored: torch.Tensor, shape: tuple[int, ...], name: str) -> bool:
        if tuple(stored.shape) == shape and stored.is_floating_point():
            return True
        held = f"{tuple(stored.shape)} of {stored.dtype}"
        self._refuse(name, f"expected real numbers of shape {shape} for it, the adapter has {held}")
        return False

    def _refuse(self, name: str, found: str, remedy: str = OTHER_BASE) -> None:
        self.problems.append(Problem(name, found, remedy))


def _alike(adapter: LoraAdapter, name: str, other: str | None = None) -> bool:
    """Tell whether two names of a tied tensor are moved alike up to rounding; without `other`, `name` not at all."""
    info = adapter.base.info(name)
    for start, stop in split_rows(info):
        theirs = adapter.compute_rows(other, start, stop) if other else torch.zeros(())
        if not torch.allclose(adapter.compute_rows(name, start, stop), theirs, rtol=1e-5, atol=1e-8):
            return False
    return True
