"""The model an expert starts from: loaded in float32, its tokenizer, and the check that both fit the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aftermix.checkpoints.names import build_matcher
from aftermix.checkpoints.reader import Checkpoint
from aftermix.errors import TrainingError, describe_cause
from aftermix.terminal import quiet_transformers
from aftermix.training.data.encoding import TextEncoder, build_example_encoder
from aftermix.training.data.examples import TrainingExample
from aftermix.training.data.masking import refuse_unmaskable
from aftermix.training.data.mixture import SequenceMixture
from aftermix.training.data.packing import PackedTokens


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
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = describe_cause(error)
        remedy = "Name a causal language model of an architecture that transformers knows."
        raise TrainingError(base.label, f"cannot be loaded for training ({reason})", remedy) from error

    absent = sorted({*loaded["missing_keys"], *(str(entry) for entry in loaded["mismatched_keys"])})
    if absent:
        found = f"{len(absent)} weights are not in the files and would be random, first {absent[0]}"
        raise TrainingError(base.label, found, "Name a complete text model; check `architectures` in config.json.")

    return model


def refuse_unfit(packed: PackedTokens | SequenceMixture, model: Any, tokenizer: Any, *, where: str) -> None:
    """Raise :class:`TrainingError` when `model` cannot be trained on `packed`.

    That is when a token has no row in the embeddings, the context is beyond the model's, or documents are to be kept
    apart and the model mixes them.
    """
    settings = model.config.get_text_config()
    rows = int(settings.vocab_size)
    if packed.highest >= rows:
        token = tokenizer.convert_ids_to_tokens(packed.highest)
        found = (
            f"the tokenizer gives token {packed.highest} ({token!r}), but the model has {rows} rows, 0 to {rows - 1}"
        )
        raise TrainingError(where, found, "Use the tokenizer that this model was trained with.")

    positions = getattr(settings, "max_position_embeddings", None)
    if isinstance(positions, int) and packed.context > positions:
        found = f"a context of {packed.context} is beyond the model's {positions} positions"
        raise TrainingError("train.context", found, f"Use at most {positions}.")

    if packed.masked:
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
