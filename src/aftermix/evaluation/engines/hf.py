"""The Hugging Face engine: one live model whose weights are exchanged in place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel

from aftermix import progress
from aftermix.checkpoints.formats.configuration import LEFTOVERS, TIE, find_declared_dtype
from aftermix.checkpoints.model import Model
from aftermix.checkpoints.names import select_text_config
from aftermix.checkpoints.open_model import open_model
from aftermix.checkpoints.reader import Checkpoint
from aftermix.config import EvaluateConfig
from aftermix.devices import open_device
from aftermix.errors import EvaluationError, describe_cause
from aftermix.evaluation.engines.filled import BAD_ARCHITECTURE, choose_model_class, fill_model, name_architecture
from aftermix.evaluation.engines.live_model import HarnessModel
from aftermix.evaluation.engines.live_weights import LiveWeights
from aftermix.evaluation.own.scored_model import ScoredModel
from aftermix.evaluation.quiet import quiet

CAUSAL = "AutoModelForCausalLM"
"""Class of the models that lm-eval's tasks are answered by, and of a scorer that names no other."""
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
NO_CODE = {"trust_remote_code": False, "local_files_only": True}


class HuggingFaceEngine:
    """A live model: `open` once, then `load` weights and evaluate `lm`, candidate after candidate."""

    runs_apart = False
    """Merges are made where they are asked for, and handed over by `load`."""

    def __init__(self, lm: HarnessModel | ScoredModel, weights: LiveWeights) -> None:
        self.lm: Any = lm
        self._weights: LiveWeights | None = weights

    @staticmethod
    def open(source: Path | Model, *, tokenizer_folder: Path, config: EvaluateConfig) -> HuggingFaceEngine:
        """Load the model `source` (the base) or the one in that folder, and the tokenizer in `tokenizer_folder`.

        `device: auto` is CUDA where there is one. `dtype: auto` is float32 on a CPU and the checkpoint's type
        elsewhere; `threads: auto` is all cores at first. Raises :class:`EvaluationError` when transformers would leave
        a parameter at random values or a stored tensor unused.
        """
        checkpoint = open_model(str(source)) if isinstance(source, Path) else source
        tokenizer = _load_tokenizer(tokenizer_folder, chat=config.applies_chat_template)
        device = open_device(config.device, where="evaluate.device", error=EvaluationError)
        if isinstance(config.threads, int):
            torch.set_num_threads(config.threads)
        with quiet():
            model = _load_model(checkpoint, device=device, dtype=config.dtype)
            model.generation_config = _read_generation_config(tokenizer_folder, model)
            lm = _wrap_model(model, tokenizer, config)
        return HuggingFaceEngine(lm, LiveWeights(model, checkpoint))

    @staticmethod
    def open_scored(source: Model, *, tokenizer_folder: Path, config: EvaluateConfig) -> HuggingFaceEngine:
        """The model `source` as the class that `config` names, for a scorer of the user's own.

        The tokenizer is that of `tokenizer_folder`, None where there is none. Stored tensors that the class has no
        place for, such as a head that it leaves out, are told of: they are merged, and decide no score. Raises
        :class:`EvaluationError` for a class that transformers does not have, and for a parameter without stored values.
        """
        device = open_device(config.device, where="evaluate.device", error=EvaluationError)
        if isinstance(config.threads, int):
            torch.set_num_threads(config.threads)
        with quiet():
            maker = find_model_class(config.model_class or CAUSAL)
            model = _load_model(source, device=device, dtype=config.dtype, named=maker)
        return HuggingFaceEngine(ScoredModel(model, _find_tokenizer(tokenizer_folder)), LiveWeights(model, source))

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]], unchanged: frozenset[str] = frozenset()) -> None:
        """Exchange the weights in place for `tensors`: checkpoint name and full tensor of any float type.

        Tensors in `unchanged` (a merge's exclusions) need not be given and take the base's values, whatever an earlier
        load gave them, so scores depend on this load alone. Raises :class:`EvaluationError` with every tensor that has
        no place, another shape, or was never given.
        """
        if self._weights is None:
            raise EvaluationError("engine", "is closed", "Open another one.")
        self._weights.load(tensors, unchanged)

    def refuse_replaced(self, where: str) -> None:
        """Refuse a model whose parameters lie elsewhere than at the last load, by what `where` names in between.

        Raises :class:`EvaluationError`: weights would be written to tensors that the model does not use.
        """
        if self._weights is not None:
            self._weights.refuse_replaced(where)

    def place(self, name: str) -> torch.Tensor | None:
        """The live parameter that tensor `name` fills as it is, flat: what is written there needs no copy in `load`.

        None where the tensor is converted, shares its place with another, or lies on an accelerator.
        """
        return self._weights.place(name) if self._weights is not None else None

    def drop_weights(self) -> None:
        """Free the memory of the weights, and keep what counts requests and tokens: it scores no more."""
        self._weights = None
        on_cuda = self.lm.device.type == "cuda"
        self.lm.model.to("meta")
        if on_cuda:
            torch.cuda.empty_cache()

    def name_stored(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Those of `tensors` (by checkpoint name) that have a place in the model, and second names of tied ones."""
        return self._weights.name_stored(tensors) if self._weights is not None else iter(())

    def close(self) -> None:
        """Free the model's memory."""
        on_cuda = self._weights is not None and self.lm.device.type == "cuda"
        self.lm, self._weights = None, None
        if on_cuda:
            torch.cuda.empty_cache()


def open_planning_model(source: Path | Model, *, tokenizer_folder: Path, config: EvaluateConfig) -> HarnessModel:
    """A model without weights that counts tokens (`TaskSuite.count_tokens`) but cannot score: no weight is read.

    Its architecture is that which :meth:`HuggingFaceEngine.open` would give `source`, however its weights are stored.
    """
    model, tokenizer = make_empty_model(source, tokenizer_folder=tokenizer_folder, config=config)
    with quiet(), torch.device("meta"):
        return _wrap_model(model, tokenizer, config)


def make_empty_model(source: Path | Model, *, tokenizer_folder: Path, config: EvaluateConfig) -> tuple[Any, Any]:
    """The architecture of `source` without weights, and the tokenizer. Raises as :meth:`HuggingFaceEngine.open`."""
    tokenizer = _load_tokenizer(tokenizer_folder, chat=config.applies_chat_template)
    checkpoint = open_model(str(source)) if isinstance(source, Path) else source
    with quiet(), torch.device("meta"):
        if isinstance(checkpoint, Checkpoint):
            architecture = _settle_architecture(_read_architecture(checkpoint.folder), checkpoint)
        else:
            architecture = name_architecture(checkpoint)
        maker = choose_model_class(architecture, checkpoint)
        model = maker.from_config(architecture, trust_remote_code=False)
        model.generation_config = _read_generation_config(tokenizer_folder, model)
    return model, tokenizer


def _wrap_model(model: Any, tokenizer: Any, config: EvaluateConfig) -> HarnessModel:
    return HarnessModel(model, tokenizer, batch_size=config.batch_size, max_length=config.max_length, date=config.date)


def _read_architecture(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, **NO_CODE)
    except (OSError, *BAD_ARCHITECTURE) as error:
        raise EvaluationError(
            str(folder),
            f"its architecture cannot be evaluated ({describe_cause(error)})",
            "Take a model that transformers knows without remote code.",
        ) from error


def _settle_architecture(architecture: Any, checkpoint: Checkpoint) -> Any:
    """The architecture with what the checkpoint's tensors decide: a tie would be made again, weights quantised."""
    for part, settled in (
        (architecture, checkpoint.config),
        (architecture.get_text_config(), select_text_config(checkpoint.config)),
    ):
        if settled.get(TIE) is False:
            part.tie_word_embeddings = False
        for key in LEFTOVERS:
            if hasattr(part, key) and key not in settled:
                delattr(part, key)
    return architecture


def _load_model(checkpoint: Model, *, device: torch.device, dtype: str, named: Any = None) -> Any:
    """The model, as the class that the user `named`, by default that of its kind."""
    folder = checkpoint.folder
    if dtype == "auto":
        wanted: Any = torch.float32 if device.type == "cpu" else "auto"
    else:
        wanted = getattr(torch, dtype)

    if not isinstance(checkpoint, Checkpoint):
        stored = _find_stored_type(checkpoint) if wanted == "auto" else wanted
        made, filled = fill_model(checkpoint, dtype=stored, maker=named)
        _refuse_incomplete(checkpoint, filled, named)
        return made.to(device).eval()

    config = _settle_architecture(_read_architecture(folder), checkpoint)
    maker = named or choose_model_class(config, checkpoint)
    if wanted == "auto":  # what the tensors are, where the file names another type
        wanted = find_declared_dtype(checkpoint.config) or wanted
    try:
        loaded: Any = maker.from_pretrained(folder, config=config, dtype=wanted, output_loading_info=True, **NO_CODE)
        model, report = loaded
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise EvaluationError(
            str(folder),
            f"cannot be loaded by transformers ({describe_cause(error)})",
            "Check that config.json belongs to these weights.",
        ) from error

    _refuse_incomplete(checkpoint, report, named)
    return model.to(device).eval()


def _find_stored_type(model: Model) -> torch.dtype:
    """The type of its largest tensor."""
    return max(model.tensors.values(), key=lambda info: (info.mergeable, info.elements)).dtype


def _refuse_incomplete(checkpoint: Model, report: Mapping[str, Any], named: Any) -> None:
    """transformers fills missing parameters with random values and goes on; here that is an error.

    What has no place is one, too, unless the user named the class, which may leave a head out: then it is told.
    """
    unread = {name for name, info in checkpoint.tensors.items() if info.computed}
    unread |= checkpoint.unindexed if isinstance(checkpoint, Checkpoint) else set()
    faults = [f"{name}: is not in the checkpoint" for name in sorted(report.get("missing_keys", ()))]

    strays = sorted({*report.get("unexpected_keys", ())} - unread)
    if strays and named:
        first = f"{strays[0]}{', ...' if len(strays) > 1 else ''}"
        progress.warn(
            f"{named.__name__} has no place for {len(strays)} of {len(checkpoint.tensors)} stored tensors ({first}): "
            "they are merged, and decide no score"
        )
    faults += [] if named else [f"{name}: has no place in the model" for name in strays]
    faults += [f"{entry[0]}: has another shape" for entry in sorted(report.get("mismatched_keys", ()))]
    faults += [str(message) for message in report.get("error_msgs", ())]

    if faults:
        raise EvaluationError(
            str(checkpoint.folder),
            f"{len(faults)} tensors do not match {named.__name__ if named else 'its architecture'}: "
            f"{'; '.join(faults)}",
            _name_stored_class(checkpoint)
            if named
            else "Check that config.json belongs to these weights (a multimodal checkpoint is not its text model).",
        )


def _name_stored_class(checkpoint: Model) -> str:
    stored = (checkpoint.config.get("architectures") or ["a class that has all of these weights"])[0]
    return f"Set `evaluate.model_class: {stored}`, the class that these weights are of."


def find_model_class(name: str) -> Any:
    """The class of transformers called `name`. Raises :class:`EvaluationError` where it has no such model."""
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and hasattr(found, "from_pretrained") and _makes_models(found)):
        known = [each for each in dir(transformers) if each.startswith("AutoModel")]
        close = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.5)) or "AutoModel, AutoModelForCausalLM"
        text = f"expected a class of models of transformers, found '{name}'"
        raise EvaluationError("evaluate.model_class", text, f"Did you mean {close}?")
    return found


