"""The folder that vLLM opens: configuration without weights, which reach the engine as its first exchange."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aftermix.errors import EvaluationError

HF_INSTEAD = "Use `engine: hf` for this model."


def write_model_folder(empty: Any, folder: Path, *, label: str) -> None:
    """Write `config.json` and `generation_config.json` of the `empty` model, which `label` names in messages.

    Raises :class:`EvaluationError` for an architecture that vLLM has no model of its own for, and for one that reads
    more than text.
    """
    architecture, config = type(empty).__name__, empty.config
    if config.get_text_config() is not config or hasattr(config, "vision_config"):
        raise EvaluationError(label, f"expected a model of text alone, found {architecture}", HF_INSTEAD)
    refuse_unknown_architecture(architecture, label=label)

    config.architectures = [architecture]
    config.save_pretrained(folder)
    empty.generation_config.save_pretrained(folder)


def refuse_unknown_architecture(architecture: str, *, label: str) -> None:
    """Raise :class:`EvaluationError` where vLLM has no model of that name."""
    from vllm import ModelRegistry

    if architecture not in ModelRegistry.get_supported_archs():
        found = f"its architecture {architecture} is none that vLLM has"
        raise EvaluationError(label, found, HF_INSTEAD)
