"""Low-rank adapters: trained in place of the weights, folded into them when the expert is written, and kept beside."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import save

from aftermix.checkpoints.formats.lora.adapter import WEIGHTS
from aftermix.checkpoints.formats.lora.config import CONFIG
from aftermix.checkpoints.formats.lora.names import ROOT
from aftermix.checkpoints.names import build_matcher
from aftermix.config import LoraConfig
from aftermix.errors import TrainingError
from aftermix.extras import format_install
from aftermix.seeds import derived_seed

ADAPTER = "default"
BASE_LAYER = "base_layer."
SHOWN = 3
ADAPTER_FOLDER = "adapter"
"""Folder of an expert with its adapters as PEFT stores them."""


def add_adapters(model: Any, config: LoraConfig, *, seed: int, where: str = "train.lora") -> list[str]:
    """Put an adapter on every layer that `config.targets` means, and freeze all else; names of what stays as it is.

    A layer computes `x (W + (alpha / rank) B A)^T`, `A` of shape (rank, in) drawn from `seed`, `B` of shape (out, rank)
    zero (Hu et al. 2022, equation 3). Raises :class:`TrainingError` when peft is not installed, for a pattern that
    means no linear layer, and for a rank beyond a layer's sides; `where` is the place of `config` in the file.
    """
    peft = _import_peft(where)
    layers = _find_targets(model, config, where=where)
    whole = {name for name, _ in model.named_parameters(remove_duplicate=False)}

    transposed = any(type(model.get_submodule(layer)).__name__ == "Conv1D" for layer in layers)
    adapters = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=layers, fan_in_fan_out=transposed)
    # Forked, so that the caller's random state does not depend on the adapters.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "lora"))
        peft.inject_adapter_in_model(adapters, model, adapter_name=ADAPTER)

    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    return sorted(whole - {f"{layer}.weight" for layer in layers})


def fold_adapters(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The `state` of `model` (see :func:`gather_state`) with every adapter folded in, under the names without adapters.

    `W + (alpha / rank) B A` in float32; layers that store `W` transposed (GPT-2's) get the transpose.
    """
    modules = dict(model.named_modules())
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue

        plain = name.replace(BASE_LAYER, "")
        tensors[plain] = tensor

        # A name with the base layer's part in it is of a layer that has an adapter.
        if name != plain and plain.endswith(".weight"):
            layer = plain.removesuffix(".weight")
            low, high = (state[f"{layer}.lora_{side}.{ADAPTER}.weight"].float() for side in "AB")
            change = (high @ low) * modules[layer].scaling[ADAPTER]
            tensors[plain] = tensor.float() + (change.T if modules[layer].fan_in_fan_out else change)
    return tensors


def format_adapter(model: Any, state: dict[str, torch.Tensor], *, base: str) -> dict[str, bytes]:
    """The files of the adapters in `state` as PEFT stores them, by their path in the expert's folder.

    Factors are those that were trained, in float32; `base` is what their settings call the base.
    """
    factors = {
        f"{ROOT}{name.replace(f'.{ADAPTER}.', '.')}": tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
        if ".lora_" in name
    }
    told = {"base_model_name_or_path": base, "inference_mode": True, "task_type": "CAUSAL_LM"}
    settings = model.peft_config[ADAPTER].to_dict() | told
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(settings.items())}

    return {
        f"{ADAPTER_FOLDER}/{WEIGHTS}": save(factors, metadata={"format": "pt"}),
        f"{ADAPTER_FOLDER}/{CONFIG}": (json.dumps(values, indent=2) + "\n").encode(),
    }


def _import_peft(where: str) -> Any:
    try:
        import peft
    except ImportError as error:
        raise TrainingError(where, "peft is not installed", f"Run `{format_install('lora')}`.") from error
    return peft


def _find_targets(model: Any, config: LoraConfig, *, where: str) -> list[str]:
    """Names of the layers that get an adapter: all linear ones but the head, or those that the patterns mean."""
    from transformers.pytorch_utils import Conv1D

    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)}
    head = model.get_output_embeddings()

    chosen = {name for name, module in linear.items() if module is not head} if config.targets is None else set()
    for pattern in config.targets or ():
        meant = build_matcher([pattern], where=f"{where}.targets")
        names = {name for name in linear if meant(name)}
        if not names:
            shown = ", ".join(list(linear)[:SHOWN])
            found = f"'{pattern}' means no linear layer; the model has, for example, {shown}"
            raise TrainingError(f"{where}.targets", found, "Correct or remove the pattern.")
        chosen |= names

    for name in sorted(chosen):
        if min(linear[name].weight.shape) < config.rank:
            found = f"{config.rank} is beyond {name}, whose weight is {tuple(linear[name].weight.shape)}"
            raise TrainingError(f"{where}.rank", found, "Lower it, or name other `targets`.")
        if linear[name] is head and model.config.get_text_config().tie_word_embeddings:
            found = f"{name} is tied to the embeddings, which an adapter would not change"
            raise TrainingError(f"{where}.targets", found, "Leave the head out.")

    return sorted(chosen)
