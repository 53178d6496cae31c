"""Tasks that are measured, their items, and the engine."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticKnownError

from aftermix.config.fields import NAME_PATTERN, ConfigSection, Count, Day, Threads

Split = Literal["search", "select", "test"]
CALLABLE = "callable "
"""Beginning of a `function` that was handed over in Python and lies in no file: `callable MODULE:NAME`."""
TEST_ITEMS = 500
"""Number of test items that a message offers."""


def _count_or_rest(value: Any) -> Any:
    if value == "rest" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError(f"expected `rest` or a count greater than 0, found {value!r}")


ItemCount = Annotated[int | Literal["rest"], BeforeValidator(_count_or_rest)]
"""Checked by hand, so that a fault is one message and not one for each of the two."""


class ItemsConfig(ConfigSection):
    """Number of items of each task that search, select and test the weights; the three are disjoint.

    `rest` is all items that the other two do not take.
    """

    search: ItemCount = 100
    select: Count = 300
    test: ItemCount = "rest"
    scheme: Literal["disjoint", "first"] = "disjoint"
    """`first` is the OptiMer paper's own scheme: the first 100 items search, the first 300 select; they overlap."""
    seed: Annotated[int, Field(ge=0)] = 0
    small: Literal["even", "proportion"] = "even"
    """Split of a task with too few items for the default counts, where the file sets none of the three.

    `even`: the parts grow together up to the search count, then select up to its own, then test. `proportion`: as 1 to
    3 to 3.
    """

    @property
    def states_counts(self) -> bool:
        """True if the file sets a part's count, or says which is the rest."""
        return not self.model_fields_set.isdisjoint(("search", "select", "test"))

    @model_validator(mode="after")
    def _one_part_is_the_rest(self) -> ItemsConfig:
        if self.search == "rest" and self.scheme == "first":
            raise ValueError("`search: rest` needs `scheme: disjoint`: with `first` the test items are the rest")
        if self.search == "rest" and self.test == "rest":
            found = "found both" if "test" in self.model_fields_set else "found `search: rest`, and `test` left out"
            raise ValueError(f"search or test is the rest, {found}; give `test` a count, such as `test: {TEST_ITEMS}`")
        return self


class PromptConfig(ConfigSection):
    """Form of prompts and answers: for all tasks, or for one, whose own keys (of mappings each entry) go before."""

    system_instruction: str | None = None
    """Text before every prompt; with a chat template, the system's turn."""
    apply_chat_template: bool | None = None
    chat_template_args: dict[str, Any] | None = None
    """Further variables of the chat template, e.g. `{enable_thinking: false}`."""
    fewshot_as_multiturn: bool | None = None
    """Few-shot examples as turns of the conversation; by default wherever a chat template applies."""
    think_end_token: str | int | None = None
    """Text, or number of a token, up to whose last occurrence an answer is thought and not scored."""
    gen_kwargs: dict[str, Any] | None = None
    """Generation options that go before those of a task's YAML."""
    metadata: dict[str, Any] | None = None
    """Values that a task's YAML or code asks for, e.g. `{max_seq_lengths: [4096]}`."""


OF_TEXTS = ("text", "field", "split", "limit")
"""Keys of a task that is texts."""


