"""Cost of a mixture run, and of other methods on the same model and data."""

from __future__ import annotations

import json
from pathlib import Path

from aftermix.checkpoints.alignment.recorded_base import TRAINING_FILE
from aftermix.config import Config, Split
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.verify.finished_run import FinishedMixture
from aftermix.mixture.cost import MANUAL_RUNS, list_mixture_costs
from aftermix.runs.verification_records import MethodCostRecord


def build_cost_record(
    evaluator: MergeEvaluator, finished: FinishedMixture, *, trained: int, tokens: int
) -> tuple[MethodCostRecord, ...]:
    """The cost table of the `finished` run: `cost` in `verification.json`.

    MergeMix trains the experts and evaluates points on search and what it verifies on select items; RegMix trains
    `trained` mixtures of `tokens` tokens and evaluates each on search items; DoReMi trains reference and proxy, and
    evaluates the reference on the proxy's tokens; tuning by hand trains as often as in the paper. The test items are
    the report's, and count for none.
    """
    per_search, per_select = _count_tokens(evaluator, "search"), _count_tokens(evaluator, "select")

    on_search, on_select = finished.evaluated
    costs = list_mixture_costs(
        parameters=evaluator.merger.pool.parameters,
        expert_tokens=[_count_expert_tokens(evaluator.config, name, tokens) for name in finished.problem.domains],
        run_tokens=tokens,
        runs=trained,
        proxy_tokens=2 * tokens,
        evaluated={
            "mergemix": on_search * per_search + on_select * per_select,
            "regmix": trained * per_search,
            "doremi": tokens,
            "manual": MANUAL_RUNS * per_search,
        },
    )
    return tuple(MethodCostRecord(**cost) for cost in costs)


def _count_tokens(evaluator: MergeEvaluator, split: Split) -> int:
    """Tokens of one evaluation of all tasks."""
    return sum(evaluator.model_evaluator.suite.count_tokens(split, evaluator.model_evaluator.engine.lm).values())


def _count_expert_tokens(config: Config, name: str, tokens: int) -> int:
    """Tokens that an expert was trained on: by its own record, or the file, or as many as a mixture."""
    record = Path(config.vectors[name].model) / TRAINING_FILE
    if record.is_file():
        return int(json.loads(record.read_text(encoding="utf-8"))["tokens"])
    dataset = config.train.datasets.get(name) if config.train else None
    return (dataset.tokens if dataset else None) or tokens
