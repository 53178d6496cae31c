"""The vLLM engine: one living engine a process, whose weights are exchanged for merges that it makes itself."""

from __future__ import annotations

import atexit
import os
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch

from aftermix import errors, progress
from aftermix.checkpoints.model import Model
from aftermix.config import EvaluateConfig
from aftermix.devices import open_device
from aftermix.errors import AftermixError, EngineFaultError, EvaluationError, describe_cause
from aftermix.evaluation.engines.hf import make_empty_model
from aftermix.evaluation.engines.prefix_tree import Pair
from aftermix.evaluation.engines.vllm.fixed_items import ExchangeCheck, build_fixed_items
from aftermix.evaluation.engines.vllm.installed import refuse_unrun_vllm
from aftermix.evaluation.engines.vllm.model import VllmModel
from aftermix.evaluation.engines.vllm.model_folder import HF_INSTEAD, write_model_folder
from aftermix.evaluation.engines.vllm.names import BACKEND, WORKER
from aftermix.evaluation.quiet import quiet

ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    # The last token of a sequence is asked for after as many positions as the model has.
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
}
"""Variables for vLLM and its processes, where they are not set."""
CACHE_SHARE, MOST_CACHE = 0.125, 4 << 30
"""On a CPU, part of the free memory that vLLM's cache may take, and its most bytes."""


class VllmEngine:
    """A living engine: `open` once, then `exchange` weights and evaluate `lm`, candidate after candidate."""

    runs_apart = True
    """Merges are made in the engine's processes: `exchange` takes orders, and no tensor comes from here."""

    def __init__(self, llm: Any, lm: VllmModel, *, name: str, items: list[Pair], folder: Any) -> None:
        self.lm: Any = lm
        self.name = name
        """Distribution and version."""
        self.check: ExchangeCheck | None = None
        self.differences: list[float] = []
        """Largest difference of a fixed item, in nats a token, after each exchange."""
        self._llm = llm
        self._items = items
        self._folder = folder
        self._number = 0
        self.threads = 1
        """CPU threads of the engine's process."""

    @staticmethod
    def open(
        source: Model,
        *,
        tokenizer_folder: Path,
        config: EvaluateConfig,
        opener: str,
        plan: bytes,
        first: bytes,
        worker: str = WORKER,
    ) -> VllmEngine:
        """Start an engine for the architecture of `source`, and put in the weights that the order `first` asks for.

        Its processes call `opener` (`MODULE:FUNCTION`) with `plan` for what makes merges. `worker` is the class that
        vLLM extends its workers by. Raises :class:`EvaluationError` for a vLLM or an architecture that cannot be used,
        and where the engine does not start.
        """
        name = refuse_unrun_vllm()
        device = open_device(config.device, where="evaluate.device", error=EvaluationError)
        with quiet():
            empty, tokenizer = make_empty_model(source, tokenizer_folder=tokenizer_folder, config=config)
        kind = _choose_type(source, config, device)

        folder = tempfile.TemporaryDirectory(prefix="aftermix-vllm-")
        options: dict[str, Any] = {"max_length": config.max_length, "date": config.date}
        description = f"{name}, {device.type}, {kind}, torch {torch.__version__}"
        _set_environment()
        with quiet():
            write_model_folder(empty, Path(folder.name), label=source.label)
            lm = VllmModel(empty, tokenizer, None, engine=description, batch_size=config.batch_size, **options)
            llm = _start(folder.name, tokenizer_folder, config, lm.max_length, kind, device, worker, label=source.label)
        lm.attach(llm)

        items = build_fixed_items(tokenizer, block=_read_block(llm), max_length=lm.max_length)
        engine = VllmEngine(llm, lm, name=name, items=items, folder=folder)
        try:
            engine._begin(config, kind, opener=opener, plan=plan, first=first)
        except BaseException:
            engine.close()
            raise
        atexit.register(engine.close)
        progress.say(engine.describe())
        return engine

    def _begin(self, config: EvaluateConfig, kind: str, *, opener: str, plan: bytes, first: bytes) -> None:
        """Open the models in the engine's processes, put in the first weights, and find the limit of the check."""
        reference = config.model_copy(update={"device": "cpu", "dtype": kind, "threads": "auto", "engine": "hf"})
        evaluate = reference.model_dump(mode="json", exclude_none=True, exclude={"items"})
        settings = {"opener": opener, "plan": plan, "evaluate": evaluate, "owner": os.getpid()}
        items = [[list(context), list(continuation)] for context, continuation in self._items]
        self._call("init_weight_transfer_engine", {**settings, "items": items})

        expected = self._exchange(first)
        self.check = ExchangeCheck.calibrate(self.name, self._items, self.lm.score_pairs(self._items), expected)
        self.threads = int(self._call("describe_exchange")["threads"])

    def exchange(self, order: bytes) -> None:
        """Have the merge that `order` asks for made and put into the live model, and check that it is there.

        Raises the error of a merge that cannot be made, and :class:`EngineFaultError` where the model then holds other
        weights.
        """
        if self.check is None:
            raise EvaluationError("engine", "is closed", "Open another one.")
        expected = self._exchange(order)
        found = self.lm.score_pairs(self._items)
        self.differences.append(self.check.refuse_other(self._items, found, expected))

    def _exchange(self, order: bytes) -> list[float]:
        """Log-likelihoods of the fixed items by the Hugging Face engine, for the weights that are put in."""
        self._number += 1
        made = self._call("make_merge", self._number, order)
        if "fault" in made:
            kind, *parts = made["fault"]
            raise getattr(errors, kind, AftermixError)(*parts)

        self._call("start_weight_update")
        self._call("update_weights", {"number": self._number})
        self._call("finish_weight_update")
        self.forget_prefixes()
        self._refuse_unfilled()
        reference: list[float] = made["reference"]
        return reference

    def describe(self) -> str:
        """Words on the engine and on the check of its exchanges."""
        assert self.check is not None  # noqa: S101 - it is open; for the type checker
        found = f"{self.check.at_start:.2g} nats a token from the Hugging Face engine on fixed items"
        return f"engine: {self.name}, {found}; checked after every exchange, limit {self.check.limit:.2g}"

    def forget_prefixes(self) -> None:
        """Empty vLLM's cache of prompts, which holds what earlier weights made of them."""
        if not self._llm.reset_prefix_cache():
            raise EngineFaultError(self.name, "did not empty its cache of prompts", HF_INSTEAD)

    def _refuse_unfilled(self) -> None:
        state = self._call("describe_exchange")
        if state["held"] != self._number:
            found = f"holds the weights of exchange {state['held']} after exchange {self._number}"
            raise EngineFaultError(self.name, found, HF_INSTEAD)
        if state["missing"]:
            names = ", ".join(state["missing"][:3])
            found = f"got no values for {len(state['missing'])} parameters ({names})"
            raise EngineFaultError(self.name, found, HF_INSTEAD)

    def load(self, tensors: Any, unchanged: frozenset[str] = frozenset()) -> None:
        """Refuse tensors of this process."""
        del tensors, unchanged
        raise EvaluationError("evaluate.engine: vllm", "takes merges of the file's vectors alone", HF_INSTEAD)

    def place(self, name: str) -> None:
        """None: no parameter lies in this process."""
        del name

    def drop_weights(self) -> None:
        """End the engine's processes, and keep what counts requests and tokens: it scores no more."""
        if self._llm is not None:
            with quiet():
                self._llm.llm_engine.engine_core.shutdown()
            self.lm.attach(None)
            self._folder.cleanup()
        self._llm, self.check = None, None

    def close(self) -> None:
        """End the engine's processes."""
        self.drop_weights()
        self.lm = None

    def _call(self, method: str, *arguments: Any) -> Any:
        """Result of a method of the first worker. Raises :class:`EngineFaultError` for what it raises."""
        try:
            return self._llm.collective_rpc(method, args=arguments)[0]
        except Exception as error:  # of vLLM, or of its workers as text
            raise EngineFaultError(self.name, f"failed in {method} ({describe_cause(error)})", HF_INSTEAD) from error


