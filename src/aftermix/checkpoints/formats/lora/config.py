"""The `adapter_config.json` of a LoRA adapter: what decides its numbers, and what no difference of weights can say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AllowInfNan, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from aftermix.checkpoints.safe_files import read_json
from aftermix.errors import ManyProblemsError, Problem, refuse_if_any

CONFIG = "adapter_config.json"
FOLD = "Fold it into its base with PEFT (`merge_and_unload`), save that, and name the result."
MOST_REPETITIONS = 2

UNUSED = frozenset(
    {
        *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "runtime_config"),
        *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "bias"),
        *("lora_dropout", "megatron_config", "megatron_core", "qalora_group_size", "loftq_config", "eva_config"),
        *("corda_config", "lora_ga_config", "velora_config"),
    }
)
"""Settings of training, or of which tensors there are, which the file of tensors says itself."""
UNMOVED_BASE = ("gaussian", "eva", "orthogonal", "mica")
"""Initialisations that leave the base as it was; the others (PiSSA, OLoRA, CorDA ...) subtract from it first."""

Rank = Annotated[int, Field(gt=0, le=1 << 20)]
Finite = Annotated[float, AllowInfNan(False)]
Number = TypeVar("Number", int, float)
OrEmpty = BeforeValidator(lambda value: {} if value is None else value)


class AdapterConfig(BaseModel):
    """PEFT's settings that the difference depends on, under PEFT's names."""

    model_config = ConfigDict(frozen=True, extra="allow")

    peft_type: str
    r: Rank
    lora_alpha: Finite
    rank_pattern: Annotated[dict[str, Rank], OrEmpty] = {}
    alpha_pattern: Annotated[dict[str, Finite], OrEmpty] = {}
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    init_lora_weights: bool | str | None = True
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    ensure_weight_tying: bool = False
    base_model_name_or_path: str | None = None

    def find_rank(self, module: str) -> int:
        """Rank of the factors of `module`."""
        return _match_pattern(self.rank_pattern, module, self.r)

    def compute_scale(self, module: str) -> float:
        """Factor of B A: alpha / rank, or alpha / sqrt(rank) when rank-stabilised."""
        rank = self.find_rank(module)
        return _match_pattern(self.alpha_pattern, module, self.lora_alpha) / (
            math.sqrt(rank) if self.use_rslora else rank
        )

    def list_tokens(self, module: str) -> list[int] | None:
        """Rows of `module` that were trained one by one."""
        indices = self.trainable_token_indices
        if isinstance(indices, dict):
            return next((rows for name, rows in indices.items() if f".{module}".endswith(f".{name}")), None)
        return indices


MLX_KEYS = frozenset(("fine_tune_type", "lora_parameters"))
"""Settings by which an adapter of MLX is known, whose file has the name of PEFT's."""
FUSE = "Fold it into its base with `mlx_lm.fuse`, and name the result."


def read_adapter_config(folder: Path, *, label: str) -> AdapterConfig:
    """The settings in `folder`.

    Raises :class:`ManyProblemsError` for another kind of adapter, values out of bounds, and every setting that makes
    the adapter more than a difference of weights.
    """
    values = read_json(folder / CONFIG, remedy="Copy the adapter again.")
    kind = values.get("peft_type")
    if kind is None and MLX_KEYS & values.keys():
        refuse_if_any([Problem(label, "is an adapter of MLX, only those of PEFT are read", FUSE)])
    if kind != "LORA":
        refuse_if_any([Problem(label, f"is an adapter of type {kind!r}, only LORA is read", FOLD)])

    try:
        settings = AdapterConfig.model_validate(values)
    except ValidationError as error:
        raise ManyProblemsError([_describe_bad_value(folder, detail) for detail in error.errors()]) from error
    refuse_if_any([*_list_unsupported(settings, label), *_list_involved_patterns(settings, folder)])
    return settings


def _list_unsupported(settings: AdapterConfig, label: str) -> list[Problem]:
    unknown = {key: value for key, value in (settings.model_extra or {}).items() if value and key not in UNUSED}
    problems = [
        Problem(label, f"uses PEFT's `{key}`, which is not a plain difference of weights", FOLD) for key in unknown
    ]
    start = settings.init_lora_weights
    if isinstance(start, str) and start.lower() not in UNMOVED_BASE:
        problems.append(Problem(label, f"began by `init_lora_weights: {start}`, which also changes the base", FOLD))
    return problems


def _list_involved_patterns(settings: AdapterConfig, folder: Path) -> list[Problem]:
    """Patterns come from a stranger's file: one that could run for hours, or is none, is not run at all."""
    problems = []
    for key, patterns in (("rank_pattern", settings.rank_pattern), ("alpha_pattern", settings.alpha_pattern)):
        for pattern in patterns:
            if len(re.findall(r"[*+?{]", pattern)) > MOST_REPETITIONS or re.search(r"\)[*+{?]", pattern):
                found = f"'{pattern}' repeats more than {MOST_REPETITIONS} times, or repeats a group"
            elif (fault := _find_fault(pattern)) is not None:
                found = f"'{pattern}' is no regular expression ({fault})"
            else:
                continue

            problems.append(Problem(f"{folder / CONFIG}: {key}", found, "Write the modules' names out."))
    return problems


def _find_fault(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return None


def _match_pattern(patterns: Mapping[str, Number], module: str, default: Number) -> Number:
    """The value of the first pattern that `module` ends with, as PEFT looks them up."""
    return next((v for pattern, v in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), default)


def _describe_bad_value(folder: Path, detail: Any) -> Problem:
    place = ".".join(str(part) for part in detail["loc"])
    found = f"{detail['msg']}, found {str(detail.get('input'))[:100]!r}"
    return Problem(f"{folder / CONFIG}: {place}", found, "Copy the adapter again.")
