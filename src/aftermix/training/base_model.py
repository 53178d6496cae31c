"""The model an expert starts from: loaded in float32, its tokenizer, and the check that both fit the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from aftermix.checkpoints.formats.configuration import LEFTOVERS, describe_quantisation, drop_leftovers
from aftermix.checkpoints.formats.fp8 import DEQUANTISE
from aftermix.checkpoints.names import build_matcher
from aftermix.checkpoints.reader import Checkpoint, open_checkpoint
from aftermix.errors import TrainingError, describe_cause
from aftermix.terminal import quiet_transformers
from aftermix.training.data.encoding import TextEncoder, build_example_encoder
from aftermix.training.data.examples import TrainingExample
from aftermix.training.data.masking import refuse_unmaskable
from aftermix.training.data.mixture import SequenceMixture
from aftermix.training.data.packing import PackedTokens


def open_base(folder: Path, *, label: str) -> Checkpoint:
    """The checkpoint in `folder` as an expert is trained from it: an entry on quantisation over plain weights left out.

    Raises :class:`TrainingError` for weights that are stored quantised: an expert is written in the base's types.
    """
    base = drop_leftovers(open_checkpoint(folder, label=label))
    quantised = describe_quantisation(base)
    if quantised is not None:
        found = f"is quantised ({quantised}), and an expert is written in the types of its base"
        raise TrainingError(label, found, DEQUANTISE)
    return base


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`, from the files there alone. Raises :class:`TrainingError` when there is none."""
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = describe_cause(error)
        raise TrainingError(
            str(folder), f"has no tokenizer that loads ({reason})", "Copy the base's tokenizer files into its folder."
        ) from error


def build_document_encoder(tokenizer: Any, *, where: str) -> TextEncoder:
    """Token ids of documents: what the tokenizer gives (a start token where it sets one), then the end of text."""
    encode = build_example_encoder(tokenizer, format="text", where=where)
    return lambda texts: [encoded.ids.tolist() for encoded in encode([TrainingExample(where, text) for text in texts])]


def load_base(base: Checkpoint) -> Any:
    """The base as a causal language model in float32, which holds every bfloat16 and float16 value exactly.

    Raises :class:`TrainingError` when transformers cannot build it, or would fill a weight at random.
    """
    loader: Any = AutoModelForCausalLM
    try:
        with quiet_transformers():
            model, loaded = loader.from_pretrained(
                str(base.folder),
                config=_load_config(base),
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise _build_loading_error(base, error) from error

    absent = sorted({*loaded["missing_keys"], *(str(entry) for entry in loaded["mismatched_keys"])})
    if absent:
        found = f"{len(absent)} weights are not in the files and would be random, first {absent[0]}"
        raise TrainingError(base.label, found, "Name a complete text model; check `architectures` in config.json.")

    return model


def build_empty_model(base: Checkpoint) -> Any:
    """Build the base's architecture without its values, on no device: for checks that read no weight.

    Raises :class:`TrainingError` for an architecture that transformers does not know.
    """
    builder: Any = AutoModelForCausalLM
    try:
        with quiet_transformers(), torch.device("meta"):
            return builder.from_config(_load_config(base), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise _build_loading_error(base, error) from error


def _load_config(base: Checkpoint) -> Any:
    """The configuration in the base's folder, without the entries on quantisation that `base` does without."""
    config = AutoConfig.from_pretrained(str(base.folder), local_files_only=True, trust_remote_code=False)
    of_text = base.config.get("text_config", base.config)
    for part, stored in ((config, base.config), (config.get_text_config(), of_text)):
        for key in LEFTOVERS:
            if key not in stored and hasattr(part, key):
                delattr(part, key)
    return config


def refuse_unfit(packed: PackedTokens | SequenceMixture, model: Any, tokenizer: Any, *, where: str) -> None:
    """Raise :class:`TrainingError` when `model` cannot be trained on `packed`.

    That is when a token has no row in the embeddings, the context is beyond the model's, or documents are to be kept
    apart and the model mixes them.
    """
    refuse_unknown_token(packed.highest, model, tokenizer, where=where)
    refuse_context(packed.context, model, masked=packed.masked)


def refuse_unknown_token(highest: int, model: Any, tokenizer: Any, *, where: str) -> None:
    """Raise :class:`TrainingError` when the token numbered `highest` has no row in the embeddings of `model`."""
    rows = int(model.config.get_text_config().vocab_size)
    if highest >= rows:
        token = tokenizer.convert_ids_to_tokens(highest)
        found = f"the tokenizer gives token {highest} ({token!r}), but the model has {rows} rows, 0 to {rows - 1}"
        raise TrainingError(where, found, "Use the tokenizer that this model was trained with.")


def refuse_context(context: int, model: Any, *, masked: bool) -> None:
    """Raise :class:`TrainingError` for a context beyond the positions of `model`, or documents it would mix."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and context > positions:
        found = f"a context of {context} is beyond the model's {positions} positions"
        raise TrainingError("train.context", found, f"Use at most {positions}.")

    if masked:
        refuse_unmaskable(model, where="train.mask_documents")


def freeze(model: torch.nn.Module, patterns: tuple[str, ...]) -> list[str]:
    """Exclude the parameters that `patterns` mean from training; their names, tied ones under each name.

    Raises :class:`TrainingError` for a pattern that matches nothing, and when nothing is left to train.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    frozen: set[str] = set()
    for pattern in patterns:
        meant = build_matcher([pattern], where="train.freeze")
        names = {name for name in parameters if meant(name)}
        if not names:
            found = f"'{pattern}' matches no parameter; the model has, for example, {min(parameters)}"
            raise TrainingError("train.freeze", found, "Correct or remove the pattern.")
        frozen |= names

    for name in frozen:
        parameters[name].requires_grad_(False)

    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise TrainingError("train.freeze", "every parameter is frozen", "Leave something to train.")
    return sorted(name for name, parameter in parameters.items() if not parameter.requires_grad)


def _build_loading_error(base: Checkpoint, error: Exception) -> TrainingError:
    reason = describe_cause(error)
    remedy = "Name a causal language model of an architecture that transformers knows."
    return TrainingError(base.label, f"cannot be loaded for training ({reason})", remedy)