class TaskConfig(PromptConfig):
    """One lm-evaluation-harness task or group, and the metric that counts; or texts, scored in bits per byte."""

    task: str
    """Name of lm-eval's task; of texts their own."""
    text: str | None = None
    """Files of texts: a file (JSONL, parquet, plain text; perhaps with `.gz`), a folder, or a pattern."""
    field: Annotated[str, Field(min_length=1)] | None = None
    """Field of a record that is the document; by default `text`."""
    split: Annotated[str, Field(min_length=1)] | None = None
    """Split of a folder or pattern that holds several, or `all`; by default `train`."""
    limit: Count | None = None
    """Documents that are taken, the first ones of the files; by default all."""
    metric: str | None = None
    """Metric name; by default the task's first."""
    filter: str | None = None
    """Filter of the metric, e.g. `flexible-extract`; by default the task's first."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _texts_stand_alone(self) -> TaskConfig:
        given = [key for key in type(self).model_fields if key != "task" and getattr(self, key) is not None]
        own, foreign = ([key for key in given if (key in OF_TEXTS) == of_texts] for of_texts in (True, False))
        if self.text is None and own:
            raise ValueError(f"`{own[0]}` is of texts, whose files `text` names, and there is none beside it")
        if self.text is not None and foreign:
            raise ValueError(f"`{foreign[0]}` cannot stand beside `text`, whose documents are scored whole as they are")
        if self.text is not None and not re.match(NAME_PATTERN, self.task):
            raise ValueError("a task of texts is called by letters, digits, `-`, `_` and `.`, the first no sign")
        return self


def _task(value: Any) -> Any:
    if isinstance(value, dict) and "text" in value and "task" not in value:  # texts have a name of their own
        return {"task" if key == "name" else key: each for key, each in value.items()}
    return {"task": value} if isinstance(value, str) else value


def _function(value: Any) -> Any:
    file, _, name = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not file or not name.isidentifier():
        raise ValueError("expected a file and a function in it, as `my_eval.py:score`")
    return value


class EvaluateConfig(PromptConfig):
    """Tasks that are measured, their items, and the engine; or a function of the user's own that measures."""

    function: Annotated[str, BeforeValidator(_function)] | None = None
    """`FILE.py:NAME`, the user's own scorer. `tasks` then choose among its tasks; left out, they are all of these."""
    model_class: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = None
    """Class of transformers that the scorer is handed; by default `AutoModelForCausalLM`."""
    tasks: tuple[Annotated[TaskConfig, BeforeValidator(_task)], ...] = Field(default=(), validate_default=True)
    include_path: str | None = None
    """Folder of local task YAML files."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Few-shot examples of every task; by default each task's own setting."""
    items: ItemsConfig = ItemsConfig()
    engine: Literal["hf", "vllm"] = "hf"
    """`hf`: transformers in this process; `vllm`: vLLM in processes of its own, where merges are made, too."""
    batch_size: Count = 8
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, ..."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type the engine computes in; `auto` is float32 on a CPU and the base's type on an accelerator."""
    threads: Threads = "auto"
    """CPU threads of the engine."""
    workers: Count = 1
    """Processes or actors that measure points at the same time, each with an engine of its own."""
    cluster: Literal["ray"] | None = None
    """`ray`: workers are actors of a Ray cluster; by default they are processes of this machine."""
    gpus_per_worker: Count = 1
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which a measurement that has not ended is taken from its worker, which is replaced."""
    max_length: Count | None = None
    apply_chat_template: bool = False
    date: Day | None = None
    """Day that a chat template is given which asks for today's, as `2026-11-28`."""
    reference_loglikelihood: Literal["auto", False] = "auto"
    """`auto`: of generated tasks the log-likelihood of the right answer is kept, too, wherever it is a text."""
    unsafe_code: bool = False
    """Allow tasks that run generated code."""

    @property
    def applies_chat_template(self) -> bool:
        """True if a chat template applies to any task."""
        return any(self.choose_prompt(task).apply_chat_template for task in self.tasks)

    def choose_prompt(self, task: TaskConfig) -> PromptConfig:
        """The form of prompts and answers of one task: its own keys, else those of all tasks."""
        chosen: dict[str, Any] = {}
        for key in PromptConfig.model_fields:
            own, common = getattr(task, key), getattr(self, key)
            if isinstance(own, dict) and isinstance(common, dict):
                chosen[key] = {**common, **own}
            else:
                chosen[key] = common if own is None else own
        return PromptConfig(**chosen)

    @field_validator("tasks")
    @classmethod
    def _tasks_are_named(cls, tasks: tuple[TaskConfig, ...], info: ValidationInfo) -> tuple[TaskConfig, ...]:
        if not tasks and not info.data.get("function"):
            raise PydanticKnownError("too_short", {"field_type": "Tuple", "min_length": 1, "actual_length": 0})
        return tasks

    @model_validator(mode="after")
    def _own_function_stands_alone(self) -> EvaluateConfig:
        if self.function is None:
            if self.model_class is not None:
                raise ValueError("`model_class` is for one's own `function`, and there is none beside it")
            return self
        if self.engine != "hf":
            raise ValueError(f"`engine: {self.engine}` cannot stand beside `function`, which is handed a live model")
        asked = [*PromptConfig.model_fields, "include_path", "num_fewshot", "max_length", "date", "unsafe_code"]
        written = [key for key in asked if getattr(self, key) not in (None, False)]
        of_tasks = sorted({key for task in self.tasks for key in task.model_dump(exclude_none=True) if key != "task"})
        if written or of_tasks:
            keys = ", ".join(f"`{key}`" for key in written or of_tasks)
            whose = "texts" if "text" in of_tasks and not written else "lm-eval's tasks"
            raise ValueError(f"{keys} of {whose} cannot stand beside `function`, which makes its own prompts")
        return self

    @model_validator(mode="after")
    def _tasks_are_distinct(self) -> EvaluateConfig:
        names = [task.task for task in self.tasks]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"task '{doubled[0]}' is named twice")
        return self
