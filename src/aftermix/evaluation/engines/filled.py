"""A live model of tensors that no folder of transformers holds: dequantised ones, or rows of another vocabulary."""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto import modeling_auto

from aftermix.checkpoints.model import Model, read_tensor
from aftermix.errors import EvaluationError, describe_cause
from aftermix.evaluation.engines.live_weights import LiveWeights

LoadingReport = dict[str, list[str]]
BAD_ARCHITECTURE = (ValueError, KeyError, TypeError, ArithmeticError, StrictDataclassError)
"""Errors of transformers about a configuration that it does not know, or whose numbers do not go together."""


def fill_model(model: Model, *, dtype: torch.dtype, maker: Any = None) -> tuple[Any, LoadingReport]:
    """An empty model of the configuration of `model`, made by the class `maker` (by default that of its kind), filled
    with its tensors.

    Also returned is what transformers would report: names of parameters that got no values, and of tensors that have no
    place. Raises :class:`EvaluationError` for an architecture that transformers does not know.
    """
    try:
        architecture = name_architecture(model)
        made = _make_empty(maker or choose_model_class(architecture, model), architecture, dtype)
    except BAD_ARCHITECTURE as error:
        raise _explain_architecture(model, error) from error

    # A parameter that stays NaN was in no file.
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(math.nan)
    weights = LiveWeights(made, model)
    weights.load((name, read_tensor(model, name)) for name in model.tensors)
    missing = [name for name, parameter in made.named_parameters() if parameter.isnan().any()]
    return made, {
        "missing_keys": missing,
        "unexpected_keys": [n for n in model.tensors if weights.find_route(n) is None],
    }


def choose_model_class(architecture: Any, model: Model) -> Any:
    """The class that answers texts with all tensors of `model`, whose configuration is `architecture`.

    It is the causal one. Models of text and images have another where transformers has no causal class of their kind,
    or one that has no place for what sees and does not leave it aside by itself.
    """
    kind = architecture.model_type
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    seeing = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind)
    if seeing is None or causal == seeing:
        return AutoModelForCausalLM
    if causal is None:
        return AutoModelForImageTextToText
    is_stored = (model.config.get("architectures") or [None])[0] == seeing
    left_aside = getattr(getattr(transformers, str(causal), None), "_keys_to_ignore_on_load_unexpected", None)
    return AutoModelForImageTextToText if is_stored and not left_aside else AutoModelForCausalLM


def _make_empty(maker: Any, architecture: Any, dtype: torch.dtype) -> Any:
    if hasattr(maker, "from_config"):
        return maker.from_config(architecture, dtype=dtype, trust_remote_code=False)
    return maker._from_config(architecture, dtype=dtype)


def name_architecture(model: Model) -> Any:
    """The configuration of `model` as transformers has it, without what its folder says of how weights are stored.

    Raises :class:`EvaluationError` for an architecture that transformers does not know.
    """
    try:
        return AutoConfig.for_model(**model.config)
    except BAD_ARCHITECTURE as error:
        raise _explain_architecture(model, error) from error


def _explain_architecture(model: Model, error: Exception) -> EvaluationError:
    reason, remedy = describe_cause(error), "Take a model that transformers knows without remote code."
    return EvaluationError(model.label, f"its architecture cannot be evaluated ({reason})", remedy)
