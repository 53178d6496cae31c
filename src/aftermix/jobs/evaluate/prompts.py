"""Prompts as the model is given them: texts, tokens, choices, the right one. No weights are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from aftermix.checkpoints.model_files import find_tokenizer_folder
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, Split, require
from aftermix.errors import EvaluationError, printable
from aftermix.evaluation.engines.hf import open_planning_model
from aftermix.evaluation.engines.live_model import HarnessModel
from aftermix.evaluation.harness import TaskSuite
from aftermix.evaluation.kept.tasks import KeptItem
from aftermix.jobs.evaluate.opening import read_task_texts
from aftermix.jobs.job_kind import NEEDED

LAST_TOKENS = 12
"""Tokens of a context that are shown one by one: those at the join."""


def show_prompts(config: Config, *, split: Split, count: int) -> list[str]:
    """Lines that show the first `count` items of `split` of every task of `config`.

    Texts have their white space written out, and are cut nowhere; of a context the last tokens stand apart. Raises
    :class:`AftermixError` as an evaluation would.
    """
    require(config, *NEEDED["evaluate"])
    assert config.evaluate is not None  # noqa: S101 - required above; for the type checker
    if config.evaluate.function is not None:
        found = "expected lm-eval's tasks, found one's own `function`, whose prompts nobody else sees"
        raise EvaluationError("--show", found, "Print them in the function.")
    pool, suite = open_pool(config), TaskSuite.build(config.evaluate, texts=read_task_texts(config.evaluate))
    lm = open_planning_model(pool.frame, tokenizer_folder=find_tokenizer_folder(pool), config=config.evaluate)
    gold = {
        (task, item.item): item.gold
        for task, kept in suite.keep_split(split, lm).tasks.items()
        for item in kept.items
        if isinstance(item, KeptItem)
    }

    lines: list[str] = []
    for task, leaves in suite.build_split(split, lm).items():
        items = [pair for leaf in leaves for pair in zip(leaf.items, leaf.instances, strict=True)][:count]
        for item, requests in items:
            lines += [*describe_item(lm, f"{task}: {item}", requests, gold.get((task, item), -1)), ""]
    return lines[:-1]


def describe_item(lm: HarnessModel, title: str, requests: Sequence[Any], gold: int) -> Iterator[str]:
    """Lines on one item: its contexts, each once, and what is scored or written after it."""
    yield title
    shown = None

    for number, request in enumerate(requests):
        if request.request_type == "loglikelihood":
            context, continuation = request.args
            context_tokens, tokens = lm.tokenise_pair(context, continuation)
            if context != shown:
                yield from _describe_context(lm, context, context_tokens)
                shown = context
            mark = "right" if number == gold else f"{number}"
            yield f"  {mark:>7}: {_quote(continuation)}: {_list_tokens(lm, tokens)}"
        elif request.request_type == "generate_until":
            context, options = request.args
            yield from _describe_context(lm, context, lm.tok_encode(context))
            yield f"  written: until {', '.join(map(_quote, options.get('until') or ['the end token']))}"
        else:
            windows = lm.find_windows([request]).counts[0]
            told = f"all of them scored{f', in {windows} windows' if windows > 1 else ''}"
            yield f"  text: {_quote(request.args[0])}: {len(lm.tok_encode(request.args[0]))} tokens, {told}"


def _describe_context(lm: HarnessModel, context: str, tokens: Sequence[int]) -> Iterator[str]:
    yield f"  context: {_quote(context)}"
    yield f"  {len(tokens)} tokens, the last {_list_tokens(lm, tokens[-LAST_TOKENS:])}"


def _list_tokens(lm: HarnessModel, tokens: Sequence[int]) -> str:
    return " ".join(_quote(lm.tok_decode([token], skip_special_tokens=False)) for token in tokens)


def _quote(text: str) -> str:
    return printable(repr(text)[1:-1].join("''"))
