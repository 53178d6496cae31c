"""A live model that begins without values and is given them, all at once or one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from aftermix.errors import CheckpointError, describe_cause

META = torch.device("meta")


class ValueSource(Protocol):
    """Source of the values of a live model."""

    def stream_tensors(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, torch.Tensor]]:
        """Name in the live model and values of what is stored of the parameters and buffers that are `wanted`."""


def build_empty_model(config: dict[str, Any], *, dtype: torch.dtype, label: str) -> Any:
    """A causal language model of the configuration `config` whose parameters take no memory yet.

    Raises :class:`CheckpointError` for an architecture that transformers does not know.
    """
    maker: Any = AutoModelForCausalLM
    try:
        with init_empty_weights(include_buffers=False):
            made = maker.from_config(AutoConfig.for_model(**config), dtype=dtype, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = describe_cause(error)
        remedy = "Take a causal language model that transformers knows without remote code."
        raise CheckpointError(label, f"its architecture cannot be run ({reason})", remedy) from error
    made.tie_weights()  # a parameter without memory is another object than the one it was made from
    if not hasattr(nn.functional, "grouped_mm"):  # an older PyTorch, whose stand-in cannot be watched
        made.set_experts_implementation("eager")
    return made.eval().requires_grad_(False)


class StreamedModel:
    """An empty model and what fills it."""

    def __init__(self, model: Any, values: ValueSource, *, device: torch.device, label: str) -> None:
        self.model = model
        self._values = values
        self._device = device
        self._label = label
        by_parameter: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            by_parameter.setdefault(id(parameter), []).append(name)
        self._ties = {name: names for names in by_parameter.values() for name in names}
        self.first_names = {name: names[0] for name, names in self._ties.items()}
        """The name under which a tied parameter is known, by each of its names."""

    def find_layers(self) -> tuple[str, nn.ModuleList]:
        """Name and modules of the layers: of the decoder's outermost lists of modules, the one with most elements."""
        decoder = self.model.get_decoder() if hasattr(self.model, "get_decoder") else None
        modules = dict(self.model.named_modules())
        root = next((name for name, module in modules.items() if module is decoder and name), "")
        lists = {name: module for name, module in modules.items() if isinstance(module, nn.ModuleList)}
        outermost = {
            name: module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)
        }
        inside = {name: module for name, module in outermost.items() if name.startswith(f"{root}.")} or outermost
        if not inside:
            raise self.explain_unstreamable("it has no list of layers")
        return max(inside.items(), key=lambda entry: sum(parameter.numel() for parameter in entry[1].parameters()))

    def explain_unstreamable(self, reason: str) -> CheckpointError:
        """The error for a model that cannot be run layer by layer."""
        return CheckpointError(self._label, f"cannot be run layer by layer ({reason})", "Remove `calibrate.stream`.")

    def fill(self, wanted: Callable[[str], bool] = lambda _: True) -> None:
        """Give the parameters and buffers that are `wanted` their values, cast to the live type.

        Raises :class:`CheckpointError` when a parameter has no value, or one of another shape.
        """
        for name, values in self._values.stream_tensors(wanted):
            self._put(name, values)
        absent = [
            name for name, parameter in self.model.named_parameters() if wanted(name) and parameter.device == META
        ]
        if absent:
            found = f"{len(absent)} weights of its architecture are not in its files, first {absent[0]}"
            raise CheckpointError(self._label, found, "Check that config.json belongs to these weights.")
        for name, buffer in self.model.named_buffers():
            if wanted(name) and buffer.device != self._device:
                _find_owner(self.model, name)._buffers[_take_leaf(name)] = buffer.to(self._device)

    def free(self, wanted: Callable[[str], bool]) -> None:
        """Free the memory of the parameters that are `wanted`."""
        for name, parameter in list(self.model.named_parameters()):
            if wanted(name):
                self._set(name, nn.Parameter(torch.empty_like(parameter, device=META), requires_grad=False))

    def _put(self, name: str, values: torch.Tensor) -> None:
        owner, leaf = _find_owner(self.model, name), _take_leaf(name)
        held = owner._parameters.get(leaf)
        live = held if held is not None else owner._buffers[leaf]
        if live is None or live.shape != values.shape:
            shape = None if live is None else tuple(live.shape)
            found = f"is {tuple(values.shape)}, its architecture has {shape}"
            raise CheckpointError(f"{self._label}: {name}", found, "Check that config.json belongs to these weights.")
        # A copy even where nothing is cast: the values may lie in a file that a model must not write to.
        moved = torch.empty_like(live, device=self._device).copy_(values)
        if held is None:
            owner._buffers[leaf] = moved
        else:
            self._set(name, nn.Parameter(moved, requires_grad=False))

    def _set(self, name: str, parameter: nn.Parameter) -> None:
        for same in self._ties[name]:
            _find_owner(self.model, same)._parameters[_take_leaf(same)] = parameter


def _find_owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _take_leaf(name: str) -> str:
    return name.rpartition(".")[2]
