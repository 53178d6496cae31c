"""The engine's own side of an exchange: merges are made in vLLM's processes and put into its live model there.

vLLM imports this file in each of its processes, by the name of :class:`MergeWorker`; nothing else imports it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import psutil
import torch

from aftermix.checkpoints.model import Model, read_tensor
from aftermix.config import EvaluateConfig
from aftermix.errors import AftermixError
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.engines.prefix_tree import Pair
from aftermix.evaluation.engines.vllm.names import BACKEND

NamedTensors = Iterable[tuple[str, torch.Tensor]]
Place = Callable[[str], torch.Tensor | None]


class MergeSource(Protocol):
    """Models and vectors as these processes open them."""

    @property
    def frame(self) -> Model:
        """The model whose architecture is scored."""

    @property
    def tokenizer_folder(self) -> Path:
        """Folder of its tokenizer."""

    def stream(self, order: bytes, place: Place) -> tuple[NamedTensors, frozenset[str]]:
        """The tensors of the merge that `order` asks for, and names of those that keep the base's values."""


@dataclass
class ReceiverSettings:
    """All that is told once, at the start."""

    opener: str
    """`MODULE:FUNCTION` that opens the source of `plan`."""
    plan: bytes
    evaluate: dict[str, Any]
    """`evaluate` of the file, for the Hugging Face engine that the check asks."""
    owner: int
    """Number of the process that began the engine, with which it ends."""
    items: list[list[list[int]]]
    """Fixed items, each a context and a continuation in tokens."""


@dataclass
class ExchangeNumber:
    """Number of the merge that is to be put into the model."""

    number: int


class MergeReceiver:
    """Merges made in this process for vLLM's live `model`.

    Each is first written into a model of the Hugging Face engine in the host's memory, which scores the fixed items;
    then the same tensors go to vLLM under the names of the checkpoint, so that it fuses and slices them as it does when
    it loads one.
    """

    def __init__(self, model: Any, settings: ReceiverSettings) -> None:
        Thread(target=_end_with, args=(psutil.Process(settings.owner), os.getppid()), daemon=True).start()
        module, _, name = settings.opener.partition(":")
        self.source: MergeSource = getattr(importlib.import_module(module), name)(settings.plan)
        self.items: list[Pair] = [(context, continuation) for context, continuation in settings.items]
        config = EvaluateConfig.model_validate(settings.evaluate)
        with torch.inference_mode(mode=False):
            self.reference = HuggingFaceEngine.open(
                self.source.frame, tokenizer_folder=self.source.tokenizer_folder, config=config
            )
        self.model = model
        self.parameters = {name for name, _ in model.named_parameters()}
        self.waiting: list[tuple[str, torch.Tensor]] = []
        self.made, self.held = 0, 0
        self.missing: list[str] = []

    def make(self, number: int, order: bytes) -> list[float]:
        """Merge as `order` says; log-likelihoods of the fixed items by the Hugging Face engine."""
        with torch.inference_mode(mode=False):
            tensors, unchanged = self.source.stream(order, self.reference.place)
            given: dict[str, torch.Tensor] = {}
            self.reference.load(_keep(tensors, given), unchanged=unchanged)
            frame = self.source.frame
            given |= {name: read_tensor(frame, name) for name in unchanged if name not in given}
            stored = self.reference.name_stored(given)
            self.waiting = [(name, tensor) for name, tensor in stored if name in given or _has_place(self.model, name)]
        self.made = number
        found: list[float] = self.reference.lm.score_pairs(self.items)
        return found

    def receive(self, number: int) -> None:
        """Hand the merge that waits to vLLM's own loader."""
        if number != self.made:
            raise RuntimeError(f"merge {number} was asked for, {self.made} was made")
        loaded = self.model.load_weights(iter(self.waiting))
        self.missing = sorted(self.parameters - loaded) if loaded is not None else []
        self.held = number


class MergeWorker:
    """Methods that vLLM's worker gets besides its own."""

    weight_transfer_engine: Any

    def make_merge(self, number: int, order: bytes) -> dict[str, Any]:
        """Make a merge: log-likelihoods of the fixed items, or the fault of the merge as its parts."""
        try:
            return {"reference": self.weight_transfer_engine.receiver.make(number, order)}
        except AftermixError as error:
            return {"fault": [type(error).__name__, *error.problem.parts]}

    def describe_exchange(self) -> dict[str, Any]:
        """Number of the merge that the live model holds, parameters that got no values, and threads of the process."""
        receiver: MergeReceiver = self.weight_transfer_engine.receiver
        return {"held": receiver.held, "missing": receiver.missing, "threads": torch.get_num_threads()}


def _end_with(owner: psutil.Process, parent: int) -> None:
    """Wait for the end of `owner`, however it came, and end this process and the `parent` that vLLM put between them.

    vLLM's processes outlive a process that is killed, and would keep its accelerator.
    """
    with contextlib.suppress(psutil.Error):
        owner.wait()
    if parent != owner.pid:
        with contextlib.suppress(OSError):
            os.kill(parent, signal.SIGKILL)
    os._exit(1)


def _has_place(model: Any, name: str) -> bool:
    """True if a module of `model` takes what is called `name`: not every tied head is one in vLLM."""
    try:
        model.get_submodule(name.rpartition(".")[0])
    except AttributeError:
        return False
    return True


def _keep(tensors: NamedTensors, given: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in tensors:
        given[name] = tensor
        yield name, tensor


def register_receiver() -> None:
    """Register the receiver as an engine of vLLM's native weight transfer, once a process."""
    from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
    from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload, initialize_layerwise_reload

    class NativeReceiver(WeightTransferEngine):  # type: ignore[misc]  # vLLM is not there when types are checked
        """vLLM's interface of exchanged weights over a :class:`MergeReceiver`."""

        init_info_cls = ReceiverSettings
        update_info_cls = ExchangeNumber

        def init_transfer_engine(self, init_info: ReceiverSettings) -> None:
            self.receiver = MergeReceiver(self.model, init_info)

        def start_weight_update(self) -> None:
            initialize_layerwise_reload(self.model)

        def update_weights(self, update_info: dict[str, Any]) -> None:
            self.receive_weights(self.parse_update_info(update_info))
            if torch.accelerator.is_available():  # vLLM's own waits for an accelerator without asking for one
                torch.accelerator.synchronize()

        def receive_weights(self, update_info: ExchangeNumber) -> None:
            self.receiver.receive(update_info.number)

        def finish_weight_update(self) -> None:
            finalize_layerwise_reload(self.model, self.model_config)
            self.receiver.waiting = []

        def shutdown(self) -> None:
            pass

    WeightTransferEngineFactory.register_engine(BACKEND, NativeReceiver)


if find_spec("vllm") is not None:
    register_receiver()
