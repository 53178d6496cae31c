"""Generation settings of a task as vLLM's sampling parameters, for answers as the Hugging Face engine gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aftermix.errors import EvaluationError
from aftermix.evaluation.engines.generation import GenerationSettings

GREEDY = ("repetition_penalty",)
SAMPLED = ("temperature", "top_p", "top_k", "min_p")
"""Options of transformers' `generate` that vLLM has under the same name; the latter only where answers are sampled."""
NEUTRAL: Mapping[str, Any] = {
    "do_sample": None,
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "penalty_alpha": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "length_penalty": 1.0,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": None,
    "guidance_scale": None,
    "num_beam_groups": 1,
}
"""Options that vLLM lacks, and the value at which each does nothing."""


def build_sampling_options(settings: GenerationSettings, defaults: Any) -> dict[str, Any]:
    """Keywords of vLLM's `SamplingParams` for `settings`, what they leave open being as in the model's `defaults`.

    An answer ends at the tokens that end it in transformers, and at a stop text. Raises :class:`EvaluationError` for an
    option that vLLM does not have.
    """
    options = {key: value for key, value in settings.options.items() if value is not None}
    samples = bool(options.get("do_sample"))
    known = {*GREEDY, *SAMPLED, "do_sample", "min_new_tokens", "pad_token_id", "eos_token_id", "use_cache"}
    effective = {key: getattr(defaults, key, None) for key in (*GREEDY, *SAMPLED, *NEUTRAL, "min_new_tokens")} | options
    for name, value in effective.items():
        _refuse_unknown(name, value, known=known)

    taken = {
        name: effective[name] for name in (*GREEDY, *(SAMPLED if samples else ())) if effective.get(name) is not None
    }
    ends = options.get("eos_token_id", getattr(defaults, "eos_token_id", None))
    return {
        "max_tokens": settings.max_new_tokens,
        "min_tokens": int(effective.get("min_new_tokens") or 0),
        "stop": list(settings.stops) or None,
        "stop_token_ids": _list_tokens(ends),
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "skip_special_tokens": False,
        **({"temperature": 1.0} if samples else {"temperature": 0.0}),
        **taken,
    }


def _refuse_unknown(name: str, value: Any, *, known: set[str]) -> None:
    if name in known or value is None or (name in NEUTRAL and value == NEUTRAL[name]):
        return
    found = f"their generation option '{name}: {value}' is none of vLLM's"
    remedy = "Take it out of the task's `generation_kwargs` or of generation_config.json, or use `engine: hf`."
    raise EvaluationError("generated answers", found, remedy)


def _list_tokens(ends: int | Sequence[int] | None) -> list[int]:
    if ends is None:
        return []
    return [ends] if isinstance(ends, int) else [int(token) for token in ends]
