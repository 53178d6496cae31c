"""An evaluation that is stopped at any pass goes on at its block, to the bits of the one that was left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aftermix.evaluation.blocks.plan_blocks import cut_blocks
from aftermix.evaluation.engines.batches import ScoringPlan
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.engines.tree_plan import TreePlan
from aftermix.evaluation.harness import SuiteScores, TaskSuite
from aftermix.runs.answers import blocks
from aftermix.runs.answers.blocks import journal_blocks

pytestmark = pytest.mark.usefixtures("shown")

ROLLING = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: question
process_results: !function own.score
metric_list:
  - {metric: likelihood, aggregation: mean, higher_is_better: true}
"""
SCORE = "def score(doc, results):\n    return {'likelihood': results[0] / 100}\n"


class Stop(KeyboardInterrupt):
    """Ctrl-C."""


class Stopwatch:
    """Counts positions that the model computes, and stops it when so many passes have begun."""

    def __init__(self, model: Any) -> None:
        self.positions, self.passes, self.limit = 0, 0, 10**9
        model.get_input_embeddings().register_forward_pre_hook(self._count)

    def _count(self, _: Any, arguments: Any) -> None:
        if self.passes == self.limit:
            raise Stop
        self.positions += arguments[0].numel()
        self.passes += 1

    def restart(self, limit: int = 10**9) -> None:
        self.positions, self.passes, self.limit = 0, 0, limit


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LEAST_SECONDS", 0.0)


@pytest.fixture
def opened(
    request: pytest.FixtureRequest,
    tasks: Path,
    model_a: Path,
    tokenizer_folder: Path,
    config_of: Any,
    add_task_to: Any,
    task_texts: Any,
) -> Any:
    """A suite, its live model and a counter on it, for a kind of task."""
    kind = request.param
    (tasks / "own.py").write_text(SCORE)
    common = task_texts["write_colour"].split("doc_to_text")[0]
    add_task_to(tasks, "rolled", common + ROLLING)
    names: dict[str, Any] = {
        "plain": ["colours"],
        "tree": ["colours"],
        "generated": [{"task": "write_colour", "filter": "strict"}],
        "rolled": ["rolled"],
        "all": ["colours", {"task": "write_colour", "filter": "strict"}, "rolled"],
    }
    config = config_of(tasks, *names[kind], items={"search": 20, "select": 5}, batch_size=1)
    suite = TaskSuite.build(config)
    engine = HuggingFaceEngine.open(model_a, tokenizer_folder=tokenizer_folder, config=config)
    watch = Stopwatch(engine.lm.model)
    if kind == "plain":
        engine.lm.reason_against_trees = "not asked for"
    suite.evaluate(engine.lm, "search", keep=True)  # probes and plans are made at the first
    return kind, suite, engine.lm, watch


def assert_same(found: SuiteScores, expected: SuiteScores) -> None:
    assert (found.items, found.metrics, found.tokens, found.truncated) == (
        expected.items, expected.metrics, expected.tokens, expected.truncated
    )  # fmt: skip
    assert found.answers is not None
    assert expected.answers is not None
    for task, ours in found.answers.items():
        theirs = expected.answers[task]
        assert ours.loglikelihood.tobytes() == theirs.loglikelihood.tobytes()
        assert ours.greedy.tobytes() == theirs.greedy.tobytes()
        assert ours.generated == theirs.generated


@pytest.mark.parametrize("opened", ["plain", "tree", "generated", "rolled", "all"], indirect=True)
def test_a_stopped_evaluation_goes_on_to_the_same_bits(opened: Any, tmp_path: Path) -> None:
    kind, suite, lm, watch = opened
    watch.restart()
    alone = suite.evaluate(lm, "search", keep=True)
    passes, positions = watch.passes, watch.positions
    if kind in ("plain", "tree"):
        requests = suite.list_requests("search", lm)["colours"]
        assert type(lm.find_scoring_plan(requests).plan) is {"plain": ScoringPlan, "tree": TreePlan}[kind]
    assert passes > 8

    items = tmp_path / "00000.json"
    for part in (0.4, 0.2):  # of all passes, so that the second stop is before the end, too
        watch.restart(limit=int(passes * part))
        with pytest.raises(Stop), journal_blocks(items, "a"):
            suite.evaluate(lm, "search", keep=True)

    watch.restart()
    with journal_blocks(items, "a"):
        assert_same(suite.evaluate(lm, "search", keep=True), alone)
    assert 0.2 * positions < watch.positions < 0.75 * positions


@pytest.mark.parametrize("opened", ["plain", "tree"], indirect=True)
def test_only_missing_blocks_are_computed(opened: Any, tmp_path: Path) -> None:
    kind, suite, lm, watch = opened
    plan = lm.find_scoring_plan(suite.list_requests("search", lm)["colours"]).plan
    watch.restart()
    sizes = [each.positions for each in plan.passes]
    cut = list(cut_blocks(sizes))
    suite.evaluate(lm, "search")
    assert watch.positions == sum(sizes) == plan.positions

    for number in range(0, len(cut), 3):
        items = tmp_path / f"{number:05d}.json"
        watch.restart(limit=cut[number].start)
        with pytest.raises(Stop), journal_blocks(items, "a"):
            suite.evaluate(lm, "search")
        watch.restart()
        with journal_blocks(items, "a"):
            suite.evaluate(lm, "search")

        missing = sum(sizes[cut[number].start :])
        beginnings = (
            0
            if kind == "plain"
            else sum(stage.beginning.positions for stage in plan.root.stages if stage.beginning is not None)
        )
        assert missing <= watch.positions <= missing + beginnings


@pytest.mark.parametrize("opened", ["tree"], indirect=True)
def test_a_block_of_other_weights_is_not_taken(opened: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, suite, lm, watch = opened
    alone = suite.evaluate(lm, "search", keep=True)
    items = tmp_path / "00000.json"
    with journal_blocks(items, "a 0.5"):
        suite.evaluate(lm, "search")
    watch.restart()
    with journal_blocks(items, "a 0.7"):
        assert_same(suite.evaluate(lm, "search", keep=True), alone)
    assert watch.positions == lm.find_scoring_plan(suite.list_requests("search", lm)["colours"]).plan.positions
    assert "blocks of another candidate (expected a 0.7, found a 0.5): computed anew" in capsys.readouterr().err


@pytest.mark.parametrize("opened", ["tree"], indirect=True)
def test_a_disk_that_is_full_is_no_fault_of_the_weights(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, suite, lm, _ = opened

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blocks, "write_atomically", fail)
    with pytest.raises(OSError, match="No space left on device"), journal_blocks(tmp_path / "00000.json", "a"):
        suite.evaluate(lm, "search")


def test_blocks_are_a_function_of_the_positions_alone() -> None:
    assert list(cut_blocks([])) == []
    assert list(cut_blocks([5])) == [range(1)]
    draw = np.random.default_rng(3)
    for count in (3, 20, 21, 400):
        sizes = draw.integers(1, 1000, count).tolist()
        found = list(cut_blocks(sizes))
        assert [place for block in found for place in block] == list(range(count))
        assert len(found) <= 20
        large = [sum(sizes[place] for place in block) for block in found if len(block) > 1]
        assert all(size <= sum(sizes) / 20 + max(sizes) for size in large)
    assert torch.is_inference_mode_enabled() is False
