"""The text that experts read for their activation statistics, and the way in which it is measured."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from aftermix.config.fields import ConfigSection, Count


class CalibrationConfig(ConfigSection):
    """Text that an expert reads while the inputs of its linear layers are measured: a file or the prompts of a task."""

    data: str | None = None
    """Data as a training reads it: JSON lines, parquet, a saved dataset, or a plain text file."""
    format: Literal["text", "chat", "completion"] = "text"
    """Documents, conversations (`messages`) in the expert's own chat template, or a `prompt` with its `completion`."""
    text_field: str = "text"
    tokens: Literal["all", "answers"] = "all"
    """Tokens that count: all that are read, or those of the answers alone."""
    split: Annotated[str, Field(min_length=1)] | None = None
    """Split of a folder or pattern that holds several, or `all`. By default `train`."""
    ignore_columns: tuple[str, ...] = ()
    """Fields of a record, and keys of its messages, that are as if they were not there."""
    task: str | None = None
    """An lm-evaluation-harness task, whose prompts are read without their answers."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Few-shot examples of the task's prompts; by default the task's own setting."""

    @model_validator(mode="after")
    def _one_source(self) -> CalibrationConfig:
        if (self.data is None) == (self.task is None):
            raise ValueError("calibration takes one of `data: PATH` and `task: NAME`")
        foreign = sorted({"format", "tokens", "split", "ignore_columns"} & self.model_fields_set)
        if self.task is not None and foreign:
            raise ValueError(f"'{foreign[0]}' belongs to `data`: the prompts of a task are read as they are")
        if self.tokens == "answers" and self.format == "text":
            raise ValueError("'tokens: answers' needs `format: chat` or `completion`: a document has no answers")
        return self


def _calibration(value: Any) -> Any:
    return {"data": value} if isinstance(value, str) else value


class CalibrateConfig(ConfigSection):
    """Measuring of the inputs of the experts' linear layers (OBIM, section 3.1)."""

    samples: Count = 100
    """Texts that each expert reads; all of them where there are fewer."""
    context: Count | None = None
    """Longest sample in tokens; by default 1024, or the model's limit where that is lower."""
    long_texts: Literal["refuse", "cut"] = "refuse"
    """Fate of a document that is longer: an error, or several samples. A plain text file is always cut."""
    batch_size: Count = 8
    """Samples that go through the model together; they have one length, so that nothing is padded."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the choice of samples."""
    x_statistic: Literal["second_moment", "mean_input"] = "second_moment"
    """The mean of the squares of a channel, or the square of its mean."""
    stream: bool = False
    """Hold one decoder layer at a time, for a model that does not fit in memory."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the forward pass; `auto` is float32 on a CPU and the model's own on an accelerator."""
    device: str = "auto"
    threads: Count | None = None