def _makes_models(found: type) -> bool:
    return found.__name__.startswith("AutoModel") or issubclass(found, PreTrainedModel)


def _find_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`, None where no file of one is there."""
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return None
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, **NO_CODE)
    except (OSError, *BAD_ARCHITECTURE) as error:
        remedy = "Copy the tokenizer's files into the model folder."
        raise EvaluationError(str(folder), f"has no usable tokenizer ({describe_cause(error)})", remedy) from error


def _load_tokenizer(folder: Path, *, chat: bool) -> Any:
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    except (OSError, *BAD_ARCHITECTURE) as error:
        raise EvaluationError(
            str(folder),
            f"has no usable tokenizer ({describe_cause(error)})",
            "Copy the tokenizer's files into the model folder.",
        ) from error

    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise EvaluationError(
            str(folder),
            "its tokenizer has neither a beginning nor an end of text",
            "Set `eos_token` in its configuration.",
        )

    if chat and not tokenizer.chat_template:
        raise EvaluationError(
            str(folder), "has no chat template", "Leave out `evaluate.apply_chat_template`, or add the template."
        )
    return tokenizer


def _read_generation_config(folder: Path, model: Any) -> Any:
    """The settings that the finished model will be served with, e.g. an instruction model's end-of-turn token."""
    if not (folder / "generation_config.json").is_file():
        return model.generation_config
    return GenerationConfig.from_pretrained(folder, local_files_only=True)
