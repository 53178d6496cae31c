"""lm-eval tasks found by name and built once per process."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory

from aftermix.config import EvaluateConfig, PromptConfig, TaskConfig
from aftermix.errors import AftermixError, EvaluationError, Problem, ask_meant_path, describe_cause, refuse_if_any
from aftermix.evaluation.documents.generators import GeneratorStates, own_generators
from aftermix.evaluation.documents.text_task import TaskTexts, TextsByTask, build_text_task
from aftermix.evaluation.documents.traced_task import traced_tasks
from aftermix.evaluation.local_files import resolve_data_files, tell_content
from aftermix.evaluation.quiet import HeardWarnings, quiet
from aftermix.evaluation.scoring.answers import explain_first_document

THINK_END = "think_end_token"
"""Name of what ends a thought among the generation options of a request."""
BUILT_IN = Path(lm_eval.tasks.__file__).parent


class Leaves(dict[str, Any]):
    """lm-eval tasks by name: one for a plain task, all leaves for a group or a tag."""

    states: GeneratorStates | None = None
    """The global generators once the task is built: its requests go on from there, as in lm-eval."""
    aggregates: tuple[Any, ...] = ()
    """The `aggregate_metric_list` of a group, as lm-eval reads it."""
    prompt: PromptConfig = PromptConfig()
    """Form of their prompts and answers."""
    without_shots: tuple[str, ...] = ()
    """Leaves that stay without few-shot examples, their YAML saying 0, though the file asks all tasks for some."""
    note: str | None = None
    """Words on documents that are left out."""


class _LocalFactory(TaskFactory):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's factory, with the files of local tasks found beside their YAML file."""

    def _load_full_config(self, entry: Any, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        loaded: dict[str, Any] = super()._load_full_config(entry, overrides)
        if entry.yaml_path is None or BUILT_IN in entry.yaml_path.parents:
            return loaded
        return tell_content(resolve_data_files(loaded, folder=entry.yaml_path.parent))


def load_tasks(
    config: EvaluateConfig, heard: HeardWarnings | None = None, *, texts: TextsByTask | None = None
) -> dict[str, Leaves]:
    """The leaves of every task that `config` names, with their data sets, in the order of the file.

    The built-in tasks, whose index costs many seconds, are read only when a name is not found under `include_path`.
    Each task is built from lm-eval's own seeds of the global generators. One that draws at random (options shuffled in
    `process_docs`) is therefore the same each time, whatever the other tasks and the cache of `datasets`, and is what
    lm-eval makes of it alone.

    What lm-eval warns of is counted in `heard`. `texts` are the documents of the tasks that are texts.

    Raises :class:`EvaluationError` for an unknown task (with the names that come close), a task that runs generated
    code without `unsafe_code: true`, images or sound, lm-eval's old Python interface, and data that cannot be loaded
    (with what the loader stumbled over, innermost last).
    """
    with quiet(heard):
        texts = texts or {}
        loaded = {name: _build_texts(name, each) for name, each in texts.items()}
        named = [task for task in config.tasks if task.text is None]
        if named:
            loaded |= _load_named(named, config)
    _refuse_shared_leaves(loaded)
    return {task.task: loaded[task.task] for task in config.tasks}


def _load_named(tasks: Sequence[TaskConfig], config: EvaluateConfig) -> dict[str, Leaves]:
    """Those of lm-eval and of local YAML files."""
    manager = _open_manager(config, tasks)
    index = manager.task_index
    refuse_if_any([_explain_unknown(task.task, list(index), config) for task in tasks if task.task not in index])
    for task in tasks:
        _refuse_code(task.task, index, allowed=config.unsafe_code)
    if config.unsafe_code:  # the metric of HumanEval and MBPP asks for this too
        os.environ.setdefault("HF_ALLOW_CODE_EVAL", "1")
    return {task.task: _load(task, manager, config) for task in tasks}


def _build_texts(name: str, texts: TaskTexts) -> Leaves:
    """Texts are no prompts: neither few-shot examples nor a chat template apply to them."""
    with own_generators():
        leaves = Leaves({name: build_text_task(name, texts)})
    leaves.note = texts.note
    return leaves


def _open_manager(config: EvaluateConfig, tasks: Sequence[TaskConfig]) -> Any:
    include_path = config.include_path
    if include_path is not None and not Path(include_path).is_dir():
        raise EvaluationError(
            "evaluate.include_path",
            f"'{include_path}' is not a folder",
            ask_meant_path("Name a folder of task YAMLs.", Path(include_path)),
        )

    manager = TaskManager(include_path=include_path, include_defaults=False) if include_path else None
    if manager is None or not all(_is_complete(task.task, manager.task_index) for task in tasks):
        manager = TaskManager(include_path=include_path, include_defaults=True)
    return manager


def _list_members(name: str, index: dict[str, Any]) -> list[str]:
    """Names of other tasks that a group or tag refers to; members defined on the spot are left out."""
    entry = index[name]
    if entry.kind.name == "TAG":
        return sorted(entry.tags)
    children = (entry.cfg or {}).get("task") if entry.kind.name == "GROUP" else None
    members = []
    for child in children if isinstance(children, list) else ():
        inline = isinstance(child, dict) and ("dataset_path" in child or isinstance(child.get("task"), list))
        if not inline:
            members.append(str(child.get("task", child.get("group")) if isinstance(child, dict) else child))
    return members


def _is_complete(name: str, index: dict[str, Any], above: tuple[str, ...] = ()) -> bool:
    """Say if `name` and all that it refers to are in `index`."""
    if name not in index or name in above:
        return name in index
    return all(_is_complete(member, index, (*above, name)) for member in _list_members(name, index))


def _explain_unknown(name: str, known: Sequence[str], config: EvaluateConfig) -> Problem:
    places = "lm-eval" + (f" or in {config.include_path}" if config.include_path else "")
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    remedy = f"Did you mean {', '.join(close)}?" if close else "List lm-eval's tasks with `lm-eval ls tasks`."
    return Problem("evaluate.tasks", f"there is no task '{name}' in {places}", remedy)


def _refuse_code(name: str, index: dict[str, Any], *, allowed: bool, above: tuple[str, ...] = ()) -> None:
    """Refuse before the task is built: building it may already run code."""
    if (index[name].cfg or {}).get("unsafe_code") and not allowed:
        raise _explain_code(name)
    for member in _list_members(name, index):
        if member in index and member not in above:
            _refuse_code(member, index, allowed=allowed, above=(*above, name))


def _load(task: TaskConfig, manager: Any, config: EvaluateConfig) -> Leaves:
    prompt = config.choose_prompt(task)
    _refuse_turns_without_template(task, prompt)
    manager._factory = _LocalFactory(meta={**(manager.metadata or {}), **(prompt.metadata or {})})
    try:
        with own_generators(), traced_tasks():
            built = manager.load([task.task])
            leaves = Leaves(built["tasks"])
            leaves.states = GeneratorStates.capture()
    except AftermixError:
        raise
    except Exception as error:  # lm-eval, datasets and the task's own Python may raise anything here
        known = explain_first_document(error)
        if known is not None:
            raise EvaluationError(known.where, known.found, known.remedy) from error
        raise EvaluationError(
            f"task '{task.task}'",
            f"cannot be loaded ({describe_cause(error)})",
            "Check its YAML and data files; offline, a hub data set must be in the cache.",
        ) from error

    group = built["groups"].get(task.task)
    leaves.aggregates = tuple((group.aggregate_metric_list if group else None) or ())
    for name, leaf in leaves.items():
        _refuse_unusable(name, leaf, unsafe_code=config.unsafe_code)
        shots = _choose_shots(task, config, leaf.get_config("num_fewshot"))
        leaf.set_config(key="num_fewshot", value=shots)
        _set_generation(leaf, prompt)
        if task.num_fewshot is None and shots == 0 and config.num_fewshot:
            leaves.without_shots += (name,)
    leaves.prompt = prompt
    _refuse_unused_options(task, leaves)
    return leaves


def _set_generation(leaf: Any, prompt: PromptConfig) -> None:
    """Generation options of the file, before those of the YAML; what ends a thought goes with the request."""
    if leaf.OUTPUT_TYPE == "generate_until":
        options = dict(prompt.gen_kwargs or {})
        if prompt.think_end_token is not None:
            options[THINK_END] = prompt.think_end_token
        leaf.set_config(key="generation_kwargs", value=options, update=True)


def _refuse_turns_without_template(task: TaskConfig, prompt: PromptConfig) -> None:
    if prompt.fewshot_as_multiturn and not prompt.apply_chat_template:
        found = "few-shot examples are to be turns, but no chat template applies"
        remedy = "Set `apply_chat_template: true`, or leave `fewshot_as_multiturn` out."
        raise EvaluationError(f"task '{task.task}'", found, remedy)


def _refuse_unused_options(task: TaskConfig, leaves: Leaves) -> None:
    """Options of a task's own line that change nothing there."""
    if any(leaf.OUTPUT_TYPE == "generate_until" for leaf in leaves.values()):
        return
    for key in ("gen_kwargs", "think_end_token"):
        if getattr(task, key) is not None:
            found = f"has `{key}`, but generates no text"
            raise EvaluationError(f"task '{task.task}'", found, f"Leave `{key}` out of its line.")


def _refuse_unusable(name: str, leaf: Any, *, unsafe_code: bool) -> None:
    if not isinstance(leaf, ConfigurableTask):
        raise EvaluationError(
            f"task '{name}'", "is written against lm-eval's old Python interface", "Take a task defined in YAML."
        )
    if getattr(leaf, "MULTIMODAL", False):
        raise EvaluationError(f"task '{name}'", "needs images or sound", "Take a task of text alone.")
    # An inline member of a group is not in the index, so `_refuse_code` has not seen it.
    if getattr(leaf, "UNSAFE_CODE", False) and not unsafe_code:
        raise _explain_code(name)


def _explain_code(name: str) -> EvaluationError:
    return EvaluationError(
        f"task '{name}'",
        "runs code that the model writes",
        "Set `evaluate.unsafe_code: true` if this machine may run it, or take another task.",
    )


def _refuse_shared_leaves(loaded: dict[str, Leaves]) -> None:
    """Two tasks with a leaf in common would split its items twice: what one searches on, the other would test on."""
    owner: dict[str, str] = {}
    for task, leaves in loaded.items():
        for leaf in leaves:
            if owner.setdefault(leaf, task) != task:
                raise EvaluationError(
                    "evaluate.tasks", f"'{leaf}' is in both '{owner[leaf]}' and '{task}'", "Name it once."
                )


def _choose_shots(task: TaskConfig, config: EvaluateConfig, own: int | None) -> int:
    """Few-shot examples: the task's line in the file, else `evaluate.num_fewshot`, else the task's own setting.

    As in lm-eval, the setting for all tasks leaves a task alone whose YAML says 0: its prompt holds its examples.
    """
    if task.num_fewshot is not None:
        return task.num_fewshot
    if config.num_fewshot is not None and own != 0:
        return config.num_fewshot
    return own or 0
