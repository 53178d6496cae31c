"""Full tensors under checkpoint names, copied into the parameters of a live Hugging Face model."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from aftermix.checkpoints.model import Model, read_tensor
from aftermix.errors import EvaluationError

Slot = tuple[int, ...]


@dataclass(frozen=True)
class WeightRoute:
    """Destination of a checkpoint tensor: a parameter as it is, or a part of what a converter makes."""

    target: str
    pattern: str | None
    """The converter's source pattern, for experts stored one by one and other layouts that transformers fuses."""


class LiveWeights:
    """The parameters of `model`, which was loaded from `base`, by checkpoint name.

    Names are resolved by transformers' own rules, the ones `from_pretrained` applied. Tensors that share storage (tied
    embeddings) are one slot: giving either name fills both.
    """

    def __init__(self, model: Any, base: Model) -> None:
        self._model = model
        self._base = base
        self._live: dict[str, torch.Tensor] = dict(model.state_dict())
        transforms = get_model_conversion_mapping(model)
        self._renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]

        self._routes = {name: self._resolve(name) for name in sorted(base.tensors, key=dot_natural_key)}
        self._groups: dict[str, list[str]] = {}
        for name, route in self._routes.items():
            if route is not None and route.pattern is not None:
                self._groups.setdefault(route.target, []).append(name)

        self.required: dict[str, Slot] = {
            name: self.find_slot(name, route)
            for name, route in self._routes.items()
            if route is not None and base.tensors[name].mergeable
        }
        """Slot by name of every real-valued tensor of the base."""
        self._owners: dict[Slot, str] = {slot: name for name, slot in reversed(self.required.items())}
        """The first name of each slot; a second one is held against it, so it must not be written over it."""
        self._changed: set[Slot] = set()
        self._writes = self._write_counts()

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]], unchanged: frozenset[str] = frozenset()) -> None:
        """Copy `tensors` in place, cast to the live type. Those named in `unchanged` take the base's values.

        Raises :class:`EvaluationError` naming every tensor that has no place, has another shape, or was never given.
        Also raised for a model that has changed its own weights since the last load.

        Whatever ends a load early, these faults or an exception of `tensors` or of the device, leaves the model with
        weights of two merges, and the next load begins clean: it depends on nothing that this one did.
        """
        self._refuse_own_writes()
        filling = _Filling(self, unchanged)
        try:
            with torch.no_grad():
                for name, tensor in tensors:
                    filling.take(name, tensor)
                filling.finish()
        finally:
            # Threads of a stream that was left would write on into the parameters, and these writes are no model's own.
            _close(tensors)
            self._writes = self._write_counts()
        filling.refuse_faults()

    def find_route(self, name: str) -> WeightRoute | None:
        """Destination of `name`, if it has one."""
        if name not in self._routes:
            self._routes[name] = self._resolve(name)
        return self._routes[name]

    def is_ignored(self, name: str) -> bool:
        """Say if the base stores `name` and `from_pretrained` made nothing of it, as of masks in early checkpoints."""
        return name in self._base.tensors and self.find_route(name) is None

    def list_members(self, target: str) -> list[str]:
        """Checkpoint names that the converter of `target` puts together, in transformers' order."""
        return self._groups.get(target, [])

    def find_slot(self, name: str, route: WeightRoute) -> Slot:
        """Storage that `name` fills: that of a parameter, or its own part of a fused one."""
        tensor = self._live[route.target]
        storage = (tensor.data_ptr(), *tensor.shape)
        return storage if route.pattern is None else (*storage, self.list_members(route.target).index(name))

    def read_stored(self, name: str) -> torch.Tensor:
        """The base's own tensor."""
        return read_tensor(self._base, name)

    def place(self, name: str) -> torch.Tensor | None:
        """The parameter that `name` alone fills as it is, flat, if it lies in the host's memory.

        It counts as changed from here on: whoever asks writes there, perhaps not to the end.
        """
        route = self._routes.get(name)
        if route is None or route.pattern is not None or self._owners.get(self.find_slot(name, route)) != name:
            return None
        live = self._live[route.target]
        if live.shape != self._base.info(name).shape or not live.is_contiguous() or live.device.type != "cpu":
            return None
        self.mark(self.find_slot(name, route), changed=True)
        return live.view(-1)

    def name_stored(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Those of `tensors` that have a place, under their own names; then parameters that share the place of one.

        An engine that loads checkpoints by itself then needs not know that a head is tied to an embedding.
        """
        routes = {name: self.find_route(name) for name in tensors}
        placed = {name: route for name, route in routes.items() if route is not None}
        yield from ((name, tensors[name]) for name in placed)

        targets = {route.target for route in placed.values()}
        shared = {(self._live[target].data_ptr(), *self._live[target].shape) for target in targets}
        for target, live in self._live.items():
            if target not in targets and (live.data_ptr(), *live.shape) in shared:
                yield target, live

    def copy(self, target: str, tensor: torch.Tensor) -> str | None:
        """Copy into the parameter `target`, unless it was written there; what is wrong, if it does not fit."""
        live = self._live.get(target)
        if live is None or live.shape != tensor.shape:
            held = "nothing of that name" if live is None else f"{tuple(live.shape)}"
            return f"is {tuple(tensor.shape)}, the model holds {held}"
        if (live.data_ptr(), live.dtype) != (tensor.data_ptr(), tensor.dtype):
            live.copy_(tensor)
        return None

    def holds(self, target: str, tensor: torch.Tensor) -> bool:
        """Say if the parameter `target` has exactly the values of `tensor`."""
        live = self._live[target]
        return live.shape == tensor.shape and torch.equal(live, tensor.to(device=live.device, dtype=live.dtype))

    def convert(self, target: str, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Parameters that transformers makes of the checkpoint tensors `parts` for `target`, by name."""
        routes = {name: self._routes[name] for name in self.list_members(target)}
        pattern = next(route.pattern for route in routes.values() if route is not None)
        converter: Any = deepcopy(next(entry for entry in self._converters if pattern in entry.source_patterns))
        for name, route in routes.items():
            if route is not None:
                converter.add_tensor(target, name, route.pattern, parts[name])
        made = converter.convert(target, model=self._model, config=self._model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    def mark(self, slot: Slot, *, changed: bool) -> None:
        """Remember whether `slot` differs from the base."""
        (self._changed.add if changed else self._changed.discard)(slot)

    def is_changed(self, slot: Slot) -> bool:
        """Say if an earlier load gave `slot` other values than the base's."""
        return slot in self._changed

    def refuse_replaced(self, where: str) -> None:
        """Raise :class:`EvaluationError` where the model's parameters are other tensors than those that loads fill, or
        have been written since the last load.

        `where` names the code that did it: `model.half()`, `model.to("cuda")`, a step of training. A model that was
        written is whole again after the next load.
        """
        live, counts = self._model.state_dict(), self._write_counts()
        other = sorted(live.keys() ^ self._live.keys())
        other += [name for name, tensor in self._live.items() if name in live and not _is_same(tensor, live[name])]
        written = [name for name, count in self._writes.items() if counts[name] != count]
        if other:
            found = f"has exchanged parameters of the model, first '{other[0]}': later merges would not reach it"
            remedy = "Leave the model's type, device and layers alone; `evaluate.dtype` and `evaluate.device` set them."
            raise EvaluationError(where, found, remedy)

        if written:
            self._writes = counts
            self._changed.update(self.required.values())
            found = f"has written into {len(written)} parameters of the model, first '{written[0]}'"
            raise EvaluationError(where, found, "Score the model as it is: without training, on a copy if need be.")

    def _write_counts(self) -> dict[str, int]:
        """Number of writes in place into each parameter, as torch counts them for its automatic differentiation."""
        return {name: tensor._version for name, tensor in self._live.items()}

    def _refuse_own_writes(self) -> None:
        """A model that scales its weights when it first runs would take the next candidate's for scaled ones."""
        counts = self._write_counts()
        written = [name for name, count in self._writes.items() if counts[name] != count]
        if written:
            raise EvaluationError(
                "live model",
                f"has changed {len(written)} of its own weights by running, first '{written[0]}'",
                "Switch that off in its config.json (RWKV: `rescale_every: 0`); candidates would not be comparable.",
            )

    def _resolve(self, name: str) -> WeightRoute | None:
        prefix = self._model.base_model_prefix
        target, pattern = rename_source_key(name, self._renamings, self._converters, prefix, self._live)
        if target not in self._live and name in self._live:
            target, pattern = rename_source_key(name, [], [], prefix, self._live)
        return WeightRoute(target, pattern) if target in self._live else None


def _is_same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """True for the same values of one type at the same place in memory."""
    return ours.data_ptr() == theirs.data_ptr() and ours.dtype == theirs.dtype and ours.shape == theirs.shape


def _close(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """End a generator, and with it the threads that compute ahead of it."""
    if isinstance(tensors, Generator):
        tensors.close()


class _Filling:
    """One load in progress."""

    def __init__(self, live: LiveWeights, unchanged: frozenset[str]) -> None:
        self.live = live
        self.unchanged = unchanged
        self.filled: dict[Slot, str] = {}
        self.waiting: dict[str, dict[str, torch.Tensor]] = {}
        self.restored: dict[str, list[Slot]] = {}
        """By fused parameter, its slots that take the base's values again."""
        self.faults: list[str] = []

    def take(self, name: str, tensor: torch.Tensor) -> None:
        """Put one tensor in its place, or keep it until its fused parameter is complete."""
        route = self.live.find_route(name)
        if route is None and self.live.is_ignored(name):
            return
        if route is None or (route.pattern is not None and name not in self.live.list_members(route.target)):
            self.faults.append(f"{name}: has no place in the live model")
            return

        slot = self.live.find_slot(name, route)
        if slot in self.filled:
            self._take_again(name, route, tensor, slot)
            return

        self.filled[slot] = name
        self.live.mark(slot, changed=True)
        if route.pattern is None:
            self._note_fault(name, self.live.copy(route.target, tensor))
            return

        parts = self.waiting.setdefault(route.target, {})
        parts[name] = tensor
        if len(parts) == len(self.live.list_members(route.target)):
            self._fuse(route.target, self.waiting.pop(route.target))

    def finish(self) -> None:
        """Give what stays unchanged the base's values again, and find what was never given."""
        required = self.live.required
        unchanged_slots = {name: slot for name, slot in required.items() if name in self.unchanged}
        covered = self.filled.keys() | set(unchanged_slots.values())
        absent = {name for name, slot in required.items() if slot not in covered}
        self.faults += [f"{name}: was never given" for name in sorted(absent)]

        for name, slot in unchanged_slots.items():
            if slot not in self.filled and self.live.is_changed(slot):
                self._restore(name)

        # A fused parameter of which some parts were given takes the rest from the base.
        for target, parts in self.waiting.items():
            rest = [name for name in self.live.list_members(target) if name not in parts]
            if not absent.intersection(rest):
                self._fuse(target, {**parts, **{name: self.live.read_stored(name) for name in rest}})

    def refuse_faults(self) -> None:
        """Raise one error for all faults."""
        if self.faults:
            raise EvaluationError(
                "live model",
                f"{len(self.faults)} tensors do not match it: {'; '.join(self.faults)}",
                "Merge models of the base's architecture; `aftermix doctor` compares them tensor by tensor.",
            )

    def _take_again(self, name: str, route: WeightRoute, tensor: torch.Tensor, slot: Slot) -> None:
        """A second name for the same storage is fine if it has the same values."""
        if not self.live.holds(route.target, tensor):
            self.faults.append(f"{name}: differs from {self.filled[slot]}, which the model ties it to")

    def _restore(self, name: str) -> None:
        route = self.live.find_route(name)
        if route is None:
            return
        slot, stored = self.live.find_slot(name, route), self.live.read_stored(name)
        if route.pattern is not None:
            self.waiting.setdefault(route.target, {})[name] = stored
            self.restored.setdefault(route.target, []).append(slot)
            return

        # Only what has been written back is the base's: a copy that fails leaves it to the next load.
        fault = self.live.copy(route.target, stored)
        self._note_fault(name, fault)
        self.live.mark(slot, changed=fault is not None)

    def _fuse(self, target: str, parts: Mapping[str, torch.Tensor]) -> None:
        try:
            made = self.live.convert(target, parts)
        except (RuntimeError, ValueError, IndexError) as error:
            self.faults.append(f"{', '.join(sorted(parts))}: cannot be fused into {target} ({error})")
            return
        faults = [(name, self.live.copy(name, tensor)) for name, tensor in made.items()]
        for name, fault in faults:
            self._note_fault(name, fault)

        if not any(fault for _, fault in faults):
            for slot in self.restored.get(target, []):
                self.live.mark(slot, changed=False)

    def _note_fault(self, name: str, fault: str | None) -> None:
        if fault is not None:
            self.faults.append(f"{name}: {fault}")
