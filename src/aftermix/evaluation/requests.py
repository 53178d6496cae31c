"""lm-eval requests of a set of items, and the item scores of their answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import lm_eval.utils
import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED

from aftermix.config import PromptConfig
from aftermix.errors import AftermixError, EvaluationError, describe_cause
from aftermix.evaluation.documents.generators import own_generators
from aftermix.evaluation.scoring.metrics import read_item_values

FEWSHOT_SEED = DEFAULT_OTHER_SEED
"""lm-eval's own default, so that the same items get the same prompts from `lm_eval.simple_evaluate`."""

ChatTemplate = Callable[..., str]


@dataclass(frozen=True)
class LeafRequests:
    """The requests of some items of one lm-eval task, by item, in the items' order."""

    leaf: Any
    items: tuple[str, ...]
    instances: tuple[tuple[Any, ...], ...]

    def list_instances(self) -> list[Any]:
        """All requests, item after item."""
        return [instance for group in self.instances for instance in group]


def build_requests(
    leaf: Any,
    documents: Sequence[tuple[str, int, Any]],
    *,
    chat_template: ChatTemplate | None,
    prompt: PromptConfig = PromptConfig(),  # noqa: B008 - it is frozen
) -> LeafRequests:
    """Prompts and requests of `documents` (item, document number, content), which ascend by document number.

    The few-shot generator is seeded anew, so the prompts are a function of the task and these items alone, and are
    those of `lm_eval.simple_evaluate(samples=...)`. With a chat template examples are turns of the conversation, which
    is lm-eval's default, unless `prompt` says otherwise.
    """
    leaf.set_fewshot_seed(FEWSHOT_SEED)
    chat = {"apply_chat_template": chat_template is not None, "chat_template": chat_template}
    multiturn = prompt.fewshot_as_multiturn
    turns = {"fewshot_as_multiturn": chat_template is not None if multiturn is None else multiturn}
    built = []

    with compile_templates_once():
        for item, number, document in documents:
            try:
                context = leaf.fewshot_context(
                    document,
                    num_fewshot=leaf.get_config("num_fewshot") or 0,
                    system_instruction=prompt.system_instruction,
                    gen_prefix=leaf.doc_to_prefix(document),
                    **turns,
                    **chat,
                )
                metadata = (leaf.get_config("task"), number, leaf.get_config("repeats"))  # `task_name` draws an id
                made = leaf.construct_requests(doc=document, ctx=context, metadata=metadata, **chat)
            except Exception as error:  # templates and the task's own Python may raise anything
                raise EvaluationError(
                    f"item '{item}'",
                    f"its prompt cannot be built ({describe_cause(error)})",
                    "Correct the task's YAML or this document.",
                ) from error
            built.append(tuple(made) if isinstance(made, list) else (made,))
    return LeafRequests(leaf=leaf, items=tuple(item for item, _, _ in documents), instances=tuple(built))


def forget_answers(instances: Sequence[Any]) -> None:
    """Drop every answer: an instance is used again for the next candidate, and lm-eval would keep the old ones."""
    for instance in instances:
        instance.resps = []
        instance.filtered_resps = {}


def collect_answers(lm: Any, instances: Sequence[Any]) -> None:
    """Have `lm` answer all requests, one call for each kind, and store the answers in the instances.

    Raises :class:`EvaluationError` for whatever the model's own code raises, but not for memory that runs out or for
    what the system refuses.
    """
    forget_answers(instances)
    by_kind: dict[str, list[Any]] = defaultdict(list)
    for instance in instances:
        by_kind[instance.request_type].extend([instance] * (instance.repeats or 1))

    for kind, of_kind in by_kind.items():
        try:
            answers = getattr(lm, kind)(of_kind, disable_tqdm=True)
        except (AftermixError, MemoryError, OSError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the model's own code, and options of the task that it is called with
            names = ", ".join(f"'{name}'" for name in dict.fromkeys(instance.task_name for instance in of_kind))
            raise EvaluationError(
                f"task {names}",
                f"the model cannot answer its {kind} requests ({describe_cause(error)})",
                "Correct the task's `generation_kwargs`, or the generation settings of the model.",
            ) from error
        for instance, answer in zip(of_kind, answers, strict=True):
            instance.resps.append(answer)


def score_items(requests: LeafRequests) -> dict[str, list[dict[str, float]]]:
    """Filter -> the numbers by key of every item, in the items' order, from the instances' answers.

    Raises :class:`EvaluationError` for whatever the task's filters and its scoring raise, the item named.
    """
    leaf = requests.leaf
    leaf._instances = requests.list_instances()
    scored: dict[str, list[dict[str, float]]] = {}

    # Ties may be broken at random: the same for every candidate.
    with compile_templates_once(), own_generators():
        _apply_filters(leaf)
        for name in [ensemble.name for ensemble in leaf._filters]:
            scored[name] = [
                _score_item(leaf, group[0].doc, [instance.filtered_resps[name] for instance in group], item=item)
                for item, group in zip(requests.items, requests.instances, strict=True)
            ]
    return scored


def _apply_filters(leaf: Any) -> None:
    try:
        leaf.apply_filters()
    except Exception as error:  # a filter may be the task's own Python
        raise _explain_scoring(f"task '{leaf.get_config('task')}'", "its answers cannot be filtered", error) from error


def _score_item(leaf: Any, document: Any, answers: list[Any], *, item: str) -> dict[str, float]:
    try:
        return read_item_values(leaf, leaf.process_results(document, answers))
    except AftermixError:
        raise
    except Exception as error:  # metrics and the task's own Python may raise anything
        raise _explain_scoring(f"item '{item}'", "its answer cannot be scored", error) from error


def _explain_scoring(where: str, found: str, error: Exception) -> EvaluationError:
    return EvaluationError(
        where,
        f"{found} ({describe_cause(error)})",
        "Correct the task's metric, filter or `process_results`, or this document.",
    )


@contextmanager
def compile_templates_once() -> Iterator[None]:
    """lm-eval compiles a task's Jinja templates anew for every document; inside this block each is compiled once."""
    environment = lm_eval.utils.env
    original = environment.from_string
    environment.from_string = lru_cache(maxsize=4096)(original)
    try:
        yield
    finally:
        environment.from_string = original


def locate_request(request: Any) -> str:
    """Task and item of a request of lm-eval; items are numbered from 0 in the order of the task's documents."""
    task, item = getattr(request, "task_name", None), getattr(request, "doc_id", None)
    return "" if task is None or item is None else f"task '{task}', item {item}: "