def _choose_type(source: Model, config: EvaluateConfig, device: torch.device) -> str:
    """Type in which the engine computes, as the Hugging Face engine chooses it."""
    if config.dtype != "auto":
        return config.dtype
    if device.type == "cpu":
        return "float32"
    largest = max(source.tensors.values(), key=lambda info: (info.mergeable, info.elements))
    return str(largest.dtype).removeprefix("torch.")


def _start(
    folder: str,
    tokenizer_folder: Path,
    config: EvaluateConfig,
    max_length: int,
    kind: str,
    device: torch.device,
    worker: str,
    *,
    label: str,
) -> Any:
    from vllm import LLM

    on_cpu = device.type == "cpu"
    cache = min(MOST_CACHE, int(CACHE_SHARE * psutil.virtual_memory().available))
    try:
        return LLM(
            folder,
            tokenizer=str(tokenizer_folder),
            dtype=kind,
            load_format="dummy",
            max_model_len=max_length + 1,
            tensor_parallel_size=1 if on_cpu else config.gpus_per_worker,
            enable_prefix_caching=True,
            seed=0,
            disable_log_stats=True,
            worker_extension_cls=worker,
            weight_transfer_config={"backend": BACKEND},
            **({"enforce_eager": True, "kv_cache_memory_bytes": cache} if on_cpu else {}),
        )
    except Exception as error:  # vLLM raises whatever its parts and its processes do
        raise EvaluationError(label, f"cannot be opened by vLLM ({describe_cause(error)})", HF_INSTEAD) from error


def _read_block(llm: Any) -> int:
    return int(llm.llm_engine.vllm_config.cache_config.block_size)


def _set_environment() -> None:
    """Set the variables of `ENVIRONMENT` in this process, for good: vLLM reads them again and again."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
