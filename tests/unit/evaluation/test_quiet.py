"""What lm-eval warns of is told once, counted; its errors pass."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.harness import TaskSuite
from aftermix.evaluation.quiet import HeardWarnings, quiet

LOGGER = logging.getLogger("lm_eval.api.task")


def test_warnings_of_one_kind_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    heard = HeardWarnings()
    with quiet(heard):
        for number in range(3):
            LOGGER.warning(f"[Task: t{number}] item {number} of 'x{number}' is odd\nand more")
        LOGGER.warning("Something else")
        LOGGER.info("not this")
    assert caplog.text == ""
    assert heard.take_lines() == [
        "lm-eval warns: [Task: t0] item 0 of 'x0' is odd (3 times like this)",
        "lm-eval warns: Something else",
    ]


def test_a_kind_that_was_told_is_not_told_again() -> None:
    heard = HeardWarnings()
    for expected in (1, 0):
        with quiet(heard):
            LOGGER.warning("Label 7 is beyond")
        assert len(heard.take_lines()) == expected


def test_errors_pass_and_everything_is_put_back(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("lm_eval")
    before = logger.level, list(logger.handlers), logger.propagate
    with quiet(HeardWarnings()):
        LOGGER.error("broken")
    assert [record.getMessage() for record in caplog.records] == ["broken"]
    assert (logger.level, logger.handlers, logger.propagate) == before


def test_a_suite_hears_the_building_and_the_scoring(
    tasks: Path, model_a: Path, tokenizer_folder: Path, config_of: Any, add_task_to: Any, task_texts: Any
) -> None:
    bare = task_texts["colours"].replace(", aggregation: mean, higher_is_better: true", "")
    python = (
        "import logging\ndef score(doc, results):\n"
        "    logging.getLogger('lm_eval').warning(f'answer {doc[\"answer\"]} was cut')\n    return {'acc': 1.0}\n"
    )
    (tasks / "own.py").write_text(python)
    add_task_to(tasks, "bare", bare + "process_results: !function own.score\n")
    config = config_of(tasks, "bare")
    suite = TaskSuite.build(config)
    assert suite.heard.take_lines() == [
        "lm-eval warns: [Task: bare] metric acc is defined, but aggregation is not. using default aggregation=mean "
        "(2 times like this)",
        "lm-eval warns: [Task: bare] metric acc is defined, but higher_is_better is not. using default "
        "higher_is_better=True (2 times like this)",
    ]

    engine = HuggingFaceEngine.open(model_a, tokenizer_folder=tokenizer_folder, config=config)
    suite.evaluate(engine.lm, "search")
    lines = suite.heard.take_lines()
    assert len(lines) == 1
    assert lines[0].startswith("lm-eval warns: answer ")
    assert lines[0].endswith(" was cut (8 times like this)")
    suite.evaluate(engine.lm, "select")
    assert suite.heard.take_lines() == []
