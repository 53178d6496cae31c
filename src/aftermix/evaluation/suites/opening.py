"""The evaluation that a file asks for, opened."""

from __future__ import annotations

from aftermix.config import EvaluateConfig
from aftermix.evaluation.documents.text_task import TextsByTask
from aftermix.evaluation.own.suite import OwnSuite
from aftermix.evaluation.suites.contract import EvaluationSuite
from aftermix.evaluation.suites.harness_suite import HarnessSuite


def open_suite(
    config: EvaluateConfig, *, equal_rows_together: bool = True, texts: TextsByTask | None = None
) -> EvaluationSuite:
    """The user's own function where `config` names one, else lm-eval's tasks; before any model is loaded.

    Runs of earlier versions were split without `equal_rows_together`. `texts` are the documents of the tasks that are
    texts. Raises :class:`EvaluationError` for whatever is
    wrong with either.
    """
    if config.function is not None:
        return OwnSuite.build(config)
    return HarnessSuite.build(config, equal_rows_together=equal_rows_together, texts=texts)
